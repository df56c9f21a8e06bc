"""The memory that a model needs, in bytes, from its files alone."""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gguf
from gguf import GGMLQuantizationType as Kind

from .catalogue import KNOWN
from .checkpoint import UNPACKED, quantisation
from .described import description
from .find import ModelFiles
from .fingerprint import json_object, tensors, weight_files
from .gguf_reader import Entry, read_contents
from .workplace import is_whole

# How most layers hold rounded weights; see `rounded`.
FORMS = {"int4": Kind.Q4_1, "int8": Kind.Q8_0}
# The bytes of a number in the products' forms of them, and over a whole model, whose tables have eight bits.
_ITEMSIZE = {Kind.Q4_1: 0.625, Kind.Q8_0: 1.0625}
_ROUNDED = {"int4": 0.66, "int8": 1.07}
# The usual names of the tables of embeddings and of output layers.
_TABLES = re.compile(r"embed|wte|lm_head")
# Those of a GGUF.
_EMBEDDINGS, _OUTPUT = "token_embd.weight", "output.weight"
# The tokens of a pair's two rows in the estimate.
_PAIR_TOKENS = 2 * 1024
# The activations of one block, in numbers per token, as a multiple of the hidden size.
_ACTIVATIONS = 16


class Precision(NamedTuple):
    """How weights are held.

    Attributes:
        itemsize: bytes of a number, where nothing else holds.
        dtype: `auto` where weights of fewer bits, in a GGUF, keep them; `int4` or `int8` where others are rounded.
    """

    itemsize: int
    dtype: str = ""


@dataclass(frozen=True)
class Needs:
    """The memory of a loaded model.

    Attributes:
        parameters: the numbers in its weights.
        weights: their bytes in the precision of the weights.
        beside: bytes for a pair's keys, values and activations.
        four_bits: the bytes of the weights with `--dtype int4`; None where they are not rounded.
    """

    parameters: int
    weights: int
    beside: int
    four_bits: int | None = None

    @property
    def total(self) -> int:
        return self.weights + self.beside


def needs(files: ModelFiles, precision: Precision) -> Needs:
    """The memory that a model needs.

    Args:
        files: the model's. The configuration of a GGUF that was never loaded is not known, nor what a pair takes.
        precision: of its weights.

    Raises:
        ModelError: when its files cannot be read.
    """
    if files.gguf:
        held = description(files.path).contents if is_whole(files.path) else read_contents(files.gguf)
        entries, four_bits = held.tensors.values(), None
        small = precision.dtype == "auto" or precision.dtype in FORMS
        sizes = [entry.numbers * (_small_itemsize(entry) if small else precision.itemsize) for entry in entries]
        table = held.tensors.get(_EMBEDDINGS)
        if small and _OUTPUT in held.tensors and table is not None and table.bits <= 8:
            sizes.append(-table.numbers * _small_itemsize(table))  # they stay in the file
        count, weights = sum(entry.numbers for entry in entries), round(sum(sizes))
        if not (files.path / "config.json").is_file():
            return Needs(count, weights, 0)
        config = json_object(files.path / "config.json")
    else:
        config = json_object(files.path / "config.json")
        form = quantisation(config)
        count = in_file = 0
        shapes: dict[str, Sequence[int]] = {}
        for file in weight_files(files.path):
            for name, shape, _, size in tensors(file):
                # A byte of MXFP4 holds two numbers.
                count += math.prod(shape) * (2 if form == "mxfp4" and name.endswith("_blocks") else 1)
                in_file += size
                shapes[name] = shape
        weights = in_file if form and form not in UNPACKED else count * precision.itemsize
        if precision.dtype in FORMS and not form:
            weights = _rounded_size(shapes, precision.dtype)
        four_bits = None if form else _rounded_size(shapes, "int4")
    return Needs(count, weights, _PAIR_TOKENS * _bytes_per_token(config, precision.itemsize), four_bits)


def form_of(shape: Sequence[int], wanted: Kind) -> Kind | None:
    """How a matrix is rounded: not at all where its rows are no whole groups."""
    return None if len(shape) != 2 or shape[1] % gguf.GGML_QUANT_SIZES[wanted][0] else wanted


def _rounded_size(shapes: Mapping[str, Sequence[int]], dtype: str) -> int:
    """The bytes that the tensors of a checkpoint will take, with their scales."""
    size, tables = 0.0, [0.0]
    for name, shape in shapes.items():
        is_table = _TABLES.search(name)
        form = form_of(shape, Kind.Q8_0 if is_table else FORMS[dtype])
        size += (part := math.prod(shape) * (4.0 if form is None else _ITEMSIZE[form]))
        if is_table and form is not None:
            tables.append(part)
    # Embeddings apart from the output layer, which is as large, stay in the file.
    *_, other, largest = [0.0, *sorted(tables)]
    return round(size - largest if other == largest else size)


def _small_itemsize(entry: Entry) -> float:
    """Bytes for a number: four and eight bits have scales beside them."""
    return {4: 0.625, 8: 1.0625}.get(entry.bits, 4.0)


def needs_of(parameters: int, precision: Precision) -> Needs:
    """As `needs`, for a model of which no more is known than how many numbers it has: without what a pair takes."""
    sizes = {kind: round(parameters * share) for kind, share in _ROUNDED.items()}
    return Needs(parameters, sizes.get(precision.dtype, parameters * precision.itemsize), 0, sizes["int4"])


def smaller(parameters: int, itemsize: int, free: int) -> str | None:
    """The largest alias that has fewer parameters and fits into `free` bytes."""
    sizes = {alias: model.parameters for alias, model in KNOWN.items()}
    fits = [(size, alias) for alias, size in sizes.items() if size < parameters and size * itemsize < free]
    return max(fits)[1] if fits else None


def forget(files: Sequence[mmap.mmap]) -> None:
    """Give back the memory of files' bytes that were used; they are read again when they are used again."""
    for file in files if hasattr(mmap, "MADV_DONTNEED") else ():
        file.madvise(mmap.MADV_DONTNEED)


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
