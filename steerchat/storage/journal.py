"""Logs a conversation in the history as it happens; the chat goes on when a write fails."""

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
from .records import Origin, Status
from .store import Store

# After a failed write, the next attempt waits this many times as long as the failure took. A write waits a minute for
# another program's lock, and not every message should.
_PAUSE = 20
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "llvmlite")


class Journal:
    """One conversation's place in the history.

    Args:
        store: the history; None: nothing is logged. Whoever opened one that cannot be written has said so.
        report: called when writing starts to fail, and when it works again.

    Attributes:
        logged: pairs logged since the start.
        session_id: the conversation's id in the history, from its first pair on.
        failing: whether the last attempt to write failed.
    """

    def __init__(self, store: Store | None, report: Callable[[Notice], None]) -> None:
        self.store = store
        self.logged = 0
        self.session_id: int | None = None
        self.failing = store is not None and store.refused is not None
        self._retry_at = 0.0  # no write is tried before this time
        self._pending: list[Callable[[Store], Any]] = []  # failed writes of finished pairs, to be repeated
        self._report = report

    def begin(self, pair: Pair, origin: Origin, system: str) -> int | None:
        """Log a pair before its first token. Returns its id; None when it cannot be logged."""
        if not self._start_session(pair.model, origin.fingerprint, system):
            return None
        here = replace(origin, session_id=self.session_id, versions=versions() | dict(origin.versions))
        return self._write(lambda store: store.begin_pair(pair, here))

    def finish(
        self, pair: Pair, status: Status, shared_normal: int | None = None, measures: Mapping[str, float] | None = None
    ) -> int | None:
        """Log a pair's answers and measures.

        Args:
            pair: with the id that `begin` returned.
            shared_normal: the id of the stored normal answer that the pair shares with an earlier one.

        Returns:
            the id of the stored normal answer, for the pairs that share it; None when it was not stored.
        """
        pair_id = pair.id
        if pair_id is None:
            return None

        def write(store: Store) -> int:
            normal_id = store.finish_pair(pair_id, pair, status, shared_normal, measures)
            self.logged += 1
            return normal_id

        normal_id = self._write(write)
        if normal_id is None:
            self._pending.append(write)
        return normal_id

    def begin_experiment(
        self, kind: str, prompt: str, spec: Mapping[str, Any], model: str, fingerprint: str, system: str
    ) -> int | None:
        """Log an experiment before its first pair, whose record refers to it. Returns its id."""
        if not self._start_session(model, fingerprint, system):
            return None
        return self._write(lambda store: store.start_experiment(self.session_id, kind, prompt, spec))

    def finish_experiment(self, experiment: int | None, status: Status) -> None:
        if experiment is not None:
            self._write(lambda store: store.finish_experiment(experiment, status))

    def _start_session(self, model: str, fingerprint: str, system: str) -> bool:
        """Log the conversation unless it is logged already. Returns whether it is."""
        if self.session_id is None:
            self.session_id = self._write(lambda store: store.start_session(model, fingerprint, system))
        return self.session_id is not None

    def take_back(self, pair_id: int | None) -> None:
        """Mark a turn as undone; it stays in the history."""
        if pair_id is not None:
            self._write(lambda store: store.mark_undone([pair_id]))

    def resume(self, session_id: int) -> None:
        """Continue a conversation of the history."""
        self.end()
        self.session_id = session_id
        self._write(lambda store: store.reopen_session(session_id))

    def end(self) -> int | None:
        """End the conversation. Returns its id."""
        session_id, self.session_id = self.session_id, None
        if session_id is not None:
            self._write(lambda store: store.end_session(session_id))
        return session_id

    def _write(self, write: Callable[[Store], Any]) -> Any:
        began = time.monotonic()
        if self.store is None or began < self._retry_at:
            return None
        try:
            while self._pending:
                with suppress(UnknownName):  # the pair was deleted since
                    self._pending[0](self.store)
                del self._pending[0]
            result = write(self.store)
        except StoreError as error:
            now = time.monotonic()
            self._retry_at = now + _PAUSE * (now - began)
            if not self.failing:
                self._report(Notice(f"{error.message}; nothing is logged until this is fixed. {error.hint}"))
            self.failing = True
            return None
        if self.failing:
            self.failing = False
            self._report(Notice("the history can be written again; the turns since then are not in it"))
        return result


@cache
def versions() -> dict[str, str]:
    """Versions of everything that an exact rerun depends on, by name."""
    libraries = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"steerchat": __version__, "python": platform.python_version(), **libraries}
