"""torch's threads on a machine that other programs use too: how they wait for each other, and how many there are."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path

# With one of these variables the user sets the number of threads.
_NUMBER_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# With one of these variables the user sets how threads wait; steerchat then sets none of them.
_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")

# By default, threads that wait for each other spin for milliseconds. When another program computes too, a thread often
# waits for a core on which another thread only spins. A short spin bridges the gaps between matrix products, a few
# microseconds, and then releases the core.
_DEFAULTS = {
    "GOMP_SPINCOUNT": "5000",  # GNU OpenMP, on Linux: iterations
    "KMP_BLOCKTIME": "0",  # LLVM's and Intel's OpenMP, on macOS and Windows: milliseconds
    # torch's linear layers on a CPU cache kernels for the last 1024 shapes, nearly half a megabyte each; most lengths
    # do not recur. One number of rows needs six kernels; compiling them again costs a sweep about 1% of its time.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "LRU_CACHE_CAPACITY": "32",
}
_variables_set: set[str] = set()


def set_thread_defaults(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables that the user has not set. Call it before importing torch, which reads them once."""
    user_sets_waiting = any(name in environment for name in _WAIT_VARIABLES)
    for name, value in _DEFAULTS.items():
        if name not in environment and not (user_sets_waiting and name in _WAIT_VARIABLES):
            environment[name] = value
            _variables_set.add(name)


def without_defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables that `set_thread_defaults` set."""
    return {name: value for name, value in environment.items() if name not in _variables_set}


def user_sets_number(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the user chose how many threads compute."""
    return any(name in environment for name in _NUMBER_VARIABLES)


def most_threads(environment: Mapping[str, str] = os.environ, groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The number of threads that can compute at the same time; None where the user set a number.

    torch counts the cores that this process may run on. A container may be limited to a share of their time instead;
    the system then pauses the surplus threads in the middle of a matrix product, and the others wait for them.
    """
    if user_sets_number(environment):
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _cgroup_cores(groups) or cores))


def _cgroup_cores(groups: Path) -> int | None:
    """The cores' worth of time that the process's control group allows, of either version; None without a limit."""
    first = groups / "cpu"
    for files in ([groups / "cpu.max"], [first / "cpu.cfs_quota_us", first / "cpu.cfs_period_us"]):
        with suppress(OSError, ValueError):  # without a limit, the second version has a word and the first has -1
            amount, period = (int(word) for file in files for word in file.read_text("ascii").split())
            if amount > 0:
                return math.ceil(amount / period)
    return None
