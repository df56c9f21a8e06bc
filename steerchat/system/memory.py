"""Amounts of memory, as text, and memory that goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from contextlib import suppress

from ..values.errors import UsageError

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)i?B?", re.IGNORECASE)


def gigabytes(size: float) -> str:
    """A readable size: GB, or MB below 1 GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def parse_size(text: str) -> int:
    """Bytes of `6GB`, `800 MB` or `2000000`. Raises UsageError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not an amount of memory", "use one such as 6GB or 800MB")
    return int(float(match["number"]) * 1000 ** " KMGT".index(match["unit"].upper() or " "))


def trim() -> None:
    """Return freed memory to the system.

    glibc keeps what lies between blocks that are still in use: 50 MB after a change of models, 90 MB after the weights
    of the default model are in four bits. The libraries of other systems do not.
    """
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def give_back() -> None:
    """Free what nobody refers to any more, modules and their hooks for example, which refer to each other."""
    gc.collect()
    # Without torch nothing was computed.
    if (torch := sys.modules.get("torch")) is not None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        elif torch.backends.mps.is_available():
            torch.mps.empty_cache()
    trim()
