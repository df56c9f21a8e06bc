"""Writing a conversation into the history as it happens, and going on while that fails."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any

from .._version import __version__
from ..values.errors import StoreError, UnknownName
from ..values.results import Notice, Pair
from .records import PairRecord, Status
from .store import Store

# A failed write is tried again after this many times the time that it took to fail: another program's lock is waited
# for a minute, and not at every message.
_PAUSE = 20
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


class Journal:
    """One conversation's place in the history.

    Args:
        store: the history; None keeps none.
        report: told when writing begins to fail, and when it works again.

    Attributes:
        failing: whether the last attempt to write failed. Every new pair is another one.
    """

    def __init__(self, store: Store | None, report: Callable[[Notice], None]) -> None:
        self.store = store
        self.logged = 0  # pairs since the start
        self.session_id: int | None = None  # this conversation's; it gets one with its first pair
        self.failing = False
        self._again = 0.0  # when writing is tried again
        self._late: list[Callable[[Store], Any]] = []  # ends of pairs whose beginning is logged
        self._report = report

    def begin(self, record: PairRecord, system: str) -> int | None:
        """Log a pair before its first token. Returns its id, None when nothing is logged."""
        if not self._start(record.model, record.fingerprint, system):
            return None
        row = replace(record, session_id=self.session_id, versions=versions() | dict(record.versions))
        return self._write(lambda store: store.begin_pair(row))

    def finish(
        self,
        pair: Pair,
        status: Status,
        shared_normal: int | None = None,
        measures: Mapping[str, float] | None = None,
    ) -> int | None:
        """Complete what `begin` wrote.

        Args:
            pair: with the id that `begin` gave.
            status: how it ended.
            shared_normal: the stored normal answer of an earlier pair with the same one.
            measures: further measures by name.

        Returns:
            the stored normal answer, to be shared.
        """
        pair_id = pair.id
        if pair_id is None:
            return None

        def write(store: Store) -> int:
            stored = store.finish_pair(pair_id, pair, status, shared_normal, measures)
            self.logged += 1
            return stored

        normal = self._write(write)
        if normal is None:
            self._late.append(write)
        return normal

    def begin_experiment(
        self, kind: str, prompt: str, spec: Mapping[str, Any], model: str, fingerprint: str, system: str
    ) -> int | None:
        """Log an experiment before its first pair, which names it. Returns its id."""
        if not self._start(model, fingerprint, system):
            return None
        return self._write(lambda store: store.start_experiment(self.session_id, kind, prompt, spec))

    def finish_experiment(self, experiment: int | None, status: Status) -> None:
        if experiment is not None:
            self._write(lambda store: store.finish_experiment(experiment, status))

    def _start(self, model: str, fingerprint: str, system: str) -> bool:
        """Whether this conversation is in the history, now at the latest."""
        if self.session_id is None:
            self.session_id = self._write(lambda store: store.start_session(model, fingerprint, system))
        return self.session_id is not None

    def take_back(self, pair_id: int | None) -> None:
        """Mark a turn as undone; it stays."""
        if pair_id is not None:
            self._write(lambda store: store.mark_undone([pair_id]))

    def resume(self, session_id: int) -> None:
        """Go on with a conversation of the history."""
        self.end()
        self.session_id = session_id
        self._write(lambda store: store.reopen_session(session_id))

    def end(self) -> int | None:
        """The conversation is over. Returns which it was."""
        old, self.session_id = self.session_id, None
        if old is not None:
            self._write(lambda store: store.end_session(old))
        return old

    def _write(self, write: Callable[[Store], Any]) -> Any:
        began = time.monotonic()
        if self.store is None or began < self._again:
            return None
        try:
            self._catch_up(self.store)
            found = write(self.store)
        except StoreError as error:
            now = time.monotonic()
            self._again = now + _PAUSE * (now - began)
            if not self.failing:
                self._report(Notice(f"{error.message}; until that is mended nothing is logged. {error.hint}"))
            self.failing = True
            return None
        if self.failing:
            self.failing = False
            self._report(Notice("the history can be written again; what was said meanwhile is not in it"))
        return found

    def _catch_up(self, store: Store) -> None:
        while self._late:
            with suppress(UnknownName):  # deleted since then
                self._late[0](store)
            del self._late[0]


@cache
def versions() -> dict[str, str]:
    """Of everything that a repetition token for token depends on."""
    found = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"steerchat": __version__, "python": platform.python_version(), **found}
