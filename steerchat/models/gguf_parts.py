"""A GGUF model in several files, as llama.cpp splits them: `name-00001-of-00003.gguf` and so on."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from ..values.errors import ModelError
from .gguf_reader import Contents, contents

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


def read_contents(gguf: Path) -> Contents:
    """What a GGUF holds. The tensors of a later part start behind the bytes of the parts before it.

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
