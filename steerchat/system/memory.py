"""Amounts of memory, as text, and memory that goes back to the system."""

from __future__ import annotations

import ctypes
import gc
import mmap
import re
import sys
from contextlib import suppress
from pathlib import Path

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


def forget_code(library: str) -> None:
    """Let the code of a library, its file named `library`, leave memory; the system reads what is wanted again.

    A compiler runs once: 30 MB of LLVM's code would stay in a chat's memory for it.
    """
    with suppress(AttributeError, OSError, ValueError):  # only Linux tells where libraries lie
        for line in Path("/proc/self/maps").read_text("utf-8").splitlines():
            place, rights, *_, name = line.split(maxsplit=5)
            # Nobody writes to code, so nothing is lost.
            if rights == "r-xp" and Path(name).name == library:
                start, end = (int(number, 16) for number in place.split("-"))
                ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


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
