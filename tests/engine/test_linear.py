"""Products are products, by whatever backend that fits a weight, for any number of rows, with a bias or without."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import HIDDEN, answers, push, tiny_engine, tiny_tokenizer
from torch import Tensor, nn

from steerchat.engine import timing
from steerchat.engine.backends import BACKENDS, GROUP, PLAIN, LinearBackend, multiplies_bfloat16
from steerchat.engine.decoding import Row
from steerchat.engine.engine import Engine
from steerchat.engine.lean import make_lean
from steerchat.engine.linear import ROWS, FastLinear, Kernels, Times
from steerchat.engine.sampling import Sampling
from steerchat.engine.timing import measure
from steerchat.models import kernel_times
from steerchat.models.find import find
from steerchat.models.kernel_times import forget_times, times_for
from steerchat.models.load import load

EXACT = [backend for backend in BACKENDS if backend.exact]
SHAPE = (160, 96)


def a_weight(kind: str, out: int = 160, width: int = 96) -> Tensor:
    """As a file of this kind would hold it: any numbers, those of bfloat16, or groups on 16 or 255 levels."""
    torch.manual_seed(0)
    weight = torch.randn(out, width) / width**0.5
    groups = weight.reshape(out, -1, GROUP)
    if kind == "bfloat16":
        return weight.bfloat16().float()
    if kind == "4-bit":
        low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
        step = (high - low) / 15
        return (((groups - low) / step).round() * step + low).reshape(out, width)
    if kind == "8-bit":
        step = groups.abs().amax(-1, keepdim=True) / 127
        return ((groups / step).round() * step).reshape(out, width)
    return weight


def all_by(name: str, shape: tuple[int, int] = SHAPE) -> Times:
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
    weight, states = a_weight(kind), torch.randn(3, 96)
    fitting = {backend.name for backend in BACKENDS if backend.fits(weight)}
    assert {backend.name for backend in EXACT} <= fitting
    assert "4-bit" not in fitting or kind == "4-bit"
    assert "8-bit" not in fitting or kind == "8-bit"
    assert "bfloat16" not in fitting or kind != "any"
    for backend in BACKENDS:
        if backend.fits(weight):
            form = backend.prepare(weight)
            torch.testing.assert_close(backend.weight(form), weight, atol=2e-2, rtol=2e-2)
            product = backend.multiply(states, form)
            assert product.dtype == torch.float32
            torch.testing.assert_close(product, states @ weight.T, atol=3e-2, rtol=3e-2)


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
    assert (used(2), used(5), used(30)) == ("plain", "packed", "packed")
    kernels.shrink()
    assert used(30) == "plain"


def test_a_sweep_says_the_same_by_any_exact_backend() -> None:
    rows = [Row(tuple(range(60, 75)), (push(index % 4, index),), index) for index in range(9)]
    sampling = Sampling(max_tokens=10)
    engine = tiny_engine()
    expected = [output.answer.text for output in answers(engine, rows, sampling)]
    engine.kernels = Kernels(engine.model)
    for backend in EXACT:
        times = {layer.shape: {backend.name: [1.0] * len(ROWS)} for layer in engine.kernels.layers}
        engine.kernels.choose(times)
        assert [output.answer.text for output in answers(engine, rows, sampling)] == expected


# Weights of few bits


def a_small_model(seed: int = 0) -> Any:
    """A tiny Llama whose layers hold four-bit numbers and whose tied embeddings hold eight-bit ones."""
    model = tiny_engine(seed=seed).model
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            groups = parameter.data.reshape(parameter.shape[0], -1, GROUP)
            low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
            step = (high - low) / 15
            if "embed" in name or "head" in name:
                step, low = groups.abs().amax(-1, keepdim=True).clamp_min(1e-9) / 127, torch.zeros(1)
            parameter.data = (((groups - low) / step).round() * step + low).reshape(parameter.shape)
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


def small_is_quick(layers: Sequence[FastLinear]) -> Times:
    """Times by which the four-bit and the eight-bit products are the quickest, for the layers that they fit."""
    fitting = {
        layer.shape: [b for b in BACKENDS if b.name in ("4-bit", "8-bit") and b.fits(layer.weight)] for layer in layers
    }
    return {
        shape: {"plain": [1.0] * len(ROWS), **{b.name: [0.1] * len(ROWS) for b in backends}}
        for shape, backends in fitting.items()
    }


def small_engine(lean: bool) -> Engine:
    """An engine on `a_small_model`, its weights held in as few bits as they have."""
    model = a_small_model()
    engine = Engine(model, tiny_tokenizer(), "tiny", "tiny", lambda: 1 << 32)
    blocks = make_lean(model, engine.blocks) if lean else []
    engine.kernels = Kernels(model, [layer for block in blocks for layer in block.layers])
    engine.kernels.choose(small_is_quick(engine.kernels.layers))
    assert engine.kernels.make_small(model.get_input_embeddings())
    for block in blocks:
        block.detach()
    return engine


@pytest.mark.parametrize("lean", [True, False])
def test_a_model_of_small_weights_says_nearly_what_it_says_in_float32(lean: bool) -> None:
    usual = Engine(a_small_model(), tiny_tokenizer(), "tiny", "tiny", lambda: 1 << 32)
    small = small_engine(lean)
    assert (usual.dtype, small.dtype) == ("float32", "4-bit")
    assert not any(p.dim() == 2 for p in small.model.parameters())
    reading, expected = (engine.read(range(60, 75), range(80, 110)) for engine in (small, usual))
    assert reading.perplexity == pytest.approx(expected.perplexity, rel=0.05)
    similar = torch.cosine_similarity(reading.states, expected.states, dim=-1)
    assert float(similar.min()) > 0.999


@pytest.mark.parametrize("lean", [True, False])
def test_a_row_of_small_weights_says_the_same_alone_and_beside_others(lean: bool) -> None:
    engine = small_engine(lean)
    rows = [Row(tuple(range(60, 75)), (push(index % 4, index),), index) for index in range(9)]
    sampling = Sampling(max_tokens=10)
    together = [output.answer.token_ids for output in answers(engine, rows, sampling)]
    assert [answers(engine, [row], sampling)[0].answer.token_ids for row in rows] == together


def test_few_rows_share_one_backend_so_that_a_pair_says_what_its_rows_say_alone() -> None:
    weight = a_weight("4-bit", 64, 64)
    fast = FastLinear.of(weight, None)
    kernels = Kernels(nn.Linear(2, 2), [fast])
    few, many = [0.1, 0.3, 0.2, 0.9, 0.9], [0.2, 0.2, 0.3, 0.1, 0.1]
    kernels.choose({(64, 64): {"plain": [1.0] * len(ROWS), "4-bit": few, "bfloat16": many}})
    assert kernels.make_small(nn.Embedding(2, 2))
    assert kernels.summary == "1: 4-bit, 2: 4-bit, 5: 4-bit, 16: bfloat16, 32: bfloat16"
    assert kernels.precision == "4-bit" and "Weights in 4-bit" in kernels.description


def test_many_rows_get_a_form_of_their_own_made_of_the_numbers_that_are_left() -> None:
    if not multiplies_bfloat16():
        pytest.skip("this CPU has no products of bfloat16")
    engine, bfloat16 = small_engine(True), next(b for b in BACKENDS if b.name == "bfloat16")
    kernels = engine.kernels
    assert kernels is not None
    layer, states = kernels.layers[0], torch.randn(32, HIDDEN)
    kernels._best[layer.shape] = [*kernels._best[layer.shape][:3], bfloat16, bfloat16]
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


def test_auto_takes_small_weights_and_float32_stays_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerchat.models.load.times_for", lambda layers, fingerprint: small_is_quick(layers))
    a_small_model().save_pretrained(tmp_path / "small")
    tiny_tokenizer().save_pretrained(tmp_path / "small")
    files = find(str(tmp_path / "small"), progress=lambda event: None)
    small, exact = load(files, "cpu", "auto"), load(files, "cpu", "float32")
    assert (small.dtype, exact.dtype) == ("4-bit", "float32")
    assert small.size < 0.6 * exact.size
    rows, sampling = [Row(tuple(range(60, 75)), (push(1, 1),))], Sampling(max_tokens=10)
    usual = Engine(a_small_model(), tiny_tokenizer(), "tiny", "tiny", lambda: 1 << 32)
    (found,), (expected,) = answers(exact, rows, sampling), answers(usual, rows, sampling)
    assert found.answer.token_ids == expected.answer.token_ids
    assert answers(small, rows, sampling)[0].answer.tokens


def test_layers_of_small_weights_still_tell_their_numbers() -> None:
    engine, model = small_engine(True), a_small_model()
    for name in ("q_proj", "v_proj", "o_proj"):
        found, wanted = (getattr(m.model.layers[1].self_attn, name) for m in (engine.model, model))
        torch.testing.assert_close(found.weight, wanted.weight, atol=2e-2, rtol=2e-2)
        states = torch.randn(2, 3, found.in_features)
        torch.testing.assert_close(found(states), wanted(states), atol=0.1, rtol=0.1)
    ids = torch.tensor([[5, 7]])
    tables = (m.get_input_embeddings()(ids) for m in (engine.model, model))
    torch.testing.assert_close(*tables, atol=2e-2, rtol=2e-2)


def test_weights_stay_float32_where_fewer_bits_are_no_quicker_or_lose_numbers() -> None:
    _, fast, kernels = layers(True)
    kernels.choose({SHAPE: {"plain": [1.0] * len(ROWS), "bfloat16": [1.0] * len(ROWS)}})
    assert not kernels.make_small(nn.Embedding(2, 2))
    kernels.choose({SHAPE: {"plain": [1.0] * len(ROWS)}})
    assert not kernels.make_small(nn.Embedding(2, 2))
    assert kernels.precision == "float32" and type(fast) is FastLinear


# Measuring and keeping


class Failing:
    """A backend that this machine's torch lacks."""

    name, exact = "failing", True

    def fits(self, weight: Tensor) -> bool:
        return True

    def prepare(self, weight: Tensor) -> Any:
        raise RuntimeError("no such operation")

    def multiply(self, rows: Tensor, form: Any) -> Tensor:
        raise RuntimeError("no such operation")

    def weight(self, form: Any) -> Tensor:
        raise RuntimeError("no such operation")

    def bytes(self, shape: tuple[int, int]) -> int:
        return 0


@pytest.fixture
def big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[FastLinear]:
    """A layer that counts as large enough to be measured, with a cache of its own."""
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path))
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

    assert times_for(big, "abc", measured=measured) == all_by("flipped")
    assert times_for(big, "abc", measured=measured) == all_by("flipped")
    assert seen == [1]
    forget_times("abc")
    times_for(big, "abc", measured=measured)
    times_for(big, "def", measured=measured)
    assert len(seen) == 3


@pytest.mark.parametrize("changed", ["cpu_name", "instructions"])
def test_another_cpus_times_are_not_used(big: list[FastLinear], monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    times_for(big, "abc", measured=lambda layers: all_by("packed"))
    with monkeypatch.context() as patch:
        patch.setattr(kernel_times, changed, lambda: "of another machine")
        assert times_for(big, "abc", measured=lambda layers: all_by("flipped")) == all_by("flipped")
    assert times_for(big, "abc", measured=lambda layers: {}) == all_by("packed")


def test_another_number_of_threads_is_measured_anew(big: list[FastLinear]) -> None:
    times_for(big, "abc", measured=lambda layers: all_by("packed"))
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        assert times_for(big, "abc", measured=lambda layers: all_by("flipped")) == all_by("flipped")
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 1}', "null"])
def test_a_broken_record_is_measured_anew(big: list[FastLinear], tmp_path: Path, text: str) -> None:
    times_for(big, "abc", measured=lambda layers: all_by("packed"))
    (file,) = (tmp_path / "cache" / "kernels").iterdir()
    file.write_text(text)
    assert times_for(big, "abc", measured=lambda layers: all_by("flipped")) == all_by("flipped")


def test_a_record_of_other_numbers_of_rows_is_measured_anew(big: list[FastLinear]) -> None:
    times_for(big, "abc", measured=lambda layers: {SHAPE: {"plain": [1.0]}})
    assert times_for(big, "abc", measured=lambda layers: all_by("flipped")) == all_by("flipped")


def test_a_machine_too_busy_to_measure_uses_plain_products_and_keeps_nothing(
    big: list[FastLinear], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "_LIMIT", 0.0)
    assert times_for(big, "abc") == {}
    assert not (tmp_path / "cache").exists()


def test_a_large_layer_is_timed_by_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_SLICE", 32 * 96 * 4)
    assert measure(layers(False)[2].layers, (PLAIN,)).keys() == {SHAPE}
