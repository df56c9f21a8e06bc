"""How torch's threads behave beside other programs; set before torch is imported, which reads it once."""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

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
    """Set what the user has not set."""
    told = any(name in environment for name in _WAITING)
    for name, value in _OURS.items():
        if name not in environment and not (told and name in _WAITING):
            environment[name] = value
            _set.add(name)


def without_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment as the user made it."""
    return {name: value for name, value in environment.items() if name not in _set}
