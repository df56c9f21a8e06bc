"""Reading files that may come from strangers: what it costs is bounded before anything is parsed.

TOML is read by Python code, so that a megabyte made for it takes minutes; JSON makes a hundred bytes of objects out of
three bytes of text.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import IO, Any

# Of a safetensors file that holds a few tensors; the format would allow a hundred times as much.
MAX_HEADER = 1 << 20
MAX_TOML = 2 << 20
MAX_JSON = 16 << 20
# Marks between values, which is what time and memory go by; a text of prose has a tenth of that.
_MAX_MARKS_TOML = 200_000
_MAX_MARKS_JSON = 1_000_000
# A key of a thousand parts costs a million steps. In prose, so many words with a stop after each do not happen.
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){16}""")


def read_small(path: Path, most: int = 32 << 20) -> str:
    """The UTF-8 text of a regular file of at most `most` bytes: a device could go on for ever.

    Raises:
        OSError: it is something else, too large, or cannot be read.
        UnicodeDecodeError: it is no text.
    """
    _check_regular(path)
    if path.stat().st_size > most:
        raise OSError(f"it is larger than {_size(most)}")
    return path.read_text(encoding="utf-8-sig")


def read_stream(stream: IO[str], most: int = 32 << 20) -> str:
    """All of a pipe, a terminal or a file that a person named, of at most `most` characters.

    Raises:
        OSError: it goes on beyond that, or cannot be read.
        UnicodeDecodeError: it is no text.
    """
    text = stream.read(most + 1)
    if len(text) > most:
        raise OSError(f"it is larger than {_size(most)}")
    return text


def check_toml(text: str, most: int = MAX_TOML) -> None:
    """Raises ValueError for what could not be parsed within about a second."""
    if len(text) > most:
        raise ValueError(f"it is larger than {_size(most)}")
    if sum(map(text.count, ".=,[{")) > _MAX_MARKS_TOML:
        raise ValueError("it holds too many values")
    if _LONG_KEY.search(text):
        raise ValueError("it has a key of too many parts")


def parse_toml(text: str, most: int = MAX_TOML) -> dict[str, Any]:
    """Raises ValueError for what is no TOML, and as `check_toml`."""
    check_toml(text, most)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_toml(path: Path, most: int = MAX_TOML) -> dict[str, Any]:
    """The table in a TOML file. Raises OSError as `read_small`, ValueError as `parse_toml`."""
    return parse_toml(read_small(path, most), most)


def parse_json(text: str | bytes) -> Any:
    """Raises ValueError for what is no JSON, or more than fits into little memory."""
    if len(text) > MAX_JSON:
        raise ValueError(f"it is larger than {_size(MAX_JSON)}")
    marks = (b",", b":", b"[", b"{") if isinstance(text, bytes) else (",", ":", "[", "{")
    if sum(text.count(mark) for mark in marks) > _MAX_MARKS_JSON:  # type: ignore[arg-type]
        raise ValueError("it holds too many values")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, most: int = MAX_JSON) -> Any:
    """What a JSON file holds. Raises OSError as `read_small`, ValueError as `parse_json`."""
    return parse_json(read_small(path, most))


def claimed_header(path: Path) -> int:
    """How many bytes a safetensors file says its header has, all of which are parsed before anything is checked.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    _check_regular(path)
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def _check_regular(path: Path) -> None:
    if not path.is_file():
        raise OSError("it is missing, or no regular file")


def _size(most: int) -> str:
    return f"{most >> 20} MB" if most >= 1 << 20 else f"{most >> 10} KB"
