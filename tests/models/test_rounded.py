"""`--dtype int4` and `int8`: a folder of safetensors whose weights are rounded while they are read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers
from engines import GREEDY, answers, tiny_model, tiny_tokenizer
from ggufs import write_gguf
from safetensors.torch import load_file, save_file

from steerchat.engine.decoding import Row
from steerchat.engine.linear import SmallEmbedding, SmallLinear
from steerchat.models import load as loading
from steerchat.models import memory
from steerchat.models.find import find
from steerchat.models.load import check_size, load
from steerchat.system.memory import gigabytes
from steerchat.values.errors import ModelError, TooLarge
from steerchat.values.results import Notice, Progress


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("STEERCHAT_MODELS", raising=False)
    return tmp_path / "home"


def tied_llama() -> Any:
    model = tiny_model("llama")
    model.config.tie_word_embeddings = True
    return transformers.LlamaForCausalLM(model.config).eval()


def phi3() -> Any:
    """Joined layers, and one whose inputs fit no form of few bits."""
    config = tiny_model("llama").config
    torch.manual_seed(0)
    return transformers.Phi3ForCausalLM(
        transformers.Phi3Config(
            vocab_size=config.vocab_size,
            hidden_size=64,
            intermediate_size=120,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            initializer_range=0.15,
            pad_token_id=0,
        )
    ).eval()


def qwen2() -> Any:
    """Biases beside the rounded weights."""
    config = tiny_model("llama").config
    torch.manual_seed(0)
    model = transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(
            vocab_size=config.vocab_size,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.15,
        )
    ).eval()
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_()
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "llama": tiny_model,
    "tied": tied_llama,
    "phi3": phi3,
    "qwen2": qwen2,
    "gemma3": lambda: tiny_model("gemma3"),
}


def save(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def rounded_by_hand(model: Any, dtype: str) -> Any:
    """The same model with every matrix rounded by the gguf library, embeddings and output layer to eight bits."""
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    for parameter in model.parameters():
        eight = id(parameter) in tables or dtype == "int8" or parameter.shape[0] % 16
        if parameter.ndim == 2 and not parameter.shape[1] % 32:
            kind = gguf.GGMLQuantizationType.Q8_0 if eight else gguf.GGMLQuantizationType.Q4_1
            numbers = gguf.dequantize(gguf.quantize(parameter.detach().numpy(), kind), kind)
            parameter.data = torch.from_numpy(numbers)
    return model


@pytest.mark.parametrize("dtype", ["int4", "int8"])
@pytest.mark.parametrize("kind", list(MODELS))
def test_the_model_computes_with_the_rounded_numbers(tmp_path: Path, kind: str, dtype: str) -> None:
    model = MODELS[kind]()
    files = find(str(save(model, tmp_path / kind)), progress=print)
    events: list[Notice | Progress] = []
    engine = load(files, "cpu", dtype, report=events.append)
    assert any(isinstance(event, Progress) and "rounding" in event.label and event.total for event in events)
    assert engine.dtype == ("4-bit" if dtype == "int4" else "8-bit")
    assert engine.fingerprint == f"{dtype} {files.fingerprint}"
    assert isinstance(engine.model.get_input_embeddings(), SmallEmbedding)
    assert sum(isinstance(layer, SmallLinear) for layer in engine.model.modules()) > 4
    model.requires_grad_(False)
    ids = torch.randint(3, 200, (2, 20), generator=torch.Generator().manual_seed(0))
    expected = rounded_by_hand(model, dtype)(ids).logits
    similar = torch.cosine_similarity(engine.model(ids).logits, expected, dim=-1)
    assert float(similar.min()) > 0.998  # products of few bits round their activations too
    assert engine.size == pytest.approx(memory.needs(files, memory.Precision(4, dtype)).weights, rel=0.1)
    assert engine.size < memory.needs(files, memory.Precision(4)).weights / 2
    # The second start reads what the first one made, and says the same.
    events.clear()
    again = load(files, "cpu", dtype, report=events.append)
    assert not events
    row = Row(tuple(again.prompter.chat([{"role": "user", "content": "How is the weather?"}])), (), 0)
    first, second = (answers(held, [row], GREEDY)[0].answer.token_ids for held in (engine, again))
    assert first == second


def test_what_was_made_is_made_again_when_it_is_damaged(tmp_path: Path, home: Path) -> None:
    files = find(str(save(tiny_model(), tmp_path / "tiny")), progress=print)
    load(files, "cpu", "int4")
    (made,) = home.glob("cache/models/int4-*/weights.safetensors")
    made.write_bytes(made.read_bytes()[:-100])
    events: list[Notice | Progress] = []
    load(files, "cpu", "int4", report=events.append)
    assert events and made.stat().st_size > 1000


def test_a_folder_that_lacks_a_weight_is_refused_and_leaves_nothing(tmp_path: Path, home: Path) -> None:
    folder = save(tiny_model(), tmp_path / "tiny")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks model.layers.1.mlp.up_proj.weight"):
        load(find(str(folder), progress=print), "cpu", "int4")
    assert [path.name for path in home.glob("cache/models/*")] == ["models.lock"]


def test_a_gguf_keeps_its_bits_and_what_is_not_rounded_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "tiny.gguf", gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q8_0, tied=True)
    files = find(str(tmp_path / "tiny.gguf"), progress=print)
    kept = load(files, "cpu", "int8")
    assert (kept.dtype, kept.fingerprint) == ("4-bit", files.fingerprint)
    files = find(str(save(tiny_model("gpt2"), tmp_path / "gpt2")), progress=print)
    with pytest.raises(ModelError, match="most weights of gpt2 are in no plain linear layers"):
        load(files, "cpu", "int4")
    monkeypatch.setattr(loading, "_device", lambda name: torch.device("mps"))
    with pytest.raises(ModelError, match="only on the CPU, and this is mps"):
        load(files, "mps", "int4")


def test_where_memory_is_short_the_error_names_four_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = find(str(save(tiny_model(), tmp_path / "tiny")), progress=print)
    four, usual = (memory.needs(files, memory.Precision(4, dtype)).total for dtype in ("int4", "auto"))
    monkeypatch.setattr(loading, "free_memory", lambda device: (four + usual) // 2)
    with pytest.raises(TooLarge) as raised:
        load(files, "cpu", "auto")
    assert f"--dtype int4 needs {gigabytes(four)}" in str(raised.value.hint)
    assert load(files, "cpu", "int4").dtype == "4-bit"
    # Of a model that is not fetched yet.
    monkeypatch.setattr(loading, "free_memory", lambda device: 6 * 10**9)
    with pytest.raises(TooLarge, match=r"needs 29\.0 GB") as raised:
        check_size("mistral", 7_241_732_096, "cpu", "auto", None, None)
    assert re.search(r"--dtype int4 needs 4\.8 GB", str(raised.value.hint))
    check_size("mistral", 7_241_732_096, "cpu", "int4", None, None)
