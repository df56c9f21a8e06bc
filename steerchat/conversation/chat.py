"""What a command is given: the session, the settings, the model on its way, and someone to ask."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..concepts.library import Library
from ..engine.processes import Team, is_first
from ..models.background import Loader
from ..models.find import ALIASES
from ..models.memory import trim
from ..slash.registry import Registry
from ..storage.store import Store
from ..system import folders
from ..system.settings import Settings, descriptions
from ..values.errors import ConceptError, SteerchatError, StoreError, TooLarge, UsageError, shorten
from ..values.results import Notice, Progress
from .session import Session

if TYPE_CHECKING:
    from ..engine.engine import Engine

Candidate = tuple[str, str]


class Companion(Protocol):
    """A tutor: it may reword a line before the command runs, and look at what came of it."""

    def meant(self, line: str) -> str: ...

    def after_line(self, line: str) -> list[object] | None: ...

    def facts(self) -> Mapping[str, float]: ...


class Chat:
    """Everything behind one running steerchat.

    Args:
        settings: of this start.
        registry: the commands.
        report: told of long work and notices.
        ask: puts a question with choices, or without any for a free text, to the user and returns the answer; None
            when nobody is there.
        team: this process among others at the same command; only the first of them has a history.
        history: the file to log into; the user's own when None.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        report: Callable[[Notice | Progress], None] = lambda event: None,
        ask: Callable[[str, Sequence[str]], str] | None = None,
        team: Team | None = None,
        history: Path | None = None,
    ) -> None:
        self.team = team
        self.settings = settings
        self.registry = registry
        self.report = report
        self.leaving = False
        self.single = False  # one command of the shell: there is no conversation after it
        self.editing: str | None = None  # a text that the next prompt starts with
        self.tutor: Companion | None = None  # the course, once it was asked for
        self.companion: Companion | None = None  # asked what a line means and told when it worked, while a lesson runs
        self._ask = ask
        self.library = Library(
            folders.packaged("vectors"),
            folders.data_dir() / "concepts",
            folders.cache_dir() / "vectors",
            reserved=registry.reserved_words(),
        )
        self.loader = self._loader(settings.model)
        store = self._open_store(history) if is_first() else None
        self.session = Session(settings, self.library, self._engine, store, self._forward)
        if team is not None:
            team.stopped = self.session.stop.set

    def start(self) -> Chat:
        """Begin to load the model, behind."""
        self.loader.start()
        return self

    def ask(self, question: str, choices: Sequence[str] = ()) -> str:
        """The user's choice, or what they type where there are no choices.

        Raises:
            UsageError: when nobody is there to answer.
        """
        if self._ask is None:
            raise UsageError(f"{question} Nobody is there to answer", "put the answer on the line")
        return self._ask(question, choices)

    @property
    def can_ask(self) -> bool:
        return self._ask is not None

    def switch_model(self, name: str) -> Engine:
        """Load another model in place of the one at hand, which stays when that fails. The conversation goes on."""
        before = self.loader
        try:
            engine = self._take(name)
        except TooLarge as error:
            if before.ready is None or error.missing > before.ready.size:
                raise
            engine = self._take_alone(before, name)
        before.drop()
        self.settings.change("model", self.loader.name)
        free()
        return engine

    def _take(self, name: str) -> Engine:
        fresh = self._loader(name).start()
        engine = fresh.wait(self.report, self.session.stop.is_set)
        self.loader = fresh
        return engine

    def _take_alone(self, before: Loader, name: str) -> Engine:
        """Where two models do not fit at once, the one at hand goes first, and is loaded again if need be."""
        before.drop()
        free()
        try:
            return self._take(name)
        except SteerchatError:
            self.loader = self._loader(before.name).start()
            raise

    def _loader(self, name: str) -> Loader:
        return Loader(name, self.settings, self.team)

    def close(self) -> None:
        if self.session.journal.store is not None:
            self.session.new()
        if self.session.journal.store is not None:
            self.session.journal.store.close()

    def _engine(self) -> Engine:
        try:
            return self.loader.wait(self.report, self.session.stop.is_set)
        except TooLarge as error:
            smaller = self._instead(error)
            if smaller is None:
                raise
            self.report(Notice(f"{error.message}; {smaller} is loaded instead"))
            self.settings.change("model", smaller)
            self.loader = self._loader(smaller).start()
            return self._engine()

    def _instead(self, error: TooLarge) -> str | None:
        """The smaller model that is wanted in place of one that does not fit: by --fallback, or asked for."""
        if error.smaller is None or self.settings.fallback == "on":
            return error.smaller
        question = f"{error.message}. Load {error.smaller} instead?"
        return error.smaller if self.can_ask and self.ask(question, ("yes", "no")) == "yes" else None

    def _forward(self, event: Notice | Progress) -> None:
        self.report(event)

    def _open_store(self, path: Path | None) -> Store | None:
        try:
            return Store.open(path or history_path())
        except StoreError as error:
            self.report(Notice(f"{error.message}; this chat is not logged. {error.hint}"))
            return None


class Menu:
    """Answers the completer's questions about a chat, at once and without the model (`arguments.Completions`)."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    @property
    def n_layers(self) -> int | None:
        engine = self._chat.loader.ready
        return None if engine is None else engine.n_layers

    def concepts(self) -> Iterable[Candidate]:
        for name in self._chat.library.names():
            try:
                concept = self._chat.library.get(name)
            except ConceptError as error:
                yield name, error.message
                continue
            yield name, concept.description

    def recommended(self, concept: str) -> tuple[str, float] | None:
        engine = self._chat.loader.ready
        if engine is None:
            return None
        try:
            layers, strength, _ = self._chat.library.recommended(concept, engine.fingerprint)
        except SteerchatError:
            return None
        return layers, strength

    def settings(self) -> Iterable[tuple[str, str, Sequence[str]]]:
        return [(d.name, d.help, d.choices) for d in descriptions().values()]

    def models(self) -> Iterable[Candidate]:
        return [(alias, hub) for alias, hub in ALIASES.items()]

    def commands(self) -> Iterable[Candidate]:
        return self._chat.registry.nouns()

    def pairs(self) -> Iterable[tuple[int, str]]:
        return self._of_history(lambda store: [(row.id, row.pair.prompt) for row in store.pairs(limit=20)])

    def sessions(self) -> Iterable[tuple[int, str]]:
        return self._of_history(lambda store: [(row.id, row.title) for row in store.sessions(limit=20)])

    def _of_history(self, read: Callable[[Store], list[tuple[int, str]]]) -> list[tuple[int, str]]:
        store = self._chat.session.journal.store
        try:
            return [] if store is None else read(store)
        except StoreError:
            return []


def free() -> None:
    """Give back what nobody refers to any more: modules and their hooks refer to each other."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim()


def unexpected(error: Exception) -> SteerchatError:
    """A mistake in steerchat itself, in a line; where it happened goes into a file."""
    path = folders.data_dir() / "last-error.txt"
    hint = "please report it"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
        hint += f", with {path}"
    except OSError:
        pass  # the line on the screen is what matters
    return SteerchatError(f"steerchat failed: {type(error).__name__}: {shorten(str(error), 200)}", hint)


def history_path() -> Path:
    """Where the notebook is."""
    return folders.data_dir() / "history.db"


def config_path() -> Path:
    return folders.config_dir() / "config.toml"
