"""The parts of one steerchat, built in one place: settings, library, model, history and conversations."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..concepts.library import Library
from ..engine.processes import Team
from ..models.background import Loader
from ..storage.store import Store
from ..system import folders
from ..system.memory import give_back
from ..system.settings import Settings
from ..values.errors import SteerchatError, TooLarge
from ..values.results import Notice, Report
from .session import Session

if TYPE_CHECKING:
    from ..engine.engine import Engine


class App:
    """Settings, library, model and history of one start. The chat, the shell and Python build on it.

    Args:
        reserved: names that no concept may have.
        team: this process among others at the same command.

    Attributes:
        store: the history that new conversations log into; None logs nothing.
        stopped: asked while a model loads.
    """

    def __init__(
        self,
        settings: Settings,
        report: Report = lambda event: None,
        reserved: Collection[str] = (),
        team: Team | None = None,
    ) -> None:
        self.settings = settings
        self.report = report
        self.team = team
        self.store: Store | None = None
        self.stopped: Callable[[], bool] = lambda: False
        self.library = Library(
            folders.packaged("vectors"),
            folders.data_dir() / "concepts",
            folders.cache_dir() / "vectors",
            reserved=reserved,
        )
        self.loader = self._loader(settings.model)

    def start(self) -> Self:
        """Begin to load the model in the background."""
        self.loader.start()
        return self

    def conversation(self) -> Session:
        """A new conversation. Several share the model, and each keeps its own contexts."""
        return Session(self.settings, self.library, self.engine, self.store, lambda event: self.report(event))

    def engine(self) -> Engine:
        """The model; waits while it loads. Raises ModelError when it cannot be loaded."""
        try:
            return self.loader.wait(self.report, self.stopped)
        except TooLarge as error:
            smaller = self._smaller_model(error)
            if smaller is None:
                raise
            self.report(Notice(f"{error.message}; {smaller} is loaded instead"))
            self.settings.change("model", smaller)
            self.loader = self._loader(smaller).start()
            return self.engine()

    def _smaller_model(self, error: TooLarge) -> str | None:
        """The smaller model to load in place of one that does not fit; None for none."""
        return error.smaller if self.settings.fallback == "on" else None

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
        give_back()
        return engine

    def _take(self, name: str) -> Engine:
        fresh = self._loader(name).start()
        engine = fresh.wait(self.report, self.stopped)
        self.loader = fresh
        return engine

    def _take_alone(self, before: Loader, name: str) -> Engine:
        """Where two models do not fit at once, the one at hand goes first, and is loaded again if need be."""
        before.drop()
        give_back()
        try:
            return self._take(name)
        except SteerchatError:
            self.loader = self._loader(before.name).start()
            raise

    def _loader(self, name: str) -> Loader:
        return Loader(name, self.settings, self.team)


def history_path() -> Path:
    """Where the notebook is."""
    return folders.data_dir() / "history.db"


def config_path() -> Path:
    return folders.config_dir() / "config.toml"
