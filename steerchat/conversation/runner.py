"""The one runner: prompts, settings and seeds become measured pairs, each logged before its first token.

A group is one prompt with one seed: its normal row, and a row for each setting. The rows of a group share their noise,
so that a steered answer differs from the normal one by its setting alone. Groups run in batches; whoever watches gets
events, and what was finished when a run is stopped is kept.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..measures.pair import Reader, measured
from ..storage.journal import Journal
from ..storage.records import Origin, Status
from ..values.recipe import RANDOM
from ..values.results import Answer, Delta, Event, Finished, Pair, PairDone, Progress, Report, Returning, tap
from ..values.setting import Message, Setting

if TYPE_CHECKING:
    from ..engine.engine import Output, Row
    from ..engine.hooks import Edit
    from ..engine.sampling import Sampling

# The stored measure of a pair that says which of its experiment's settings, counted from 0, it was answered under.
SETTING = "setting"
# Rows of one batch, for each process: more are hardly quicker on a CPU, and the first pairs come out earlier.
ROWS = 32


@dataclass(frozen=True)
class Question:
    """A prompt as each column sees it.

    Attributes:
        prompt: as the user typed it.
        normal: the messages of the normal column.
        steered: those of the steered column; None when there is only the normal one.
        context: the ids of the pairs whose answers the messages hold.
    """

    prompt: str
    normal: Sequence[Message]
    steered: Sequence[Message] | None = None
    context: tuple[int | None, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How a run answers.

    Attributes:
        sampling: for all answers.
        journal: where the pairs are logged; None logs nothing.
        system: the system message of the conversation.
        kind: of the pairs, such as `chat` or `layers`.
        experiment: the id of the experiment that they belong to.
        raw: the answers go on from the prompts themselves, without the chat template.
        thought: whether a model that can think before it answers may do so.
        keep: the conversation for whose next turn the engine keeps the keys and values of these rows.
        rows: how many rows a batch has at most, unless one group is more; None puts all into one batch.
        label: for reports of progress; without one, nothing is reported.
    """

    sampling: Sampling
    journal: Journal | None = None
    system: str = ""
    kind: str = "chat"
    experiment: int | None = None
    raw: bool = False
    thought: bool = True
    keep: Hashable = None
    rows: int | None = None
    label: str = ""


@dataclass(frozen=True)
class Trial:
    """One prompt answered under one setting with one seed.

    Attributes:
        question, setting: their indices in the run.
        pair: measured.
        rows: what the engine was given: the normal row and, if there is one, the steered one.
        outputs: the engine's outputs for these rows.
    """

    question: int
    setting: int
    pair: Pair
    rows: tuple[Row, ...]
    outputs: tuple[Output, ...]


@dataclass(frozen=True)
class _Group:
    number: int  # of the question
    question: Question
    seed: int
    rows: list[Row]  # the normal one, then one for each setting if there is a steered column


@dataclass(frozen=True)
class _Job:
    """A pair to come, without its answers, and which rows of the batch will be its answers."""

    group: _Group
    index: int  # of the setting
    setting: Setting
    places: tuple[int, ...]
    pair: Pair


class Runner:
    """Answers prompts under settings and seeds.

    Args:
        reader: the model and its concepts.
        memo: outputs of earlier runs, by what they depend on; new ones are added. None remembers nothing.
    """

    def __init__(self, reader: Reader, memo: dict[object, Output] | None = None) -> None:
        self.reader = reader
        self._memo = memo

    def run(
        self, questions: Sequence[Question], settings: Sequence[Setting], seeds: Sequence[int], plan: Plan
    ) -> Generator[Event, None, list[Trial]]:
        """Answer every question under every setting with every seed, at least one of each.

        Yields:
            `Delta` and `Finished` with the row's index, counted group by group within a batch, and `PairDone` for
            each pair.

        Returns:
            the trials, question by question, seed by seed, setting by setting. A stop ends with the batch at hand.

        Raises:
            ModelError: a prompt does not fit the model; nothing was answered or logged then.
            UnknownName: a concept does not exist.
        """
        groups: list[_Group] = []
        pushes: dict[tuple[int, int], tuple[Edit, ...]] = {}

        def push(index: int, seed: int) -> tuple[Edit, ...]:
            setting = settings[index]
            if not setting.recipe.active:
                return ()
            drawn = setting.drawn(seed) if RANDOM in setting.recipe.concepts else 0
            if (index, drawn) not in pushes:
                pushes[index, drawn] = self.reader.edits(setting.recipe, drawn)
            return pushes[index, drawn]

        for number, question in enumerate(questions):
            normal, steered = self._prompts(question, settings, plan)
            groups += [_Group(number, question, seed, _rows(normal, steered, settings, seed, push)) for seed in seeds]
        return self._run(groups, settings, plan)

    def _prompts(
        self, question: Question, settings: Sequence[Setting], plan: Plan
    ) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
        """The tokens that the normal row goes on from, and those of each setting's row, if there are such rows."""
        engine = self.reader.engine

        def encode(messages: Sequence[Message]) -> tuple[int, ...]:
            prompter = engine.prompter
            ids = prompter.raw(question.prompt) if plan.raw else prompter.chat(messages, thought=plan.thought)
            engine.check(ids)
            return tuple(ids)

        normal = encode(question.normal)
        if question.steered is None:
            return normal, []
        encoded: dict[str, tuple[int, ...]] = {}
        for setting in settings:
            if setting.asking not in encoded:
                encoded[setting.asking] = encode(setting.asked(question.steered))
        return normal, [encoded[setting.asking] for setting in settings]

    def _run(
        self, groups: Sequence[_Group], settings: Sequence[Setting], plan: Plan
    ) -> Generator[Event, None, list[Trial]]:
        size = len(groups) if plan.rows is None else max(1, plan.rows // len(groups[0].rows))
        meter = _Meter(plan, sum(len(group.rows) for group in groups), self.reader.report)
        trials: list[Trial] = []
        for first in range(0, len(groups), size):
            yield from self._batch(groups[first : first + size], settings, plan, meter, trials)
            if self.reader.stopped():
                break
        return trials

    def _batch(
        self, groups: Sequence[_Group], settings: Sequence[Setting], plan: Plan, meter: _Meter, trials: list[Trial]
    ) -> Generator[Event, None, None]:
        """Answer some groups together; their trials join `trials`."""
        rows = [row for group in groups for row in group.rows]
        texts = [""] * len(rows)
        jobs: list[_Job] = []
        normals: dict[int, int | None] = {}  # stored normal answers that pairs share, by their row
        done = 0

        def see(event: Event) -> None:
            if isinstance(event, Delta):
                texts[event.row] += event.text
            meter.see(event)

        try:
            # 1. Every pair is logged before its first token.
            start = 0
            for group in groups:
                for index, setting in enumerate(settings):
                    places = (start,) if len(group.rows) == 1 else (start, start + 1 + index)
                    jobs.append(_Job(group, index, setting, places, self._begin(group, setting, plan)))
                start += len(group.rows)
            began = time.monotonic()
            # 2. The answers.
            outputs = yield from tap(self._generate(rows, plan), see)
            # 3. Their measures.
            seconds = (time.monotonic() - began) / len(jobs)  # a pair's share of the batch
            for job in jobs:
                mine = tuple(outputs[place] for place in job.places)
                pair = measured(self.reader, job.setting, job.pair, mine, seconds)
                cut = any(output.answer.finish == "interrupted" for output in mine)
                _finish(plan, job, pair, "interrupted" if cut else "complete", normals)
                trials.append(Trial(job.group.number, job.index, pair, tuple(rows[at] for at in job.places), mine))
                done += 1
                yield PairDone(pair)
        finally:
            # Whatever broke this off, what came is kept, and no row of the history stays `running`.
            for job in jobs[done:]:
                answers = (Answer(texts[place], 0, "failed") for place in job.places)
                broken = replace(job.pair, **dict(zip(("normal", "steered"), answers, strict=False)))
                _finish(plan, job, broken, "failed", normals)
        meter.next(len(rows))

    def _generate(self, rows: Sequence[Row], plan: Plan) -> Generator[Delta | Finished, None, list[Output]]:
        """The outputs of rows; those that are remembered are not generated again."""
        engine, stopped = self.reader.engine, self.reader.stopped
        if self._memo is None:
            return (yield from engine.generate(rows, plan.sampling, stopped, keep=plan.keep))
        keys = [_key(row, plan.sampling) for row in rows]
        outputs = {key: self._memo[key] for key in keys if key in self._memo}
        first = {key: place for place, key in reversed(list(enumerate(keys))) if key not in outputs}
        places = sorted(first.values())
        run = engine.generate([rows[place] for place in places], plan.sampling, stopped)
        fresh = yield from _renumbered(run, places)
        outputs |= {keys[place]: output for place, output in zip(places, fresh, strict=True)}
        self._memo |= {key: output for key, output in outputs.items() if output.answer.finish != "interrupted"}
        return [outputs[key] for key in keys]

    def _begin(self, group: _Group, setting: Setting, plan: Plan) -> Pair:
        """A pair without its answers, logged."""
        engine, question, recipe = self.reader.engine, group.question, setting.recipe
        pair = Pair(
            None,
            question.prompt,
            engine.name,
            recipe,
            group.seed,
            raw=plan.raw,
            layer=setting.layer,
            strength=setting.strength,
        )
        if plan.journal is None:
            return pair
        messages = {"normal": list(question.normal)}
        if question.steered is not None:
            messages["steered"] = setting.asked(question.steered)
        origin = Origin(
            fingerprint=engine.fingerprint,
            kind=plan.kind,
            experiment_id=plan.experiment,
            messages=messages,
            device=str(engine.device),
            dtype=engine.dtype,
            threads=engine.threads,
            versions={"processor": engine.processor, "products": engine.products},
            vectors=self.reader.digests(recipe, setting.drawn(group.seed)) if recipe.active else {},
            sampling=plan.sampling.to_json(),
            context=question.context,
        )
        return replace(pair, id=plan.journal.begin(pair, origin, plan.system))


def _rows(
    normal: tuple[int, ...],
    steered: Sequence[tuple[int, ...]],
    settings: Sequence[Setting],
    seed: int,
    push: Callable[[int, int], tuple[Edit, ...]],
) -> list[Row]:
    from ..engine.decoding import Row

    rows = [Row(normal, (), seed)]
    for index, prompt in enumerate(steered):
        rows.append(Row(prompt, push(index, seed), seed, settings[index].recipe.scope))
    return rows


def _finish(plan: Plan, job: _Job, pair: Pair, status: Status, normals: dict[int, int | None]) -> None:
    """Log how a pair ended."""
    if plan.journal is None:
        return
    normal = job.places[0]
    measures = dict(pair.measures)
    if plan.experiment is not None:
        # Two settings can have the same recipe (a random push beside its control): the index tells them apart.
        measures[SETTING] = float(job.index)
    normals[normal] = plan.journal.finish(pair, status, normals.get(normal), measures)


class _Meter:
    """Reports how many of a run's tokens are written; a row that ends early has all of its own."""

    def __init__(self, plan: Plan, rows: int, report: Report) -> None:
        self._label, self._tokens, self._report = plan.label, plan.sampling.max_tokens, report
        self._total = rows * self._tokens
        self._before = 0  # tokens of the batches before
        self._written: dict[int, int] = {}
        self._tell()

    def see(self, event: Event) -> None:
        if isinstance(event, Delta):
            self._written[event.row] = min(self._tokens, self._written.get(event.row, 0) + 1)
        elif isinstance(event, Finished):
            self._written[event.row] = self._tokens
        self._tell()

    def next(self, rows: int) -> None:
        """A batch of so many rows is done."""
        self._before += rows * self._tokens
        self._written = {}
        self._tell()

    def _tell(self) -> None:
        if self._label:
            self._report(Progress(self._label, self._before + sum(self._written.values()), self._total))


def _key(row: Row, sampling: Sampling) -> object:
    """All that a row's output depends on, on one model."""
    pushes = hashlib.sha256()
    for edit in row.edits:
        pushes.update(f"{edit.layer} {edit.operation} ".encode() + edit.vector.numpy().tobytes())
    return row.prompt, row.seed, row.scope, pushes.digest(), sampling


def _renumbered(
    events: Generator[Delta | Finished, None, list[Output]], places: Sequence[int]
) -> Generator[Delta | Finished, None, list[Output]]:
    """Events of some rows under the numbers that these rows have among all."""
    run = Returning(events)
    for event in run:
        yield replace(event, row=places[event.row])
    return run.value
