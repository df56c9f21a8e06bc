"""Products are products, by whatever backend that fits a weight, for any number of rows, with a bias or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engines import HIDDEN, answers, push, tiny_engine, tiny_tokenizer
from grouped import Grouped
from small_models import a_small_model, in_a_file, small_engine, small_is_quick
from torch import Tensor, nn

from steerchat.engine import kernels as kernels_module
from steerchat.engine import timing
from steerchat.engine.backends import (
    BACKENDS,
    EIGHT_BIT,
    FOUR_BIT,
    PLAIN,
    Bfloat16,
    LinearBackend,
    Packed,
    multiplies_bfloat16,
)
from steerchat.engine.cores import OtherPrograms
from steerchat.engine.decoding import Row
from steerchat.engine.engine import Engine
from steerchat.engine.hooks import find_blocks
from steerchat.engine.kernels import Forms, Kernels
from steerchat.engine.lean import make_lean
from steerchat.engine.linear import ROWS, FastLinear, SmallEmbedding, SmallLinear, Times
from steerchat.engine.sampling import Sampling
from steerchat.engine.timing import measure
from steerchat.engine.weights import Dense, Levels, Weight
from steerchat.models import kernel_times
from steerchat.models.kernel_times import MachineRecord, forget_times

EXACT = [backend for backend in BACKENDS if backend.exact]
SHAPE = (160, 96, 32)


def a_weight(kind: str, out: int = 160, width: int = 96) -> Weight:
    """Any numbers, those of bfloat16, or groups of few bits, the last ones as a file holds them."""
    torch.manual_seed(0)
    numbers = torch.randn(out, width) / width**0.5
    if kind == "8-bit":
        return in_a_file(numbers)
    return {"any": Dense(numbers), "bfloat16": Dense(numbers.bfloat16().float()), "4-bit": Grouped.of(numbers)}[kind]


def all_by(name: str, shape: tuple[int, int, int] = SHAPE) -> Times:
    """Times by which one backend is the quickest for any number of rows."""
    return {shape: {"plain": [1.0] * len(ROWS), name: [0.5] * len(ROWS)}}


def layers(bias: bool) -> tuple[nn.Linear, FastLinear, Kernels]:
    torch.manual_seed(0)
    plain = nn.Linear(96, 160, bias).requires_grad_(False)
    fast = nn.Linear(96, 160, bias).requires_grad_(False)
    fast.load_state_dict(plain.state_dict())
    kernels = Kernels(fast)
    assert isinstance(fast, FastLinear)
    return plain, fast, kernels


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("backend", EXACT, ids=lambda backend: backend.name)
@torch.inference_mode()
def test_the_product_is_that_of_a_plain_layer_for_any_number_of_rows(backend: LinearBackend, bias: bool) -> None:
    plain, fast, kernels = layers(bias)
    kernels.choose(all_by(backend.name))
    kernels.prepare(1, 1 << 30)
    for shape in [(0, 96), (1, 96), (2, 96), (5, 96), (40, 96), (7, 11, 96), (1, 1, 96), (3, 1, 96)]:
        states = torch.randn(shape)
        torch.testing.assert_close(fast(states), plain(states), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["any", "bfloat16", "4-bit", "8-bit"])
@torch.inference_mode()
def test_a_backend_fits_only_a_weight_that_has_no_more_bits_than_it_keeps(kind: str) -> None:
    weight = a_weight(kind)
    fitting = {backend.held for backend in BACKENDS if backend.fits(weight)}
    assert all(backend.fits(weight) for backend in EXACT)
    assert "4-bit" not in fitting or kind == "4-bit"
    assert "8-bit" not in fitting or kind == "8-bit"
    assert "bfloat16" not in fitting or kind != "any"
    for backend in BACKENDS:
        if backend.fits(weight):
            form = backend.prepare(weight)
            torch.testing.assert_close(backend.numbers(form), weight.dense(), atol=2e-2, rtol=2e-2)
            for rows in (3, 80):  # of a batch, and of a text that is read
                states = torch.randn(rows, 96)
                product = backend.multiply(states, form)
                assert product.dtype == torch.float32
                torch.testing.assert_close(product, states @ weight.dense().T, atol=3e-2, rtol=3e-2)


def test_gradients_flow_through_a_fast_layer() -> None:
    plain, fast, _ = layers(True)
    states = torch.randn(2, 96, requires_grad=True)
    (wanted,) = torch.autograd.grad(plain(states).sum(), states)
    (found,) = torch.autograd.grad(fast(states).sum(), states)
    torch.testing.assert_close(found, wanted)


def test_forms_that_cost_memory_come_where_there_is_room_and_go_when_it_is_needed() -> None:
    _, fast, kernels = layers(True)
    kernels.choose({SHAPE: {"plain": [1.0, 1.0, 1.0, 1.0, 1.0], "packed": [1.0, 0.9, 0.5, 0.5, 0.5]}})
    size = fast.weight.nbytes

    def used(rows: int) -> str:
        return fast._by_rows[rows][0].name

    kernels.prepare(30, size - 1)
    assert used(30) == "plain"
    kernels.prepare(2, size)
    assert used(30) == "plain"  # two rows gain too little to pay for a second copy
    kernels.prepare(30, size)
    assert (used(1), used(5), used(30)) == ("packed", "packed", "packed")  # also when all but one row have ended
    kernels.shrink()
    assert used(30) == "plain"


def test_a_sweep_says_the_same_by_any_exact_backend() -> None:
    rows = [Row(tuple(range(60, 75)), (push(index % 4, index),), index) for index in range(9)]
    sampling = Sampling(max_tokens=10)
    engine = tiny_engine()
    expected = [output.answer.text for output in answers(engine, rows, sampling)]
    engine.kernels = Kernels(engine.model)
    for backend in EXACT:
        times = {layer.kind: {backend.name: [1.0] * len(ROWS)} for layer in engine.kernels.layers}
        engine.kernels.choose(times)
        assert [output.answer.text for output in answers(engine, rows, sampling)] == expected


# Weights of few bits


@pytest.mark.parametrize("lean", [True, False])
def test_a_model_of_small_weights_says_nearly_what_it_says_in_float32(lean: bool) -> None:
    usual = Engine(a_small_model(dense=True), tiny_tokenizer(), "tiny", "tiny", lambda: 1 << 32)
    small = small_engine(lean)
    assert (usual.dtype, small.dtype) == ("float32", "4-bit")
    assert not any(p.dim() == 2 for p in small.model.parameters())
    reading, expected = (engine.read(range(60, 75), range(80, 110)) for engine in (small, usual))
    assert reading.perplexity == pytest.approx(expected.perplexity, rel=0.05)
    similar = torch.cosine_similarity(reading.states, expected.states, dim=-1)
    assert float(similar.min()) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("lean", [True, False])
def test_a_row_of_small_weights_says_the_same_alone_and_beside_others(lean: bool) -> None:
    engine = small_engine(lean)
    rows = [Row(tuple(range(60, 75)), (push(index % 4, index),), index) for index in range(9)]
    sampling = Sampling(max_tokens=10)
    together = [output.answer.token_ids for output in answers(engine, rows, sampling)]
    assert [answers(engine, [row], sampling)[0].answer.token_ids for row in rows] == together


class Rough(Packed):
    """Products of numbers with few bits, as of bfloat16 on a CPU that multiplies it."""

    def prepare(self, weight: Weight) -> Tensor:
        return super().prepare(Dense((weight.dense() * 8).round() / 8))


@pytest.mark.slow
def test_a_row_of_a_large_batch_is_repeated_alone_with_the_products_of_that_batch() -> None:
    engine = small_engine(True)
    kernels = engine.kernels
    assert kernels is not None
    rough = Rough()
    kernels._best = {kind: [*best[:3], rough, rough] for kind, best in kernels._best.items()}
    rows = [Row(tuple(range(60, 75)), (push(index % 4, index),), index) for index in range(24)]
    sampling = Sampling(max_tokens=12)
    together = [output.answer.token_ids for output in answers(engine, rows, sampling)]
    alone = [answers(engine, [row], sampling, like=24)[0].answer.token_ids for row in rows]
    assert alone == together
    few = [answers(engine, [row], sampling)[0].answer.token_ids for row in rows]
    assert few != together  # or this would say nothing


def test_few_rows_share_one_backend_so_that_a_pair_says_what_its_rows_say_alone() -> None:
    fast = FastLinear.of(a_weight("4-bit", 64, 64), None)
    kernels = Kernels(nn.Linear(2, 2), [fast])
    few, many = [0.1, 0.3, 0.2, 0.9, 0.9], [0.2, 0.2, 0.3, 0.1, 0.1]
    kernels.choose({(64, 64, 4): {"plain": [1.0] * len(ROWS), FOUR_BIT.name: few, "bfloat16": many}}, small=True)
    assert kernels.summary == "1 to 5: 4-bit x 16-bit, 16 to 32: bfloat16"
    assert kernels.precision == "4-bit" and "Weights in 4-bit" in kernels.description


def test_many_rows_take_float32_products_of_the_rounded_numbers_where_those_are_quicker() -> None:
    fast = FastLinear.of(a_weight("4-bit", 64, 64), None)
    kernels = Kernels(nn.Linear(2, 2), [fast])
    small, packed = [0.1, 0.1, 0.2, 0.9, 0.9], [0.2, 0.2, 0.1, 0.3, 0.3]
    times: Times = {(64, 64, 4): {"plain": [1.0] * len(ROWS), FOUR_BIT.name: small, "packed": packed}}
    reads: list[int] = []
    kernels.choose(times, small=True, read=lambda: reads.append(len(reads)))
    assert kernels.summary == "1 to 5: 4-bit x 16-bit, 16 to 32: packed"
    rounded, states = fast.weight, torch.randn(32, 64)
    with torch.inference_mode():
        kernels.prepare(2, 1 << 30)
        assert reads == [0]  # the form of four bits
        kernels.prepare(32, 1 << 30)
        assert len(reads) > 1  # what was read of a file for another form can leave memory again
        torch.testing.assert_close(fast(states), states @ rounded.T, atol=1e-4, rtol=1e-4)
        kernels.prepare(32, 0)  # no memory for another form
        kernels.shrink()
    assert [backend.name for backend in BACKENDS if fast.form(backend) is not None] == [FOUR_BIT.name]


def test_a_chat_holds_as_few_bits_as_there_are() -> None:
    kernels = Kernels(nn.Linear(2, 2), [FastLinear.of(a_weight("4-bit", 64, 64), None)])
    times = {"plain": [1.0] * len(ROWS), FOUR_BIT.name: [0.1] * len(ROWS), "bfloat16": [0.02] * len(ROWS)}
    kernels.choose({(64, 64, 4): times}, small=True)
    assert kernels.summary == "1 to 5: 4-bit x 16-bit, 16 to 32: bfloat16"


@pytest.mark.parametrize(("kind", "backend"), [("4-bit", FOUR_BIT), ("8-bit", EIGHT_BIT)])
@pytest.mark.parametrize("out", [160, 77])
@torch.inference_mode()
def test_a_product_of_few_bits_rounds_states_to_16_and_a_row_is_the_same_alone(
    kind: str, backend: LinearBackend, out: int
) -> None:
    form = backend.prepare(a_weight(kind, out, 96))
    states = torch.randn(63, 96, generator=torch.Generator().manual_seed(1))
    states[5], states[6, :32], states[7, 3] = 0.0, 0.0, 1e4
    exact = states.double() @ backend.numbers(form).double().T
    together = backend.multiply(states, form)
    alone = torch.cat([backend.multiply(row, form) for row in states.split(1)])
    assert torch.equal(together, alone)
    # Half a step of a group's largest state, times the weights.
    largest = states.double().unflatten(1, (-1, 32)).abs().amax(dim=2).repeat_interleave(32, dim=1)
    most = largest / 32767 / 2 @ backend.numbers(form).double().abs().T
    assert bool(((together - exact).abs() <= most + 1e-6 * exact.abs().max()).all())
    assert bool((together - exact)[8:].norm() < 3e-5 * exact[8:].norm())
    assert torch.equal(backend.multiply(states.repeat(10, 1), form), together.repeat(10, 1))


def test_many_rows_get_a_form_of_their_own_made_of_the_numbers_that_are_left() -> None:
    if not multiplies_bfloat16():
        pytest.skip("this CPU has no products of bfloat16")
    engine, bfloat16 = small_engine(True), next(b for b in BACKENDS if b.name == "bfloat16")
    kernels = engine.kernels
    assert kernels is not None
    layer, states = kernels.layers[0], torch.randn(32, HIDDEN)
    kernels._best[layer.kind] = [*kernels._best[layer.kind][:3], bfloat16, bfloat16]
    with torch.inference_mode():
        before = layer(states)
        kernels.prepare(2, 1 << 30)
        assert layer.form(bfloat16) is None
        kernels.prepare(32, 1 << 30)
        assert layer.form(bfloat16) is not None
        many = layer(states)
        torch.testing.assert_close(many, before, atol=2e-2, rtol=2e-2)
        assert not torch.equal(many, before)
        kernels.prepare(2, 1 << 30)
        assert torch.equal(layer(states), before)  # a pair's prompt is as it was before the sweep
        kernels.prepare(32, 1 << 30)
        kernels.shrink()
        assert layer.form(bfloat16) is None
        assert torch.equal(layer(states), before)


def test_forms_for_many_rows_go_when_no_large_batch_came_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    _, fast, kernels = layers(True)
    packed = next(backend for backend in BACKENDS if backend.name == "packed")
    kernels.choose({SHAPE: {"plain": [0.1, 0.1, 0.1, 1.0, 1.0], "packed": [1.0, 1.0, 1.0, 0.1, 0.1]}})
    with torch.inference_mode():
        kernels.prepare(32, 1 << 30)
        kernels.prepare(2, 1 << 30)
        assert fast.form(packed) is not None  # a sweep may follow at once
        monkeypatch.setattr(kernels_module, "_KEPT_FOR", -1.0)
        kernels.prepare(2, 1 << 30)
        assert fast.form(packed) is None
        kernels.prepare(32, 1 << 30)
        assert fast.form(packed) is not None


@pytest.mark.parametrize("bias", [True, False])
def test_scores_are_those_of_the_numbers_of_a_file_of_eight_bits(bias: bool) -> None:
    weight = a_weight("8-bit", 4096, 64)
    offsets = torch.randn(4096) if bias else None
    output = FastLinear.of(weight, offsets)
    assert isinstance(output, SmallLinear)
    assert output.hold_small(EIGHT_BIT)
    for rows in (1, 3, 32):
        states = torch.randn(rows, 64) * 8
        with torch.inference_mode():
            scores = output(states)
        expected = nn.functional.linear(states, weight.dense(), offsets)
        assert bool((scores - expected).norm() < 3e-5 * expected.norm())


def test_a_table_of_embeddings_has_the_files_numbers() -> None:
    table = in_a_file(torch.randn(100, 64))
    embeddings = SmallEmbedding.in_place_of(nn.Embedding(100, 64), table)
    tokens = torch.tensor([[3, 99, 3], [0, 7, 8]])
    assert torch.equal(embeddings(tokens), table.dense()[tokens])
    assert embeddings(tokens[:, :0]).shape == (2, 0, 64)


def test_layers_of_small_weights_still_tell_their_numbers() -> None:
    engine, model = small_engine(True), a_small_model(dense=True)
    for name in ("q_proj", "v_proj", "o_proj"):
        found, wanted = (getattr(m.model.layers[1].self_attn, name) for m in (engine.model, model))
        torch.testing.assert_close(found.weight, wanted.weight, atol=2e-2, rtol=2e-2)
        states = torch.randn(2, 3, found.in_features)
        torch.testing.assert_close(found(states), wanted(states), atol=0.1, rtol=0.1)
    ids = torch.tensor([[5, 7]])
    tables = (m.get_input_embeddings()(ids) for m in (engine.model, model))
    torch.testing.assert_close(*tables, atol=2e-2, rtol=2e-2)


def test_weights_become_float32_where_that_is_quicker_and_memory_is_there() -> None:
    for free, seconds, precision in ((1 << 32, 2.5, "float32"), (0, 2.5, "4-bit"), (1 << 32, 1.5, "4-bit")):
        times = {(160, 96, 4): {"plain": [1.0] * len(ROWS), FOUR_BIT.name: [seconds] * len(ROWS)}}
        fast = FastLinear.of(a_weight("4-bit"), None)
        expected = fast.weight
        kernels = Kernels(nn.Linear(2, 2), [fast])
        kernels.choose(times, small=True, free=free)
        assert kernels.precision == precision
        assert torch.equal(fast.weight, expected)


def test_what_a_file_holds_stays_small_where_nothing_could_be_timed() -> None:
    fast = FastLinear.of(a_weight("8-bit"), None)
    states = torch.randn(2, 96)
    expected = fast(states)
    kernels = Kernels(nn.Linear(2, 2), [fast])
    kernels.choose({}, small=True)
    assert kernels.precision == "8-bit" and "weight" not in dict(fast.named_parameters())
    torch.testing.assert_close(fast(states), expected, atol=3e-2, rtol=3e-2)


def test_weights_stay_float32_where_that_is_quicker() -> None:
    _, fast, kernels = layers(True)
    kernels.choose({SHAPE: {"plain": [1.0] * len(ROWS), "bfloat16": [1.5] * len(ROWS)}}, small=True, free=1 << 32)
    assert kernels.precision == "float32" and type(fast) is FastLinear


# Measuring and keeping


class Failing:
    """A backend that this machine's torch lacks."""

    name, held, exact = "failing", "float32", True

    def fits(self, weight: Weight) -> bool:
        return True

    def prepare(self, weight: Weight) -> Any:
        raise RuntimeError("no such operation")

    def multiply(self, rows: Tensor, form: Any) -> Tensor:
        raise RuntimeError("no such operation")

    def numbers(self, form: Any) -> Tensor:
        raise RuntimeError("no such operation")

    def bytes(self, shape: tuple[int, int]) -> int:
        return 0


def times_of(fingerprint: str, layers: list[FastLinear], measured: Any) -> Times:
    return MachineRecord(fingerprint, measured).times(layers)


@pytest.fixture
def big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[FastLinear]:
    """A layer that counts as large enough to be measured, with a cache of its own, on a machine that is not busy."""
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path))
    monkeypatch.setattr(OtherPrograms, "share", lambda self: 0.0)
    monkeypatch.setattr(kernel_times, "_TINY", 0)
    return layers(True)[2].layers


def test_every_exact_backend_is_timed_for_the_models_own_shapes(big: list[FastLinear]) -> None:
    times = measure(big)
    assert times.keys() == {SHAPE}
    assert {"plain", "flipped"} <= times[SHAPE].keys()
    assert all(len(seconds) == len(ROWS) and min(seconds) > 0 for seconds in times[SHAPE].values())


@torch.inference_mode()
def test_where_every_candidate_but_plain_fails_plain_is_used(big: list[FastLinear]) -> None:
    times = measure(big, (PLAIN, Failing()))
    assert times[SHAPE].keys() == {"plain"}
    plain, fast, kernels = layers(True)
    kernels.choose(times)
    kernels.prepare(30, 1 << 30)
    assert fast.form(PLAIN) is not None and "32: plain" in kernels.description
    states = torch.randn(30, 96)
    assert torch.equal(fast(states), plain(states))


def test_times_are_kept_and_measured_again_when_that_is_asked_for(big: list[FastLinear]) -> None:
    seen: list[int] = []

    def measured(layers: Any) -> Times:
        seen.append(len(layers))
        return all_by("flipped")

    assert times_of("abc", big, measured) == all_by("flipped")
    assert times_of("abc", big, measured) == all_by("flipped")
    assert seen == [1]
    forget_times("abc")
    times_of("abc", big, measured)
    times_of("def", big, measured)
    assert len(seen) == 3


@pytest.mark.parametrize("changed", ["cpu_name", "instructions"])
def test_another_cpus_times_are_not_used(big: list[FastLinear], monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    times_of("abc", big, lambda layers: all_by("packed"))
    with monkeypatch.context() as patch:
        patch.setattr(kernel_times, changed, lambda: "of another machine")
        assert times_of("abc", big, lambda layers: all_by("flipped")) == all_by("flipped")
    assert times_of("abc", big, lambda layers: {}) == all_by("packed")


def test_another_number_of_threads_is_measured_anew(big: list[FastLinear]) -> None:
    times_of("abc", big, lambda layers: all_by("packed"))
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert times_of("abc", big, lambda layers: all_by("flipped")) == all_by("flipped")
    finally:
        torch.set_num_threads(before)


def test_times_of_a_busy_machine_are_measured_again_until_it_is_quieter(
    big: list[FastLinear], monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = iter([0.9, 0.95, 0.1])
    monkeypatch.setattr(OtherPrograms, "share", lambda self: next(shares))
    assert times_of("abc", big, lambda layers: all_by("packed")) == all_by("packed")
    assert times_of("abc", big, lambda layers: all_by("flipped")) == all_by("packed")  # it was busier still
    assert times_of("abc", big, lambda layers: all_by("flipped")) == all_by("flipped")
    assert times_of("abc", big, lambda layers: pytest.fail("measured")) == all_by("flipped")


def test_a_machine_that_is_always_busy_is_measured_three_times(
    big: list[FastLinear], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OtherPrograms, "share", lambda self: 0.9)
    seen: list[Any] = []
    for backend in ("packed", "flipped", "flipped", "flipped"):
        assert times_of("abc", big, lambda layers, name=backend: seen.append(name) or all_by(name)) == all_by("packed")
    assert len(seen) == 3


def test_a_program_that_disturbs_one_moment_changes_no_choice(
    big: list[FastLinear], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backends take turns: time that passes while one of them happens to run is added to all of them."""
    clock, calls = [0.0], [0]

    class Slow:
        """A product that takes so long, and ten times as long while another program computes."""

        exact = True

        def __init__(self, name: str, seconds: float) -> None:
            self.name, self._seconds = name, seconds

        def fits(self, weight: Weight) -> bool:
            return True

        def prepare(self, weight: Weight) -> Tensor:
            return weight.dense()

        def multiply(self, rows: Tensor, form: Any) -> Tensor:
            calls[0] += 1
            clock[0] += self._seconds * (10 if 3 < calls[0] < 30 else 1)
            return rows

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    times = measure(big, (Slow("quick", 0.001), Slow("slow", 0.002)))[SHAPE]  # type: ignore[arg-type]  # no `bytes`
    assert times["quick"] == pytest.approx([0.001] * len(ROWS)) and times["slow"] == pytest.approx([0.002] * len(ROWS))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 1}', "null"])
def test_a_broken_record_is_measured_anew(big: list[FastLinear], tmp_path: Path, text: str) -> None:
    times_of("abc", big, lambda layers: all_by("packed"))
    (file,) = (tmp_path / "cache" / "kernels").iterdir()
    file.write_text(text)
    assert times_of("abc", big, lambda layers: all_by("flipped")) == all_by("flipped")


def test_a_record_of_other_numbers_of_rows_is_measured_anew(big: list[FastLinear]) -> None:
    times_of("abc", big, lambda layers: {SHAPE: {"plain": [1.0]}})
    assert times_of("abc", big, lambda layers: all_by("flipped")) == all_by("flipped")


def test_a_machine_too_busy_to_measure_uses_plain_products_and_keeps_nothing(
    big: list[FastLinear], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_LIMIT", 0.0)
    assert MachineRecord("abc").times(big) == {}
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("rows", [64, 65, 256, 257, 700])
def test_a_product_of_bfloat16_of_many_rows_is_that_of_few_at_a_time(rows: int) -> None:
    backend, weight = Bfloat16(), a_weight("bfloat16")
    if not backend.fits(weight):
        pytest.skip("this CPU has no products of bfloat16")
    states, form = torch.randn(rows, 96), backend.prepare(weight)
    few = torch.cat([backend.multiply(part, form) for part in states.split(50)])
    torch.testing.assert_close(backend.multiply(states, form), few, atol=1e-3, rtol=1e-2)


def test_the_parts_that_a_large_weight_is_packed_in_do_not_show() -> None:
    weight = a_weight("4-bit", out=8192 + 4096 + 48, width=64)
    levels, scale, low = weight.levels()
    rounded = Levels(levels, scale.half().float(), low.half().float())
    assert torch.equal(FOUR_BIT.numbers(FOUR_BIT.prepare(weight)), rounded.dense())


def test_a_large_layer_is_timed_by_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_SLICE", 32 * 96 * 4)
    assert measure(layers(False)[2].layers, (PLAIN,)).keys() == {SHAPE}


@pytest.mark.slow
@torch.inference_mode()
def test_prepared_weights_are_kept_for_this_machine_and_say_the_same(
    big: list[FastLinear], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = small_engine(lean=True).kernels
    assert first is not None
    MachineRecord("abc").keep_forms(first.forms)
    kept = MachineRecord("abc").forms()
    assert kept.keys() == first.forms.keys() and {name for _, name in kept} == {"4-bit", "8-bit"}

    def fresh(kept: Forms) -> Kernels:
        model = a_small_model()
        kernels = Kernels(model, [layer for block in make_lean(model, find_blocks(model)) for layer in block.layers])
        kernels.choose(small_is_quick(kernels.layers), small=True, free=1 << 32, kept=kept)
        return kernels

    with monkeypatch.context() as patch:
        for backend in (FOUR_BIT, EIGHT_BIT):
            patch.setattr(type(backend), "prepare", lambda self, weight: pytest.fail("prepared again"))
        again = fresh(kept)
    for before, after in zip(first.layers, again.layers, strict=True):
        rows = torch.randn(3, before.in_features)
        assert torch.equal(before(rows), after(rows)) and torch.equal(before.weight, after.weight)
    # Those of another weight are not taken.
    numbers = [number for number, name in kept if name == "4-bit"]
    swapped = {**kept, (numbers[0], "4-bit"): kept[numbers[-1], "4-bit"]}
    assert again.layers[numbers[0]].shape != again.layers[numbers[-1]].shape
    alike = next(number for number in numbers[1:] if first.layers[number].shape == first.layers[numbers[0]].shape)
    swapped[alike, "4-bit"] = kept[numbers[0], "4-bit"]
    others = torch.randn(3, first.layers[alike].in_features)
    assert torch.equal(fresh(swapped).layers[alike](others), first.layers[alike](others))
    rows = torch.randn(3, first.layers[numbers[0]].in_features)
    assert torch.equal(fresh(swapped).layers[numbers[0]](rows), first.layers[numbers[0]](rows))
    with monkeypatch.context() as patch:
        patch.setattr(kernel_times, "cpu_name", lambda: "another")
        assert not MachineRecord("abc").forms()
    assert not MachineRecord("def").forms()
    (file,) = (tmp_path / "cache" / "kernels").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    assert not MachineRecord("abc").forms()
    forget_times("abc")
    assert not file.exists()


def test_kept_weights_begin_where_products_read_them_quickest(
    big: list[FastLinear], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_times, "_TINY", 0)
    # Headers of several lengths.
    for count in range(1, 9):
        forms = {
            (10**number, "8-bit"): (torch.zeros(64, 32, dtype=torch.int8), torch.ones(64, dtype=torch.bfloat16))
            for number in range(count)
        }
        MachineRecord("abc").keep_forms(forms)
        kept = MachineRecord("abc").forms()
        assert len(kept) == count
        assert {tensor.data_ptr() % 64 for pair in kept.values() for tensor in pair} == {0}
