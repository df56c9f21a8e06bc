"""Untrusted GGUF files: a bounded reader on top of the gguf library, and a count of a model's numbers without it.

The library makes a Python object for every value, which takes seconds for a vocabulary, and believes every count in a
header.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np

# The most values in a control vector's header; a hundred layers have a thousand.
_MOST_PIECES = 50_000
# The most texts in a model's header; the largest vocabularies have a million with their merges.
_MOST_TEXTS = 2_000_000
# Bytes of each kind of value, except texts (8) and arrays (9).
_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_MOST_DIMENSIONS = 4


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


def count_numbers(file: Path) -> int:
    """The count of the numbers in the tensors of a GGUF file, from its header.

    Raises:
        OSError: when it cannot be read.
        ValueError: when it is not a GGUF file, or ends before its header does.
    """
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Header(data).count()


class _Header:
    """Walks through a header and reads only counts and sizes."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0
        self._texts = 0

    def count(self) -> int:
        if self._data[:4] != b"GGUF":
            raise ValueError("it is not a GGUF file")
        self._skip(4)
        version, tensors, fields = self._take("<IQQ")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}")
        for _ in range(fields):
            self._skip_text()
            self._skip_value(*self._take("<I"))
        total = 0
        for _ in range(tensors):
            self._skip_text()
            (dimensions,) = self._take("<I")
            if dimensions > _MOST_DIMENSIONS:
                raise ValueError("a tensor has too many dimensions")
            total += math.prod(self._take(f"<{dimensions}Q"))
            self._take("<IQ")
        return total

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
