"""Reports of a conversation, an experiment, a pair, or a list of pairs of the history, chapter by chapter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import groupby

from ..experiments import pages as experiment_pages
from ..experiments.outcomes import Result
from ..experiments.recall import pairs_of, recalled
from ..measures.calibration import Calibration
from ..storage.pages import verdict_chart
from ..storage.ratings import by_recipe
from ..storage.records import Filters, StoredExperiment, StoredPair
from ..storage.store import Store
from ..values.results import Answer
from ..values.text import counted
from .repeat import experiment_line, pair_line
from .report import Chapter, Report

Extra = Callable[[StoredPair], Sequence[object]]
"""What a chapter shows below a pair, beside what was logged of it."""


def nothing_more(stored: StoredPair) -> Sequence[object]:
    """A chapter that shows what was logged, and no more."""
    return ()


def session_report(calibration: Calibration, store: Store, number: int, extra: Extra = nothing_more) -> Report:
    """A conversation: one chapter for each turn and each experiment."""
    session = store.session(number)
    pairs = pairs_of(store, Filters(session=number))
    experiment_ids = sorted({pair.experiment_id for pair in pairs if pair.experiment_id is not None})
    experiments = {experiment_id: store.experiment(experiment_id) for experiment_id in experiment_ids}
    chapters: list[Chapter] = []
    for experiment_id, group in groupby(pairs, key=lambda pair: pair.experiment_id):
        if experiment_id is None:
            chapters += [pair_chapter(stored, extra) for stored in group]
        else:
            chapters.append(_experiment_chapter(calibration, experiments[experiment_id], list(group)))
    rated = [pair for pair in pairs if pair.rating is not None and pair.pair.steered is not None]
    if rated:
        chapters.append(Chapter("Verdicts", [], [verdict_chart(by_recipe(rated), "recipe")]))
    facts = [("model", session.model), ("started", _local_time(session.started)), ("pairs", str(len(pairs)))]
    facts += [("system message", session.system)] if session.system else []
    data = {
        "session": vars(session),
        "experiments": [experiment.to_json() for experiment in experiments.values()],
        "pairs": [pair.to_json() for pair in pairs],
    }
    title = f"Session {number}: {session.title}" if session.title else f"Session {number}"
    return Report(title, facts, chapters, data)


def experiment_report(calibration: Calibration, store: Store, experiment: StoredExperiment) -> Report:
    """An experiment as a report of one chapter."""
    pairs = pairs_of(store, Filters(experiment=experiment.id, undone=True))
    data = {"experiment": experiment.to_json(), "pairs": [pair.to_json() for pair in pairs]}
    title = f"Experiment {experiment.id}: {experiment.kind}"
    return Report(title, [], [_experiment_chapter(calibration, experiment, pairs)], data)


def listing(pairs: Sequence[StoredPair]) -> Report:
    """Pairs in the order given, one chapter each."""
    data = {"pairs": [pair.to_json() for pair in pairs]}
    return Report("History", [("pairs", str(len(pairs)))], list(map(pair_chapter, pairs)), data)


def pair_report(stored: StoredPair, extra: Extra = nothing_more) -> Report:
    """A pair as a report of one chapter."""
    return Report(f"Pair {stored.id}", [], [pair_chapter(stored, extra)], {"pair": stored.to_json()})


def pair_chapter(stored: StoredPair, extra: Extra = nothing_more) -> Chapter:
    """A pair with its prompt as the heading."""
    pair = stored.pair
    facts = [("pair", f"{pair.id}, {_local_time(stored.created)}"), ("model", f"{pair.model}, seed {pair.seed}")]
    facts += [("kind", stored.kind)] if stored.kind != "chat" else []
    facts += [("asked by", stored.client)] if stored.client else []
    if stored.rating is not None:
        facts.append(("rated", f"{stored.rating}: {stored.note}" if stored.note else stored.rating))
    return Chapter(pair.prompt, facts, [pair, *extra(stored)], command=pair_line(stored))


def _experiment_chapter(calibration: Calibration, experiment: StoredExperiment, pairs: list[StoredPair]) -> Chapter:
    result = recalled(calibration, experiment, pairs)
    spec = experiment.spec
    facts = [("experiment", f"{experiment.id}, {_local_time(experiment.started)}")]
    if pairs:
        names = dict.fromkeys(name for outcome in result.outcomes for name in outcome.setting.recipe.concepts)
        facts += [("model", pairs[0].pair.model), ("concepts", ", ".join(names))]
    facts.append(("answers", f"{counted(spec['repeats'], 'seed')} from {spec['seed']}, up to {spec['tokens']} tokens"))
    parts = experiment_pages.parts_of(result)
    command = experiment_line(experiment, pairs)
    return Chapter(f"/{experiment.kind} {experiment.prompt}", facts, parts, list(answers(result)), command)


def answers(result: Result) -> Iterator[tuple[str, Answer]]:
    """The whole answers of an experiment's first seed, each with a heading."""
    for number, outcome in enumerate(result.outcomes):
        pair = outcome.pairs[0]
        if number == 0:
            yield "normal", pair.normal
        if pair.steered is not None:
            yield str(pair.recipe) if outcome.setting.along is None else outcome.setting.label, pair.steered


def _local_time(created: str) -> str:
    """A time of the history in local time; as it stands where another program wrote something else."""
    try:
        return f"{datetime.fromisoformat(created).astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return created
