"""How likely a steered row goes on with each of several texts, and how far its edits move what comes next.

The texts go through the model as an answer does while it is generated, token by token: so gates open and close in them
as they would in an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from .batch import Batch, Context
from .contexts import common_prefix
from .decoding import Row
from .engine import Engine
from .hooks import Steering

# Rows that go through the model at once: more are hardly quicker on a CPU.
_ROWS = 64


@torch.inference_mode()
def likelihoods(
    engine: Engine,
    rows: Sequence[Row],
    choices: Sequence[Sequence[tuple[int, ...]]],
    check: Callable[[int], None] = lambda done: None,
) -> list[list[float]]:
    """The natural log-probability of each text, less that of what the texts of its row begin with in common.

    Args:
        rows: their seeds do not matter.
        choices: for each row its texts, two at least; none is the beginning of another.
        check: told before every batch how many rows are done; what it raises ends the work.
    """
    found: list[list[float]] = [[] for _ in rows]
    shared = common_prefix([row.prompt[:-1] for row in rows])
    start = engine.prefill([shared])[0] if shared else None
    common = [common_prefix(list(texts)) for texts in choices]
    longest = max(len(row.prompt) + max(map(len, texts)) for row, texts in zip(rows, choices, strict=True))
    size = max(1, min(_ROWS, engine.batch_size(longest)) // max(map(len, choices)))
    engine.prepare_kernels(_ROWS)
    done = 0
    # Rows side by side are at the same step until their texts part.
    for _, alike in groupby(sorted(range(len(rows)), key=lambda row: len(common[row])), lambda row: len(common[row])):
        of_length = list(alike)
        for first in range(0, len(of_length), size):
            check(done)
            group = of_length[first : first + size]
            chosen = [(rows[index], common[index], choices[index]) for index in group]
            for index, scores in zip(group, _group(engine, chosen, start), strict=True):
                found[index] = scores
            done += len(group)
    return found


@torch.inference_mode()
def next_log_probs(engine: Engine, rows: Sequence[Row]) -> Tensor:
    """(rows, vocabulary) float32 natural log-probabilities of each row's first token, steered as it is."""
    shared = common_prefix([row.prompt[:-1] for row in rows])
    start = engine.prefill([shared])[0] if shared else None
    engine.prepare_kernels(_ROWS)
    found = []
    for first in range(0, len(rows), _ROWS):
        chosen = rows[first : first + _ROWS]
        steering = Steering(engine.blocks, [row.edits for row in chosen], engine.hidden)
        found.append(_step(engine.prompts(chosen, 1, start), steering, [row.prompt[-1] for row in chosen]).cpu())
    return torch.cat(found)


@torch.inference_mode()
def divergences(
    engine: Engine,
    rows: Sequence[Row],
    texts: Sequence[Sequence[int]],
    check: Callable[[int], None] = lambda done: None,
) -> list[Tensor]:
    """How far each row's edits move the distribution of the next token, at every token of a text.

    Args:
        rows: their seeds do not matter.
        texts: for each row the tokens that it goes on with.
        check: as of `likelihoods`.

    Returns:
        for each row (tokens,) float32: the KL divergence, in nats, of the distribution with the edits from the one
        without them, both given the prompt and the text so far, before temperature and penalties.
    """
    found: list[list[Tensor]] = [[] for _ in rows]
    order = sorted(range(len(rows)), key=lambda row: -len(texts[row]))  # those that end leave from behind
    longest = max((len(row.prompt) + len(text) for row, text in zip(rows, texts, strict=True)), default=0)
    size = max(1, min(_ROWS, engine.batch_size(longest)) // 2)
    engine.prepare_kernels(_ROWS)
    for first in range(0, len(order), size):
        check(first)
        group = order[first : first + size]
        both = [row for place in group for row in (rows[place], replace(rows[place], edits=()))]
        room = len(texts[group[0]])
        pushed = any(row.scope == "all" and row.edits for row in both)
        batch = engine.steered_prompts(both, room) if pushed else engine.prompts(both, room)
        steering = Steering(engine.blocks, [row.edits for row in both], engine.hidden)
        for step in range(room):
            group = [place for place in group if len(texts[place]) > step]
            batch.narrow(2 * len(group))
            steering.select(torch.arange(2 * len(group)))
            last = [texts[place][step - 1] if step else rows[place].prompt[-1] for place in group]
            scores = _step(batch, steering, [token for token in last for _ in range(2)])
            with_edits, without = scores[0::2], scores[1::2]
            # A token that is impossible in both adds nothing, where arithmetic says NaN.
            moved = (with_edits.exp() * (with_edits - without)).nan_to_num(nan=0.0).sum(dim=-1)
            for place, value in zip(group, moved.cpu(), strict=True):
                found[place].append(value)
    return [torch.stack(values) if values else torch.zeros(0) for values in found]


def _group(
    engine: Engine, rows: Sequence[tuple[Row, tuple[int, ...], Sequence[tuple[int, ...]]]], start: Context | None
) -> list[list[float]]:
    """`likelihoods` of rows with what their texts have in common, which is equally long in all, and their texts."""
    trunks = [[row.prompt[-1], *common] for row, common, _ in rows]
    chosen, room = [row for row, _, _ in rows], len(trunks[0])
    pushed = any(row.scope == "all" and row.edits for row in chosen)
    batch = engine.steered_prompts(chosen, room) if pushed else engine.prompts(chosen, room, start)
    steering = Steering(engine.blocks, [row.edits for row in chosen], engine.hidden)
    scores = [_step(batch, steering, tokens) for tokens in zip(*trunks, strict=True)][-1]
    rests = [[text[len(common) :] for text in texts] for _, common, texts in rows]
    found = [[float(scores[row, rest[0]]) for rest in texts] for row, texts in enumerate(rests)]
    # From here on each text has a row of its own, the longest first: those that end leave from behind.
    forks = [(row, number) for row, texts in enumerate(rests) for number, rest in enumerate(texts) if len(rest) > 1]
    forks.sort(key=lambda fork: -len(rests[fork[0]][fork[1]]))
    if not forks:
        return found
    longest = len(rests[forks[0][0]][forks[0][1]])
    contexts = [batch.context(place, [*row.prompt, *common]) for place, (row, common, _) in enumerate(rows)]
    batch = Batch(engine.passes, [contexts[row] for row, _ in forks], longest)
    steering.select(torch.tensor([row for row, _ in forks]))
    for step in range(1, longest):
        forks = [(row, number) for row, number in forks if len(rests[row][number]) > step]
        batch.narrow(len(forks))
        steering.select(torch.arange(len(forks)))
        scores = _step(batch, steering, [rests[row][number][step - 1] for row, number in forks])
        for place, (row, number) in enumerate(forks):
            found[row][number] += float(scores[place, rests[row][number][step]])
    return found


def _step(batch: Batch, steering: Steering, tokens: Sequence[int]) -> Tensor:
    """(rows, vocabulary) log-probabilities of what follows a token of each row."""
    with steering:
        logits = batch.run(torch.tensor(tokens)[:, None], torch.ones(len(tokens), dtype=torch.long), head=True)
    return logits.float().log_softmax(dim=-1)
