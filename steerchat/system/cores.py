"""How many cores other programs use."""

from __future__ import annotations

import psutil


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
