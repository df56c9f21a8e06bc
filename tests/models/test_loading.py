"""Which models load, and the error for one that cannot be steered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import save_model, tiny_tokenizer

from steerchat.engine.configuration import context_size
from steerchat.engine.transformers_api import auto_model
from steerchat.models.find import find
from steerchat.models.load import load, precision
from steerchat.values.errors import ModelError

SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 320}


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (transformers.MambaConfig(state_size=4, **SMALL), "recurrent"),
        (
            transformers.Lfm2Config(
                intermediate_size=64,
                num_attention_heads=4,
                num_key_value_heads=2,
                layer_types=["conv", "full_attention"],
                **SMALL,
            ),
            "conv",
        ),
    ],
    ids=["mamba", "lfm2"],
)
def test_a_model_with_a_recurrent_state_is_refused_by_what_it_has(tmp_path: Path, config: Any, named: str) -> None:
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=named) as raised:
        load(find(str(tmp_path), progress=print), "cpu", "float32")
    assert "attention" in (raised.value.hint or "")


STREAMS: dict[str, Any] = {
    **{"intermediate_size": 64, "num_attention_heads": 4, "head_dim": 8, "num_kv_shared_layers": 0},
    **{"altup_active_idx": 1, "vocab_size_per_layer_input": 320, "hidden_size_per_layer_input": 8},
}


@pytest.mark.parametrize(
    "config",
    [
        transformers.FalconConfig(num_attention_heads=4, alibi=True, **SMALL),
        transformers.GPTNeoConfig(
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            vocab_size=320,
            attention_types=[[["global", "local"], 1]],
            window_size=5,
        ),
    ],
    ids=["falcon with alibi", "gpt neo"],
)
def test_a_model_that_takes_positions_from_the_place_in_the_batch_is_run_by_column(tmp_path: Path, config: Any) -> None:
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    # Loading compares it with plain passes.
    assert load(find(str(tmp_path), progress=print), "cpu", "float32").passes.by_column


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (transformers.OpenAIGPTConfig(n_embd=32, n_layer=2, n_head=4, vocab_size=320), "steerchat cannot compute with"),
        (
            transformers.PaliGemmaConfig(  # whose prompt looks ahead
                text_config={**SMALL, "model_type": "gemma", "num_attention_heads": 4, "num_key_value_heads": 2}
                | {"head_dim": 8, "intermediate_size": 64},
                vision_config={"model_type": "siglip_vision_model", "hidden_size": 32, "num_hidden_layers": 1}
                | {"intermediate_size": 32, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
                projection_dim=32,
            ),
            "not the model's own for texts of different lengths",
        ),
        (
            transformers.Gemma3nTextConfig(**SMALL, **STREAMS, layer_types=["sliding_attention", "full_attention"]),
            "another of its streams",
        ),
    ],
    ids=["without a cache", "looks ahead", "another stream"],
)
def test_a_model_that_computes_otherwise_is_refused_when_it_is_loaded(tmp_path: Path, config: Any, said: str) -> None:
    auto_model(config).from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=said) as raised:
        load(find(str(tmp_path), progress=print), "cpu", "float32")
    assert "\n" not in str(raised.value)


def test_a_model_whose_positions_turn_otherwise_beyond_a_length_keeps_within_it(tmp_path: Path) -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 10000.0}
    config = transformers.Phi3Config(
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        original_max_position_embeddings=64,
        rope_parameters={**rope, "original_max_position_embeddings": 64},
        pad_token_id=0,
        **SMALL,
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    engine = load(find(str(tmp_path), progress=print), "cpu", "float32")
    assert engine.context_size == 64
    engine.check([5] * 63)
    with pytest.raises(
        ModelError, match=r"has 64 tokens and the model holds 64: beyond its original context .*LongRoPE"
    ):
        engine.check([5] * 64)


def test_llama_4_keeps_within_the_columns_that_it_does_not_scale() -> None:
    config = transformers.Llama4TextConfig(max_position_embeddings=1 << 20, floor_scale=8192)
    size, why = context_size(config)
    assert 7000 < size < 8192 and "scales its queries" in why
    config.attn_temperature_tuning = False
    assert context_size(config) == (1 << 20, "")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"model_type": "gemma3", "text_config": {"torch_dtype": "bfloat16"}}, torch.bfloat16),
        ({"model_type": "gemma3_text"}, torch.bfloat16),
        ({"dtype": "float16"}, torch.float16),
        ({}, torch.float16),
    ],
)
def test_on_mps_what_was_made_in_bfloat16_keeps_its_range(config: dict[str, Any], expected: torch.dtype) -> None:
    assert precision("auto", torch.device("mps"), config) == expected
    assert precision("float16", torch.device("mps"), config) == torch.float16
    assert precision("auto", torch.device("cpu"), config) == torch.float32


def test_a_folder_with_an_attention_model_loads_in_the_precision_asked_for(tmp_path: Path) -> None:
    engine = load(find(str(save_model(tmp_path / "tiny")), progress=print), "cpu", "bfloat16")
    assert engine.dtype == "bfloat16"
    assert engine.n_layers > 0


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.parametrize(
    "order",
    [("engine.engine", "models.load"), ("models.load", "engine.sampling"), ("engine.sampling", "engine.engine")],
    ids=" then ".join,
)
def test_two_threads_that_import_at_once_get_the_same_whole_library(order: tuple[str, str]):
    code = """
import importlib, sys, threading, time
first, second = (f'steerchat.{name}' for name in sys.argv[1:])
thread = threading.Thread(target=importlib.import_module, args=(first,))
thread.start()
while thread.is_alive() and "transformers" not in sys.modules:
    time.sleep(0.001)
importlib.import_module(second)
thread.join()
from steerchat.models import load
print(hasattr(load.transformers, "AutoTokenizer"))
"""
    done = subprocess.run([sys.executable, "-c", code, *order], capture_output=True, text=True, timeout=300)
    assert done.stdout == "True\n", done.stderr
