"""Experiments: one prompt under many settings and seeds, in as few batches as are sensible, each pair logged.

All settings of a seed share its noise and its normal answer, so that a row differs by its setting alone. What was
finished when a run is stopped is kept, shown and logged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..conversation.session import Message, Session
from ..engine.processes import count
from ..measures.pair import measured
from ..values.errors import UsageError
from ..values.results import Answer, Finished, Pair, Progress
from .outcomes import SETTING, Result, Setting, best, outcome

if TYPE_CHECKING:
    from ..engine.decoding import Row
    from ..engine.engine import Output
    from ..engine.sampling import Sampling

# Rows of one batch, for each process: more are hardly quicker on a CPU, and the seeds that are done come out earlier.
_ROWS = 32


class Experiment:
    """Runs settings.

    Args:
        session: model, concepts, sampling and the log.
        kind: for the log.
        prompt: what every row answers.
        settings: at least one.
        repeats: seeds, counted from the session's.
        raw: go on from the prompt itself.
        tokens: the longest answer; never longer than the session's.
        label: for its progress; the kind when empty.
    """

    def __init__(
        self,
        session: Session,
        kind: str,
        prompt: str,
        settings: Sequence[Setting],
        repeats: int,
        raw: bool = False,
        tokens: int | None = None,
        label: str = "",
    ) -> None:
        if not prompt.strip():
            raise UsageError("the prompt is empty", f"/{kind} Tell me about the weather")
        self._session = session
        self._kind = kind
        self._prompt = prompt
        self._settings = settings
        self._repeats = repeats
        self._raw = raw
        self._label = label or kind
        usual = session.sampling()
        self._sampling = replace(usual, max_tokens=min(usual.max_tokens, tokens or usual.max_tokens))
        self._pairs: dict[int, list[Pair]] = {index: [] for index in range(len(settings))}
        self._experiment: int | None = None

    def run(self) -> Result:
        """Answer everything. Stopping is no error: the result says how far it got."""
        session, journal = self._session, self._session.journal
        engine = session.engine
        spec = {
            "settings": [one.to_json() for one in self._settings],
            "repeats": self._repeats,
            "raw": self._raw,
            "tokens": self._sampling.max_tokens,
            "seed": session.settings.seed,
        }
        self._experiment = journal.begin_experiment(
            self._kind, self._prompt, spec, engine.name, engine.fingerprint, session.system
        )
        status = "failed"
        try:
            seeds = range(session.settings.seed, session.settings.seed + self._repeats)
            size = max(1, _ROWS * count() // (len(self._settings) + 1))
            for first in range(0, self._repeats, size):
                self._batch(seeds[first : first + size], first)
                if session.stop.is_set():
                    break
            status = "interrupted" if session.stop.is_set() else "complete"
        finally:
            journal.finish_experiment(self._experiment, status)
        chance = session.calibration.chance(engine.fingerprint)
        outcomes = (outcome(chance, self._settings[index], pairs) for index, pairs in self._pairs.items())
        found = tuple(one for one in outcomes if one is not None)
        if found:  # what `/why` looks into then
            shown = best([one for one in found if one.setting.along is None]) or found[0]
            session.last = shown.pairs[0]
        return Result(self._kind, self._prompt, found, self._repeats, session.stop.is_set(), self._experiment)

    def _batch(self, seeds: Sequence[int], done: int) -> None:
        """Some seeds, each with its normal row before those of the settings."""
        session = self._session
        rows: list[Row] = []
        pairs: list[tuple[int, int, int | None]] = []  # index of a setting, seed, id in the history
        for seed in seeds:
            rows.append(self._row(None, seed))
            rows += [self._row(setting, seed) for setting in self._settings]
        for seed in seeds:
            pairs += [(index, seed, self._begin(setting, seed)) for index, setting in enumerate(self._settings)]
        started, finished = time.monotonic(), 0
        width = len(self._settings) + 1
        shared: dict[int, int | None] = {}
        try:
            outputs = self._generate(rows, done)
            seconds = (time.monotonic() - started) / len(pairs)  # a pair's share of the batch
            for index, seed, pair_id in pairs:
                setting, start = self._settings[index], seeds.index(seed) * width
                both = [outputs[start], outputs[start + 1 + index]]
                pair = measured(
                    session, pair_id, self._prompt, seed, setting.recipe, both, self._raw, seconds, setting.along
                )
                pair = replace(pair, layer=setting.layer, strength=setting.strength)
                cut = any(output.answer.finish == "interrupted" for output in both)
                status = "interrupted" if cut else "complete"
                # Two settings can have the same recipe (a random push beside its control): the index tells them apart.
                shared[seed] = session.journal.finish(pair, status, shared.get(seed), {SETTING: index})
                self._pairs[index].append(pair)
                finished += 1
        finally:
            # An error while generating or measuring leaves no row of the history `running`.
            for index, seed, pair_id in pairs[finished:]:
                recipe = self._settings[index].recipe
                failed = Pair(pair_id, self._prompt, session.engine.name, recipe, seed, _LOST, None)
                session.journal.finish(failed, "failed")

    def _generate(self, rows: Sequence[Row], done: int) -> list[Output]:
        """The answers, with their progress told."""
        session, size = self._session, len(self._settings) + 1
        total = self._repeats * size

        def told(ended: int) -> None:
            session.report(Progress(f"{self._label}: {total} answers", done * size + ended, total))

        return answers(session, rows, self._sampling, told)

    def _messages(self, setting: Setting | None) -> list[Message]:
        asking = f" {setting.asking}" if setting is not None and setting.asking else ""
        return [*self._session.head(), {"role": "user", "content": self._prompt + asking}]

    def _row(self, setting: Setting | None, seed: int) -> Row:
        from ..engine.decoding import Row

        engine = self._session.engine
        asked = setting is not None and setting.asking
        prompt = engine.prompter.raw(self._prompt) if self._raw else engine.prompter.chat(self._messages(setting))
        engine.check(prompt)
        if setting is None or asked:
            return Row(tuple(prompt), (), seed)
        return Row(tuple(prompt), self._session.edits(setting.recipe, seed), seed, setting.recipe.scope)

    def _begin(self, setting: Setting, seed: int) -> int | None:
        messages = {"normal": self._messages(None), "steered": self._messages(setting)}
        record = self._session.record(
            self._prompt,
            setting.recipe,
            seed,
            self._kind,
            self._raw,
            messages,
            experiment_id=self._experiment,
            layer=setting.layer,
            strength=setting.strength,
            sampling=self._sampling.to_json(),
        )
        return self._session.journal.begin(record, self._session.system)


_LOST = Answer("", 0, "failed")


def answers(session: Session, rows: Sequence[Row], sampling: Sampling, told: Callable[[int], None]) -> list[Output]:
    """The answers of many rows, whose texts nobody watches.

    Args:
        session: its engine and its stop.
        rows: what is answered.
        sampling: for all of them.
        told: given how many have ended, at first 0.
    """
    run, ended = session.engine.generate(rows, sampling, session.stop.is_set), 0
    told(ended)
    while True:
        try:
            event = next(run)
        except StopIteration as end:
            return end.value
        if isinstance(event, Finished):
            ended += 1
            told(ended)
