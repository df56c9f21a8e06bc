"""Activations below a row's first edit are reused, and the readings equal those of a full pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from engines import GREEDY, LAYERS, answers, push, tiny_engine

from steerchat.engine.decoding import Row
from steerchat.engine.engine import Engine, Output
from steerchat.engine.gates import Gate, Probe
from steerchat.engine.operations import Edit
from steerchat.engine.sampling import Sampling

PROMPT = tuple(range(60, 80))
SAMPLED = Sampling(max_tokens=15)
# Letters alone: what is said is read as the tokens that were sampled.
LETTERS = range(65, 91)

ROWS: list[tuple[Edit, ...]] = [
    (),
    *((push(layer, layer),) for layer in range(LAYERS)),
    (push(3, 5), push(1, 6)),
    (Edit(2, "ablate", push(2, 7).vector),),
    (Edit(1, "replace", push(1, 8).vector),),
    (Edit(2, "rotate", push(2, 9, 0.5).vector),),
    (Edit(2, "add", push(2, 10).vector, gate=Gate(after=3)),),
    (Edit(2, "aim", push(2, 11, 1.0).vector, 3.0, Gate(Probe(0, push(0, 12, 1.0).vector, 0.0, True, 0.0))),),
]


def rows(seeds: Sequence[int] = (0, 1)) -> list[Row]:
    return [Row(PROMPT, edits, seed) for seed in seeds for edits in ROWS]


def only_letters(engine: Engine) -> Engine:
    """From now on the model says nothing else, and now and then the end."""
    tokenizer = engine.prompter
    allowed = [tokenizer.raw(chr(code))[-1] for code in LETTERS] + [2]
    bias = torch.full((engine.model.config.vocab_size,), -1e4)
    bias[allowed] = 0.0

    def hook(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output + bias

    engine.model.get_output_embeddings().register_forward_hook(hook)
    return engine


@contextmanager
def attending(engine: Engine) -> Iterator[list[list[int]]]:
    """By pass and layer, how many rows attention was computed for; none where it was not."""
    passes: list[list[int]] = []

    def start(module: Any, args: Any) -> None:
        passes.append([0] * LAYERS)

    def layer(number: int) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            passes[-1][number] = hidden.shape[0]

        return hook

    handles = [engine.model.get_input_embeddings().register_forward_pre_hook(start)]
    for number, block in enumerate(engine.blocks):
        attention = next(part for name, part in block.named_children() if "att" in name and "norm" not in name)
        handles.append(attention.register_forward_pre_hook(layer(number), with_kwargs=True))
    yield passes
    for handle in handles:
        handle.remove()


def assert_read_in_full(engine: Engine, asked: Sequence[Row], outputs: Sequence[Output]) -> None:
    """Readings equal those of a pass over the whole text with nothing known of it."""
    engine.forget()
    for row, output in zip(asked, outputs, strict=True):
        if not output.reading.tokens:
            assert not output.reading.states.any()
            continue
        fresh = engine.read(row.prompt, output.reading.tokens)
        torch.testing.assert_close(output.reading.log_probs, fresh.log_probs, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(output.reading.states, fresh.states, atol=1e-3, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2", "mistral", "gemma3", "qwen3"])
@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_readings_equal_those_of_a_full_pass(kind: str, sampling: Sampling) -> None:
    engine = only_letters(tiny_engine(kind))
    outputs = answers(engine, rows(), sampling)
    assert any(output.answer.tokens > 5 for output in outputs)
    assert len({output.answer.text for output in outputs}) > 2
    assert_read_in_full(engine, rows(), outputs)


def test_blocks_up_to_the_first_edit_run_for_no_row_that_they_are_known_of() -> None:
    engine = only_letters(tiny_engine(stops=()))
    with attending(engine) as passes:
        outputs = answers(engine, rows([0]), SAMPLED)
    assert all(output.reading.tokens == output.answer.token_ids for output in outputs)
    first = [min((edit.layer for edit in edits), default=LAYERS - 1) for edits in ROWS]
    assert passes[-1] == [sum(layer > one for one in first) for layer in range(LAYERS)]
    assert passes[-1][0] == 0 and passes[1] == [len(ROWS)] * LAYERS


@pytest.mark.slow
def test_a_text_that_is_split_otherwise_than_it_was_sampled_is_read_whole() -> None:
    engine = tiny_engine(stops=())  # any bytes: halves of characters are replaced in the text
    asked = rows([0])
    with attending(engine) as passes:
        outputs = answers(engine, asked, Sampling(max_tokens=30))
    differing = sum(output.reading.tokens != output.answer.token_ids for output in outputs)
    assert differing and passes[-1][0] == differing
    assert_read_in_full(engine, asked, outputs)


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_stopped_answer_is_read_as_far_as_it_came(after: int) -> None:
    engine = only_letters(tiny_engine(stops=()))
    asked = iter(range(99))
    outputs = answers(engine, rows([0]), SAMPLED, stopped=lambda: next(asked) >= after)
    assert {output.answer.tokens for output in outputs} == {after}
    assert_read_in_full(engine, rows([0]), outputs)


@pytest.mark.slow
def test_states_that_wait_to_be_added_up_change_nothing_however_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerchat.engine.reuse._WAITING", 1)
    engine = only_letters(tiny_engine())
    assert_read_in_full(engine, rows(), answers(engine, rows(), SAMPLED))


@pytest.mark.slow
def test_blocks_that_cannot_run_for_some_rows_read_everything() -> None:
    engine = only_letters(tiny_engine(stops=()))
    expected = answers(engine, rows([0]), SAMPLED)

    def entangled(module: Any, args: Any, kwargs: Any) -> Any:
        # As attention with linear biases is given them: rows times heads in front.
        return args, {**kwargs, "alibi": torch.zeros(3 * args[0].shape[0], 1, 1)}

    for block in engine.blocks:
        block.register_forward_pre_hook(entangled, with_kwargs=True)
    for _ in range(2):
        with attending(engine) as passes:
            outputs = answers(engine, rows([0]), SAMPLED)
        assert passes[-1] == [len(ROWS)] * LAYERS
        assert [output.answer.text for output in outputs] == [output.answer.text for output in expected]
        for output, before in zip(outputs, expected, strict=True):
            torch.testing.assert_close(output.reading.states, before.reading.states, atol=1e-3, rtol=1e-4)


@pytest.mark.slow
def test_a_row_that_is_kept_goes_on_as_if_it_had_been_read_whole() -> None:
    engine = only_letters(tiny_engine(stops=()))
    first = [Row(PROMPT), Row(PROMPT, ROWS[3])]
    outputs = answers(engine, first, SAMPLED, keep=True)
    nexts = [
        Row((*PROMPT, *output.reading.tokens, *range(100, 110)), edits)
        for output, edits in zip(outputs, ((), ROWS[2]), strict=True)
    ]
    kept = answers(engine, nexts, SAMPLED)
    engine.forget()
    fresh = answers(engine, nexts, SAMPLED)
    assert [output.answer.text for output in kept] == [output.answer.text for output in fresh]
    for one, other in zip(kept, fresh, strict=True):
        torch.testing.assert_close(one.reading.states, other.reading.states, atol=1e-3, rtol=1e-4)


def test_no_block_is_left_changed() -> None:
    engine = tiny_engine()
    before = [dict(vars(block)) for block in engine.blocks]
    answers(engine, rows([0]), SAMPLED)
    assert [dict(vars(block)) for block in engine.blocks] == before


def test_what_most_prompts_begin_with_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, preamble = tiny_engine(), tuple(range(60, 76))
    prompts = [(*preamble, 80, 81, 82), (*preamble, 90, 91), (*preamble[:-1], 70, 71)]
    rows = [Row(prompt, edits, 3) for prompt in prompts for edits in ((), (push(1, 2),))]
    expected = [answers(engine, [row], SAMPLED)[0] for row in rows]
    engine.forget()
    monkeypatch.setattr(engine.prompter, "preamble", preamble)
    positions: list[int] = []
    handle = engine.blocks[0].register_forward_hook(lambda block, args, output: positions.append(args[0].shape[1]))
    found = [answers(engine, [row], SAMPLED)[0] for row in rows]
    handle.remove()
    assert [output.answer.token_ids for output in found] == [output.answer.token_ids for output in expected]
    perplexities = ([output.answer.perplexity for output in outputs] for outputs in (found, expected))
    assert next(perplexities) == pytest.approx(next(perplexities))
    assert positions.count(len(preamble)) == 3  # once of itself, and twice the prompt that begins otherwise
    engine.forget()
    answers(engine, rows[:1], SAMPLED)
    assert engine.contexts.preambles
