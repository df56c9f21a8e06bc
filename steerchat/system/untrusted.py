"""Reads files that may be hostile: their size and structure are checked before they are parsed.

Python code parses TOML, and a malicious megabyte takes it minutes; JSON turns three bytes of text into a hundred bytes
of objects.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

# Editors on Windows put it before a text.
BYTE_ORDER_MARK = "\ufeff"
# Bytes of the header of a safetensors file with a few tensors; the format allows a hundred times as much.
MAX_HEADER = 1 << 20
MAX_TOML = 2 << 20
MAX_JSON = 16 << 20
# Separators between values, whose number decides time and memory; prose of the same size has a tenth of them.
_MAX_MARKS_TOML = 200_000
_MAX_MARKS_JSON = 1_000_000
# A key of a thousand parts costs a million steps. Prose has no 16 words in a row with a full stop after each.
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){16}""")


def read_small(path: Path, most: int = 32 << 20) -> str:
    """The UTF-8 text of a regular file of at most `most` bytes. A device could be endless.

    Raises OSError when it is not a regular file, too large, or cannot be read; UnicodeDecodeError when it is not UTF-8.
    """
    _check_regular(path)
    if path.stat().st_size > most:
        raise OSError(f"it is larger than {_size(most)}")
    return path.read_text(encoding="utf-8-sig")


def read_stream(stream: IO[str], most: int = 32 << 20) -> str:
    """The whole text of a pipe, a terminal or a file that the user named, of at most `most` characters.

    Raises OSError when it is longer, or cannot be read; UnicodeDecodeError when it is not UTF-8.
    """
    text = stream.read(most + 1)
    if len(text) > most:
        raise OSError(f"it is larger than {_size(most)}")
    return text.removeprefix(BYTE_ORDER_MARK)


def check_toml(text: str, most: int = MAX_TOML) -> None:
    """Raises ValueError for text that would take longer than about a second to parse."""
    if len(text) > most:
        raise ValueError(f"it is larger than {_size(most)}")
    if sum(map(text.count, ".=,[{")) > _MAX_MARKS_TOML:
        raise ValueError("it has too many values")
    if _LONG_KEY.search(text):
        raise ValueError("it has a key of too many parts")


def parse_toml(text: str, most: int = MAX_TOML) -> dict[str, Any]:
    """The table in a text. Raises ValueError for invalid TOML, and as `check_toml`."""
    check_toml(text, most)
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_toml(path: Path, most: int = MAX_TOML) -> dict[str, Any]:
    """The table in a TOML file. Raises OSError as `read_small`, ValueError as `parse_toml`."""
    return parse_toml(read_small(path, most), most)


def parse_json(text: str | bytes) -> Any:
    """The value in a text. Raises ValueError for invalid JSON, and for JSON that would need much memory."""
    if len(text) > MAX_JSON:
        raise ValueError(f"it is larger than {_size(MAX_JSON)}")
    if isinstance(text, bytes):
        text = text.decode()
    if sum(map(text.count, ",:[{")) > _MAX_MARKS_JSON:
        raise ValueError("it has too many values")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path, most: int = MAX_JSON) -> Any:
    """The value in a JSON file. Raises OSError as `read_small`, ValueError as `parse_json`."""
    return parse_json(read_small(path, most))


def kept_tensors(path: Path, current: Callable[[Mapping[str, str]], bool], *names: str) -> tuple[Any, ...] | None:
    """Tensors of a safetensors file that steerchat kept, by name.

    None when `current` refuses the file's metadata, or when it is absent or broken: it can be made again.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if claimed_header(path) > MAX_HEADER:
            return None
        with safe_open(path, framework="pt") as file:
            if not current(file.metadata() or {}):
                return None
            return tuple(file.get_tensor(name) for name in names)
    except (OSError, SafetensorError, ValueError):
        return None


def claimed_header(path: Path) -> int:
    """The length in bytes that a safetensors file gives for its header. Check it first: a reader parses all of it.

    Raises OSError when it cannot be read, or is not a regular file.
    """
    _check_regular(path)
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def _check_regular(path: Path) -> None:
    if not path.is_file():
        raise OSError("it does not exist, or is not a regular file")


def _size(most: int) -> str:
    return f"{most >> 20} MB" if most >= 1 << 20 else f"{most >> 10} KB"
