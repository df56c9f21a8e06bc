"""How much memory a model needs, read off its files before anything is loaded, in bytes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..values.errors import ModelError, UsageError
from .find import PARAMETERS, Found
from .fingerprint import json_object, tensors, weight_files

# Tokens of a pair's two rows that the estimate leaves room for.
_PAIR_TOKENS = 2 * 1024
# Activations of one block at a time, in numbers a token, as multiples of the residual stream's width.
_ACTIVATIONS = 16
_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)i?B?", re.IGNORECASE)


@dataclass(frozen=True)
class Needs:
    """What a model takes up once it is loaded.

    Attributes:
        parameters: numbers in its weights.
        weights: bytes of them in the precision that they are held in.
        beside: bytes for a pair's keys, values and activations, and for reading a GGUF while it is loaded.
    """

    parameters: int
    weights: int
    beside: int

    @property
    def total(self) -> int:
        return self.weights + self.beside


def needs(found: Found, itemsize: int) -> Needs:
    """What `found` needs with weights of `itemsize` bytes a number.

    Raises:
        ModelError: when its files cannot be read.
    """
    if found.gguf:
        count = _gguf_parameters(found.path / found.gguf)
        # transformers unpacks all of it to float32 before it is put into the model.
        return Needs(count, count * itemsize, count * 4)
    count = sum(math.prod(shape) for file in weight_files(found.path) for _, shape, _, _ in tensors(file))
    config = json_object(found.path / "config.json")
    return Needs(count, count * itemsize, _PAIR_TOKENS * _bytes_per_token(config, itemsize))


def smaller(parameters: int, itemsize: int, free: int) -> str | None:
    """The largest alias that is smaller than a model of so many parameters, and fits into `free` bytes."""
    fits = [(size, alias) for alias, size in PARAMETERS.items() if size < parameters and size * itemsize < free]
    return max(fits)[1] if fits else None


def gigabytes(size: float) -> str:
    """Bytes for people: GB, or MB below one."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def parse_size(text: str) -> int:
    """Bytes of `6GB`, `800 MB` or `2000000`. Raises UsageError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is no amount of memory", "such as 6GB or 800MB")
    return int(float(match["number"]) * 1000 ** " KMGT".index(match["unit"].upper() or " "))


def _gguf_parameters(file: Path) -> int:
    from .gguf_reader import count_numbers

    try:
        return count_numbers(file)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{file} is not a whole GGUF file", "it may be cut short; download or copy it again"
        ) from error


def _bytes_per_token(config: dict[str, Any], itemsize: int) -> int:
    inner = config.get("text_config")
    config = inner if isinstance(inner, dict) else config
    sizes = {name: size for name, size in config.items() if type(size) is int and size > 0}
    first = lambda *names: next((sizes[name] for name in names if name in sizes), 0)  # noqa: E731
    heads = first("num_attention_heads", "n_head")
    hidden = first("hidden_size", "n_embd")
    size = first("head_dim") or (hidden // heads if heads else 0)
    kept = 2 * first("num_hidden_layers", "n_layer") * (first("num_key_value_heads") or heads) * size
    return (kept + _ACTIVATIONS * hidden) * itemsize
