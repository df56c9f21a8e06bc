"""Loading a model in the background, so that the user can type meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..engine.processes import Team
from ..system.memory import parse_size
from ..system.settings import Settings
from ..values.errors import Interrupted, ModelError, SteerchatError
from ..values.results import Notice, Progress, Report
from .find import find, size_to_fetch

if TYPE_CHECKING:
    from ..engine.engine import Engine

# transformers patches itself for all threads while it loads: of two models at once, one would come out without a head.
_one_at_a_time = threading.Lock()


class Loader:
    """Loads one model in a thread.

    Args:
        name: as for `--model`.
        settings: device, precision, and the ways to make the model fit.
        team: this process among others that load the model too; it counts as loaded when all have loaded it.
    """

    def __init__(self, name: str, settings: Settings, team: Team | None = None) -> None:
        self.name = name
        self._settings = settings
        self._team = team
        self._done = threading.Event()
        self._dropped = False
        self._engine: Engine | None = None
        self._error: SteerchatError | None = None
        self._progress: Progress | None = None
        self._loading = False  # the files are on this machine and being read
        self._notices: list[Notice] = []
        self._thread = threading.Thread(target=self._load, name="loader", daemon=True)

    def start(self) -> Loader:
        """Start the thread, once."""
        if self._thread.ident is None:
            self._thread.start()
        return self

    @property
    def ready(self) -> Engine | None:
        """The engine, or None before it is loaded."""
        return self._engine

    @property
    def failed(self) -> SteerchatError | None:
        return self._error

    @property
    def status(self) -> str:
        """The state of the work, in a few words."""
        if self._engine is not None:
            return "ready"
        if self._error is not None:
            return "not loaded"
        return "loading" if self._loading else self._progress.label if self._progress else "loading"

    def drop(self) -> None:
        """Unload the engine, or stop loading it, to free the memory for another."""
        self._dropped = True
        if self._engine is not None:
            self._engine.forget()
        self._engine, self._error = None, ModelError(f"{self.name} was unloaded", f"/model {self.name}")

    def wait(self, report: Report = lambda event: None, stopped: Callable[[], bool] = lambda: False) -> Engine:
        """Wait until the engine is loaded; progress goes to `report`.

        Raises:
            ModelError: when it cannot be loaded.
            Interrupted: when `stopped` returns True; loading continues in the background.
        """
        self.start()
        shown: Progress | None = None
        while not self._done.wait(0.1):
            if stopped():
                raise Interrupted("waiting for the model")
            while self._notices:
                report(self._notices.pop(0))
            event = self._progress or Progress(f"loading {self.name}", 0)
            if event != shown:
                report(event)
                shown = event
        while self._notices:
            report(self._notices.pop(0))
        self._settle()
        if self._error is not None:
            raise self._error
        assert self._engine is not None
        return self._engine

    def _load(self) -> None:
        try:
            settings, code = self._settings, self._settings.trust_remote_code == "on"
            most = None if settings.memory == "auto" else parse_size(settings.memory)
            offload = None if settings.offload == "off" else settings.offload
            if (size := size_to_fetch(self.name)) is not None:
                from .load import check_size

                check_size(self.name, size, settings.device, settings.dtype, most, offload)
            files = find(self.name, progress=self._report, code=code)
            self._report(Progress(f"loading {files.name}", 0))
            from .load import load

            with _one_at_a_time:
                if self._dropped:
                    return
                self._loading = True
                engine = load(
                    files,
                    settings.device,
                    settings.dtype,
                    most=most,
                    offload=offload,
                    code=code,
                    team=self._team,
                    report=self._report,
                )
                self._engine = None if self._dropped else engine
        except SteerchatError as error:
            self._error = error
        except Exception as error:  # an exception in a thread would be lost: `wait` raises it
            self._error = ModelError(f"{self.name} cannot be loaded: {error}", "try --model smollm2")
        finally:
            self._done.set()

    def _settle(self) -> None:
        """Fail in every process when one of them failed to load the model.

        Not in the loader's thread: the processes have to meet in the same order.
        """
        if self._team is None:
            return
        team, self._team = self._team, None
        try:
            team.gather([], self._error)
        except SteerchatError as error:
            self._engine, self._error = None, error
        except Exception as error:  # another process has ended
            self._engine, self._error = None, ModelError(f"another process is gone: {error}", "start them again")

    def _report(self, event: Notice | Progress) -> None:
        if isinstance(event, Progress):
            self._progress = event
        else:
            self._notices.append(event)
