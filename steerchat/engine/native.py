"""The machine code that a step of decoding runs on, compiled for this CPU when it is first wanted."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from . import block_code, product_code, weights
from .compiler import Machine
from .openmp import torch_threads

_NAMES = ("multiply 4", "multiply 8", "step", "inward", "outward")


def native(name: str) -> Callable[[Any], None]:
    """A function that takes an array of whole numbers of 64 bits, its values."""
    return _compiled()[name]


@cache
def _compiled() -> dict[str, Callable[[Any], None]]:
    sources = [str(module.__file__) for module in (product_code, block_code, weights)]
    addresses = Machine(torch_threads()).compile(
        (product_code.write_products, block_code.write_blocks), _NAMES, sources
    )
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    return {name: kind(address) for name, address in addresses.items()}
