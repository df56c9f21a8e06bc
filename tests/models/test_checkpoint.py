"""Folders whose files lie: weights that are missing, too many or of another shape, and formats nothing here reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import save_model, tiny_tokenizer
from torch import Tensor

from steerchat.models import memory
from steerchat.models.find import find
from steerchat.models.load import load
from steerchat.values.errors import ModelError


def changed(folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> Path:
    """The folder with other weights in its file."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def load_folder(folder: Path) -> Any:
    return load(find(str(folder), progress=print), "cpu", "float32")


def test_weights_that_are_missing_too_many_or_of_another_shape_are_named(tmp_path: Path) -> None:
    def lie(weights: dict[str, Tensor]) -> None:
        del weights["model.layers.1.mlp.up_proj.weight"]
        weights["model.layers.2.mlp.up_proj.weight"] = torch.zeros(5, 64)
        weights["model.layers.9.mlp.up_proj.weight"] = torch.zeros(128, 64)

    with pytest.raises(ModelError) as raised:
        load_folder(changed(save_model(tmp_path / "tiny"), lie))
    text = str(raised.value)
    assert "lacks model.layers.1.mlp.up_proj.weight" in text
    assert "model.layers.2.mlp.up_proj.weight is 5 x 64 and not 128 x 64" in text
    assert "has no model.layers.9.mlp.up_proj.weight" in text


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("lm_head.weight"),
        lambda weights: weights.pop("model.embed_tokens.weight"),
        lambda weights: weights.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}),
        lambda weights: [weights.pop(name) for name in list(weights) if ".3." in name],
    ],
    ids=["no output layer", "no embeddings", "a bias", "no last layer"],
)
def test_each_of_these_stops_alone(tmp_path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    with pytest.raises(ModelError, match="do not fit its config") as raised:
        load_folder(changed(save_model(tmp_path / "tiny"), change))
    assert len(str(raised.value)) < 300


def test_tied_weights_buffers_and_other_parts_of_a_model_are_no_fault(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=True,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    def more(weights: dict[str, Tensor]) -> None:
        assert "lm_head.weight" not in weights
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
        weights["vision_tower.encoder.weight"] = torch.zeros(4, 4)

    assert load_folder(changed(tmp_path, more)).n_layers == 2


def test_the_weights_of_an_old_gpt2_are_complete(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=64)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    def old(weights: dict[str, Tensor]) -> None:
        # As gpt2 on the Hub: the base model's names, and the causal mask as a buffer of every block.
        for name in list(weights):
            weights[name.removeprefix("transformer.")] = weights.pop(name)
        for block in range(2):
            weights[f"h.{block}.attn.bias"] = torch.ones(1, 1, 64, 64).tril()

    assert load_folder(changed(tmp_path, old)).n_layers == 2


@pytest.mark.parametrize(
    ("settings", "package"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "gptqmodel"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "gptqmodel and optimum"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors", "format": "float-quantized"}, "compressed-tensors"),
    ],
    ids=["awq", "gptq", "bitsandbytes", "compressed-tensors"],
)
def test_weights_in_a_format_whose_package_is_absent_name_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], package: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    folder = save_model(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    with pytest.raises(ModelError, match=f"which needs {package}") as raised:
        load_folder(folder)
    assert "pip install" in (raised.value.hint or "")


def test_a_model_in_mxfp4_is_unpacked_and_needs_what_the_estimate_says(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    config = transformers.GptOssConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=512,
    )
    transformers.GptOssForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)

    def packed(weights: dict[str, Tensor]) -> None:
        for name in [name for name in weights if name.endswith("_proj")]:
            experts, inputs, outputs = weights.pop(name).shape
            blocks = torch.randint(256, (experts, outputs, inputs // 32, 16), dtype=torch.uint8)
            weights[f"{name}_blocks"] = blocks
            weights[f"{name}_scales"] = torch.full(blocks.shape[:-1], 120, dtype=torch.uint8)

    changed(tmp_path, packed)
    written = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(written | {"quantization_config": {"quant_method": "mxfp4"}}))
    engine = load_folder(tmp_path)
    needed = memory.needs(find(str(tmp_path), progress=print), memory.Precision(4)).weights
    assert engine.size == pytest.approx(needed, rel=0.1)
