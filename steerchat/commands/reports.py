"""/report: a conversation, an experiment or a pair as a file to keep or to hand on."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Annotated

from ..arguments import Int, Option, PairId, PathArg
from ..chance import verdict
from ..chat import Chat
from ..errors import Interrupted, StoreError, UsageError
from ..folders import write_whole
from ..outcomes import Result
from ..recall import pairs_of, recalled
from ..records import Filters, StoredExperiment, StoredPair
from ..registry import command
from ..report import Chapter, Report, form_of
from ..results import Answer, Notice
from ..store import Store
from . import experiment_pages
from .notebook import open_store


@command(
    "report",
    examples=["/report chat.html", "/report --pair 1 pair.md", "/report --experiment 1 layers.html"],
    group="Notebook",
    shell=True,
)
def report(
    chat: Chat,
    file: Annotated[Path, PathArg("where to; its ending says what: .html, .md or .json")],
    *,
    pair: Annotated[int | None, Option("one pair", PairId(metavar="ID"))] = None,
    experiment: Annotated[int | None, Option("one experiment", Int(least=1))] = None,
    session: Annotated[int | None, Option("in place of this conversation, or of the newest", Int(least=1))] = None,
    replace: Annotated[bool, Option("write over a file that is there")] = False,
) -> Notice:
    """Writes this conversation, or one experiment or pair, as a page, as Markdown or as JSON.

    The page is one file with its charts in it and needs no network. Turns that were taken back are left out.
    """
    if sum(one is not None for one in (pair, experiment, session)) > 1:
        raise UsageError("a report is about one thing", "one of --pair, --experiment and --session")
    form = form_of(file.suffix)
    store = open_store(chat)
    if pair is not None:
        made = _pair_report(store.pair(pair))
    elif experiment is not None:
        made = _experiment_report(chat, store, store.experiment(experiment))
    else:
        made = _session_report(chat, store, session or _which(chat, store))
    if file.is_dir():
        raise UsageError(f"{file} is a folder", f"/report {file / 'report.html'}")
    if os.path.lexists(file) and not replace:
        if not chat.can_ask:
            raise UsageError(f"{file} is there already", "--replace writes over it, or take another name")
        if chat.ask(f"Write over {file}?", ["yes", "no"]) == "no":
            raise Interrupted("the report")
    try:
        write_whole(file, form(made).encode())
    except OSError as error:
        raise StoreError(f"{file} cannot be written: {error.strerror or error}", "name another file") from None
    return Notice(f"{made.title}: written to {file}")


def _which(chat: Chat, store: Store) -> int:
    """This conversation, or the newest when nothing was said in this one."""
    if chat.session.journal.session_id is not None:
        return chat.session.journal.session_id
    newest = next((one.id for one in store.sessions(limit=1000) if one.pairs), None)
    if newest is None:
        raise UsageError("the history is empty, so there is nothing to report", "say something first")
    return newest


def _session_report(chat: Chat, store: Store, number: int) -> Report:
    session = store.session(number)
    pairs = pairs_of(store, Filters(session=number))
    experiments = {one: store.experiment(one) for one in {pair.experiment_id for pair in pairs} if one is not None}
    chapters: list[Chapter] = []
    for which, group in groupby(pairs, key=lambda pair: pair.experiment_id):
        if which is None:
            chapters += map(pair_chapter, group)
        else:
            chapters.append(_experiment_chapter(chat, experiments[which], list(group)))
    facts = [("model", session.model), ("started", _when(session.started)), ("pairs", str(len(pairs)))]
    facts += [("system message", session.system)] if session.system else []
    data = {
        "session": vars(session),
        "experiments": [one.to_json() for _, one in sorted(experiments.items())],
        "pairs": [one.to_json() for one in pairs],
    }
    title = f"Session {number}: {session.title}" if session.title else f"Session {number}"
    return Report(title, facts, chapters, data, verdict)


def _experiment_report(chat: Chat, store: Store, experiment: StoredExperiment) -> Report:
    pairs = pairs_of(store, Filters(experiment=experiment.id, undone=True))
    data = {"experiment": experiment.to_json(), "pairs": [one.to_json() for one in pairs]}
    title = f"Experiment {experiment.id}: {experiment.kind}"
    return Report(title, [], [_experiment_chapter(chat, experiment, pairs)], data, verdict)


def listing(pairs: Sequence[StoredPair]) -> Report:
    """Pairs of the history, in the order given."""
    data = {"pairs": [one.to_json() for one in pairs]}
    return Report("History", [("pairs", str(len(pairs)))], list(map(pair_chapter, pairs)), data, verdict)


def _pair_report(stored: StoredPair) -> Report:
    chapter = pair_chapter(stored)
    return Report(f"Pair {stored.id}", [], [chapter], {"pair": stored.to_json()}, verdict)


def pair_chapter(stored: StoredPair) -> Chapter:
    pair = stored.pair
    facts = [("pair", f"{pair.id}, {_when(stored.created)}"), ("model", f"{pair.model}, seed {pair.seed}")]
    facts += [("kind", stored.kind)] if stored.kind != "chat" else []
    if stored.rating is not None:
        facts.append(("judged", f"{stored.rating}: {stored.note}" if stored.note else stored.rating))
    return Chapter(pair.prompt, facts, [pair])


def _experiment_chapter(chat: Chat, experiment: StoredExperiment, pairs: list[StoredPair]) -> Chapter:
    result = recalled(chat.library, experiment, pairs)
    spec = experiment.spec
    facts = [("experiment", f"{experiment.id}, {_when(experiment.started)}")]
    if pairs:
        names = dict.fromkeys(name for one in result.outcomes for name in one.setting.recipe.concepts)
        facts += [("model", pairs[0].pair.model), ("concepts", ", ".join(names))]
    facts.append(("answers", f"{spec['repeats']} seeds from {spec['seed']}, up to {spec['tokens']} tokens"))
    parts = experiment_pages.page(result).parts
    return Chapter(f"/{experiment.kind} {experiment.prompt}", facts, parts, list(answers(result)))


def answers(result: Result) -> Iterator[tuple[str, Answer]]:
    """The first seed's answers, whole."""
    for number, one in enumerate(result.outcomes):
        pair = one.pairs[0]
        if number == 0:
            yield "normal", pair.normal
        if pair.steered is not None:
            yield str(pair.recipe) if one.setting.along is None else one.setting.label, pair.steered


def _when(created: str) -> str:
    return f"{datetime.fromisoformat(created).astimezone():%Y-%m-%d %H:%M}"
