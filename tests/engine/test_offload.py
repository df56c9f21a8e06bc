"""Layers that accelerate keeps on disk steer like layers in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engines import GREEDY, answers, push

from steerchat.engine.decoding import Row
from steerchat.models import memory
from steerchat.models.find import find
from steerchat.models.load import load


@pytest.mark.slow
def test_half_the_layers_on_the_disk_answer_as_all_in_memory(tiny_folder: Path, tmp_path: Path) -> None:
    found = find(str(tiny_folder), progress=print)
    most = memory.needs(found, memory.Precision(4)).weights * 2 // 3
    whole = load(found, "cpu", "float32")
    spread = load(found, "cpu", "float32", most=most, offload=str(tmp_path / "disk"))
    places = set(spread.model.hf_device_map.values())
    assert places == {"cpu", "disk"}
    prompt = tuple(whole.prompter.raw("How are you?"))
    rows = [Row(prompt), *(Row(prompt, (push(layer, layer),)) for layer in range(whole.n_layers))]
    said, again = answers(whole, rows, GREEDY), answers(spread, rows, GREEDY)
    assert [one.answer.token_ids for one in said] == [one.answer.token_ids for one in again]
    assert len({one.answer.token_ids for one in said}) > 2
    for one, other in zip(said, again, strict=True):
        # Blocks that compute with fewer operations round otherwise, and layers on the disk have none.
        assert one.answer.perplexity == pytest.approx(other.answer.perplexity, rel=1e-5)
        torch.testing.assert_close(one.reading.states, other.reading.states, atol=1e-4, rtol=1e-4)
