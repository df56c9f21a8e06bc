"""The verbs of a chat: say, steer, compare, take back. Conversation state lives here, screens do not.

A verb that generates returns an iterator of events; others return values. Every pair is in the store before
its first token, so that what a user saw is never lost.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Event as Flag
from typing import TYPE_CHECKING

from ..concepts.library import Library
from ..measures.calibration import Calibration
from ..measures.reader import Reader
from ..storage.journal import Journal
from ..storage.store import Store
from ..system.settings import Settings
from ..values.errors import SteerchatError, StoreError, UsageError
from ..values.operation import OPERATIONS
from ..values.recipe import RANDOM, Recipe, Term, TermRequest, format_strength, parse_layers
from ..values.results import Answer, Event, Notice, Pair, PairDone, Probed, Report, Returning, Started, Watch
from ..values.setting import Message, Setting
from ..values.text import counted
from ..values.thinking import thinking
from .runner import Plan, Question, Runner, Trial

if TYPE_CHECKING:
    from ..engine.engine import Engine
    from ..engine.sampling import Sampling


class Session:
    """One conversation and what steers it.

    Args:
        settings: read at every turn, so a change counts from the next one.
        engine: gives the loaded model; may block while it loads.
        store: the history; None keeps none.
    """

    def __init__(
        self,
        settings: Settings,
        library: Library,
        engine: Callable[[], Engine],
        store: Store | None,
        report: Report = lambda event: None,
    ) -> None:
        self.settings = settings
        self.library = library
        self.calibration = Calibration(library)
        self.journal = Journal(store, report)
        self.recipe = Recipe(scope=settings.scope)
        self.system = ""
        self.turns: list[Pair] = []
        self._left_out = (0, 0)  # the size of a context, and how many of the oldest turns did not fit into it
        self.last: Pair | None = None
        self.shown: Pair | None = None  # the last pair whose answers were shown, which a sweep's are not
        self.probes: tuple[str, ...] = ()  # concepts that are read in every answer
        self.report = report
        self.stop = Flag()
        self.dial: Callable[[int], float] | None = None  # as of `engine.decoding.Run`, of a person at a terminal
        self._engine = engine
        self._draws = 0
        self._conversation = object()  # by which the engine tells conversations apart

    @property
    def engine(self) -> Engine:
        return self._engine()

    @property
    def store(self) -> Store:
        """The history. Raises StoreError when this conversation is not logged."""
        if self.journal.store is None:
            raise StoreError("this chat is not logged", "the first lines of the chat say why")
        return self.journal.store

    def close(self) -> None:
        """End the conversation and close the history."""
        self.new()
        if self.journal.store is not None:
            self.journal.store.close()

    # Steering

    def resolve(self, request: TermRequest) -> tuple[Term, list[str]]:
        """A typed term against the model and the library: layers as numbers, gaps filled by what is recommended.

        Returns:
            the term, and sentences about what was chosen for the user.

        Raises:
            UnknownName: for a concept that does not exist.
            UsageError: for a layer the model lacks.
            ConceptError: for a level that a concept does not have there.
        """
        methods = {name: self.library.get(name).method for name, _ in request.parts}
        engine = self.engine
        lead = max(request.parts, key=lambda part: abs(part[1]))[0]
        layers, strength, tuned = self.library.recommended(lead, engine.fingerprint)
        how = OPERATIONS[request.operation]
        if how.default is not None:
            strength = how.default
        if request.gate.when is not None:
            self.library.get(request.gate.when.concept)
        if request.gate.decay is not None and how.number != "strength":
            raise UsageError(f"{how.name} has no strength that could decay", "--first 20 ends it after 20 tokens")
        place = parse_layers(request.layers or layers, engine.n_layers)
        notes = list(request.notes)
        if lead == RANDOM:
            if request.layers is None and request.strength is None:
                # A control: as hard, and at the same layers, as what it is compared with.
                for term in self.recipe.terms:
                    if term.operation == request.operation:
                        place, strength = term.layers, term.strength
        elif not tuned and request.strength is None and how.default is None and how.number:
            default = format_strength(strength)
            notes.append(f"no tuned strength for this model: using {default}; /tune {lead} finds one")
        if methods[lead] == "end":
            notes.append(f"{lead} shows in how long answers are, and hardly in the effect: /compare --repeats 5 counts")
        chosen = strength if request.strength is None else request.strength
        term = Term(request.parts, place, chosen, request.operation)
        if how.number == "level":  # which a concept has not at every layer
            self.reader.edits(Recipe((term,)), 0)
        return replace(term, gate=request.gate), notes

    def steer(self, requests: Sequence[TermRequest], keep: bool = False) -> list[str]:
        """Replace the recipe (or extend it, with `keep`) and return sentences about what was chosen."""
        recipe = self.recipe if keep else Recipe(scope=self.settings.scope)
        notes: list[str] = []
        for request in requests:
            term, term_notes = self.resolve(request)
            recipe = recipe.add(term)
            notes += term_notes
        self.recipe = recipe
        return notes

    def drop(self, concept: str) -> None:
        """Take a concept's terms out of the recipe. Raises UsageError when it has none."""
        shorter = self.recipe.drop(concept)
        if shorter == self.recipe:
            names = ", ".join(self.recipe.concepts) or "nothing"
            raise UsageError(f"{concept} is not in the recipe", f"it steers {names}")
        self.recipe = shorter

    def switch(self, on: bool) -> None:
        if on and not self.recipe.terms:
            raise UsageError("there is no recipe to resume", "/steer happy 16 2.0")
        self.recipe = replace(self.recipe, on=on)

    # Conversation

    def say(self, text: str, seed: int | None = None, recipe: Recipe | None = None) -> Iterator[Event]:
        """Answer a message, normal and, if the recipe is active, steered.

        Args:
            seed: of this turn; the next of the session's when None.
            recipe: instead of the session's, to repeat a turn.
        """
        if not text.strip():
            raise UsageError("the message is empty", "type something, or /help")
        recipe = recipe or replace(self.recipe, scope=self.settings.scope)
        before = self._left_out
        normal, steered, dropped = self._fit(text, recipe)
        if dropped and self._left_out != before:
            yield Notice(f"the model's memory is full: its context now lacks the oldest {counted(dropped, 'turn')}")
        draw = self._next_seed() if seed is None else seed
        context = [turn.id for turn in self.turns[dropped:]]
        question = Question(text, normal, steered if recipe.active else None, tuple(context))
        plan = replace(self.plan("chat"), keep=self._conversation)
        yield from self.answer(question, Setting("", recipe), draw, plan)
        assert self.last is not None
        self.turns.append(self.last)

    def carry_on(self, text: str) -> Iterator[Event]:
        """Continue `text` itself, without template and outside the conversation."""
        return self.compare(text, raw=True, kind="continue", seed=self._next_seed())

    def compare(
        self,
        prompt: str,
        raw: bool = False,
        repeats: int = 1,
        kind: str = "compare",
        seed: int | None = None,
        recipe: Recipe | None = None,
    ) -> Iterator[Event]:
        """Answer a prompt outside the conversation, once for each of `repeats` seeds, one after the other."""
        if not prompt.strip():
            raise UsageError("the prompt is empty", "/compare Tell me about the weather")
        recipe = recipe or replace(self.recipe, scope=self.settings.scope)
        question, setting = self.question(prompt, recipe.active), Setting("", recipe)
        first = self.settings.seed if seed is None else seed
        for number in range(repeats):
            yield from self.answer(question, setting, first + number, self.plan(kind, raw))
            if self.stop.is_set():
                break

    def question(self, prompt: str, steered: bool) -> Question:
        """A prompt that stands outside the conversation, with or without a steered column."""
        messages = [*self.head(), {"role": "user", "content": prompt}]
        return Question(prompt, messages, messages if steered else None)

    def retry(self, same: bool = False) -> Iterator[Event]:
        """Answer the last message again: freshly, or with the same seed and recipe."""
        turn = self._last_turn()
        seed, recipe = (turn.seed, turn.recipe) if same else (None, None)
        return self._answer_in_place(turn.prompt, seed, recipe)

    def edit(self, text: str) -> Iterator[Event]:
        """Replace the last message by `text` and answer it."""
        self._last_turn()
        return self._answer_in_place(text)

    def undo(self) -> Pair:
        """Take back the last turn; it stays in the history, marked."""
        turn = self._last_turn()
        del self.turns[-1]
        self.journal.take_back(turn.id)
        self._left_out = (0, 0)
        return turn

    def new(self) -> int | None:
        """Begin a new conversation. Returns where the old one is in the history."""
        self.turns = []
        self._left_out = (0, 0)
        return self.journal.end()

    def go_on(self, turns: Sequence[Pair], system: str, session_id: int | None = None) -> None:
        """End this conversation and continue another.

        Args:
            turns: its turns, at least one.
            session_id: where it is in the history; None goes on as a new one.
        """
        self.new()
        self.turns, self.system = list(turns), system
        self.last = self.shown = turns[-1]
        self._draws = max(0, turns[-1].seed + 1 - self.settings.seed)
        if session_id is not None:
            self.journal.resume(session_id)

    def reseed(self, seed: int) -> None:
        """The next answer has this seed, and those after it the ones that follow."""
        self.settings.change("seed", seed)
        self._draws = 0

    def last_prompt(self) -> str:
        """The last message, for experiments without a prompt. Raises UsageError when there is none."""
        return self._last_turn("say something first, or put a prompt on the line").prompt

    def _last_turn(self, hint: str = "say something first") -> Pair:
        if not self.turns:
            raise UsageError("nothing was said yet", hint)
        return self.turns[-1]

    def _answer_in_place(self, text: str, seed: int | None = None, recipe: Recipe | None = None) -> Iterator[Event]:
        """Answer `text` in place of the last turn, which stays when nothing comes of it."""
        old = self.turns.pop()
        kept = len(self.turns)
        try:
            yield from self.say(text, seed, recipe)
        finally:
            if len(self.turns) == kept:
                self.turns.append(old)
            else:
                self.journal.take_back(old.id)

    # Contexts

    def head(self) -> list[Message]:
        """The system message, if there is one."""
        return [{"role": "system", "content": self.system}] if self.system else []

    def _messages(self, column: str, turns: Sequence[Pair], text: str) -> list[Message]:
        carry = self.settings.carry
        steered = (column if carry == "own" else carry) == "steered"
        messages = self.head()
        for turn in turns:
            answer = turn.answers[-1] if steered else turn.normal  # an unsteered turn has the normal one in both
            messages.append({"role": "user", "content": turn.prompt})
            messages.append({"role": "assistant", "content": answer.text})
        return [*messages, {"role": "user", "content": text}]

    def _fit(self, text: str, recipe: Recipe) -> tuple[list[Message], list[Message], int]:
        """Both columns' messages, less the oldest turns that do not fit, and how many those are.

        A turn that was left out stays out, and a quarter of the room is made at a time: whenever the beginning of a
        prompt changes, all of it is read anew.
        """
        engine = self.engine
        size, thought = engine.context_size, self.settings.thought
        room = size - min(self.settings.max_tokens, size // 2)

        def messages(dropped: int) -> tuple[list[Message], list[Message]]:
            turns = self.turns[dropped:]
            return self._messages("normal", turns, text), self._messages("steered", turns, text)

        def longest(dropped: int) -> list[int]:
            return max((engine.prompter.chat(column, thought) for column in messages(dropped)), key=len)

        def length(dropped: int) -> int:
            return len(longest(dropped))

        last = len(self.turns)
        dropped = self._left_out[1] if self._left_out[0] == size else 0
        if dropped < last and length(dropped) > room:
            # By halves: a conversation of hundreds of turns would be read hundreds of times.
            aim = room * 3 // 4 if length(last) <= room // 2 else room
            dropped += 1 + bisect_left(range(dropped + 1, last), True, key=lambda count: length(count) <= aim)
        if dropped == last:
            engine.check(longest(dropped))
        self._left_out = (size, dropped)
        return *messages(dropped), dropped

    def _next_seed(self) -> int:
        """A new seed for every answer that is not a repetition: they follow from the session's first."""
        seed = self.settings.seed + self._draws
        self._draws += 1
        return seed % 2**63

    # One pair

    def answer(self, question: Question, setting: Setting, seed: int, plan: Plan) -> Iterator[Event]:
        """One pair as it streams, logged before its first token."""
        reader = self.reader
        prompter = reader.engine.prompter
        plan = replace(plan, dial=plan.dial or self.dial)
        run = Returning(Runner(reader).run([question], [setting], [seed], plan))
        titles = ("normal", f"steered: {setting.recipe}" if setting.recipe.active else "asked for")
        opened = prompter.opens_thought(plan.thought) and not plan.raw
        strength = next((term.strength for term in setting.recipe.graded), None)
        yield Started(titles[: 1 if question.steered is None else 2], opened, strength)
        for event in run:
            if isinstance(event, PairDone):
                self.last = self.shown = event.pair
            yield event
        [trial] = run.value
        if prompter.thinks and any(_thinks(output.answer, opened) for output in trial.outputs):
            yield Notice("the model was still thinking when its tokens ran out; /set max-tokens gives it more")
        if self.probes:
            yield from self._probed(trial, reader)

    def _probed(self, trial: Trial, reader: Reader) -> Iterator[Event]:
        """The strips of a new pair. A concept that was deleted meanwhile ends the probing, not the turn."""
        from ..measures.inspection import probe

        try:
            strips = probe(reader, self.probes, trial.pair, [row.prompt for row in trial.rows])
        except SteerchatError as error:
            self.probes = ()
            yield Notice(f"{error.message}; nothing is read under the answers any more")
            return
        if strips:
            yield Probed(strips)

    @property
    def watch(self) -> Watch:
        """How long work in this conversation reports its progress and learns that it must end."""
        return Watch(self.report, self.stop.is_set)

    @property
    def reader(self) -> Reader:
        """The concepts of the model, for one run."""
        return Reader(self.engine, self.library, self.calibration, self.watch)

    def plan(self, kind: str, raw: bool = False) -> Plan:
        """How a run of this conversation answers, and where it is logged."""
        return Plan(self.sampling(), self.journal, self.system, kind, raw=raw, thought=self.settings.thought)

    def sampling(self) -> Sampling:
        """How the next answer's tokens are chosen."""
        from ..engine.sampling import Sampling

        s = self.settings
        return Sampling(s.temperature, s.top_p, s.repetition_penalty, s.max_tokens, s.steer_thinking == "on")


def _thinks(answer: Answer, opened: bool) -> bool:
    """Whether an answer ran out of tokens before its reply began."""
    return answer.finish == "length" and bool(answer.text) and thinking(answer.text, opened)
