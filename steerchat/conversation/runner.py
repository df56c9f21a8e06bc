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
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from ..measures.pair import measured
from ..measures.reader import Reader
from ..storage.journal import Journal
from ..storage.records import Origin, Status
from ..system.memory import trim
from ..values.results import UNASKED, Answer, Delta, Event, Finished, Pair, PairDone, Progress, Returning, drain
from ..values.setting import Message, Setting

if TYPE_CHECKING:
    from ..engine.engine import Output, Row
    from ..engine.sampling import Sampling

# The stored measure of a pair that says which of its experiment's settings, counted from 0, it was answered under.
SETTING = "setting"
# The entry of a pair's versions that says how many rows its batch had: more rows may round differently.
ROWS_THEN = "rows"
# The entry that says how many rows a server's pool had room for. Which of them were there changed from step to step.
POOL_THEN = "pool"
# Rows of one batch, for each process: more are hardly quicker on a CPU, and the first pairs come out earlier.
ROWS = 32


@dataclass(frozen=True)
class Question:
    """A prompt as each column sees it."""

    prompt: str  # as the user typed it
    normal: Sequence[Message]
    steered: Sequence[Message] | None = None  # those of the steered column; None when there is only the normal one
    context: tuple[int | None, ...] = ()  # the ids of the pairs whose answers the messages hold
    # The steered column is answered without the normal one, so that there is nothing to compare it with.
    alone: bool = False


@dataclass(frozen=True)
class Plan:
    """How a run answers."""

    sampling: Sampling  # for all answers
    journal: Journal | None = None  # where the pairs are logged; None logs nothing
    system: str = ""  # the system message of the conversation
    kind: str = "chat"  # of the pairs, such as `chat` or `layers`
    experiment: int | None = None  # the id of the experiment that they belong to
    raw: bool = False  # the answers go on from the prompts themselves, without the chat template
    # Whether a model that can think before it answers does so; None leaves it to its chat template.
    thought: bool | None = None
    when: datetime | None = None  # the time for templates that put it in; now when None
    client: str = ""  # who asked, where that is not the person at this machine
    keep: Hashable = None  # the conversation for whose next turn the engine keeps the keys and values of these rows
    rows: int | None = None  # how many rows a batch has at most, unless one group is more; None puts all into one batch
    label: str = ""  # for reports of progress; without one, nothing is reported
    dial: Callable[[int], float] | None = None  # as of `engine.decoding.Run`
    like: int = 0  # as of `engine.decoding.Run`
    pool: int = 0  # how many rows of others may join and leave while these run; 0 for a batch of their own


@dataclass(frozen=True)
class Trial:
    """One prompt answered under one setting with one seed."""

    question: int  # its index in the run
    setting: int  # its index in the run
    pair: Pair  # measured
    rows: tuple[Row, ...]  # what the engine was given: the normal row and, if there is one, the steered one
    outputs: tuple[Output, ...]  # the engine's outputs for these rows


@dataclass(frozen=True)
class _Group:
    number: int  # of the question
    question: Question
    seed: int
    rows: list[Row]  # the normal one, unless it is left out; then one for each setting if there is a steered column


@dataclass(frozen=True)
class _Job:
    """A pair to come, without its answers."""

    question: int  # indices, as in `Trial`
    setting: int
    places: tuple[int, ...]  # of its rows in the batch
    pair: Pair


class Runner:
    """Answers prompts under settings and seeds.

    `memo`: outputs of earlier runs, by what they depend on; new ones are added. None remembers nothing.
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
        plan = replace(plan, when=plan.when or datetime.now())
        groups: list[_Group] = []
        for number, question in enumerate(questions):
            normal = self._encode(question, question.normal, plan)
            steered = question.steered
            prompts = [self._encode(question, setting.asked(steered), plan) for setting in settings if steered]
            groups += [
                _Group(number, question, seed, self._rows(question, normal, prompts, settings, seed)) for seed in seeds
            ]
        return self._run(groups, settings, plan)

    def measure(
        self,
        prompts: Sequence[str],
        settings: Sequence[Setting],
        seeds: Sequence[int],
        tokens: int,
        label: str,
        rows: int | None = None,
    ) -> list[list[Trial]]:
        """The trials of prompts that belong to no conversation. Nothing is logged.

        Args:
            prompts: each is answered without a system message.
            tokens: the longest answer.

        Returns:
            those of each setting, question by question and seed by seed.

        Raises:
            Interrupted: with the label, when the reader was stopped.
        """
        from ..engine.sampling import Sampling

        messages = ([{"role": "user", "content": prompt}] for prompt in prompts)
        questions = [Question(prompt, message, message) for prompt, message in zip(prompts, messages, strict=True)]
        plan = Plan(Sampling(max_tokens=tokens), thought=False, label=label, rows=rows)
        trials = drain(self.run(questions, settings, seeds, plan))
        self.reader.watch.check(label)
        return [trials[place :: len(settings)] for place in range(len(settings))]

    def _encode(self, question: Question, messages: Sequence[Message], plan: Plan) -> tuple[int, ...]:
        engine = self.reader.engine
        prompter = engine.prompter
        ids = prompter.raw(question.prompt) if plan.raw else prompter.chat(messages, plan.thought, plan.when)
        engine.check(ids)
        return tuple(ids)

    def _rows(
        self,
        question: Question,
        normal: tuple[int, ...],
        prompts: Sequence[tuple[int, ...]],
        settings: Sequence[Setting],
        seed: int,
    ) -> list[Row]:
        """The normal row and, if there are prompts for it, one for each setting."""
        from ..engine.decoding import Row

        # Steered rows are compared with the normal one, which is read for all of them.
        read = bool(prompts) or any(setting.read for setting in settings)
        rows = [Row(normal, (), seed, read=read)]
        for prompt, setting in zip(prompts, settings, strict=False):
            recipe = setting.recipe
            edits = self.reader.edits(recipe, setting.drawn(seed), question.prompt) if recipe.active else ()
            rows.append(Row(prompt, edits, seed, recipe.scope, read=setting.read))
        return rows[1:] if question.alone else rows

    def _run(
        self, groups: Sequence[_Group], settings: Sequence[Setting], plan: Plan
    ) -> Generator[Event, None, list[Trial]]:
        size = len(groups) if plan.rows is None else max(1, plan.rows // len(groups[0].rows))
        total = sum(len(group.rows) for group in groups)
        rows = 0  # answered
        trials: list[Trial] = []
        for first in range(0, len(groups), size):
            batch = groups[first : first + size]
            trials += yield from self._batch(batch, settings, plan, rows, total)
            trim()  # what reading took
            rows += sum(len(group.rows) for group in batch)
            if self.reader.watch.stopped():
                break
        return trials

    def _batch(
        self, groups: Sequence[_Group], settings: Sequence[Setting], plan: Plan, before: int, total: int
    ) -> Generator[Event, None, list[Trial]]:
        """Answer some groups together, after `before` of the run's `total` rows."""
        rows = [row for group in groups for row in group.rows]
        texts, most = [""] * len(rows), plan.sampling.max_tokens
        written = [0] * len(rows)  # tokens; a row that ends early counts as a whole one
        jobs: list[_Job] = []
        normals: dict[int, int | None] = {}  # stored normal answers that pairs share, by their row
        trials: list[Trial] = []
        ended: Literal["failed", "interrupted"] = "failed"  # how pairs do that have no answer yet

        def tell() -> None:
            if plan.label:
                self.reader.watch.report(Progress(plan.label, before * most + sum(written), total * most))

        try:
            # 1. Every pair is logged before its first token.
            start = 0
            for group in groups:
                for index, setting in enumerate(settings):
                    places = (start,) if len(group.rows) == 1 else (start, start + 1 + index)
                    jobs.append(_Job(group.number, index, places, self._begin(group, setting, plan, len(rows))))
                start += len(group.rows)
            began = time.monotonic()
            tell()
            # 2. The answers.
            run = Returning(self._generate(rows, plan))
            for event in run:
                if isinstance(event, Delta):
                    texts[event.row] += event.text
                    written[event.row] = min(most, written[event.row] + 1)
                else:
                    written[event.row] = most
                tell()
                yield event
            written[:] = [most] * len(rows)  # remembered rows have no events
            tell()
            # 3. Their measures.
            seconds = (time.monotonic() - began) / len(jobs)  # a pair's share of the batch
            for job in jobs:
                outputs = tuple(run.value[place] for place in job.places)
                pair = measured(self.reader, settings[job.setting], job.pair, outputs, seconds)
                if pair.steered is not None and pair.recipe.gated and not rows[job.places[-1]].edits:
                    pair = replace(pair, steered=replace(pair.steered, gate=((0, 0.0),)))  # its prompt opened none
                if groups[0].question.alone:
                    pair = replace(pair, normal=UNASKED, steered=pair.normal)
                cut = any(output.answer.finish == "interrupted" for output in outputs)
                _finish(plan, job, pair, "interrupted" if cut else "complete", normals)
                of_pair = tuple(rows[place] for place in job.places)
                trials.append(Trial(job.question, job.setting, pair, of_pair, outputs))
                yield PairDone(pair)
        except GeneratorExit:  # nobody reads the events any more
            ended = "interrupted"
            raise
        finally:
            # Whatever broke this off, what came is kept, and no row of the history stays `running`.
            for job in jobs[len(trials) :]:
                answers = (Answer(texts[place], 0, ended) for place in job.places)
                columns = ("steered",) if groups[0].question.alone else ("normal", "steered")
                broken = replace(job.pair, **dict(zip(columns, answers, strict=False)))
                _finish(plan, job, broken, ended, normals)
        return trials

    def _generate(self, rows: Sequence[Row], plan: Plan) -> Generator[Delta | Finished, None, list[Output]]:
        """The outputs of rows; those that are remembered are not generated again."""
        from ..engine.decoding import Run

        engine, stopped = self.reader.engine, self.reader.watch.stopped
        if self._memo is None:
            run = Run(stopped, plan.keep, plan.dial, plan.like)
            return (yield from engine.generate(rows, plan.sampling, run))
        keys = [_key(row, plan.sampling) for row in rows]
        outputs = {key: self._memo[key] for key in keys if key in self._memo}
        first = {key: place for place, key in reversed(list(enumerate(keys))) if key not in outputs}
        for read in (True, False):
            places = sorted(place for place in first.values() if rows[place].read == read)
            events = engine.generate([rows[place] for place in places], plan.sampling, Run(stopped, like=len(rows)))
            fresh = yield from _renumbered(events, places)
            outputs |= {keys[place]: output for place, output in zip(places, fresh, strict=True)}
        self._memo |= {key: output for key, output in outputs.items() if output.answer.finish != "interrupted"}
        return [outputs[key] for key in keys]

    def _begin(self, group: _Group, setting: Setting, plan: Plan, rows: int) -> Pair:
        """A pair without its answers, logged. `rows`: of its batch."""
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
        batch = {ROWS_THEN: str(max(rows, plan.like))} | ({POOL_THEN: str(plan.pool)} if plan.pool else {})
        origin = Origin(
            fingerprint=engine.fingerprint,
            kind=plan.kind,
            experiment_id=plan.experiment,
            messages=messages,
            device=str(engine.device),
            dtype=engine.dtype,
            threads=engine.threads,
            versions={"processor": engine.processor, "products": engine.products, **batch},
            vectors=self.reader.digests(recipe, setting.drawn(group.seed)) if recipe.active else {},
            sampling=plan.sampling.to_json() | self._rendering(plan),
            context=question.context,
        )
        return replace(pair, id=plan.journal.begin(pair, origin, plan.system))

    def _rendering(self, plan: Plan) -> dict[str, Any]:
        """What the chat template was told beside the messages, and who asked."""
        facts: dict[str, Any] = {}
        if plan.thought is not None:
            facts["thinking"] = plan.thought
        if plan.client:
            facts["client"] = plan.client
        if plan.when is not None and self.reader.engine.prompter.tells_time:
            facts["rendered"] = plan.when.isoformat()
        return facts


def _finish(plan: Plan, job: _Job, pair: Pair, status: Status, normals: dict[int, int | None]) -> None:
    """Log how a pair ended."""
    if plan.journal is None:
        return
    normal = job.places[0]
    measures = dict(pair.measures)
    if plan.experiment is not None:
        # Two settings can have the same recipe (a random push beside its control): the index tells them apart.
        measures[SETTING] = float(job.setting)
    normals[normal] = plan.journal.finish(pair, status, normals.get(normal), measures)


def _key(row: Row, sampling: Sampling) -> object:
    """All that a row's output depends on, on one model."""
    pushes = hashlib.sha256()
    for edit in row.edits:
        pushes.update(edit.key)
    return row.prompt, row.seed, row.scope, row.read, pushes.digest(), sampling


def _renumbered(
    events: Generator[Delta | Finished, None, list[Output]], places: Sequence[int]
) -> Generator[Delta | Finished, None, list[Output]]:
    """Events of some rows under the numbers that these rows have among all."""
    run = Returning(events)
    for event in run:
        yield replace(event, row=places[event.row])
    return run.value
