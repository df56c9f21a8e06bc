"""Machine code computes what torch computes, alone and beside other rows, and is not believed where it does not."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from functools import partialmethod
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import LAYERS, answers, push, recording_blocks, tiny_tokenizer
from small_models import a_small_model, small_engine
from torch import Tensor

from steerchat.engine import compiler, few_bits, lean_decoder, native, openmp
from steerchat.engine.backends import FOUR_BIT
from steerchat.engine.batch import Batch
from steerchat.engine.compiled_blocks import CompiledBlocks, CompiledParts
from steerchat.engine.compiler import Machine
from steerchat.engine.decoding import Row
from steerchat.engine.engine import Engine
from steerchat.engine.machine_code import FLOATS, LANES, Code
from steerchat.engine.openmp import Threads
from steerchat.engine.sampling import Sampling
from steerchat.values.errors import SteerchatError

PROMPT = tuple(range(60, 80))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[range]:
    """The blocks that machine code computes at once, for each time that it does."""
    seen: list[range] = []
    usual = CompiledBlocks.run

    def noted(self: CompiledBlocks, blocks: range, *args: Any) -> tuple[Tensor, Tensor]:
        seen.append(blocks)
        return usual(self, blocks, *args)

    monkeypatch.setattr(CompiledBlocks, "run", noted)
    return seen


@pytest.mark.parametrize("scope", ["generated", "all"])
def test_answers_are_those_of_the_same_numbers_in_float32(runs: list[range], scope: Any) -> None:
    usual = Engine(a_small_model(True, "wide"), tiny_tokenizer(), "tiny", "tiny", lambda: 1 << 32)
    small = small_engine(True, "wide")
    # Rows of different lengths have gaps in their keys, and so a mask.
    rows = [Row(PROMPT[: 12 + index], (push(index % LAYERS, index),), index, scope) for index in range(6)]
    rows.append(Row(PROMPT))
    sampling = Sampling(max_tokens=150)  # more than the buffers' first room
    expected, got = answers(usual, rows, sampling), answers(small, rows, sampling)
    assert any(len(output.answer.token_ids) > 128 for output in got)
    for own, other in zip(got, expected, strict=True):
        assert own.answer.token_ids == other.answer.token_ids
        torch.testing.assert_close(own.reading.states, other.reading.states, atol=1e-3, rtol=1e-3)
    assert runs


def test_blocks_run_together_up_to_the_next_one_that_is_edited(runs: list[range]) -> None:
    engine = small_engine(True, "wide")
    answers(engine, [Row(PROMPT)], Sampling(max_tokens=4))
    compared = {range(1)}
    assert set(runs) == {range(LAYERS)} | compared  # hooks that only read do not part them
    runs.clear()
    answers(engine, [Row(PROMPT, (push(1, 1, 5.0), push(2, 2)))], Sampling(max_tokens=4))
    assert set(runs) == {range(LAYERS)}  # nor do pushes
    runs.clear()
    answers(engine, [Row(PROMPT, (replace(push(1, 1), operation="rotate"),))], Sampling(max_tokens=4))
    assert {range(2), range(2, LAYERS)} <= set(runs)
    with recording_blocks(engine, 1) as (computed, handed_on):
        answers(engine, [Row(PROMPT, (push(1, 1, 5.0),))], Sampling(max_tokens=4))
    steps = [(before, after) for before, after in zip(computed, handed_on, strict=True) if before.shape[1] == 1]
    assert [float((after - before).norm()) for before, after in steps[:3]] == pytest.approx([5.0] * 3, rel=1e-3)


@pytest.mark.parametrize("dial", [None, lambda step: [1.0, 0.5, 0.0, 1.25][step % 4]])
def test_a_push_by_machine_code_is_that_of_the_hook(dial: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(PROMPT, (push(1, 1, 5.0), push(3, 2))), Row(PROMPT), Row(PROMPT[:9], (push(3, 3),))]
    sampling = Sampling(max_tokens=30)
    together = answers(small_engine(True, "wide"), rows, sampling, dial=dial)
    monkeypatch.setattr(lean_decoder, "pushed_by", lambda hook: None)
    for own, by_hook in zip(together, answers(small_engine(True, "wide"), rows, sampling, dial=dial), strict=True):
        assert own.answer == by_hook.answer
        assert torch.equal(own.reading.states, by_hook.reading.states)


def test_a_block_that_somebody_else_replaced_is_computed_by_what_replaced_it(runs: list[range]) -> None:
    engine = small_engine(True, "wide")
    block = engine.blocks[2]
    lean, calls = block.forward, []

    def replaced(*args: Any, **options: Any) -> Any:
        calls.append(args[0].shape)
        return lean(*args, **options)

    block.forward = replaced
    answers(engine, [Row(PROMPT)], Sampling(max_tokens=4))
    assert torch.Size([1, 1, 64]) in calls and {range(2), range(3, LAYERS)} <= set(runs)


@pytest.mark.parametrize("wrong", ["a step", "many tokens"])
def test_blocks_that_machine_code_computes_otherwise_are_left_to_torch(
    wrong: str, runs: list[range], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, many = CompiledBlocks.run, CompiledParts.outward
    if wrong == "a step":
        monkeypatch.setattr(CompiledBlocks, "run", lambda *args: [states * 1.01 for states in step(*args)])
    else:
        monkeypatch.setattr(CompiledParts, "outward", lambda *args: many(*args) * 1.01)
    engine = small_engine(True, "wide")
    expected = answers(small_engine(False, "wide"), [Row(PROMPT)], Sampling(max_tokens=8))[0].answer
    runs.clear()
    assert answers(engine, [Row(PROMPT)], Sampling(max_tokens=8))[0].answer.token_ids == expected.token_ids
    assert set(runs) == {range(1)}  # the comparison


def test_keys_that_all_rows_have_alike_are_read_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row(PROMPT * 3, (push(index % LAYERS, index),), index) for index in range(5)]
    other = replace(rows[0], prompt=PROMPT * 2 + PROMPT[:5] * 2)
    usual: Any = CompiledBlocks.run
    seen: list[int] = []

    def run(self: CompiledBlocks, *args: Any, least: bool = False) -> Any:
        seen.append(args[5])
        return usual(self, *args[:5], 0 if least else args[5], *args[6:])

    for some, alike in ((rows, len(rows[0].prompt) - 1), ([*rows, other], 0)):
        monkeypatch.setattr(CompiledBlocks, "run", partialmethod(run, least=True))
        expected = answers(small_engine(True, "wide"), some, Sampling(max_tokens=20))
        seen.clear()
        monkeypatch.setattr(CompiledBlocks, "run", run)
        got = answers(small_engine(True, "wide"), some, Sampling(max_tokens=20))
        assert max(seen) == alike
        for own, wanted in zip(got, expected, strict=True):
            assert own.answer == wanted.answer
            assert torch.equal(own.reading.states, wanted.reading.states)


def test_rows_that_come_and_go_have_nothing_alike() -> None:
    engine = small_engine(False, "wide")
    context = engine.prefill([PROMPT])[0]
    batch = Batch(engine.passes, [context, context], 4)
    layer = batch._layers[0]
    assert layer.alike == len(PROMPT)
    batch.rewind(7, torch.tensor([7, 7]))
    assert layer.alike == 7
    batch.remove(0)
    batch.add(engine.prefill([PROMPT[:3]])[0])
    assert layer.alike == 0


@pytest.mark.parametrize("threads", [1, 2, 5, 40])
def test_the_number_of_threads_changes_nothing(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Many rows are shared by threads in another way than few, and a text of many tokens as many rows.
    rows = [Row(PROMPT * 3, (push(index % LAYERS, index),), index) for index in range(21)]
    for some in (rows, rows[:1]):
        expected = answers(small_engine(True, "wide"), some, Sampling(max_tokens=20))
        with monkeypatch.context() as patch:
            patch.setattr(torch, "get_num_threads", lambda: threads)
            got = answers(small_engine(True, "wide"), some, Sampling(max_tokens=20))
        for own, other in zip(got, expected, strict=True):
            assert own.answer == other.answer
            assert torch.equal(own.reading.states, other.reading.states)


def test_another_activation_is_left_to_torch(runs: list[range]) -> None:
    engine = small_engine(True, "wide")
    for block in engine.blocks:
        block.forward._compiles = False
    assert answers(engine, [Row(PROMPT)], Sampling(max_tokens=4))[0].answer.tokens == 4
    assert not runs


@pytest.mark.parametrize("size", [1.0, 30.0, 200.0])
@torch.inference_mode()
def test_exponentials_are_float32s(size: float, tmp_path: Path) -> None:
    values = torch.cat([torch.linspace(-size, size, 61).clamp(-87, 87), torch.tensor([0.0, -0.0, float("nan")])])
    result = torch.empty_like(values)

    def write(code: Code) -> None:
        with code.function("exponentials", 1) as f, f.loop(0, f.value(64 * 4), 4 * LANES) as at:
            f.store(f.exp(f.load(FLOATS, f.arguments[0] + at)), f.value(result.data_ptr()) + at)

    machine, source = Machine(Threads({})), tmp_path / "source"
    source.write_text(str(result.data_ptr()))
    address = machine.compile((write,), ("exponentials",), (str(source),))["exponentials"]
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(values.data_ptr())
    torch.testing.assert_close(result, values.exp(), rtol=3e-7, atol=0, equal_nan=True)


class Features(dict[str, bool]):
    """As LLVM tells them."""

    def flatten(self) -> str:
        return ",".join(f"{'+' if has else '-'}{name}" for name, has in self.items())


@pytest.fixture
def compiled_anew() -> Iterator[None]:
    caches = (native._compiled, few_bits.works)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def test_kept_code_that_is_not_whole_is_compiled_again(
    compiled_anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path))
    assert few_bits.works()
    (kept,) = (tmp_path / "cache" / "kernels").glob("code-*")
    whole = kept.read_bytes()
    for cache in (native._compiled, few_bits.works):
        cache.cache_clear()
    kept.write_bytes(whole[:-100])
    assert few_bits.works()
    assert kept.read_bytes() == whole


@pytest.mark.parametrize("fault", ["no compiler", "an old CPU", "wrong numbers"])
def test_without_machine_code_that_computes_right_no_weight_is_held_in_few_bits(
    fault: str, compiled_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "no compiler":
        monkeypatch.setattr(compiler.llvm, "get_host_cpu_name", lambda: (_ for _ in ()).throw(RuntimeError("none")))
    elif fault == "an old CPU":
        old = {**compiler.llvm.get_host_cpu_features(), "f16c": False}
        monkeypatch.setattr(compiler.llvm, "get_host_cpu_features", lambda: Features(old))
    else:
        monkeypatch.setattr(few_bits, "multiply", lambda rows, levels, scales: rows @ torch.zeros(rows.shape[1], 16))
    engine = small_engine(True, "wide")
    assert not few_bits.works() and engine.dtype in ("float32", "bfloat16")
    assert answers(engine, [Row(PROMPT)], Sampling(max_tokens=4))[0].answer.tokens == 4


@pytest.mark.parametrize("kind", ["none", "LLVM"])
def test_other_threads_than_gnus_compute_the_same(
    kind: str, compiled_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answers(small_engine(True, "wide"), [Row(PROMPT)], Sampling(max_tokens=6))[0].answer.token_ids
    threads = Threads({})
    if kind == "LLVM":
        try:
            files = metadata.files("intel-openmp") or ()
        except metadata.PackageNotFoundError:
            pytest.skip("there is no package of it for this machine")
        file = next(file for file in files if file.name == "libiomp5.so")
        library = ctypes.CDLL(str(file.locate()))
        threads = Threads({name: openmp._address(library, name) for name in openmp._LLVM})
    monkeypatch.setattr(native, "torch_threads", lambda: threads)
    native._compiled.cache_clear()
    assert answers(small_engine(True, "wide"), [Row(PROMPT)], Sampling(max_tokens=6))[0].answer.token_ids == expected


@pytest.mark.parametrize("cpu", ["untold", "haswell"])
def test_on_cpus_with_other_registers_it_computes_the_same(
    cpu: str, compiled_anew: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row(PROMPT, (push(index % LAYERS, index),), index) for index in range(26)]
    expected = [output.answer for output in answers(small_engine(True, "wide"), rows, Sampling(max_tokens=6))]
    features = dict(compiler.llvm.get_host_cpu_features())

    def told() -> Features:
        if cpu == "untold":
            raise RuntimeError("LLVM does not tell them")
        return Features(
            {name: has and not name.startswith(("avx512", "avx10", "amx")) for name, has in features.items()}
        )

    if cpu == "haswell":
        if not features.get("avx2"):
            pytest.skip("code for haswell has instructions of AVX2, which this CPU lacks")
        monkeypatch.setattr(compiler.llvm, "get_host_cpu_name", lambda: cpu)
    monkeypatch.setattr(compiler.llvm, "get_host_cpu_features", told)
    for cache in (native._compiled, few_bits.works):
        cache.cache_clear()
    assert few_bits.works()
    assert [output.answer for output in answers(small_engine(True, "wide"), rows, Sampling(max_tokens=6))] == expected


@torch.inference_mode()
def test_what_is_no_number_stays_none() -> None:
    engine = small_engine(True, "wide")
    assert engine.kernels is not None
    layer = next(layer for layer in engine.kernels.layers if layer.form(FOUR_BIT) is not None)
    states = torch.full((2, layer.in_features), float("nan"))
    assert bool(layer(states).isnan().all())
    with pytest.raises(SteerchatError):
        answers(engine, [Row(PROMPT, (replace(push(1, 1), vector=torch.full((64,), float("inf"))),))], Sampling())
