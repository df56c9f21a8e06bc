"""The engine: each row of a batch equals the same run alone, is steered at the right layers, and costs few passes."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from engines import (
    GREEDY,
    HIDDEN,
    LAYERS,
    answers,
    drain,
    push,
    recording_blocks,
    recording_logits,
    tiny_engine,
)
from torch import Tensor

from steerchat.concepts.vector import ConceptVector, edits
from steerchat.engine.decoding import Row, Run
from steerchat.engine.engine import Engine, Output
from steerchat.engine.gates import Gate, Probe
from steerchat.engine.hooks import LengthReader
from steerchat.engine.operations import Edit
from steerchat.engine.sampling import Sampling
from steerchat.values.errors import Interrupted, ModelError
from steerchat.values.recipe import Recipe, Term
from steerchat.values.results import Answer, Delta, Finished, Watch

ARCHITECTURES = ["llama", "gpt2", "mistral", "gemma3", "qwen3"]
SAMPLED = Sampling(temperature=0.7, top_p=0.9, repetition_penalty=1.1, max_tokens=20)
# Common bytes of the random models' answers: with these as stops rows end at different times.
STOPS = (2, *range(20, 60))


def ids(length: int, seed: int = 0) -> tuple[int, ...]:
    drawn = torch.randint(3, 290, (length,), generator=torch.Generator().manual_seed(seed))
    return tuple(drawn.tolist())


def vector(seed: int, size: float = 8.0) -> Tensor:
    return push(0, seed, size).vector


def turned(states: Tensor, unit: Tensor, angle: float) -> Tensor:
    """States, (positions, hidden), turned towards a direction by an angle in radians, at most up to it."""
    own = states / states.norm(dim=-1, keepdim=True)
    across = unit - (own @ unit)[:, None] * own
    apart = torch.atan2(across.norm(dim=-1), own @ unit).clamp_max(angle)[:, None]
    side = across / across.norm(dim=-1, keepdim=True)
    return states.norm(dim=-1, keepdim=True) * (apart.cos() * own + apart.sin() * side)


RECIPES: list[tuple[Edit, ...]] = [
    (),
    (push(1, 1),),
    (push(2, 2, -8.0),),
    tuple(push(layer, 3, 3.0) for layer in range(LAYERS)),
    (push(0, 4), push(2, 5)),
]


def spoken(outputs: Sequence[Output]) -> list[tuple[str, tuple[int, ...], str]]:
    return [(output.answer.text, output.answer.token_ids, output.answer.finish) for output in outputs]


def forward(model: Any, tokens: Sequence[int], changes: Sequence[Edit] = (), start: int = 0) -> Tensor:
    """All logits, (tokens, vocabulary), of one text alone and without cache, its block outputs changed from
    position `start` on: the independent account of what steering means."""
    base = model.base_model
    blocks = base.h if hasattr(base, "h") else base.layers

    def changed(layer: int) -> Any:
        def hook(module: Any, args: Any, output: Any) -> Any:
            state = (output if isinstance(output, Tensor) else output[0]).clone()
            for operation in ("replace", "ablate", "rotate", "add", "aim", "cap"):
                for change in (c for c in changes if c.layer == layer and c.operation == operation):
                    unit = change.vector / change.vector.norm()
                    tail = state[0, start:]
                    if operation == "add":
                        state[0, start:] = tail + change.vector
                    elif operation == "ablate":
                        state[0, start:] = tail - (tail @ unit)[:, None] * unit
                    elif operation == "rotate":
                        state[0, start:] = turned(tail, unit, float(change.vector.norm()))
                    elif operation in ("aim", "cap"):
                        lacks = change.level - tail @ unit
                        moved = lacks.clamp_min(0.0) if operation == "aim" else lacks.clamp_max(0.0)
                        state[0, start:] = tail + moved[:, None] * unit
                    else:
                        state[0, start:] = change.vector
            return state if isinstance(output, Tensor) else (state, *output[1:])

        return hook

    handles = [blocks[layer].register_forward_hook(changed(layer)) for layer in {c.layer for c in changes}]
    with torch.no_grad():
        logits = model(torch.tensor([list(tokens)]), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return logits


def greedy(engine: Engine, row: Row, count: int) -> tuple[list[int], list[Tensor]]:
    """`count` likeliest tokens by a plain loop without cache or batch, and the logits that each came from."""
    tokens, scores = list(row.prompt), []
    start = 0 if row.scope == "all" else len(row.prompt) - 1
    for _ in range(count):
        scores.append(forward(engine.model, tokens, row.edits, start)[-1])
        tokens.append(int(scores[-1].argmax()))
    return tokens[len(row.prompt) :], scores


@contextmanager
def batch_sizes(engine: Engine) -> Iterator[list[int]]:
    """How many rows each forward pass had."""
    seen: list[int] = []
    handle = engine.blocks[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[0]))
    try:
        yield seen
    finally:
        handle.remove()


# Rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stops", "sampling"),
    [
        pytest.param("llama", (2,), GREEDY, id="llama-greedy"),
        pytest.param("llama", (2,), SAMPLED, id="llama-sampled"),
        pytest.param("llama", STOPS, GREEDY, id="llama-greedy-ending-early"),
        *(pytest.param(kind, STOPS, SAMPLED, id=f"{kind}-sampled-ending-early") for kind in ARCHITECTURES),
    ],
)
def test_rows_of_a_batch_equal_the_same_runs_alone(kind: str, stops: Sequence[int], sampling: Sampling) -> None:
    engine = tiny_engine(kind, stops)
    prompts = [ids(15), ids(15), ids(4, 1), ids(23, 2), ids(1, 3)]
    rows = [Row(prompt, edits, seed) for seed, prompt in enumerate(prompts[1:]) for edits in RECIPES]
    together = answers(engine, rows, sampling)
    engine.forget()
    alone = [answers(engine, [row], sampling)[0] for row in rows]
    assert spoken(together) == spoken(alone)
    for one, other in zip(together, alone, strict=True):
        if one.answer.perplexity is not None:
            assert one.answer.perplexity == pytest.approx(other.answer.perplexity, rel=1e-3)
    # More answers than prompts: the recipes do something.
    assert len({output.answer.token_ids for output in together}) > len(set(prompts))
    if len(stops) > 1:
        assert len({output.answer.tokens for output in together}) > 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_two_columns_with_contexts_of_different_length_equal_their_solo_runs(seed: int) -> None:
    engine = tiny_engine(stops=STOPS)
    shared = ids(10, seed)
    columns = [Row(shared + ids(5, seed + 10), (), seed), Row(shared + ids(17, seed + 20), RECIPES[1], seed)]
    assert spoken(answers(engine, columns, SAMPLED)) == [spoken(answers(engine, [row], SAMPLED))[0] for row in columns]


def test_strength_zero_gives_identical_answers_and_a_push_another() -> None:
    engine = tiny_engine()
    zero = Edit(1, "add", torch.zeros(HIDDEN))
    normal, nothing, pushed = answers(engine, [Row(ids(9), e, 3) for e in ((), (zero,), (push(1, 1),))], SAMPLED)
    assert nothing.answer == normal.answer
    assert pushed.answer.token_ids != normal.answer.token_ids


def test_the_same_seed_says_the_same_and_another_seed_something_else() -> None:
    engine = tiny_engine()
    first, again, other = answers(engine, [Row(ids(9), (), seed) for seed in (1, 1, 2)], SAMPLED)
    assert first.answer == again.answer
    assert other.answer.token_ids != first.answer.token_ids
    assert answers(engine, [Row(ids(9), (), 1)], SAMPLED)[0].answer == first.answer


def test_no_rows_are_no_work() -> None:
    engine = tiny_engine()
    assert answers(engine, [], SAMPLED) == []
    assert engine.passes.count == 0


def test_events_tell_each_answer_once_and_in_pieces() -> None:
    engine = tiny_engine(stops=STOPS)
    rows = [Row(ids(9), edits, seed) for seed in range(3) for edits in RECIPES]
    events, outputs = drain(engine.generate(rows, SAMPLED))
    for index, output in enumerate(outputs):
        text = "".join(event.text for event in events if isinstance(event, Delta) and event.row == index)
        assert text == output.answer.text
        (end,) = [event for event in events if isinstance(event, Finished) and event.row == index]
        assert end.answer.token_ids == output.answer.token_ids
        assert events.index(end) == max(i for i, event in enumerate(events) if event.row == index)


# What is steered


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["generated", "all"])
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_steered_logits_equal_those_of_a_plain_loop_without_cache_or_batch(kind: str, scope: Any) -> None:
    engine = tiny_engine(kind, stops=())
    rows = [
        Row(ids(length, length), edits, scope=scope) for length, edits in zip((12, 5, 17, 12, 1), RECIPES, strict=True)
    ]
    with recording_logits(engine) as seen:
        outputs = answers(engine, rows, GREEDY)
    for index, (row, output) in enumerate(zip(rows, outputs, strict=True)):
        tokens, scores = greedy(engine, row, GREEDY.max_tokens)
        assert output.answer.token_ids == tuple(tokens)
        for step, expected in enumerate(scores):
            torch.testing.assert_close(seen[step][index], expected, atol=1e-4, rtol=1e-4)
        if row.edits:
            assert (forward(engine.model, row.prompt)[-1] - scores[0]).abs().max() > 0.01


MIXED: list[tuple[Edit, ...]] = [
    (),
    (Edit(1, "ablate", vector(1)),),
    (Edit(2, "replace", vector(2)),),
    (push(1, 3),),
    (Edit(1, "ablate", vector(4)), push(1, 5), Edit(2, "replace", vector(6)), Edit(2, "ablate", vector(7))),
    tuple(Edit(layer, "ablate", vector(8)) for layer in range(LAYERS)),
    (Edit(1, "rotate", vector(9, 0.4)),),
    (Edit(1, "aim", vector(11, 1.0), 2.0),),
    (Edit(1, "cap", vector(12, 1.0), -0.5), Edit(2, "aim", vector(4, 1.0), 3.0), push(1, 5), push(2, 6, 2.0)),
    (Edit(1, "rotate", vector(10, 2.5)), push(1, 5), Edit(2, "ablate", vector(7)), Edit(2, "rotate", vector(4, 0.2))),
]


@pytest.mark.slow
def test_operations_in_rows_alone_and_mixed_equal_a_plain_loop() -> None:
    engine = tiny_engine(stops=())
    rows = [Row(ids(8, index), edits) for index, edits in enumerate(MIXED)]
    with recording_logits(engine) as seen:
        together = answers(engine, rows, GREEDY)
    for index, row in enumerate(rows):
        tokens, scores = greedy(engine, row, GREEDY.max_tokens)
        assert together[index].answer.token_ids == tuple(tokens)
        torch.testing.assert_close(seen[0][index], scores[0], atol=1e-4, rtol=1e-4)
        assert spoken(answers(engine, [row], GREEDY)) == spoken(together[index : index + 1])


@pytest.mark.slow
@pytest.mark.parametrize("edits", [(), (push(2, 5),)])
def test_gated_pushes_equal_a_plain_loop_that_opens_and_closes_them(edits: tuple[Edit, ...]) -> None:
    engine = tiny_engine(stops=())
    read, pushed, count = vector(3, 1.0), push(1, 1), 30
    sampling = replace(GREEDY, max_tokens=count)

    def loop(prompt: Sequence[int]) -> tuple[list[int], list[float]]:
        tokens, shares = list(prompt), []
        for step in range(count):
            # Below the push the states are those of the model as it is.
            with recording_blocks(engine, 0) as (computed, _), torch.no_grad():
                engine.model(torch.tensor([tokens]), use_cache=False)
            answered = computed[0][0, len(prompt) :] @ read
            opened = step < 25 and bool(step) and float(answered.mean()) > 0.1
            shares.append(0.9 ** max(0, step - 2) if opened and step >= 2 else 0.0)

            def hook(module: Any, args: Any, output: Any) -> Any:
                state = (output if isinstance(output, Tensor) else output[0]).clone()
                state[0, len(prompt) - 1 :] += torch.tensor(shares)[:, None] * pushed.vector
                return state if isinstance(output, Tensor) else (state, *output[1:])

            handle = engine.blocks[1].register_forward_hook(hook)
            tokens.append(int(forward(engine.model, tokens, edits, len(prompt) - 1)[-1].argmax()))
            handle.remove()
        return tokens[len(prompt) :], shares

    gate = Gate(Probe(0, read, 0.0, True, 0.1), first=25, after=2, decay=0.9)
    gated = (replace(pushed, gate=gate), *edits)
    prompts = [ids(8, seed) for seed in range(4)]
    rows = [Row(prompt, gated) for prompt in prompts]
    together = answers(engine, [*rows, Row(ids(9), (push(1, 7),))], sampling)
    for row, output in zip(rows, together, strict=False):
        tokens, shares = loop(row.prompt)
        assert output.answer.token_ids == tuple(tokens)
        told, share = [], 1.0
        for step in range(count):
            share = dict(output.answer.gate).get(step, share)
            told.append(share)
        assert told == pytest.approx(shares, abs=1e-4)
        assert spoken(answers(engine, [row], sampling)) == spoken([output])
    assert any(0 in loop(prompt)[1][3:] for prompt in prompts) and any(any(loop(prompt)[1]) for prompt in prompts)


def test_an_ablated_direction_is_gone_from_the_running_model_and_the_rest_stays() -> None:
    engine = tiny_engine(stops=())
    unit = vector(1) / vector(1).norm()
    rows = [Row(ids(8)), Row(ids(8), (Edit(1, "ablate", vector(1)),))]
    with recording_blocks(engine, 1) as (computed, handed_on):
        answers(engine, rows, GREEDY)
    steps = [i for i, state in enumerate(computed) if state.shape[:2] == (2, 1)][: GREEDY.max_tokens]
    for step in steps:
        before, after = computed[step][1], handed_on[step][1]
        assert float((after @ unit).abs().max() / before.norm()) < 1e-6
        torch.testing.assert_close(after, before - (before @ unit)[:, None] * unit, atol=1e-5, rtol=1e-5)
        assert torch.equal(handed_on[step][0], computed[step][0])
    assert float((computed[steps[0]][1] @ unit).abs()) > 0.01


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_steered_blocks_output_is_the_unsteered_plus_the_push_from_the_first_token_on(kind: str) -> None:
    engine = tiny_engine(kind, stops=())
    pushed = push(1, 1)
    rows = [Row(ids(8)), Row(ids(8), (pushed,)), Row(ids(8), (push(2, 9),))]
    with recording_blocks(engine, 1) as (computed, handed_on):
        answers(engine, rows, GREEDY)
    prompt, steps, last, reading = computed[0], computed[1:-2], computed[-2], computed[-1]
    assert prompt.shape[:2] == (1, 7) and torch.equal(handed_on[0], prompt)  # shared, and not pushed
    assert len(steps) == GREEDY.max_tokens
    for step in range(1, len(computed) - 2):
        assert torch.equal(handed_on[step][[0, 2]], computed[step][[0, 2]])
        torch.testing.assert_close(handed_on[step][1], computed[step][1] + pushed.vector, atol=1e-6, rtol=1e-6)
    # The first generated token comes from the last prompt position, which all rows share up to the push.
    torch.testing.assert_close(handed_on[1][1] - handed_on[1][0], pushed.vector[None], atol=1e-5, rtol=1e-5)
    # The last token and the reading are unsteered.
    assert torch.equal(handed_on[-2], last) and torch.equal(handed_on[-1], reading)


def test_scope_all_pushes_the_prompt_too_and_only_in_its_rows() -> None:
    engine = tiny_engine(stops=())
    pushed = push(1, 1)
    rows = [Row(ids(8)), Row(ids(8), (pushed,), scope="all"), Row(ids(8), (pushed,))]
    with recording_blocks(engine, 1) as (computed, handed_on):
        normal, everywhere, generated = answers(engine, rows, GREEDY)
    difference = handed_on[0] - computed[0]
    torch.testing.assert_close(difference[1], pushed.vector.expand(7, HIDDEN), atol=1e-5, rtol=1e-5)
    assert not difference[[0, 2]].any()
    assert len({output.answer.token_ids for output in (normal, everywhere, generated)}) == 3
    assert spoken([normal, generated]) == spoken(answers(engine, [rows[0], rows[2]], GREEDY))


@pytest.mark.slow
def test_conversations_on_one_engine_keep_their_own_contexts() -> None:
    engine, alone = tiny_engine(), tiny_engine()
    first, second = ids(12, 1), ids(12, 2)
    asked = [(name, [Row(text[:count])]) for count in (6, 9, 12) for name, text in (("a", first), ("b", second))]
    for name, rows in asked:
        before, once = engine.passes.positions, alone.passes.positions
        together = answers(engine, rows, SAMPLED, keep=name)
        if name == "a":  # the other engine hears one conversation alone
            assert spoken(together) == spoken(answers(alone, rows, SAMPLED, keep=name))
            assert engine.passes.positions - before == alone.passes.positions - once


def test_where_memory_is_short_the_conversation_that_was_silent_longest_is_forgotten() -> None:
    engine = tiny_engine()
    answers(engine, [Row(ids(12, 1))], GREEDY, keep="a")
    contexts = engine.contexts
    room = contexts.bytes * 1.5 / 0.25
    engine.contexts._free_memory = lambda: int(room)
    answers(engine, [Row(ids(12, 2))], GREEDY, keep="b")
    assert contexts.reusable(ids(12, 1)) is None and contexts.reusable(ids(12, 2)) is not None


@pytest.mark.slow
def test_after_scope_all_nothing_steered_is_kept_for_the_next_turn() -> None:
    engine = tiny_engine()
    answers(engine, [Row(ids(8)), Row(ids(8), (push(1, 1),), scope="all")], SAMPLED, keep=True)
    rows = [Row(ids(8) + ids(4, 1)), Row(ids(8) + ids(4, 1), (push(2, 2),))]
    kept = answers(engine, rows, SAMPLED)
    engine.forget()
    assert spoken(kept) == spoken(answers(engine, rows, SAMPLED))


def test_a_negative_push_moves_the_logits_the_other_way() -> None:
    engine = tiny_engine(stops=())
    rows = [Row(ids(8), edits) for edits in ((), (push(2, 1, 1.0),), (push(2, 1, -1.0),))]
    with recording_logits(engine) as seen:
        answers(engine, rows, replace(GREEDY, max_tokens=1))
    base, plus, minus = seen[0]
    assert torch.cosine_similarity(plus - base, minus - base, dim=0) < -0.5


# Hooks


def logits_now(engine: Engine) -> Tensor:
    with torch.no_grad():
        return engine.model(torch.tensor([ids(11, 5)])).logits


class Broken(Exception):
    pass


def test_hooks_are_gone_between_events_and_turns_and_after_a_stop() -> None:
    engine = tiny_engine()
    before = logits_now(engine)
    rows = [Row(ids(8), edits, scope=scope) for edits in RECIPES for scope in ("generated", "all")]
    for count, event in enumerate(engine.generate(rows, SAMPLED)):
        if count % 17 == 0:
            assert torch.equal(logits_now(engine), before), event
    assert torch.equal(logits_now(engine), before)
    stops = iter([False] * 4 + [True] * 99)
    outputs = answers(engine, rows, SAMPLED, stopped=lambda: next(stops))
    assert {output.answer.finish for output in outputs} <= {"interrupted", "end"}
    assert max(output.answer.tokens for output in outputs) == 4
    assert torch.equal(logits_now(engine), before)


def test_hooks_are_gone_when_a_reader_leaves_in_the_middle() -> None:
    engine = tiny_engine()
    before = logits_now(engine)
    run = engine.generate([Row(ids(8), RECIPES[3])], SAMPLED)
    next(run)
    run.close()
    assert torch.equal(logits_now(engine), before)


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("scope", ["generated", "all"])
def test_hooks_are_gone_after_an_exception_inside_the_model(
    monkeypatch: pytest.MonkeyPatch, scope: Any, error: type[BaseException]
) -> None:
    engine = tiny_engine()
    before = logits_now(engine)
    last = engine.blocks[LAYERS - 1]
    calls = iter(range(100))
    original = last.forward

    def breaking(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == (0 if scope == "all" else 3):
            raise error
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(last, "forward", breaking)
        with pytest.raises(error):
            answers(engine, [Row(ids(8), RECIPES[3], scope=scope), Row(ids(5))], SAMPLED)
    assert torch.equal(logits_now(engine), before)
    assert all(not block._forward_hooks for block in engine.blocks)


def test_threads_that_share_a_model_get_the_answers_that_they_get_alone() -> None:
    engine = tiny_engine()
    asked = [[Row(ids(6, number), RECIPES[3]), Row(ids(6, number))] for number in range(4)]

    def said(number: int) -> list[Answer]:
        return [output.answer for output in answers(engine, asked[number], SAMPLED)]

    expected = [said(number) for number in range(4)]
    found: dict[int, list[Answer]] = {}

    def ask(number: int) -> None:
        found[number] = said(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found.get(number) for number in range(4)] == expected
    assert said(0) == expected[0]


def test_a_stopped_answer_is_the_beginning_of_the_whole_one() -> None:
    engine = tiny_engine(stops=())
    row = Row(ids(8), RECIPES[1], 4)
    (whole,) = answers(engine, [row], SAMPLED)
    stops = iter([False] * 6 + [True] * 9)
    (part,) = answers(engine, [row], SAMPLED, stopped=lambda: next(stops))
    assert part.answer.token_ids == whole.answer.token_ids[:6]
    assert part.answer.finish == "interrupted"
    assert whole.answer.text.startswith(part.answer.text)
    (none,) = answers(engine, [row], SAMPLED, stopped=lambda: True)
    assert (none.answer.text, none.answer.tokens, none.answer.perplexity) == ("", 0, None)


# Counters


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 5, 20])
def test_a_pair_of_n_tokens_takes_at_most_n_plus_3_passes(count: int) -> None:
    for stops in ((), STOPS):
        engine = tiny_engine(stops=stops)
        outputs = answers(engine, [Row(ids(30)), Row(ids(30), RECIPES[1])], replace(SAMPLED, max_tokens=count))
        longest = max(output.answer.tokens for output in outputs)
        assert count == longest or stops
        assert engine.passes.count <= longest + 3


def test_a_sweep_of_30_rows_takes_no_more_passes_than_a_pair() -> None:
    engine = tiny_engine(stops=())
    rows = [Row(ids(12), (push(index % LAYERS, index),), index) for index in range(30)]
    outputs = answers(engine, rows, SAMPLED)
    assert len({output.answer.token_ids for output in outputs}) == 30
    assert engine.passes.count <= SAMPLED.max_tokens + 3


def test_a_shared_prompt_is_computed_once() -> None:
    engine = tiny_engine(stops=())
    rows = [Row(ids(50), (push(1, index),), index) for index in range(10)]
    outputs = answers(engine, rows, GREEDY)
    read = sum(1 + len(output.reading.tokens) for output in outputs)
    assert engine.passes.positions == 49 + sum(map(decoded, outputs)) + read


def test_finished_rows_are_not_computed_any_more() -> None:
    engine = tiny_engine(stops=STOPS)
    rows = [Row(ids(9), edits, seed) for seed in range(3) for edits in RECIPES]
    with batch_sizes(engine) as sizes:
        outputs = answers(engine, rows, SAMPLED)
    steps = list(map(decoded, outputs))
    assert sizes[1:-1] == [sum(count > step for count in steps) for step in range(max(steps))]
    assert len(set(steps)) > 2


def decoded(output: Output) -> int:
    """Passes in which an answer ran: its tokens after the prompt's last one, whether or not an end followed."""
    return output.answer.tokens + 1


# Turns


@dataclass
class Columns:
    """A conversation in two columns, each on its own answers, as the session has it."""

    engine: Engine
    reuse: bool
    turns: list[tuple[str, str, str]] = field(default_factory=list)
    new: int = 0  # positions of prompts that the last turn computed
    prompts: list[tuple[int, ...]] = field(default_factory=list)

    def say(self, text: str, edits: tuple[Edit, ...], seed: int, **options: Any) -> list[Output]:
        if not self.reuse:
            self.engine.forget()
        self.prompts = [self._prompt(column, text) for column in (1, 2)]
        rows = [Row(self.prompts[0], (), seed), Row(self.prompts[1], edits, seed)]
        before = self.engine.passes.positions
        outputs = answers(self.engine, rows, SAMPLED, keep=True, **options)
        self.new = self.engine.passes.positions - before
        for output in outputs:
            self.new -= decoded(output) + 1 + len(output.reading.tokens)
        self.turns.append((text, outputs[0].answer.text, outputs[1].answer.text))
        return outputs

    def _prompt(self, column: int, text: str) -> tuple[int, ...]:
        messages: list[dict[str, str]] = [{"role": "system", "content": "Be brief."}]
        for turn in self.turns:
            messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[column]}]
        return tuple(self.engine.prompter.chat([*messages, {"role": "user", "content": text}]))


def common(first: Sequence[int], second: Sequence[int]) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def converse(columns: Columns) -> list[list[tuple[str, tuple[int, ...], str]]]:
    """Ten turns with everything that happens to a conversation."""
    said = []

    def say(text: str, recipe: int, seed: int, **options: Any) -> None:
        said.append(spoken(columns.say(text, RECIPES[recipe], seed, **options)))

    def stopping(after: int) -> Any:
        asked = iter(range(99))
        return lambda: next(asked) >= after

    for turn in range(3):
        say(f"question {turn}", 1, turn)
    columns.turns.pop()  # retry
    say("question 2", 1, 50)
    columns.turns.pop()  # undo, then something else
    columns.turns.pop()
    say("another one", 1, 51)
    say("a changed recipe", 2, 52)
    say("a stopped answer", 2, 53, stopped=stopping(5))
    say("after the stop é🙂", 3, 54)
    columns.turns[1] = ("an edited message", *columns.turns[1][1:])
    say("after an edit in the past", 3, 55)
    columns.turns[2:4] = [(user, normal, normal) for user, normal, _ in columns.turns[2:4]]  # another carry
    say("after a changed carry", 4, 56)
    del columns.turns[0]  # the oldest did not fit
    say("after the oldest was dropped", 4, 57)
    columns.turns.clear()
    say("a new conversation", 1, 58)
    say("and its second turn", 1, 59)
    return said


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "stops"), [("llama", (2,)), ("llama", STOPS), ("gpt2", (2,)), ("gemma3", (2,))])
def test_a_conversation_that_reuses_its_contexts_equals_one_that_forgets_them(kind: str, stops: Sequence[int]) -> None:
    remembers = Columns(tiny_engine(kind, stops), reuse=True)
    forgets = Columns(tiny_engine(kind, stops), reuse=False)
    assert converse(remembers) == converse(forgets)
    assert remembers.engine.passes.positions < forgets.engine.passes.positions


@pytest.mark.slow
def test_at_turn_10_only_the_new_tokens_of_each_column_are_computed() -> None:
    columns = Columns(tiny_engine(), reuse=True)
    kept: list[tuple[int, ...]] = [(), ()]
    new = []
    for turn in range(10):
        outputs = columns.say("tell me more", RECIPES[1], turn)
        whole = [len(prompt) - 1 for prompt in columns.prompts]
        shared = [common(prompt[:-1], old) for prompt, old in zip(columns.prompts, kept, strict=True)]
        assert columns.new == (whole[0] if turn == 0 else sum(whole) - sum(shared))
        kept = [prompt + output.reading.tokens for prompt, output in zip(columns.prompts, outputs, strict=True)]
        new.append(columns.new)
    template = len(columns.engine.prompter.chat([{"role": "user", "content": "tell me more"}]))
    assert all(count <= 2 * (template + 4) for count in new[1:])  # the turn's end mark, and where texts join
    assert min(len(prompt) for prompt in columns.prompts) > 20 * template / 2


@pytest.mark.slow
def test_a_retry_computes_nothing_of_the_prompt_again() -> None:
    columns = Columns(tiny_engine(), reuse=True)
    columns.say("first", RECIPES[1], 1)
    columns.say("second", RECIPES[1], 2)
    columns.turns.pop()
    columns.say("second", RECIPES[1], 3)
    assert columns.new == 0


@pytest.mark.slow
def test_a_retry_with_the_same_seed_repeats_both_answers() -> None:
    columns = Columns(tiny_engine(), reuse=True)
    columns.say("first", RECIPES[1], 1)
    once = columns.say("second", RECIPES[1], 2)
    columns.turns.pop()
    assert spoken(columns.say("second", RECIPES[1], 2)) == spoken(once)
    columns.turns.pop()
    assert spoken(columns.say("second", RECIPES[1], 3)) != spoken(once)


def test_a_run_that_does_not_keep_leaves_the_conversations_contexts() -> None:
    columns = Columns(tiny_engine(), reuse=True)
    columns.say("first", RECIPES[1], 1)
    answers(columns.engine, [Row(ids(20), RECIPES[2])], SAMPLED)
    columns.turns.pop()
    columns.say("first", RECIPES[1], 2)
    assert columns.new == 0


# Memory


def sweep(count: int = 64) -> list[Row]:
    prompts = [ids(12), ids(7, 1)]
    return [Row(prompts[index % 2], (push(index % LAYERS, index),), index) for index in range(count)]


@pytest.mark.slow
def test_a_sweep_that_does_not_fit_is_run_in_smaller_batches_with_the_same_results() -> None:
    roomy, narrow = tiny_engine(stops=STOPS), tiny_engine(stops=STOPS, free_memory=lambda: 4_000_000)
    with batch_sizes(roomy) as whole, batch_sizes(narrow) as parts:
        events, found = drain(narrow.generate(sweep(), SAMPLED))
        assert spoken(found) == spoken(answers(roomy, sweep(), SAMPLED))
    assert max(whole) == 64
    assert 1 < max(parts) < 32
    assert sorted(event.row for event in events if isinstance(event, Finished)) == list(range(64))
    told = ["".join(e.text for e in events if isinstance(e, Delta) and e.row == row) for row in range(64)]
    assert told == [output.answer.text for output in found]


def test_with_hardly_any_memory_rows_run_one_by_one() -> None:
    engine = tiny_engine(free_memory=lambda: 1)
    with batch_sizes(engine) as sizes:
        found = answers(engine, sweep(5), GREEDY)
    assert set(sizes) == {1}
    assert spoken(found) == spoken(answers(tiny_engine(), sweep(5), GREEDY))


MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("MPS backend out of memory (MPS allocated: 2 GB)"),
]


@pytest.mark.slow
@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=["cuda", "cpu", "mps"])
@pytest.mark.parametrize("at", [0, 1, 9])
def test_memory_that_runs_out_halves_the_batch_and_tells_nothing_twice(
    monkeypatch: pytest.MonkeyPatch, at: int, error: Exception
) -> None:
    expected = answers(tiny_engine(stops=STOPS), sweep(16), SAMPLED)
    engine = tiny_engine(stops=STOPS)
    original, calls = engine.model.forward, iter(range(10000))
    passes_before: list[int] = []

    def failing(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == at:
            passes_before.append(len(sizes))
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(engine.model, "forward", failing)
    with batch_sizes(engine) as sizes:
        events, found = drain(engine.generate(sweep(16), SAMPLED))
    assert spoken(found) == spoken(expected)
    assert max(sizes[: passes_before[0]], default=0) == (16 if at else 2)  # before the first step, two prompts
    assert max(sizes[passes_before[0] :]) == 8
    for row, output in enumerate(found):
        mine = [event for event in events if event.row == row]
        assert "".join(event.text for event in mine if isinstance(event, Delta)) == output.answer.text
        assert [isinstance(event, Finished) for event in mine].count(True) == 1
        assert isinstance(mine[-1], Finished)


def test_memory_that_does_not_hold_one_row_is_a_model_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine()
    before = logits_now(engine)

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine.model, "forward", failing)
        with pytest.raises(ModelError, match="not enough memory"):
            answers(engine, sweep(4), SAMPLED)
    assert torch.equal(logits_now(engine), before)


def test_other_runtime_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_engine()

    def failing(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(engine.model, "forward", failing)
    with pytest.raises(RuntimeError, match="shapes"):
        answers(engine, sweep(4), SAMPLED)


# Limits


def test_an_answer_ends_where_the_model_can_hold_no_more() -> None:
    engine = tiny_engine(stops=())
    (output,) = answers(engine, [Row(ids(engine.context_size - 5))], replace(GREEDY, max_tokens=50))
    assert (output.answer.tokens, output.answer.finish) == (5, "length")


@pytest.mark.parametrize("extra", [0, 1])
def test_a_prompt_that_fills_the_model_is_refused(extra: int) -> None:
    engine = tiny_engine()
    with pytest.raises(ModelError, match="the model holds 1024"):
        answers(engine, [Row(ids(5)), Row(ids(engine.context_size + extra))], GREEDY)
    assert engine.passes.count == 0


def test_prompts_of_one_token_can_be_answered_in_a_pair() -> None:
    engine = tiny_engine(stops=())
    rows = [Row((5,)), Row((5,), RECIPES[1])]
    outputs = answers(engine, rows, GREEDY, keep=True)
    assert [list(output.answer.token_ids) for output in outputs] == [
        greedy(engine, row, GREEDY.max_tokens)[0] for row in rows
    ]


def test_no_tokens_asked_for_are_none_given() -> None:
    outputs = answers(tiny_engine(), [Row(ids(5)), Row(ids(5), RECIPES[1])], replace(GREEDY, max_tokens=0))
    assert [(o.answer.text, o.answer.finish, o.answer.perplexity) for o in outputs] == [("", "length", None)] * 2


# Reading


def plain_perplexity(engine: Engine, prompt: Sequence[int], text: Sequence[int]) -> float:
    scores = forward(engine.model, [*prompt, *text]).log_softmax(dim=-1)
    losses = [-float(scores[len(prompt) + index - 1, token]) for index, token in enumerate(text)]
    return math.exp(sum(losses) / len(losses))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_perplexity_of_an_answer_is_that_of_a_plain_forward_pass(kind: str) -> None:
    engine = tiny_engine(kind, STOPS)
    rows = [
        Row(ids(5 + 3 * i, i), edits, i, scope) for i, edits in enumerate(RECIPES) for scope in ("generated", "all")
    ]
    outputs = [*answers(engine, rows[::2], SAMPLED), *answers(engine, rows[1::2], SAMPLED)]
    checked = 0
    for row, output in zip([*rows[::2], *rows[1::2]], outputs, strict=True):
        assert list(output.reading.tokens) == engine.prompter.reply(output.answer.text)
        if output.reading.tokens:
            expected = plain_perplexity(engine, row.prompt, output.reading.tokens)
            assert output.answer.perplexity == pytest.approx(expected, rel=1e-3)
            checked += 1
    assert checked > 4


@pytest.mark.parametrize("length", [1, 6])
def test_reading_a_text_gives_the_scores_of_a_plain_pass(length: int) -> None:
    engine = tiny_engine()
    reading = engine.read(ids(length), ids(5, 2))
    assert reading.perplexity == pytest.approx(plain_perplexity(engine, ids(length), ids(5, 2)), rel=1e-3)
    assert len(reading.log_probs) == 5
    for layer in range(LAYERS - 1):
        with recording_blocks(engine, layer) as (computed, _):
            forward(engine.model, [*ids(length), *ids(5, 2)])
        torch.testing.assert_close(reading.states[layer], computed[0][0, length:].mean(dim=0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize(("position", "free"), [("mean", 1 << 32), ("last", 1)])
@pytest.mark.parametrize("shared", [0, 6])
def test_states_of_texts_read_side_by_side_are_those_of_plain_passes(
    kind: str, position: Any, free: int, shared: int
) -> None:
    engine = tiny_engine(kind, free_memory=lambda: free)
    head = ids(shared)
    prompts = [head + ids(3, 1), head + ids(1, 3), head + ids(3, 1), head + ids(3, 1), head + ids(2, 6)]
    texts = list(zip(prompts, [ids(5, 2), ids(9, 4), ids(1, 5), ids(7, 7), ids(4, 8)], strict=True))
    # More than one row holds: they stand on the same prompt in another.
    texts += [(head + ids(2, 6), ids(80, 9 + place)) for place in range(3)]
    told: list[Any] = []
    found = engine.states(texts, position, Watch(told.append), "reading", " all")
    for (prompt, text), states in zip(texts, found, strict=True):
        for layer in range(LAYERS - 1):
            with recording_blocks(engine, layer) as (computed, _):
                forward(engine.model, [*prompt, *text])
            tail = computed[0][0, len(prompt) :]
            expected = tail[-1] if position == "last" else tail.mean(dim=0)
            torch.testing.assert_close(states[layer], expected, atol=1e-4, rtol=1e-4)
    done = [event.done for event in told]
    assert done[0] == 0 and done[-1] == len(texts) and done == sorted(set(done))
    assert {(event.label, event.total) for event in told} == {("reading all", len(texts))}


def test_a_prompt_of_many_texts_and_the_beginning_of_all_are_computed_once() -> None:
    engine = tiny_engine()
    head, ask = ids(6), ids(4, 1)
    texts = [(head + ask, ids(5, 2)), (head + ask, ids(7, 3)), (head + ids(4, 4), ids(5, 5))]
    before = engine.passes.positions
    engine.states(texts)
    assert engine.passes.positions - before == 6 + 4 + 5 + 7 + 4 + 5


def test_reading_ends_in_the_middle_of_a_pass_when_it_is_told_to() -> None:
    engine, calls = tiny_engine(), itertools.count(1)
    texts = [(ids(4), ids(3, 1)), (ids(5, 2), ids(3, 3))]
    with pytest.raises(Interrupted, match="reading stopped"):
        engine.states(texts, "mean", Watch(stopped=lambda: next(calls) == 2), "reading", " both")
    assert next(calls) == 3
    assert not any(block._forward_hooks for block in engine.blocks)


# The default model


def conversation(engine: Engine, text: str) -> tuple[int, ...]:
    return tuple(engine.prompter.chat([{"role": "user", "content": text}]))


def real_edits(engine: Engine) -> list[tuple[Edit, ...]]:
    """Five recipes of a vector that is read from two texts in a moment."""
    prompt = engine.prompter.chat([{"role": "user", "content": "How was your day?"}])
    texts = ["What a wonderful, happy day, I loved it!", "It was a terrible, sad day, I hated it."]
    with LengthReader(engine.blocks) as lengths:
        engine.run([*prompt, *engine.prompter.reply(texts[0])])
    states = engine.states([(prompt, engine.prompter.reply(text)) for text in texts])
    happy = ConceptVector.from_raw("happy", states[0] - states[1], engine.fingerprint)
    recipes = [((16,), 2.0), ((16,), -2.0), (tuple(range(10, 19)), 2.0), ((5, 25), 1.0)]
    return [
        (),
        *(
            edits(Recipe((Term((("happy", 1.0),), layers, strength),)), {"happy": happy}, lengths.medians)
            for layers, strength in recipes
        ),
    ]


@pytest.mark.model
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_rows_of_the_default_model_equal_their_solo_runs(engine: Engine, temperature: float) -> None:
    engine.forget()
    sampling = Sampling(temperature=temperature, max_tokens=12)
    prompts = [conversation(engine, "Tell me about the weather"), conversation(engine, "Hi, who are you today?")]
    rows = [Row(prompts[index % 2], edits, seed=11) for index, edits in enumerate(real_edits(engine))]
    rows.append(Row(prompts[1], rows[0].edits, seed=11))
    together = answers(engine, rows, sampling)
    assert spoken(together) == [spoken(answers(engine, [row], sampling))[0] for row in rows]
    assert len({output.answer.text for output in together}) > 3


@pytest.mark.model
def test_the_default_models_first_steered_logits_match_a_script_on_transformers_alone(engine: Engine) -> None:
    engine.forget()
    prompt = conversation(engine, "Tell me about the weather")
    _, plus, minus, *_ = real_edits(engine)
    with recording_logits(engine) as seen:
        answers(engine, [Row(prompt), Row(prompt, plus), Row(prompt, minus)], replace(GREEDY, max_tokens=1))

    folder = engine.model.config._name_or_path
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    (gguf,) = (file.name for file in Path(folder).glob("*.gguf"))
    usual: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32)
    model = usual.eval()
    message = [{"role": "user", "content": "Tell me about the weather"}]
    inputs = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    (pushed,) = plus

    def logits(sign: float) -> Tensor:
        def hook(module: Any, args: Any, output: Tensor) -> Tensor:
            output[:, -1] += sign * pushed.vector
            return output

        handle = model.model.layers[16].register_forward_hook(hook)
        with torch.no_grad():
            scores = model(**inputs).logits[0, -1]
        handle.remove()
        return scores

    base, up, down = (logits(sign) for sign in (0.0, 1.0, -1.0))
    assert tuple(inputs["input_ids"][0].tolist()) == prompt
    for found, expected in zip(seen[0], (base, up, down), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (up - base).abs().max() > 0.1
    assert torch.cosine_similarity(up - base, down - base, dim=0) < -0.3


@pytest.mark.model
def test_the_default_model_is_bit_equal_after_steering(engine: Engine) -> None:
    prompt = conversation(engine, "Tell me about the weather")
    before = engine.run(prompt)
    rows = [Row(prompt, edits, scope=scope) for edits in real_edits(engine)[:3] for scope in ("generated", "all")]
    for event in engine.generate(rows, Sampling(max_tokens=2)):
        assert torch.equal(engine.run(prompt), before), event
        break
    answers(engine, rows, Sampling(max_tokens=3))
    assert torch.equal(engine.run(prompt), before)


@pytest.mark.model
def test_the_default_models_turns_reuse_their_contexts_and_say_the_same(engine: Engine) -> None:
    happy = real_edits(engine)[1]

    def talk(reuse: bool) -> list[list[tuple[str, tuple[int, ...], str]]]:
        engine.forget()
        columns = Columns(engine, reuse)
        questions = ["Tell me about the weather", "And tomorrow?", "Why?"]
        said = []
        for turn, question in enumerate(questions):
            said.append(spoken(columns.say(question, happy, turn)))
            if reuse and turn:
                assert columns.new < 2 * 20
        return said

    assert talk(True) == talk(False)
    engine.forget()


# Overflow


def test_a_push_that_overflows_sixteen_bits_is_named_with_its_layer() -> None:
    engine = tiny_engine(stops=())
    engine.model.half()
    with pytest.raises(ModelError, match=r"from layer 2 on: too large for float16") as raised:
        answers(engine, [Row(ids(8)), Row(ids(8), (push(2, 1, 1e7),))], GREEDY)
    assert "smaller strength" in raised.value.hint
    assert answers(engine, [Row(ids(8), (push(2, 1),))], GREEDY)[0].answer.tokens == GREEDY.max_tokens


def test_a_model_that_overflows_by_itself_is_named_with_its_layer() -> None:
    engine = tiny_engine(stops=())
    engine.model.half()
    engine.blocks[1].mlp.down_proj.weight.fill_(6e4)  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=r"from layer 1 on") as raised:
        answers(engine, [Row(ids(8))], GREEDY)
    assert "--dtype" in raised.value.hint


@pytest.mark.parametrize("pushed", [False, True])
def test_an_answer_ends_before_the_text_that_ends_a_turn(pushed: bool) -> None:
    engine = tiny_engine()
    prompt, edits = tuple(engine.prompter.reply("rain?")), (push(1, 1),) if pushed else ()
    [whole] = answers(engine, [Row(prompt, edits)], GREEDY)
    text = whole.answer.text
    end = text[3:7]
    place = text.index(end)
    assert place
    engine.prompter.__dict__["end_texts"] = (end,)
    rows = [Row(prompt, edits), Row(prompt)]
    events, outputs = drain(engine.generate(rows, GREEDY, Run(keep="here")))
    answer, reading = outputs[0].answer, outputs[0].reading
    assert (answer.text, answer.finish) == (text[:place], "end")
    assert "".join(e.text for e in events if isinstance(e, Delta) and e.row == 0) == answer.text
    assert whole.answer.token_ids[: answer.tokens] == answer.token_ids
    # The last token may have the first letters of the end.
    assert engine.prompter.text(answer.token_ids).startswith(answer.text)
    assert len(engine.prompter.text(answer.token_ids[:-1])) < len(answer.text)
    expected = engine.read(prompt, engine.prompter.reply(answer.text))
    torch.testing.assert_close(reading.states, expected.states, atol=1e-4, rtol=1e-4)
    assert answer.perplexity == pytest.approx(expected.perplexity, rel=1e-4)
