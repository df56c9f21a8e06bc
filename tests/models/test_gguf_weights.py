"""A GGUF's weights are the numbers that its library unpacks, and its model is the one that transformers reads."""

from __future__ import annotations

import copy
import itertools
import json
import mmap
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from engines import GREEDY, answers
from gguf import GGMLQuantizationType as Kind
from ggufs import write_gguf
from grouped import Grouped
from safetensors.torch import load_file, save_file
from torch import Tensor

from steerchat.engine.decoding import Row
from steerchat.engine.engine import Engine
from steerchat.engine.linear import SmallEmbedding, SmallLinear
from steerchat.engine.weights import Dense, Stack, joined
from steerchat.models import kernel_times, memory
from steerchat.models.file_weights import FileWeight, mapped
from steerchat.models.find import find
from steerchat.models.gguf_reader import FOUR_BITS, contents
from steerchat.models.gguf_weights import load_gguf
from steerchat.models.kernel_times import MachineRecord
from steerchat.models.load import load
from steerchat.system.folders import shipped_prompts
from steerchat.values.errors import ModelError


@pytest.fixture
def home(tmp_path: Path, described_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("STEERCHAT_MODELS", raising=False)


def file_weight(kind: Kind, out: int = 48, size: int = 512) -> tuple[FileWeight, Tensor]:
    """A weight of any bytes that are sound numbers of a kind, and what the library unpacks from them."""
    numbers, width = gguf.GGML_QUANT_SIZES[kind]
    data = np.random.default_rng(0).integers(0, 256, (out, size // numbers * width), dtype=np.uint8)
    blocks = data.reshape(-1, width)
    # Scales and offsets come first, and last in Q6_K.
    places = {
        Kind.Q4_0: [0],
        Kind.Q4_1: [0, 2],
        Kind.Q4_K: [0, 2],
        Kind.Q5_0: [0],
        Kind.Q6_K: [width - 2],
        Kind.Q8_0: [0],
    }
    for place in places[kind]:
        halves = np.random.default_rng(place).normal(0, 0.01, len(blocks)).astype(np.float16)
        blocks[:, place : place + 2] = halves.view(np.uint8).reshape(-1, 2)
    return FileWeight(torch.from_numpy(data), kind), torch.from_numpy(gguf.dequantize(data, kind))


@pytest.mark.parametrize(
    "kind", [Kind.Q4_0, Kind.Q4_1, Kind.Q4_K, Kind.Q5_0, Kind.Q6_K, Kind.Q8_0], ids=lambda k: k.name
)
def test_a_weight_in_a_file_has_the_numbers_that_the_library_unpacks(kind: Kind) -> None:
    weight, expected = file_weight(kind)
    assert weight.shape == expected.shape == (48, 512)
    assert weight.bits == (4 if kind in FOUR_BITS else 8)
    assert torch.equal(weight.dense(), expected)
    assert torch.equal(weight.part(slice(3, 7)).dense(), expected[3:7])
    if weight.bits == 4:
        torch.testing.assert_close(weight.levels().dense(), expected, atol=1e-6, rtol=1e-5)
        assert int(weight.levels().levels.max()) == 15


def test_rows_in_another_order_and_joined_weights_have_their_numbers() -> None:
    first, numbers = file_weight(Kind.Q4_1)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    turned = FileWeight(first._rows, Kind.Q4_1, order)
    assert torch.equal(turned.dense(), numbers[order])
    assert torch.equal(turned.part(slice(5, 20)).dense(), numbers[order][5:20])
    both = joined([first, turned])
    assert isinstance(both, Stack) and both.shape == (96, 512) and both.bits == 4
    whole = torch.cat([numbers, numbers[order]])
    assert torch.equal(both.dense(), whole)
    torch.testing.assert_close(both.levels().dense(), whole)
    assert torch.equal(both.part(slice(40, 60)).dense(), whole[40:60])
    assert isinstance(joined([Dense(numbers), Dense(numbers)]), Dense)


def test_numbers_rounded_to_four_bits_are_off_by_half_a_level_at_most() -> None:
    # But for the rounding of scales and lowest numbers to sixteen bits.
    numbers = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    grouped = Grouped.of(numbers)
    groups = numbers.reshape(32, -1, 32)
    half = (groups.amax(-1) - groups.amin(-1)) / 30
    assert bool(((grouped.dense() - numbers).abs().reshape(groups.shape) <= half[..., None] * 1.01 + 2e-3).all())
    assert torch.equal(grouped.part(slice(4, 9)).dense(), grouped.dense()[4:9])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "table", "tied", "shared"),
    [(Kind.Q4_1, Kind.Q8_0, True, 2), (Kind.Q4_0, Kind.Q4_0, False, 4), (Kind.Q8_0, Kind.F16, True, 1)],
)
def test_the_model_of_a_gguf_is_the_one_that_transformers_reads(
    home: None, tmp_path: Path, layers: Kind, table: Kind, tied: bool, shared: int
) -> None:
    from steerchat.models.load import load

    file = tmp_path / "tiny.gguf"
    write_gguf(file, layers, table, tied, shared)
    usual: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    files = find(str(file), progress=lambda event: None)
    ids = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = usual(ids).logits
        stored = load_gguf(files.path, mapped(file), torch.device("cpu"), torch.float32)
        torch.testing.assert_close(stored(ids).logits, expected, atol=1e-5, rtol=1e-5)
        exact, small = (load(files, "cpu", dtype) for dtype in ("float32", "auto"))
        torch.testing.assert_close(exact.model(ids).logits, expected, atol=1e-4, rtol=1e-4)
        similar = torch.cosine_similarity(small.model(ids).logits, expected, dim=-1)
    assert float(similar.min()) > 0.998
    assert all(type(layer) is not SmallLinear for layer in exact.model.modules())
    assert exact.dtype == "float32" and small.dtype == ("8-bit" if layers == Kind.Q8_0 else "4-bit")
    embeddings = small.model.get_input_embeddings()
    assert isinstance(embeddings, SmallEmbedding) == (table != Kind.F16)
    assert small.size < exact.size
    assert exact.size == pytest.approx(memory.needs(files, memory.Precision(4)).weights, rel=0.05)


@pytest.mark.slow
def test_a_gguf_that_lacks_a_weight_or_is_cut_short_is_refused(home: None, tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, Kind.Q4_1, Kind.Q8_0, tied=True)
    files = find(str(file), progress=lambda event: None)
    whole = file.read_bytes()
    cut = mmap.mmap(-1, len(whole) // 2)
    cut.write(whole[: len(cut)])
    with pytest.raises(ValueError, match="ends before"):
        load_gguf(files.path, [cut], torch.device("cpu"), torch.float32)
    described = files.path / "tensors.json"
    known = json.loads(described.read_text())
    del known["contents"]["tensors"]["blk.1.attn_v.weight"]
    described.write_text(json.dumps(known))
    with pytest.raises(ValueError, match="v_proj"):
        load_gguf(files.path, mapped(file), torch.device("cpu"), torch.float32)


@pytest.mark.slow
def test_a_model_in_parts_is_the_model_in_one_file(home: None, tmp_path: Path) -> None:
    from steerchat.models.load import load

    write_gguf(tmp_path / "whole.gguf", Kind.Q4_1, Kind.Q8_0, tied=False)
    (tmp_path / "parts").mkdir()
    write_gguf(tmp_path / "parts" / "tiny.gguf", Kind.Q4_1, Kind.Q8_0, tied=False, most=8)
    parts = sorted((tmp_path / "parts").iterdir())
    assert len(parts) > 2
    ids = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(0))
    whole, *others = (
        load(find(str(path), progress=lambda event: None), "cpu", "float32")
        for path in (tmp_path / "whole.gguf", tmp_path / "parts", parts[1])
    )
    for other in others:
        assert other.name == "tiny" and other.fingerprint == others[0].fingerprint
        with torch.no_grad():
            assert torch.equal(other.model(ids).logits, whole.model(ids).logits)
    parts[-1].unlink()
    with pytest.raises(ModelError, match=f"{parts[-1].name} is missing"):
        find(str(parts[0]), progress=lambda event: None)
    alone = parts[1].rename(tmp_path / "alone.gguf")
    with pytest.raises(ModelError, match="says that it is part 2 of"):
        find(str(alone), progress=lambda event: None)


@pytest.mark.slow
def test_positions_turn_at_the_frequencies_that_the_file_stretches(home: None, tmp_path: Path) -> None:
    from steerchat.models.load import load

    rope: dict[str, Any] = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    file = tmp_path / "tiny.gguf"
    write_gguf(file, Kind.Q8_0, Kind.Q8_0, tied=True)
    plain: Any = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    config = copy.deepcopy(plain.config)
    config.rope_parameters = rope
    expected: Any = transformers.LlamaForCausalLM(config).eval()
    expected.load_state_dict(plain.state_dict())
    frequencies = plain.model.rotary_emb.inv_freq, expected.model.rotary_emb.inv_freq
    write_gguf(file, Kind.Q8_0, Kind.Q8_0, tied=True, factors=(frequencies[0] / frequencies[1]).tolist())
    stretched = load(find(str(file), progress=lambda event: None), "cpu", "float32").model
    ids = torch.randint(64, (1, 200), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = [model(ids).logits for model in (expected, stretched, plain)]
    torch.testing.assert_close(logits[1], logits[0], atol=1e-5, rtol=0)
    assert float((logits[2] - logits[0]).abs().max()) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        ("plamo9", "has the architecture plamo9, which the installed transformers does not read from a GGUF"),
        ("controlvector", "has a control vector and no model"),
    ],
)
def test_a_gguf_of_an_unknown_architecture_is_refused_in_a_sentence_of_its_own(
    home: None, tmp_path: Path, architecture: str, sentence: str
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", architecture)
    writer.add_tensor("direction.1", np.zeros(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=f"other {sentence}"):
        find(str(tmp_path / "other.gguf"), progress=lambda event: None)


@pytest.mark.slow
def test_a_link_to_a_gguf_counts_by_its_own_name(home: None, tmp_path: Path) -> None:
    write_gguf(tmp_path / "0123abcd", Kind.Q4_1, Kind.Q8_0, tied=True)
    (tmp_path / "tiny.gguf").symlink_to("0123abcd")
    files = find(str(tmp_path / "tiny.gguf"), progress=lambda event: None)
    assert files.name == "tiny"


def test_the_header_says_what_the_file_holds(tmp_path: Path) -> None:
    file = tmp_path / "tiny.gguf"
    write_gguf(file, Kind.Q4_1, Kind.Q8_0, tied=True)
    found = contents(file)
    assert found.architecture == "llama"
    data = file.read_bytes()
    for tensor in gguf.GGUFReader(file).tensors:
        entry = found.tensors[tensor.name]
        assert entry.shape == tuple(int(size) for size in reversed(tensor.shape))
        assert data[entry.start : entry.start + entry.size] == tensor.data.tobytes()
    assert type(found).from_json(found.to_json()) == found


def test_kept_forms_of_another_order_are_prepared_again_and_replaced(
    home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_times, "_TINY", 0)
    monkeypatch.setattr(MachineRecord, "times", lambda self, layers: {})
    write_gguf(tmp_path / "tiny.gguf", Kind.Q4_0, Kind.Q8_0, tied=False)

    def start() -> dict[str, Tensor]:
        load(find(str(tmp_path / "tiny.gguf"), progress=lambda event: None), "cpu")
        (file,) = (tmp_path / "home" / "cache" / "kernels").glob("*.safetensors")
        return load_file(file)

    first = start()
    (file,) = (tmp_path / "home" / "cache" / "kernels").glob("*.safetensors")
    names = [name for name in first if name.endswith(" 4-bit 0")]
    one, other = next(
        pair
        for pair in itertools.combinations(names, 2)
        if first[pair[0]].shape == first[pair[1]].shape and not torch.equal(first[pair[0]], first[pair[1]])
    )
    save_file({**first, one: first[other].clone(), other: first[one].clone()}, file)
    again = start()
    assert again.keys() == first.keys() and all(torch.equal(again[name], first[name]) for name in first)


@pytest.mark.model
def test_a_real_file_gives_the_scores_and_greedy_texts_of_what_transformers_unpacks(engine: Engine) -> None:
    files = find("smollm2", progress=print)
    (file,) = files.path.glob("*.gguf")
    usual: Any = transformers.AutoModelForCausalLM.from_pretrained(
        files.path, gguf_file=file.name, dtype=torch.float32, local_files_only=True
    )
    small = load(files, "cpu")
    assert (engine.dtype, small.dtype) == ("float32", "4-bit")
    for held in (engine, small):
        rows = [
            Row(tuple(held.prompter.chat([{"role": "user", "content": prompt}])))
            for prompt in shipped_prompts("tuning")[:10]
        ]
        similar, lost = list[Tensor](), list[float]()
        for row in rows:
            # One at a time, as in a chat: for ten rows at once bfloat16 may be quicker, and it rounds.
            (output,) = answers(held, [row], replace(GREEDY, max_tokens=40))
            ids = output.answer.token_ids
            whole = torch.tensor([[*row.prompt, *ids]])
            with torch.inference_mode():
                expected, found = (model(whole).logits[0] for model in (usual, held.model))
            similar.append(torch.cosine_similarity(found, expected, dim=-1))
            steps = expected[len(row.prompt) - 1 : -1]
            chosen = steps.gather(1, torch.tensor(ids)[:, None])[:, 0]
            # Up to the first token that is not the best one both texts are the same.
            lost.append(next((gap for gap in (steps.amax(1) - chosen).tolist() if gap > 0), 0.0))
        every = torch.cat(similar)
        print(
            f"{held.dtype}: cosine {every.min():.5f} to {every.median():.5f}, same texts {lost.count(0)}, lost {lost}"
        )
        assert float(every.median()) > 0.99999 and float(every.min()) > 0.999
        assert len(lost) == 10 and lost.count(0) >= 9 and max(lost) < 1e-3
