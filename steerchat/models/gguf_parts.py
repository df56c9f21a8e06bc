"""A GGUF model in several files, as llama.cpp splits them: `name-00001-of-00003.gguf` and so on."""

from __future__ import annotations

import re
from pathlib import Path

from ..values.errors import ModelError

_PART = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.IGNORECASE)


def parts_of(file: Path) -> list[Path]:
    """The files of the model that a file is a part of, in order; the file alone when its name says nothing of parts.

    Raises:
        ModelError: naming a part that is missing.
    """
    match = _PART.fullmatch(file.name)
    if match is None:
        return [file]
    names = range(1, int(match["count"]) + 1)
    parts = [file.with_name(f"{match['name']}-{n:05}-of-{match['count']}{match['suffix']}") for n in names]
    missing = [part.name for part in parts if not part.is_file()]
    if missing or file not in parts:
        raise ModelError(
            f"{file} is one part of a model, and {missing[0] if missing else 'the others'} is missing",
            "download or copy all parts into one folder",
        )
    return parts


def whole_name(file: Path) -> str:
    """A model's name by one of its files."""
    match = _PART.fullmatch(file.name)
    return match["name"] if match else file.stem


def is_first(file: Path) -> bool:
    """Whether a file stands for its model: it is whole, or the first part."""
    match = _PART.fullmatch(file.name)
    return match is None or int(match["number"]) == 1
