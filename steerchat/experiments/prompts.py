"""Many prompts at once: their pairs are rows of common batches, each logged as a pair by itself."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..conversation.session import Message, Session
from ..engine.processes import count
from ..measures.pair import measured
from ..values.errors import UsageError
from ..values.recipe import Recipe
from ..values.results import Answer, Delta, Event, Finished, Notice, Pair, PairDone, Progress, Started
from .run import answers

if TYPE_CHECKING:
    from ..engine.engine import Output, Row

# Pairs of one batch, for each process: more are hardly quicker on a CPU, and the first ones come out earlier.
_PAIRS = 16


@dataclass(frozen=True)
class _Asked:
    prompt: str
    messages: dict[str, list[Message]]
    rows: list[Row]


def compare_all(session: Session, prompts: Sequence[str], raw: bool = False) -> Iterator[Event]:
    """Answer prompts outside the conversation, each as `session.compare` answers it alone.

    Args:
        session: model, recipe, sampling and the log.
        prompts: at least one.
        raw: go on from the prompts themselves.

    Yields:
        the events of one pair after the other, in the order of the prompts. Stopping ends with the batch at hand.

    Raises:
        UsageError: a prompt is empty.
        ModelError: a prompt does not fit the model; nothing was answered then.
    """
    if not all(prompt.strip() for prompt in prompts):
        raise UsageError("a prompt is empty", "one a line")
    recipe = replace(session.recipe, scope=session.settings.scope)
    asked = [_ask(session, prompt, recipe, raw) for prompt in prompts]
    size = _PAIRS * count()
    for first in range(0, len(asked), size):
        for pair in _batch(session, asked[first : first + size], recipe, raw, first, len(asked)):
            yield from _events(pair, session.engine.prompter.opens_thought and not raw)
        done = first + len(asked[first : first + size])
        if session.stop.is_set():
            if done < len(asked):
                yield Notice(f"stopped after {done} of {len(asked)} prompts")
            return


def _ask(session: Session, prompt: str, recipe: Recipe, raw: bool) -> _Asked:
    messages = session.columns(prompt, recipe)
    return _Asked(prompt, messages, session.rows(prompt, messages, session.settings.seed, recipe, raw))


def _batch(session: Session, asked: Sequence[_Asked], recipe: Recipe, raw: bool, before: int, total: int) -> list[Pair]:
    """The pairs of some prompts, logged before their first token and completed after their last."""
    seed, sampling = session.settings.seed, session.sampling()
    ids = []
    for one in asked:
        record = session.record(one.prompt, recipe, seed, "compare", raw, one.messages, sampling=sampling.to_json())
        ids.append(session.journal.begin(record, session.system))
    started = time.monotonic()
    pairs: list[Pair] = []
    width = len(asked[0].rows)
    try:
        outputs = _generate(session, asked, before, total)
        seconds = (time.monotonic() - started) / len(asked)  # a pair's share of the batch
        for index, (one, pair_id) in enumerate(zip(asked, ids, strict=True)):
            both = outputs[index * width : (index + 1) * width]
            pair = measured(session, pair_id, one.prompt, seed, recipe, both, raw, seconds)
            cut = any(output.answer.finish == "interrupted" for output in both)
            session.journal.finish(pair, "interrupted" if cut else "complete")
            session.last = session.shown = pair
            pairs.append(pair)
    finally:
        # An error while generating or measuring leaves no row of the history `running`.
        for one, pair_id in list(zip(asked, ids, strict=True))[len(pairs) :]:
            lost = Pair(pair_id, one.prompt, session.engine.name, recipe, seed, Answer("", 0, "failed"), None, raw)
            session.journal.finish(lost, "failed")
    return pairs


def _generate(session: Session, asked: Sequence[_Asked], before: int, total: int) -> list[Output]:
    """The answers; how many prompts are answered is told meanwhile."""
    rows = [row for one in asked for row in one.rows]

    def told(ended: int) -> None:
        session.report(Progress(f"compare: {total} prompts", before + ended * len(asked) // len(rows), total))

    return answers(session, rows, session.sampling(), told)


def _events(pair: Pair, opened: bool) -> Iterator[Event]:
    """A pair that is finished, as a screen draws one that is not."""
    answers = [pair.normal, *([pair.steered] if pair.steered is not None else [])]
    yield Started(("normal", f"steered: {pair.recipe}")[: len(answers)], opened)
    for row, answer in enumerate(answers):
        yield Delta(row, answer.text)
        yield Finished(row, answer)
    yield PairDone(pair)
