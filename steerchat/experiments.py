"""Experiments: one prompt under many settings and seeds, in as few batches as are sensible, each pair logged.

All settings of a seed share its noise and its normal answer, so that a row differs by its setting alone. What was
finished when a run is stopped is kept, shown and logged.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .errors import UsageError
from .measuring import measured
from .outcomes import Result, Setting, best, outcome
from .processes import count
from .recipe import RANDOM, Recipe, Term, TermRequest, format_strength, parse_layers, parse_parts
from .results import Answer, Pair, Progress
from .session import Message, Session
from .several import answers

if TYPE_CHECKING:
    from .decoding import Row
    from .engine import Output
    from .records import StoredPair

# From pushing away to too much.
STRENGTHS = (-4.0, -2.0, 0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
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
        chance = session.library.chance(engine.fingerprint)
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
        started, complete = time.monotonic(), False
        try:
            outputs = self._generate(rows, done)
            complete = True
        finally:
            if not complete:
                for index, seed, pair_id in pairs:
                    failed = Pair(
                        pair_id, self._prompt, session.engine.name, self._settings[index].recipe, seed, _LOST, None
                    )
                    session.journal.finish(failed, "failed")
        seconds = time.monotonic() - started
        width = len(self._settings) + 1
        shared: dict[int, int | None] = {}
        for index, seed, pair_id in pairs:
            setting, start = self._settings[index], seeds.index(seed) * width
            both = [outputs[start], outputs[start + 1 + index]]
            pair = measured(
                session, pair_id, self._prompt, seed, setting.recipe, both, self._raw, seconds, setting.along
            )
            pair = replace(pair, layer=setting.layer, strength=setting.strength)
            cut = any(output.answer.finish == "interrupted" for output in both)
            shared[seed] = session.journal.finish(pair, "interrupted" if cut else "complete", shared.get(seed))
            self._pairs[index].append(pair)

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
        from .decoding import Row

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


# Settings


def chosen(session: Session, concept: str | None, layer: str | None = None, strength: float | None = None) -> Recipe:
    """The recipe that an experiment is about: a concept's or a mix's own, else the session's.

    Raises:
        UsageError: when nothing is steered, or what is steered adds nothing.
    """
    if concept is None:
        recipe = replace(session.recipe, on=True, scope=session.settings.scope)
        terms = [_at(term, layer, strength, session) for term in recipe.terms]
        recipe = replace(recipe, terms=tuple(terms))
    else:
        term, _ = session.resolve(TermRequest(parse_parts(concept), layer, strength))
        recipe = Recipe((term,), session.settings.scope)
    if not any(term.operation == "add" for term in recipe.terms):
        raise UsageError("nothing is steered", "/steer happy first, or name one with --concept happy")
    return recipe


def _at(term: Term, layer: str | None, strength: float | None, session: Session) -> Term:
    layers = term.layers if layer is None else parse_layers(layer, session.engine.n_layers)
    return replace(term, layers=layers, strength=term.strength if strength is None else strength)


def at_layers(recipe: Recipe, n_layers: int) -> list[Setting]:
    """The recipe at each layer by itself, all of its terms together."""

    def moved(layer: int) -> Recipe:
        return replace(recipe, terms=tuple(replace(term, layers=(layer,)) for term in recipe.terms))

    strength = recipe.terms[0].strength
    return [Setting(str(layer), moved(layer), layer, strength) for layer in range(n_layers)]


def at_strengths(recipe: Recipe, strengths: Sequence[float]) -> list[Setting]:
    """The recipe at each strength of its first adding term; further terms keep their share."""
    lead = next(term for term in recipe.terms if term.operation == "add")

    def scaled(strength: float) -> Recipe:
        terms = [
            replace(term, strength=strength * (term.strength / lead.strength if lead.strength else 1.0))
            if term.operation == "add"
            else term
            for term in recipe.terms
        ]
        return replace(recipe, terms=tuple(terms))

    layer = lead.layers[0] if len(lead.layers) == 1 else None
    return [Setting(format_strength(one), scaled(one), layer, one) for one in strengths]


def with_controls(recipe: Recipe, raw: bool) -> list[Setting]:
    """The recipe; random directions of its size, another for each seed; and, in a chat, asking for it in the prompt."""
    from .trials import ASKING

    adding = [term for term in recipe.terms if term.operation == "add"]
    random = Recipe(tuple(replace(term, parts=((RANDOM, 1.0),)) for term in adding), recipe.scope)
    wanted = [name for term in adding for name, weight in term.parts if weight * term.strength > 0 and name != RANDOM]
    settings = [Setting("steered", recipe), Setting("random push", random, along=recipe)]
    if wanted and not raw:
        asking = " ".join(ASKING.get(name, f"Be {name}.") for name in dict.fromkeys(wanted))
        settings.append(Setting("asked for", Recipe(), along=recipe, asking=asking))
    return settings


def mix_notes(session: Session, term: Term) -> list[str]:
    """A mix in words: its weights as they count, and the angles between its parts where it is pushed first.

    Raises:
        ConceptError: when the parts cancel out at one of its layers.
    """
    session.edits(Recipe((term,)), session.settings.seed)
    if len(term.parts) == 1:
        return []
    layer = term.layers[0]
    vectors = [session.library.vector(name, session.engine, session.report) for name, _ in term.parts]
    weights = ", ".join(f"{name} {100 * weight:.0f}%" for name, weight in term.parts)
    angles = ", ".join(
        f"{a.name} and {b.name} {math.degrees(math.acos(max(-1.0, min(1.0, float(a.cosine(b)[layer]))))):.0f} degrees"
        for a, b in itertools.combinations(vectors, 2)
    )
    return [f"weights {weights}; angles at layer {layer}: {angles}"]


def logged(session: Session, pair_id: int | None, earlier: bool = False) -> StoredPair:
    """A pair of the history that this model answered.

    Args:
        session: with the history.
        pair_id: the last one of this conversation when None.
        earlier: without a conversation, take the newest steered one of the history.

    Raises:
        UsageError: when there is none, or it was answered by another model.
    """
    if session.journal.store is None:
        raise UsageError("nothing is logged, so there is no pair to look into", "see /help trouble")
    wanted = pair_id if pair_id is not None or session.last is None else session.last.id
    if wanted is None and earlier:
        newest = session.journal.store.pairs(limit=100)
        wanted = next((one.id for one in newest if one.pair.steered is not None), None)
    if wanted is None:
        raise UsageError("there is no answer yet", "/steer happy, then say something, or name a pair by its number")
    stored = session.journal.store.pair(wanted)
    if stored.fingerprint != session.engine.fingerprint:
        raise UsageError(f"pair {stored.id} was answered by {stored.pair.model}", "start steerchat with that --model")
    return stored


def prompt_of(session: Session, stored: StoredPair, column: str) -> list[int]:
    """The tokens that a column's answer goes on from."""
    prompter = session.engine.prompter
    if stored.pair.raw:
        return prompter.raw(stored.pair.prompt)
    return prompter.chat(stored.messages.get(column) or stored.messages["normal"])
