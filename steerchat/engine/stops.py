"""Texts that end an answer, found while it streams."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """An answer as far as it may be told: what could be the beginning of a stop is held back.

    Args:
        stops: the answer ends before the first of them.

    Attributes:
        text: what was told.
        stopped: whether a stop was found.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """More of the answer. Returns what can be told of it."""
        if self.stopped:
            return ""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.stopped = True
            return self._tell(min(places))
        held = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        return self._tell(len(self._held) - held)

    def close(self) -> str:
        """The answer ended. Returns what was held back."""
        return "" if self.stopped else self._tell(len(self._held))

    def _tell(self, length: int) -> str:
        told, self._held = self._held[:length], self._held[length:]
        self.text += told
        return told


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((length for length in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:length])), 0)
