"""A folder with a LoRA adapter is its base model with the adapter merged into the weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from engines import tiny_model, tiny_tokenizer

from steerchat.models.find import find
from steerchat.models.load import load
from steerchat.values.errors import ModelError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

IDS = torch.arange(3, 23)[None]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Any]:
    """(base, adapter, the adapted model's logits)."""
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path / "home"))
    base, adapter = tmp_path / "base", tmp_path / "pirate-lora"
    tiny_model().save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    settings = peft.LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted: Any = peft.get_peft_model(tiny_model(), settings).eval()
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(adapter)
    with torch.no_grad():
        return base, adapter, adapted(IDS).logits


def test_an_adapter_is_merged_and_the_model_has_a_fingerprint_of_its_own(folders: tuple[Path, Path, Any]) -> None:
    base, adapter, expected = folders
    files = find(str(adapter), progress=print)
    plain = find(str(base), progress=print)
    assert files.name == "pirate-lora" and files.fingerprint != plain.fingerprint
    engine = load(files, "cpu", "float32")
    torch.testing.assert_close(engine.model(IDS).logits, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(load(plain, "cpu", "float32").model(IDS).logits, expected, atol=1e-2)


def test_an_adapter_that_cannot_be_used_is_named(
    folders: tuple[Path, Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, adapter, _ = folders
    with pytest.raises(ModelError, match="is a LoRA adapter, whose model is not rounded here"):
        load(find(str(adapter), progress=print), "cpu", "int4")
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ModelError, match="needs the package peft"):
            load(find(str(adapter), progress=print), "cpu", "float32")
    settings = json.loads((adapter / "adapter_config.json").read_text())
    for base, expected in [
        ("/no/such/folder", "pirate-lora is a LoRA adapter for /no/such/folder: there is no file or folder"),
        ("", "names no base model"),
    ]:
        (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": base}))
        with pytest.raises(ModelError, match=expected):
            find(str(adapter), progress=print)


def test_an_adapter_of_pickled_weights_or_of_another_model_is_refused(
    folders: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    _, adapter, _ = folders
    other = tmp_path / "other"
    tiny_model("gpt2").save_pretrained(other)
    tiny_tokenizer().save_pretrained(other)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(other)}))
    with pytest.raises(ModelError, match="pirate-lora cannot be loaded"):
        load(find(str(adapter), progress=print), "cpu", "float32")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match=r"has no adapter_model.safetensors"):
        find(str(adapter), progress=print)
