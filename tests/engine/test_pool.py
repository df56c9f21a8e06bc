"""A pool: rows of different requests in one batch say what they say alone, whenever they join and leave."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from engines import GREEDY, LAYERS, drain, push, tiny_engine

from steerchat.engine.decoding import Row
from steerchat.engine.engine import Engine
from steerchat.engine.gates import Gate, Probe
from steerchat.engine.operations import Edit
from steerchat.engine.pool import Pool, Seat
from steerchat.engine.sampling import Sampling
from steerchat.values.errors import ModelError
from steerchat.values.results import Delta

GATED = replace(push(2, 5, 8.0), gate=Gate(Probe(1, push(1, 6, 1.0).vector, 0.0, True, 0.0), first=6, decay=0.8))
RECIPES: list[tuple[Edit, ...]] = [
    (),
    (push(1, 1),),
    tuple(push(layer, 3, 3.0) for layer in range(LAYERS)),
    (Edit(1, "ablate", push(1, 4).vector), Edit(2, "rotate", push(2, 4, 0.9).vector)),
    (GATED,),
]
SAMPLINGS = [
    GREEDY,
    Sampling(max_tokens=20),
    Sampling(temperature=1.2, top_p=1.0, repetition_penalty=1.0, max_tokens=7),
    Sampling(temperature=0.3, top_p=0.5, max_tokens=1),
]


def seats(count: int, draw: random.Random) -> list[Seat]:
    """Rows that differ in everything, some with a prompt in common."""
    prompts = [tuple(draw.randrange(3, 290) for _ in range(draw.choice([1, 2, 9, 40, 120]))) for _ in range(count)]
    return [
        Seat(
            Row(
                draw.choice([prompts[number], prompts[0]]),
                RECIPES[number % len(RECIPES)],
                draw.randrange(5),
                draw.choice(["generated", "generated", "all"]),
            ),
            SAMPLINGS[number % len(SAMPLINGS)],
            keep=number % 3 > 0,
        )
        for number in range(count)
    ]


def alone(engine: Engine, seat: Seat) -> tuple[str, tuple[int, ...], str, tuple[tuple[int, float], ...]]:
    [output] = drain(engine.generate([seat.row], seat.sampling))[1]
    answer = output.answer
    return answer.text, answer.token_ids, answer.finish, answer.gate


def run(pool: Pool, waiting: Sequence[Seat], draw: random.Random) -> dict[Seat, str]:
    """Let rows in at random steps. Returns the text of each as it streamed."""
    rest, texts = list(waiting), dict.fromkeys(waiting, "")
    while rest or pool.rows:
        if rest and not pool.full and (not pool.rows or draw.random() < 0.4):
            pool.join(rest.pop(0))
        for seat, events in pool.step():
            texts[seat] += "".join(event.text for event in events if isinstance(event, Delta))
    return texts


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_rows_that_come_and_go_say_what_they_say_alone(kind: str) -> None:
    engine, draw = tiny_engine(kind), random.Random(kind)
    waiting = seats(24, draw)
    texts = run(Pool(engine, 5), waiting, draw)
    fresh = tiny_engine(kind)
    for seat in waiting:
        assert seat.answer is not None
        answer = seat.answer
        assert (answer.text, answer.token_ids, answer.finish, answer.gate) == alone(fresh, seat)
        assert texts[seat] == answer.text


def test_a_short_row_leaves_while_a_long_one_runs_and_another_takes_its_place() -> None:
    engine = tiny_engine()
    pool = Pool(engine, 2)
    long, short, third = (
        Seat(Row((5, 6, 7), (), 1), Sampling(max_tokens=most, temperature=0.0)) for most in (200, 2, 2)
    )
    for seat in (long, short):
        pool.join(seat)
        pool.step()
    assert pool.full
    pool.step()
    assert short.answer is not None and not long.done and not pool.full
    pool.join(third)
    while not third.done:
        pool.step()
    assert not long.done and long.so_far is not None and len(long.so_far.token_ids) < 10


def test_a_row_that_is_taken_out_frees_its_place_at_once_and_changes_no_other() -> None:
    engine = tiny_engine()
    pool, rows = Pool(engine, 3), [Seat(Row((9, 8, seed), (), seed), Sampling(max_tokens=30)) for seed in range(3, 7)]
    for seat in rows[:3]:
        pool.join(seat)
        pool.step()
    pool.leave(rows[0])
    assert pool.rows == 2 and not pool.full
    pool.join(rows[3])
    assert pool.full
    pool.leave(rows[3])  # while its prompt is read
    assert pool.rows == 2
    while pool.rows:
        pool.step()
    assert not rows[0].done and not rows[3].done
    for seat in rows[1:3]:
        assert seat.answer is not None and seat.answer.text == alone(engine, seat)[0]


def test_rows_that_come_and_go_for_long_take_the_memory_of_those_that_run() -> None:
    engine, taken = tiny_engine(), []
    pool, number = Pool(engine, 4), 0
    for _ in range(600):
        while not pool.full:
            number += 1
            pool.join(Seat(Row((5, 6, number % 200), (), number), Sampling(max_tokens=5 + 24 * (number % 9))))
        pool.step()
        taken.append(pool.bytes)
    # The longest has 200 tokens. Each step adds a column: of the rows that went there were 600.
    token = pool.size * engine._bytes_per_token
    assert 200 * token < max(taken) <= 400 * token
    while pool.rows:
        pool.step()
    assert pool.bytes <= 128 * token  # what the long ones took is given back


def test_conversations_that_are_silent_longest_lose_what_is_kept_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerchat.engine.contexts._TOKENS", 100)
    engine, kept = tiny_engine(), []
    pool = Pool(engine, 3)
    for number in range(40):
        prompt = tuple(range(3 + number, 24 + number))
        pool.join(Seat(Row(prompt, (), 1), Sampling(max_tokens=1), keep=True))
        while pool.rows:
            pool.step()
        kept.append(engine.contexts.bytes)
    assert max(kept) == kept[-1] == 5 * 20 * engine._bytes_per_token
    assert engine.contexts.reusable(tuple(range(42, 62))) is not None
    assert engine.contexts.reusable(tuple(range(3, 23))) is None


def test_prompts_that_go_on_from_kept_ones_take_their_place() -> None:
    engine = tiny_engine()
    pool = Pool(engine, 3)
    for turn in range(1, 5):
        for client in range(30):  # a class asks the same, in chats of its own
            prompt = (client % 2, *range(3, 3 + 10 * turn))
            pool.join(Seat(Row(prompt, (), client), Sampling(max_tokens=1), keep=True))
            while pool.rows:
                pool.step()
    assert engine.contexts.bytes == 2 * 40 * engine._bytes_per_token


def test_a_row_without_numbers_ends_alone() -> None:
    engine = tiny_engine()
    pool = Pool(engine, 3)
    broken = Edit(1, "add", torch.full((engine.hidden,), float("nan")))
    rows = [Seat(Row((9, 8, 7), edits, 1), Sampling(max_tokens=20)) for edits in ((), (broken,), ())]
    for seat in rows:
        pool.join(seat)
        pool.step()
    later = Seat(Row((4, 5), (), 2), Sampling(max_tokens=5))
    pool.join(later)  # in the place whose keys and values are NaN
    while pool.rows:
        pool.step()
    assert rows[1].error is not None and "smaller strength" in rows[1].error.hint
    for seat in (rows[0], rows[2], later):
        assert seat.answer is not None and seat.answer.text == alone(engine, seat)[0]


def test_a_long_prompt_is_read_in_pieces_while_other_rows_go_on() -> None:
    engine = tiny_engine()
    pool = Pool(engine, 2)
    running = Seat(Row((5, 6, 7), (), 1), Sampling(max_tokens=100, temperature=0.0))
    pool.join(running)
    pool.step()
    long = Seat(Row(tuple(range(3, 203)) * 4, RECIPES[1], 1, "all"), Sampling(max_tokens=4))
    if engine.context_size <= len(long.row.prompt):
        with pytest.raises(ModelError):
            pool.join(long)
        long = replace(long, row=replace(long.row, prompt=long.row.prompt[: engine.context_size - 10]))
    pool.join(long)
    before = len(running.so_far.token_ids) if running.so_far else 0
    steps = 0
    while long.so_far is None:
        pool.step()
        steps += 1
    assert steps >= 2 and running.so_far is not None and len(running.so_far.token_ids) == before + steps
    while not long.done:
        pool.step()
    assert long.answer is not None and long.answer.text == alone(engine, long)[0]


def test_what_is_kept_of_a_conversation_is_not_read_again() -> None:
    engine = tiny_engine()
    pool = Pool(engine, 2)
    first = Seat(Row(tuple(range(3, 43)), (), 1), Sampling(max_tokens=3), keep=True)
    pool.join(first)
    while pool.rows:
        pool.step()
    before = engine.passes.positions
    second = Seat(Row((*range(3, 43), 50, 51), (), 1), Sampling(max_tokens=1), keep=True)
    pool.join(second)
    while pool.rows:
        pool.step()
    assert engine.passes.positions - before == 3  # one that was last, one new, and the step's own
