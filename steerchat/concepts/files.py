"""Concepts as files: a concept's TOML, examples in TOML, JSONL and CSV, and the header of a vector's file."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, cast

import tomli_w

from ..system.untrusted import MAX_HEADER, check_toml, claimed_header, parse_json, read_small, read_toml
from ..values.errors import ConceptError, shorten
from .concept import METHODS, Concept, Example, Method, Tuning, check_examples

# A larger file is the wrong one, and is not read into memory.
MAX_BYTES = 32 << 20
MAX_EXAMPLES = 20_000
_LONGEST = 1 << 20  # characters of a line; the csv module takes at most an eighth of it in a field
_LONG_LINE = re.compile(f"[^\\n]{{{_LONGEST}}}")

_COLUMNS = ("prompt", "positive", "negative", "held_out")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": False}
_FORMS = "TOML with [[examples]], JSONL with an object a line, or CSV; each with prompt, positive, negative, held_out"


def read_concept(path: Path) -> Concept:
    """Read a concept's TOML. Raises ConceptError, naming the file and what is wrong with it."""
    try:
        data = read_toml(path)
    except (OSError, ValueError) as error:
        raise ConceptError(f"{path.name} cannot be read: {error}", "correct the file, or delete the concept") from None
    try:
        method = _method(_string(data, "method", "mean"))
        examples = tuple(read_example(f"example {n}", entry) for n, entry in enumerate(data.get("examples", []), 1))
        return Concept(
            name=path.stem,
            kind=_string(data, "kind", "custom"),
            description=_string(data, "description", ""),
            examples=examples if method == "imported" else check_examples(examples),
            tuned=tuple(_tuning(entry) for entry in data.get("tuned", [])),
            method=method,
            asking=_string(data, "asking", ""),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ConceptError(f"{path.name}: {error} is missing or of the wrong type", "see vectors/happy.toml") from None
    except ConceptError as error:
        raise ConceptError(f"{path.name}: {error.message}", error.hint) from None


def concept_toml(concept: Concept) -> bytes:
    """A concept as the TOML that `read_concept` reads.

    Raises ConceptError for a text that is not valid Unicode, or for more examples than `read_concept` takes.
    """
    data: dict[str, Any] = {"kind": concept.kind, "description": concept.description}
    if concept.asking:
        data["asking"] = concept.asking
    if concept.method != "mean":
        data["method"] = concept.method
    if concept.tuned:
        data["tuned"] = [
            {"fingerprint": tuning.fingerprint, "layers": tuning.layers}
            | ({} if tuning.strength is None else {"strength": tuning.strength})
            for tuning in concept.tuned
        ]
    if concept.examples:
        data["examples"] = [asdict(example) for example in concept.examples]
    try:
        text = tomli_w.dumps({"name": concept.name, **data})
        check_toml(text)
        return text.encode()
    except UnicodeEncodeError:
        raise ConceptError(f"a text of {concept.name} contains invalid Unicode", "type it again") from None
    except ValueError as error:
        raise ConceptError(f"{concept.name} has too many examples to keep: {error}", "a hundred are enough") from None


def read_examples(path: Path) -> Concept:
    """A file's examples, as a concept named after the file; a TOML's kind, description and method are kept.

    Raises ConceptError, naming the file, the line and what is wrong with it.
    """
    if path.suffix.lower() == ".toml" and path.exists():
        return read_concept(path)
    text = _text(path)
    if _LONG_LINE.search(text):
        raise ConceptError(f"{path.name} has a line of more than {_LONGEST:,} characters", _FORMS)
    match path.suffix.lower():
        case ".jsonl":
            entries = _jsonl(path.name, text)
        case ".csv":
            entries = _csv(path.name, text)
        case _:
            raise ConceptError(f"{path.name} is not a file of examples", _FORMS)
    try:
        examples = list(islice(entries, MAX_EXAMPLES + 1))
        if len(examples) > MAX_EXAMPLES:
            raise ConceptError(f"{path.name} has more than {MAX_EXAMPLES} examples", "a hundred are enough")
        return Concept(path.stem, "custom", "", check_examples(examples))
    except ConceptError as error:
        message = error.message if error.message.startswith(path.name) else f"{path.name}: {error.message}"
        raise ConceptError(message, error.hint) from None


def _text(path: Path) -> str:
    if not path.exists():
        raise ConceptError(f"there is no file {path}", "check the path")
    try:
        return read_small(path, MAX_BYTES)
    except UnicodeDecodeError:
        raise ConceptError(f"{path.name} is not UTF-8 text", _FORMS) from None
    except (OSError, ValueError) as error:
        raise ConceptError(f"{path.name} cannot be read: {error}", "check the path and its rights") from None


def _jsonl(name: str, text: str) -> Iterator[Example]:
    # splitlines() would also break at U+2028 and the like inside a text.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            entry = parse_json(line)
        except ValueError:
            raise ConceptError(f"{where} is not JSON", "write one object a line") from None
        yield read_example(where, entry)


def _csv(name: str, text: str) -> Iterator[Example]:
    head = text.partition("\n")[0]
    # Spreadsheets in many countries write semicolons.
    delimiter = next((mark for mark in ",;\t" if len({*_COLUMNS} & {*_fields(head, mark)}) >= 2), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = [column.strip().lower() for column in next(reader, [])]
        if not {"positive", "negative"} <= set(columns):
            raise ConceptError(f"the first line of {name} does not name the columns", ",".join(_COLUMNS))
        for row in reader:
            where = f"{name}, line {reader.line_num}"
            if not any(row):
                continue
            if len(row) > len(columns):
                raise ConceptError(f"{where} has more fields than columns", 'put texts with commas into "..."')
            entry: dict[str, Any] = dict(zip(columns, row, strict=False))
            held_out = entry.get("held_out", "").strip().lower()
            if held_out not in _BOOLEANS:
                raise ConceptError(f"{where}: held_out is {shorten(held_out, 20)!r}", "use true or false")
            yield read_example(where, entry | {"held_out": _BOOLEANS[held_out]})
    except csv.Error as error:
        raise ConceptError(
            f"{name}, line {reader.line_num}: {error}", 'put texts with commas or line breaks into "..."'
        ) from None


def _fields(line: str, delimiter: str) -> list[str]:
    return [field.strip().strip('"').lower() for field in line.split(delimiter)]


def read_example(where: str, entry: Any) -> Example:
    """An example of a file or a request. Raises ConceptError, whose message begins with `where`."""
    if not isinstance(entry, dict):
        raise ConceptError(f"{where} is not an example", _FORMS)
    for key in ("positive", "negative"):
        if key not in entry:
            raise ConceptError(f"{where} has no {key} text", "each example needs positive and negative")
    for key, kind in (("prompt", str), ("positive", str), ("negative", str), ("held_out", bool)):
        if not isinstance(entry.get(key, kind()), kind):
            raise ConceptError(f"{where}: {key} is not {'true or false' if kind is bool else 'a text'}", _FORMS)
    return Example(entry.get("prompt", ""), entry["positive"], entry["negative"], entry.get("held_out", False))


def _method(text: str) -> Method:
    if text in (*METHODS, "imported"):
        return cast(Method, text)
    raise ConceptError(f"no method is called {shorten(text, 20)!r}", f"use one of {', '.join(METHODS)}")


def _tuning(entry: dict[str, Any]) -> Tuning:
    strength = entry.get("strength")
    if strength is not None and not (isinstance(strength, int | float) and math.isfinite(strength)):
        raise ConceptError(f"a tuned strength is a number, not {shorten(str(strength), 20)}", "2.0 is a good first try")
    return Tuning(_string(entry, "fingerprint"), str(entry["layers"]), None if strength is None else float(strength))


def _string(data: dict[str, Any], key: str, default: str | None = None) -> str:
    value = data[key] if default is None else data.get(key, default)
    if not isinstance(value, str):
        raise TypeError(key)
    return value


def read_header(path: Path) -> tuple[str, dict[str, Any]]:
    """(fingerprint, report) of a vector's file, read without torch; both empty when it is not one of steerchat's."""
    from safetensors import SafetensorError, safe_open

    try:
        if claimed_header(path) > MAX_HEADER:
            return "", {}
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        report = parse_json(metadata.get("report", "{}"))
        return metadata.get("fingerprint", ""), report if isinstance(report, dict) else {}
    except (OSError, SafetensorError, ValueError):
        return "", {}
