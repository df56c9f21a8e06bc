"""Stored pairs as pages: one pair with its origin, and the table that `/history` lists."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from ..values.chart import Chart, Series
from ..values.page import Page, Table
from ..values.results import Notice, format_cost, format_effect
from ..values.text import counted, fit
from .ratings import Tally
from .records import StoredPair

_SHOWS = "shows it: the concept shows in the steered answer, with a 95% interval"
# How the table shows the status of a pair that is not complete.
_STATUS = {"interrupted": "stopped", "failed": "failed", "running": "running"}


def pair_page(stored: StoredPair, now: datetime | None = None) -> Page:
    """A stored pair, whole, under a line with its origin. `now` as for `when`."""
    pair = stored.pair
    facts = [f"pair {pair.id}", when(stored.created, now), pair.model, f"seed {pair.seed}"]
    facts += [stored.kind] if stored.kind != "chat" else []
    facts += [f"asked by {stored.client}"] if stored.client else []
    facts += [_STATUS[stored.status]] if stored.status in _STATUS else []
    facts += ["undone"] if stored.undone else []
    return Page([Notice("   ".join(facts)), pair], [stored.to_json()])


def pair_table(rows: Sequence[StoredPair], now: datetime | None = None, filtered: bool = False) -> Table:
    """Stored pairs, one in each row, in the order given. `now` as for `when`."""
    with_kind = any(stored.kind != "chat" for stored in rows)
    with_client = any(stored.client for stored in rows)
    with_rating = any(stored.rating for stored in rows)
    headings = ["id", "when", *(["kind"] if with_kind else []), *(["by"] if with_client else [])]
    headings += ["prompt", "recipe"]
    headings += [*(["rated"] if with_rating else []), "effect", "cost"]
    cells = [
        [
            str(stored.id),
            when(stored.created, now),
            *([stored.kind] if with_kind else []),
            *([fit(stored.client, 12)] if with_client else []),
            fit(stored.pair.prompt, 60),
            fit(str(stored.pair.recipe), 30) if stored.pair.recipe.terms else "-",
            *([stored.rating or ""] if with_rating else []),
            _effect_or_status(stored),
            "" if stored.pair.perplexity_ratio is None else format_cost(stored.pair.perplexity_ratio),
        ]
        for stored in rows
    ]
    return Table(
        headings,
        cells,
        right=frozenset({0, len(headings) - 2, len(headings) - 1}),
        dim=frozenset(index for index, stored in enumerate(rows) if stored.undone),
        empty="No pair passes the filters."
        if filtered
        else "no pairs yet; type a message, with /steer happy 16 2.0 before it for a steered answer",
    )


def _effect_or_status(stored: StoredPair) -> str:
    if stored.status in _STATUS:
        return _STATUS[stored.status]
    if stored.undone:
        return "undone"
    return "" if stored.pair.effect is None else format_effect(stored.pair.effect)


def when(created: str, now: datetime | None = None) -> str:
    """`today 14:03`, `yesterday 14:03`, or the date.

    Args:
        created: ISO 8601 with a zone.
        now: the present with its zone, in which the result is given; None: the clock's, in local time.
    """
    now = now or datetime.now().astimezone()
    try:
        moment = datetime.fromisoformat(created).astimezone(now.tzinfo)
    except ValueError:  # another program wrote it
        return created
    if moment.date() == now.date():
        return f"today {moment:%H:%M}"
    if moment.date() == (now - timedelta(days=1)).date():
        return f"yesterday {moment:%H:%M}"
    return f"{moment:%Y-%m-%d}"


def verdict_chart(tallies: Sequence[Tally], axis: str) -> Chart:
    """How often users chose the steered answer, in each group of rated pairs."""
    shares = [tally.share if tally.judged > tally.ties else None for tally in tallies]
    reads = [tally.reads / tally.compared if tally.compared else None for tally in tallies]
    series = [
        Series(
            "shows it",
            shares,
            "share",
            intervals=[each.range for each in tallies],
            rest=0.5,
            scale=(0.0, 1.0),
            meaning=_SHOWS,
        ),
        Series("reads", reads, "share", rest=0.5, scale=(0.0, 1.0), meaning="reads: the steered answer reads better"),
        Series(
            "effect", [each.effect for each in tallies], "effect", rest=0.0, meaning="effect: the mean measured one"
        ),
    ]
    return Chart(
        f"how often the steered answer won, by {axis}, without ties; one half is what guessing gives",
        axis,
        [tally.label for tally in tallies],
        [each for each in series if any(value is not None for value in each.values)] or series[:1],
        notes=[f"{tally.steered} of {tally.judged - tally.ties}, {counted(tally.ties, 'tie')}" for tally in tallies],
        noted="verdicts",
    )
