"""Files for plug-ins of vLLM, read as each plug-in reads them: what they add is what steerchat adds."""

from __future__ import annotations

import base64
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chats import Start, say
from hotwire._state import SteerState
from tiny import LAYERS

from steerchat.conversation.session import Session
from steerchat.values.recipe import parse_term

RECIPE = "happy 1-3 3.0"


def pushes(session: Session) -> dict[int, torch.Tensor]:
    """What steerchat adds at each layer for the recipe."""
    session.steer([parse_term(RECIPE)])
    return {edit.layer: edit.vector for edit in session.reader.edits(session.recipe, 0)}


def as_documented(text: str) -> list[Any]:
    """The file as vllm-lens describes it: base64 of an array whose dtype and shape stand beside it."""
    return [
        entry | {"activations": torch.from_numpy(np.frombuffer(base64.b64decode(tensor["data"]), tensor["dtype"])
                                                 .reshape(tensor["shape"]).copy())}
        for entry in json.loads(text) if (tensor := entry["activations"])
    ]  # fmt: skip


def by_its_loader(text: str) -> list[Any]:
    """By its own class; the package needs the whole of vLLM, so that it is rarely there."""
    if importlib.util.find_spec("vllm_lens") is None:
        pytest.skip("vllm-lens is not installed")
    from vllm_lens._helpers.types import SteeringVector  # type: ignore[import-not-found]

    return [vars(SteeringVector.model_validate(entry)) for entry in json.loads(text)]


@pytest.mark.parametrize("read", [as_documented, by_its_loader])
def test_vllm_lens_adds_what_steerchat_adds(start: Start, tmp_path: Path, read: Callable[[str], list[Any]]):
    chat, screen = start()
    said = say(chat, screen, f"/concept export happy {tmp_path}/v.json --layer 1-3 --strength 3.0")
    assert "layers 1-3 at scale 1" in " ".join(said.split()) and "apply_steering_vectors" in said
    [entry] = read((tmp_path / "v.json").read_text())
    expected = pushes(chat.session)
    assert entry["layer_indices"] == [1, 2, 3] == sorted(expected) and not entry["norm_match"]
    for row, layer in enumerate(entry["layer_indices"]):
        assert torch.allclose(entry["activations"][row] * entry["scale"], expected[layer], atol=1e-6)


def test_hotwire_adds_what_steerchat_adds(start: Start, tmp_path: Path):
    chat, screen = start()
    said = say(chat, screen, f"/concept export happy {tmp_path}/joy.pt --layer 1-3 --strength 3.0").replace("\n", " ")
    example = json.loads(re.sub(r"\s+", " ", said[said.index("{") : said.index("}") + 1]))
    assert example == {"id": "joy", "layer": 1, "scale": 1.0, "decode_only": True}
    expected = pushes(chat.session)
    state = SteerState(LAYERS, chat.session.engine.hidden, 8, torch.device("cpu"), torch.float32, 4)
    state.load_store(str(tmp_path / "joy.pt"))
    for layer in (1, 2, 3):
        slot = state.slot_for(example["id"], layer, example["scale"])
        assert slot is not None
        assert torch.allclose(state.bank.bank[slot] * state.bank.scales[slot], expected[layer], atol=1e-6)


def test_without_a_place_the_file_has_the_recommended_push(start: Start, tmp_path: Path):
    chat, screen = start()
    say(chat, screen, f"/concept export happy {tmp_path}/v.json")
    [entry] = json.loads((tmp_path / "v.json").read_text())
    layers, strength, _ = chat.library.recommended("happy", chat.session.engine.fingerprint)
    assert entry["scale"] * len(entry["layer_indices"]) == pytest.approx(strength) and layers
    assert "does not say which format" in say(chat, screen, f"/concept export happy {tmp_path}/v.xyz")
