"""Lean blocks compute what the model's own compute, are there only where they do, and leave hooks as they were."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from engines import LAYERS, answers, push, recording_blocks, tiny_engine

from steerchat.engine.decoding import Row
from steerchat.engine.engine import Engine
from steerchat.engine.lean import make_lean
from steerchat.engine.sampling import Sampling

PROMPT = tuple(range(60, 90))
SHAPED = ["llama", "mistral"]


def lean_engine(kind: str) -> Engine:
    engine = tiny_engine(kind)
    assert len(make_lean(engine.model, engine.blocks)) == LAYERS
    return engine


@pytest.mark.parametrize("kind", SHAPED)
@pytest.mark.parametrize("scope", ["generated", "all"])
def test_answers_and_readings_are_those_of_the_models_own_blocks(kind: str, scope: Any) -> None:
    # Rows of different lengths have gaps in their keys, and so a mask.
    rows = [Row(PROMPT[: 20 + index], (push(index % LAYERS, index),), index, scope) for index in range(6)]
    rows.append(Row(PROMPT))
    sampling = Sampling(max_tokens=12)
    for usual, lean in zip(
        answers(tiny_engine(kind), rows, sampling), answers(lean_engine(kind), rows, sampling), strict=True
    ):
        assert lean.answer.token_ids == usual.answer.token_ids
        torch.testing.assert_close(lean.reading.states, usual.reading.states, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(lean.reading.log_probs, usual.reading.log_probs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", SHAPED)
def test_turns_go_on_from_what_lean_blocks_kept(kind: str) -> None:
    usual, lean = tiny_engine(kind), lean_engine(kind)
    sampling = Sampling(max_tokens=8)
    for engine in (usual, lean):
        answers(engine, [Row(PROMPT), Row(PROMPT, (push(1, 1),))], sampling, keep=True)
    longer = [Row((*PROMPT, *range(90, 100))), Row((*PROMPT, *range(70, 95)), (push(2, 1),))]
    expected = [output.answer.token_ids for output in answers(usual, longer, sampling, keep=True)]
    assert [output.answer.token_ids for output in answers(lean, longer, sampling, keep=True)] == expected


def test_texts_are_read_side_by_side_as_before() -> None:
    texts = [(PROMPT[:10], range(90, 90 + size)) for size in (3, 9, 5)] + [(PROMPT[:12], range(80, 84))]
    usual, lean = (engine.states(texts) for engine in (tiny_engine(), lean_engine("llama")))
    torch.testing.assert_close(lean, usual, atol=1e-4, rtol=1e-4)


def test_a_hook_on_a_block_changes_what_the_next_one_gets() -> None:
    engine = lean_engine("llama")
    with recording_blocks(engine, 1) as (computed, handed_on):
        answers(engine, [Row(PROMPT, (push(1, 1, 5.0),))], Sampling(max_tokens=3))
    steps = [(before, after) for before, after in zip(computed, handed_on, strict=True) if before.shape[1] == 1]
    for before, after in steps[:3]:  # what follows is read without the push
        assert float((after - before).norm()) == pytest.approx(5.0, rel=1e-3)


@pytest.mark.parametrize("kind", ["gpt2", "gemma3", "qwen3"])
def test_models_of_another_shape_are_left_as_they_are(kind: str) -> None:
    engine = tiny_engine(kind)
    assert make_lean(engine.model, engine.blocks) == []
    assert not any("forward" in vars(block) for block in engine.blocks)


def test_a_model_that_looks_alike_and_computes_otherwise_is_left_as_it_is() -> None:
    engine, other = tiny_engine(), tiny_engine()
    for changed in (engine, other):
        attention: Any = changed.blocks[2].self_attn
        usual = attention.forward
        attention.forward = lambda *args, usual=usual, **options: (usual(*args, **options)[0] * 1.01, None)
    assert make_lean(engine.model, engine.blocks) == []
    rows, sampling = [Row(PROMPT), Row(PROMPT, (push(1, 1),))], Sampling(max_tokens=10)
    expected = [output.answer.token_ids for output in answers(other, rows, sampling)]
    assert [output.answer.token_ids for output in answers(engine, rows, sampling)] == expected


def test_where_all_blocks_are_alike_two_of_them_are_compared() -> None:
    for changed, expected in (({}, {0, LAYERS - 1}), ({1: 2.0}, set(range(LAYERS)))):
        engine, compared = tiny_engine(), set[int]()
        for number, block in enumerate(engine.blocks):
            attention: Any = block.self_attn
            attention.q_proj.register_forward_hook(lambda *_, seen=compared, number=number: seen.add(number))
            attention.attention_dropout = changed.get(number, 0.0)
        assert len(make_lean(engine.model, engine.blocks)) == LAYERS
        assert compared == expected and engine.model.base_model.layers is engine.blocks


@torch.inference_mode()
@pytest.mark.parametrize("kind", SHAPED)
def test_a_lean_model_answers_every_call_as_the_model_does(kind: str) -> None:
    """With a cache or none, padded, without positions, beyond a sliding window: a call that is not the engine's too."""
    lean, usual = lean_engine(kind).model, tiny_engine(kind).model
    ids = torch.tensor([PROMPT, PROMPT[::-1]])
    padded = torch.ones_like(ids)
    padded[1, :4] = 0
    calls: list[dict[str, Any]] = [
        {},
        {"attention_mask": padded},
        {"position_ids": torch.arange(len(PROMPT)).expand(2, -1)},
        {"output_hidden_states": True},
        {"use_cache": False},
    ]
    for options in calls:
        got, wanted = (model(input_ids=ids, **options) for model in (lean, usual))
        torch.testing.assert_close(got.logits, wanted.logits, atol=1e-4, rtol=1e-3)
        for state, expected in zip(got.hidden_states or (), wanted.hidden_states or (), strict=True):
            torch.testing.assert_close(state, expected, atol=1e-4, rtol=1e-3)
    # Several tokens on top of a cache, with positions and without a mask.
    scores = []
    for model in (lean, usual):
        cache = model(input_ids=ids[:, :20], use_cache=True)
        kept = cache.past_key_values if hasattr(cache, "past_key_values") and cache.past_key_values else cache.cache
        name = "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"
        positions = torch.arange(20, 30).expand(2, -1)
        scores.append(model(input_ids=ids[:, 20:], position_ids=positions, use_cache=True, **{name: kept}).logits)
    torch.testing.assert_close(*scores, atol=1e-4, rtol=1e-3)
