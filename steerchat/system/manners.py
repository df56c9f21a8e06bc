"""How torch's threads behave beside other programs: how they wait, and how many there are."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

# By which of these the user chose a number of threads.
_NUMBERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# What the user may have said about how threads wait. One of them, and steerchat says nothing.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

# Threads that wait for each other spin, by default for milliseconds. Beside another program that also computes, one of
# them waits for a core that the other one is spinning on, a thousand times a second. A short spin bridges the gaps
# between products, a few microseconds, and then gives the core away.
_OURS = {
    "GOMP_SPINCOUNT": "5000",  # GNU's OpenMP, on Linux: turns of a loop
    "KMP_BLOCKTIME": "0",  # LLVM's and Intel's, on macOS and Windows: milliseconds
    # torch's linear layers on a CPU keep kernels for the last 1024 shapes, nearly half a megabyte each, though most
    # lengths never come again. One number of rows takes six; making them again costs a sweep about a hundredth.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "LRU_CACHE_CAPACITY": "32",
}
_set: set[str] = set()


def set_manners(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what the user has not set. Before torch is imported, which reads it once."""
    told = any(name in environment for name in _WAITING)
    for name, value in _OURS.items():
        if name not in environment and not (told and name in _WAITING):
            environment[name] = value
            _set.add(name)


def without_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment as the user made it."""
    return {name: value for name, value in environment.items() if name not in _set}


def most_threads(environment: Mapping[str, str] = os.environ, groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """How many threads can compute at once here; None where the user chose a number.

    torch counts the cores of the machine that this process may run on. A container may have a share of their time
    instead, and then the threads beyond it are stopped in the middle of a product while the others wait for them.
    """
    if any(name in environment for name in _NUMBERS):
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [share for read in (_share, _old_share) if (share := read(groups)) is not None]
    return max(1, min([cores, *shares]))


def _share(groups: Path) -> int | None:
    """The limit of this process's control group: microseconds of computing in a period, or the word max."""
    with suppress(OSError, ValueError):
        amount, period = (groups / "cpu.max").read_text("ascii").split()
        return None if amount == "max" else math.ceil(int(amount) / int(period))
    return None


def _old_share(groups: Path) -> int | None:
    """The same in the first version of control groups, where -1 means no limit."""
    with suppress(OSError, ValueError):
        amount, period = (
            int((groups / "cpu" / f"cpu.cfs_{name}_us").read_text("ascii")) for name in ("quota", "period")
        )
        return None if amount <= 0 else math.ceil(amount / period)
    return None
