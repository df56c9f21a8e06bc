"""Untrusted GGUF files: a bounded reader on top of the gguf library, and a model's tensors without it.

The library makes a Python object for every value, which takes seconds for a vocabulary, and believes every count in a
header.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from ..values.errors import ModelError
from .gguf_parts import parts_of

# The most values in a control vector's header; a hundred layers have a thousand.
_MOST_PIECES = 50_000
# The most texts in a model's header; the largest vocabularies have a million with their merges.
_MOST_TEXTS = 2_000_000
# Bytes of each kind of value, except texts (8) and arrays (9).
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_MOST_DIMENSIONS = 4
# Kinds with 16 levels, and a scale and an offset for every 32 numbers.
FOUR_BITS = {gguf.GGMLQuantizationType.Q4_0, gguf.GGMLQuantizationType.Q4_1, gguf.GGMLQuantizationType.Q4_K}


class BoundedReader(gguf.GGUFReader):
    """A reader for small files that does not read past the end, nor a header with very many values.

    Raises (beside any exception of the library):
        ValueError: when the file ends before the end of its header, or the header has too many values.
    """

    _pieces = 0

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        size = int(np.dtype(dtype).itemsize) * int(count)
        self._pieces += 1
        if size < 0 or int(offset) + size > len(self.data) or self._pieces > _MOST_PIECES:
            raise ValueError("it ends before its header does")
        return super()._get(offset, dtype, count, override_order)


def bits(kind: gguf.GGMLQuantizationType) -> int:
    """The bits of memory that a number of a kind needs, apart from scales: 4, 8, 16 or 32."""
    kinds = gguf.GGMLQuantizationType
    if kind in FOUR_BITS:
        return 4
    return {kinds.F32: 32, kinds.F16: 32, kinds.BF16: 16}.get(kind, 8)


@dataclass(frozen=True)
class Entry:
    """A tensor in a GGUF file.

    Attributes:
        shape: as torch has it, the inputs of a matrix last.
        kind: how its numbers are held.
        start: the place of its bytes in the file.
    """

    shape: tuple[int, ...]
    kind: gguf.GGMLQuantizationType
    start: int

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        """Bits of memory that a number needs, apart from scales."""
        return bits(self.kind)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        numbers, size = gguf.GGML_QUANT_SIZES[self.kind]
        return self.numbers // numbers * size


@dataclass(frozen=True)
class Contents:
    """What a GGUF file holds.

    Attributes:
        architecture: its name, which may be empty.
        tensors: by name.
        part: which part of a model the file is, from 0 on, and of how many.
    """

    architecture: str
    tensors: dict[str, Entry]
    part: tuple[int, int] = (0, 1)

    def to_json(self) -> dict[str, Any]:
        tensors = {name: [entry.kind, entry.start, *entry.shape] for name, entry in self.tensors.items()}
        return {"architecture": self.architecture, "tensors": tensors}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Contents:
        """Raises ValueError, KeyError or TypeError for anything that `to_json` did not make."""
        tensors = {
            name: Entry(tuple(shape), gguf.GGMLQuantizationType(kind), start)
            for name, (kind, start, *shape) in data["tensors"].items()
        }
        return cls(data["architecture"], tensors)


def contents(file: Path) -> Contents:
    """What the header of a GGUF file says. The tensors may lie beyond the file's end.

    Raises:
        OSError: when it cannot be read.
        ValueError: when it is not a GGUF file, ends before its header does, or has a tensor of an unknown kind.
    """
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Header(data).contents()


def read_contents(gguf: Path) -> Contents:
    """What a GGUF holds, in one file or several. A later part's tensors start behind the bytes of the parts before it.

    Raises:
        ModelError: when a header cannot be read, or the parts do not belong together.
    """
    files, before = parts_of(gguf), 0
    held: list[Contents] = []
    for number, file in enumerate(files):
        try:
            here = contents(file)
            size = file.stat().st_size
        except (OSError, ValueError) as error:
            raise ModelError(f"{file} is not a complete GGUF file", "download or copy it again") from error
        if here.part != (number, len(files)):
            raise ModelError(
                f"{file} says that it is part {here.part[0] + 1} of {here.part[1]} of a model",
                "give the parts the names that they came with, name-00001-of-00002.gguf, in one folder",
            )
        tensors = {name: replace(entry, start=entry.start + before) for name, entry in here.tensors.items()}
        held.append(replace(here, tensors=tensors))
        before += size
    tensors = {name: entry for here in held for name, entry in here.tensors.items()}
    return replace(held[0], tensors=tensors, part=(0, 1))


class _Header:
    """Walks through a header and reads only what the tensors need."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0
        self._texts = 0

    def contents(self) -> Contents:
        if self._data[:4] != b"GGUF":
            raise ValueError("it is not a GGUF file")
        self._skip(4)
        version, tensors, fields = self._take("<IQQ")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}")
        alignment, architecture = gguf.GGUF_DEFAULT_ALIGNMENT, b""
        part = {gguf.Keys.Split.LLM_KV_SPLIT_NO: 0, gguf.Keys.Split.LLM_KV_SPLIT_COUNT: 1}
        for _ in range(fields):
            key, (kind,) = self._text(), self._take("<I")
            if key == gguf.Keys.General.ALIGNMENT.encode() and kind == gguf.GGUFValueType.UINT32:
                alignment = max(1, *self._take("<I"))
            elif key == gguf.Keys.General.ARCHITECTURE.encode() and kind == gguf.GGUFValueType.STRING:
                architecture = self._text()
            elif key.decode("utf-8", errors="replace") in part and kind == gguf.GGUFValueType.UINT16:
                (part[key.decode()],) = self._take("<H")
            else:
                self._skip_value(kind)
        listed = [self._tensor() for _ in range(tensors)]
        first = -(-self._at // alignment) * alignment
        return Contents(
            architecture.decode("utf-8", errors="replace"),
            {name: replace(entry, start=first + entry.start) for name, entry in listed},
            (part[gguf.Keys.Split.LLM_KV_SPLIT_NO], max(1, part[gguf.Keys.Split.LLM_KV_SPLIT_COUNT])),
        )

    def _tensor(self) -> tuple[str, Entry]:
        """A tensor whose bytes start at a place behind the header."""
        name = self._text().decode("utf-8", errors="replace")
        (dimensions,) = self._take("<I")
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError("a tensor has too many dimensions")
        shape = tuple(reversed(self._take(f"<{dimensions}Q")))
        number, start = self._take("<IQ")
        return name, Entry(shape, gguf.GGMLQuantizationType(number), start)

    def _skip_value(self, kind: int) -> None:
        if kind == 8:
            self._skip_text()
        elif kind == 9:
            of, count = self._take("<IQ")
            if of == 8:
                for _ in range(count):
                    self._skip_text()
            else:
                self._skip(count * self._width(of))
        else:
            self._skip(self._width(kind))

    def _text(self) -> bytes:
        start = self._at + 8
        self._skip_text()
        return self._data[start : self._at]

    def _skip_text(self) -> None:
        self._texts += 1
        if self._texts > _MOST_TEXTS:
            raise ValueError("it has too many texts")
        self._skip(*self._take("<Q"))

    def _width(self, kind: int) -> int:
        if kind not in _WIDTHS:
            raise ValueError(f"it has a value of the unknown kind {kind}")
        return _WIDTHS[kind]

    def _take(self, form: str) -> tuple[Any, ...]:
        start = self._at
        self._skip(struct.calcsize(form))
        return struct.unpack_from(form, self._data, start)

    def _skip(self, size: int) -> None:
        self._at += size
        if self._at > len(self._data):
            raise ValueError("it ends before its header does")
