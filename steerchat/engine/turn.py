"""Who runs the model now, where several threads share it."""

from __future__ import annotations

import threading
from collections import deque


class Turn:
    """A lock that is given in the order in which it was asked for.

    Hooks change what every pass on the model computes, so each thread takes a turn for a pass, or for passes that
    belong together. The one that asks most often would have a plain lock nearly always.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._queue: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._held:
                self._held = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._queue.append(mine)
        mine.acquire()  # until whoever has the turn hands it on

    def __exit__(self, *exc: object) -> None:
        with self._guard:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._held = False
