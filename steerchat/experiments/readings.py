"""Answers of the history read again by the unsteered model: one token by token, and concepts turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..conversation.rerun import prompt_of
from ..conversation.session import Session
from ..storage.records import StoredPair
from ..values.chart import Chart, Series, Tokens
from ..values.errors import UsageError, shorten
from ..values.results import Strip

if TYPE_CHECKING:
    from ..measures.inspection import Guess


@dataclass(frozen=True)
class Why:
    """A steered answer, read again."""

    stored: StoredPair
    tokens: list[Guess]  # each with its probability
    # The likeliest tokens where the answers part, the likeliest first; none where both are the same.
    rather: list[Guess]
    strips: tuple[Strip, ...]  # concepts along both answers

    @property
    def chart(self) -> Tokens:
        """The answer token by token."""
        pair = self.stored.pair
        assert pair.steered is not None
        turned = (("gate", pair.steered.gate), ("dial", pair.steered.dial))
        return Tokens(
            f"steered: {pair.recipe}, asked: {shorten(pair.prompt)}",
            [token.text for token in self.tokens],
            [token.probability for token in self.tokens],
            self.strips,
            [(name, _shares(changes, len(self.tokens))) for name, changes in turned if changes],
            pair.diverges_at,
        )


def why(session: Session, stored: StoredPair, concepts: Sequence[str] = ()) -> Why:
    """Read a steered answer again.

    Args:
        session: with the model that answered.
        concepts: what to read in it; those that it was steered with where there are none.

    Raises:
        UsageError: it was not steered.
    """
    from ..measures.inspection import likelihoods, wanted

    steered, prompt = stored.pair.steered, prompt_of(session, stored, "steered")
    if steered is None:
        raise UsageError(f"pair {stored.id} was not steered", "/steer happy, then say something")
    tokens = likelihoods(session.engine, prompt, steered.token_ids)
    at = stored.pair.diverges_at
    rather = [] if at is None else wanted(session.engine, [*prompt, *steered.token_ids[:at]])
    return Why(stored, tokens, rather, strips(session, concepts or stored.pair.recipe.concepts, stored))


def strips(session: Session, concepts: Sequence[str], stored: StoredPair) -> tuple[Strip, ...]:
    """Concepts along a pair's answers; none where one is too short."""
    from ..measures.inspection import probe

    prompts = [prompt_of(session, stored, side) for side in ("normal", "steered")]
    return probe(session.reader, concepts, stored.pair, prompts)


def over_turns(session: Session, concepts: Sequence[str], turns: Sequence[StoredPair]) -> Chart:
    """How much of each concept the answers of a conversation carry, turn by turn.

    Raises Interrupted when the session was stopped, UsageError when no answer is long enough to read.
    """
    readings: list[tuple[StoredPair, tuple[Strip, ...]]] = []
    for number, stored in enumerate(turns, 1):
        session.watch.progress("reading the answers", number, len(turns))
        if read := strips(session, concepts, stored):
            readings.append((stored, read))
    if not readings:
        raise UsageError("no answer of the conversation is long enough to read", "say something first")
    series = []
    for concept in concepts:
        meaning = f"{concept} in steered answers, and in normal ones; in spreads of neutral text"
        for column, name in (("steered", concept), ("normal", "normal")):
            scores = [_score(read, concept, column) for _, read in readings]
            if any(score is not None for score in scores):
                series.append(Series(name, scores, "effect", rest=0.0, meaning=meaning, panel=concept))
    return Chart(
        f"{' and '.join(concepts)} over a conversation, turn by turn",
        "turn",
        [str(number) for number in range(1, len(readings) + 1)],
        series,
        [float(number) for number in range(1, len(readings) + 1)],
        notes=[shorten(stored.pair.prompt, 40) for stored, _ in readings],
        noted="message",
    )


def _score(read: Sequence[Strip], concept: str, column: str) -> float | None:
    return next((strip.score for strip in read if (strip.concept, strip.column) == (concept, column)), None)


def _shares(changes: Sequence[tuple[int, float]], count: int) -> list[float]:
    """The share for each token, of where it changed and to what; 1 at first."""
    starts, share, shares = dict(changes), 1.0, []
    for token in range(count):
        share = starts.get(token, share)
        shares.append(share)
    return shares
