"""What a command is given: the session, the settings, the model on its way, and someone to ask."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ..engine.processes import Team, is_first
from ..models.catalogue import KNOWN
from ..slash.arguments import Candidate
from ..slash.registry import Registry
from ..storage.store import Store
from ..system import folders
from ..system.settings import Settings, descriptions
from ..values.errors import ConceptError, SteerchatError, StoreError, TooLarge, UsageError, shorten
from ..values.recipe import format_strength
from ..values.results import Notice, Report
from .app import App, history_path


class Companion(Protocol):
    """A tutor: while a lesson runs, it may reword a line before the command runs, and look at what came of it."""

    @property
    def teaches(self) -> bool:
        """Whether a lesson runs."""
        ...

    def meant(self, line: str) -> str: ...

    def after_line(self, line: str) -> list[object] | None: ...

    def facts(self) -> Mapping[str, float]: ...


class Chat(App):
    """One running chat: the parts of steerchat, its conversation, the commands, and someone to ask.

    Args:
        ask: puts a question with choices, or without any for a free text, to the user and returns the answer; None
            when nobody is there.
        team: this process among others at the same command; only the first of them has a history.
        history: the file to log into; the user's own when None.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        report: Report = lambda event: None,
        ask: Callable[[str, Sequence[str]], str] | None = None,
        team: Team | None = None,
        history: Path | None = None,
    ) -> None:
        super().__init__(settings, report, registry.reserved_words(), team)
        self.registry = registry
        self.leaving = False
        self.single = False  # one command of the shell: there is no conversation after it
        self.editing: str | None = None  # a text that the next prompt starts with
        self.tutor: Companion | None = None  # the course, once it was asked for
        self._ask = ask
        self.store = self._open_store(history) if is_first() else None
        self.session = self.conversation()
        self.stopped = self.session.stop.is_set
        if team is not None:
            team.stopped = self.session.stop.set

    @property
    def companion(self) -> Companion | None:
        """The tutor while a lesson runs."""
        return self.tutor if self.tutor is not None and self.tutor.teaches else None

    def ask(self, question: str, choices: Sequence[str] = ()) -> str:
        """The user's choice, or what they type where there are no choices.

        Raises UsageError when nobody is there to answer.
        """
        if self._ask is None:
            raise UsageError(f"{question} Nobody is there to answer", "put the answer on the line")
        return self._ask(question, choices)

    @property
    def can_ask(self) -> bool:
        return self._ask is not None

    def close(self) -> None:
        self.session.close()

    def _smaller_model(self, error: TooLarge) -> str | None:
        """The smaller model that is wanted in place of one that does not fit: by --fallback, or asked for."""
        smaller = super()._smaller_model(error)
        if error.smaller is None or smaller is not None:
            return smaller
        question = f"{error.message}. Load {error.smaller} instead?"
        return error.smaller if self.can_ask and self.ask(question, ("yes", "no")) == "yes" else None

    def _open_store(self, path: Path | None) -> Store | None:
        try:
            store = Store.open(path or history_path())
            refused = store.refused
        except StoreError as error:
            store, refused = None, error
        if refused is not None:
            self.report(Notice(f"{refused.message}; this chat is not logged. {refused.hint}"))
        return store


class Menu:
    """Answers the completer's questions about a chat, at once and without the model (`arguments.Completions`)."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat

    @property
    def n_layers(self) -> int | None:
        engine = self._chat.loader.ready
        return None if engine is None else engine.n_layers

    def offers(self, what: str) -> Iterable[Candidate]:
        try:
            match what:
                case "concepts":
                    return [(name, self._description(name)) for name in self._chat.library.names()]
                case "models":
                    return [(alias, model.repository) for alias, model in KNOWN.items()]
                case "commands":
                    return self._chat.registry.nouns()
                case "settings":
                    return [(setting.name, setting.help) for setting in descriptions().values()]
                case "pairs":
                    pairs = self._chat.session.store.pairs(limit=20)
                    return [(str(stored.id), shorten(stored.pair.prompt)) for stored in pairs]
                case "sessions":
                    sessions = self._chat.session.store.sessions(limit=20)
                    return [(str(stored.id), shorten(stored.title)) for stored in sessions]
        except StoreError:
            pass
        return ()

    def _description(self, concept: str) -> str:
        try:
            return self._chat.library.get(concept).description
        except ConceptError as error:
            return error.message

    def recommended(self, concept: str) -> Sequence[str]:
        engine = self._chat.loader.ready
        if engine is None:
            return ()
        try:
            layers, strength, _ = self._chat.library.recommended(concept, engine.fingerprint)
        except SteerchatError:
            return ()
        return layers, format_strength(strength)

    def choices(self, setting: str) -> Sequence[str]:
        return descriptions()[setting].choices if setting in descriptions() else ()


def unexpected(error: Exception) -> SteerchatError:
    """A mistake in steerchat itself, in a line; where it happened goes into a file."""
    path = folders.data_dir() / "last-error.txt"
    hint = "please report it"
    with suppress(SteerchatError):  # the line on the screen is what matters
        folders.write_whole(path, "".join(traceback.format_exception(error)).encode("utf-8", "replace"))
        hint += f", with {path}"
    return SteerchatError(f"steerchat failed: {type(error).__name__}: {shorten(str(error), 200)}", hint)
