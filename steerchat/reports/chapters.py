"""The chapters of a report: a conversation, an experiment, a pair, or a list of pairs of the history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import groupby

from ..experiments import pages as experiment_pages
from ..experiments.outcomes import Result
from ..experiments.recall import pairs_of, recalled
from ..measures.calibration import Calibration
from ..measures.chance import verdict
from ..storage.records import Filters, StoredExperiment, StoredPair
from ..storage.store import Store
from ..values.results import Answer
from .markdown import Chapter, Report


def session_report(calibration: Calibration, store: Store, number: int) -> Report:
    session = store.session(number)
    pairs = pairs_of(store, Filters(session=number))
    experiments = {one: store.experiment(one) for one in {pair.experiment_id for pair in pairs} if one is not None}
    chapters: list[Chapter] = []
    for which, group in groupby(pairs, key=lambda pair: pair.experiment_id):
        if which is None:
            chapters += map(pair_chapter, group)
        else:
            chapters.append(_experiment_chapter(calibration, experiments[which], list(group)))
    facts = [("model", session.model), ("started", _when(session.started)), ("pairs", str(len(pairs)))]
    facts += [("system message", session.system)] if session.system else []
    data = {
        "session": vars(session),
        "experiments": [one.to_json() for _, one in sorted(experiments.items())],
        "pairs": [one.to_json() for one in pairs],
    }
    title = f"Session {number}: {session.title}" if session.title else f"Session {number}"
    return Report(title, facts, chapters, data, verdict)


def experiment_report(calibration: Calibration, store: Store, experiment: StoredExperiment) -> Report:
    pairs = pairs_of(store, Filters(experiment=experiment.id, undone=True))
    data = {"experiment": experiment.to_json(), "pairs": [one.to_json() for one in pairs]}
    title = f"Experiment {experiment.id}: {experiment.kind}"
    return Report(title, [], [_experiment_chapter(calibration, experiment, pairs)], data, verdict)


def listing(pairs: Sequence[StoredPair]) -> Report:
    """Pairs of the history, in the order given."""
    data = {"pairs": [one.to_json() for one in pairs]}
    return Report("History", [("pairs", str(len(pairs)))], list(map(pair_chapter, pairs)), data, verdict)


def pair_report(stored: StoredPair) -> Report:
    chapter = pair_chapter(stored)
    return Report(f"Pair {stored.id}", [], [chapter], {"pair": stored.to_json()}, verdict)


def pair_chapter(stored: StoredPair) -> Chapter:
    pair = stored.pair
    facts = [("pair", f"{pair.id}, {_when(stored.created)}"), ("model", f"{pair.model}, seed {pair.seed}")]
    facts += [("kind", stored.kind)] if stored.kind != "chat" else []
    if stored.rating is not None:
        facts.append(("judged", f"{stored.rating}: {stored.note}" if stored.note else stored.rating))
    return Chapter(pair.prompt, facts, [pair])


def _experiment_chapter(calibration: Calibration, experiment: StoredExperiment, pairs: list[StoredPair]) -> Chapter:
    result = recalled(calibration, experiment, pairs)
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
