"""Likelihoods of given texts equal those at which the same row generates them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from engines import GREEDY, answers, push, recording_logits, tiny_engine, tiny_tokenizer

from steerchat.engine.choices import divergences, likelihoods
from steerchat.engine.decoding import Row
from steerchat.engine.gates import Gate, Probe

LONG = 0.1  # a probe along this much of everything opens and closes on random states


def row(prompt: str, *edits: object, scope: str = "generated") -> Row:
    return Row(tuple(tiny_tokenizer().encode(prompt)), edits, 0, scope)  # type: ignore[arg-type]


GATED = replace(push(2, 1), gate=Gate(Probe(1, push(0, 5).vector * LONG, 0.0, True, 0.0), after=1, decay=0.8))
ROWS = {
    "plain": row("the weather is"),
    "pushed": row("the weather is", push(1, 1), push(3, 2)),
    "pushed all through": row("the weather is", push(1, 1), scope="all"),
    "gated by position": row("the user asks", replace(push(1, 1), gate=Gate(first=4, after=2))),
    "gated by a reading": row("the rain", GATED, push(1, 3)),
}


def test_a_text_is_as_likely_as_its_row_makes_it_while_it_generates() -> None:
    engine = tiny_engine(stops=())
    texts, expected = [], []
    for asked in ROWS.values():
        with recording_logits(engine) as steps:
            [output] = answers(engine, [asked], GREEDY)
        ids = output.answer.token_ids
        chosen = [float(step[0].log_softmax(-1)[token]) for step, token in zip(steps, ids, strict=False)]
        other = [float(step[0].log_softmax(-1)[token + 1]) for step, token in zip(steps, ids, strict=False)]
        # What parts at the first token, later, and at the last one, which makes rows that fork at different steps.
        texts.append([ids, (*ids[:5], ids[5] + 1), (*ids[:-1], ids[-1] + 1)])
        expected.append([sum(chosen[5:]), other[5], sum(chosen[5:-1]) + other[len(ids) - 1]])
        texts.append([ids[:1], (ids[0] + 1,)])
        expected.append([chosen[0], other[0]])
    rows = [asked for asked in ROWS.values() for _ in range(2)]
    found = likelihoods(engine, rows, texts)
    for name, scores, wanted in zip([name for name in ROWS for _ in range(2)], found, expected, strict=True):
        assert scores == pytest.approx(wanted, abs=1e-4), name
    # Alone, and with the rows that are pushed through the prompt left out, it is the same.
    kept = [index for index, asked in enumerate(rows) if asked.scope == "generated"]
    again = likelihoods(engine, [rows[index] for index in kept], [texts[index] for index in kept])
    for scores, index in zip(again, kept, strict=True):
        assert scores == pytest.approx(found[index], abs=1e-4)


def test_it_says_how_far_it_is_and_leaves_when_it_is_told_to() -> None:
    engine, told = tiny_engine(), []
    rows = [ROWS["plain"]] * 40
    likelihoods(engine, rows, [[(5,), (6,)]] * 40, told.append)
    assert told == [0, 32]

    def leave(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        likelihoods(engine, rows, [[(5,), (6,)]] * 40, leave)


def test_the_divergence_is_between_what_the_row_and_the_model_without_its_edits_would_say() -> None:
    engine = tiny_engine(stops=())
    texts, expected = [], []
    for length, asked in enumerate(ROWS.values(), 6):
        with recording_logits(engine) as steps:
            [output] = answers(engine, [asked], replace(GREEDY, max_tokens=length))
        ids = output.answer.token_ids
        with torch.inference_mode():
            whole = engine.model(torch.tensor([[*asked.prompt, *ids]])).logits[0, len(asked.prompt) - 1 : -1]
        steered = torch.cat(steps[:length]).log_softmax(-1)
        expected.append(
            torch.nn.functional.kl_div(whole.log_softmax(-1), steered, log_target=True, reduction="none").sum(-1)
        )
        texts.append(ids)
    told: list[int] = []
    found = divergences(engine, list(ROWS.values()), texts, told.append)
    assert told == [0] and [len(values) for values in found] == [6, 7, 8, 9, 10]
    for name, values, wanted in zip(ROWS, found, expected, strict=True):
        torch.testing.assert_close(values, wanted, atol=1e-4, rtol=1e-3, msg=name)
    assert found[0].abs().max() < 1e-5 and found[1].min() > 1e-3
    assert divergences(engine, [ROWS["pushed"]], [()])[0].shape == (0,)
