"""torch's threads beside other programs: no more than there are cores that nobody else uses.

The threads of a product wait for the slowest of them. If another program computes on its core, all of them wait until
that program's turn ends, at every product: a pair then takes longer with two threads than with one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

import psutil
import torch

from ..system.threads import user_sets_number

# Seconds between two looks at the machine, and for how long the last look of an answer is believed at the next one.
_PERIOD, _BELIEVED_FOR = 0.5, 5.0


class OtherPrograms:
    """Counts the cores that other programs use, from its making on. `all`: the cores of the machine."""

    def __init__(self) -> None:
        self.all = psutil.cpu_count() or 1
        self._before = _seconds()

    def cores(self) -> float:
        """How many cores they used since the last call, on average: 0.0 to all that the machine has."""
        now, before = _seconds(), self._before
        self._before = now
        whole, others = (later - earlier for earlier, later in zip(before, now, strict=True))
        return self.all * min(1.0, max(0.0, others / whole)) if whole > 0 else 0.0

    def share(self) -> float:
        """The same as a share of all cores."""
        return self.cores() / self.all


def _seconds() -> tuple[float, float]:
    """Seconds of all cores so far, and those that other programs used."""
    # Time of guests is part of user time.
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    whole = sum(machine) - getattr(machine, "guest", 0.0) - getattr(machine, "guest_nice", 0.0)
    idle = machine.idle + getattr(machine, "iowait", 0.0)
    return whole, whole - idle - own.user - own.system


class FreeCores:
    """Lowers the number of torch's threads to the cores that are free, step by step of an answer.

    A number that the user chose stays.

    `most`: threads that compute when no other program does; None while no answer runs.
    """

    def __init__(self) -> None:
        self.most: int | None = None
        self._free, self._seen_at = 0, float("-inf")

    def steps(self, more: Callable[[], bool]) -> Generator[None, None, None]:
        """A step after the other, as long as there are `more`; after the last one torch has its threads back."""
        before = self.most = torch.get_num_threads()
        looked_at = time.monotonic()
        others = OtherPrograms() if before > 1 and not user_sets_number() else None
        if others is not None and looked_at - self._seen_at < _BELIEVED_FOR:
            torch.set_num_threads(min(before, self._free))
        try:
            while more():
                yield
                now = time.monotonic()
                if others is not None and now - looked_at >= _PERIOD:
                    self._seen_at = looked_at = now
                    self._free = max(1, others.all - round(others.cores()))
                    torch.set_num_threads(min(before, self._free))
        finally:
            torch.set_num_threads(before)
            self.most = None
