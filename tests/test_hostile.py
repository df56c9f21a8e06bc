"""Files from strangers: every reader gives a value or one of our errors, whatever is in the file."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from steerchat.concepts.files import read_concept, read_examples
from steerchat.concepts.library import read_header
from steerchat.concepts.vector import ConceptVector
from steerchat.course.lesson import read_course, read_lesson
from steerchat.measures.chance import load_chance
from steerchat.measures.profile import load_profile
from steerchat.models.fingerprint import json_object, tensors
from steerchat.models.gguf_reader import count_numbers
from steerchat.storage.store import Store
from steerchat.system.settings import load_settings
from steerchat.terminal.repl import read_lines
from steerchat.values.errors import SteerchatError

CONCEPT = b'kind = "x"\n' + b'[[examples]]\nprompt = "p"\npositive = "yes, yes"\nnegative = "no"\n' * 2
LESSON = (
    b'+++\ntitle = "T"\nabout = "A"\nminutes = 3\n+++\n## One\nText.\n\n'
    b'```task\ndo = "/steer"\nhints = ["Type it."]\n```\n'
)
COURSE = b'lessons = ["a.md"]\n[tracks.short]\nabout = "x"\nlessons = ["a.md"]\n'
CELL = {"strength": 2.0, "tokens": 60, "mean": 0.0, "between": 0.1, "within": 0.1}
CHANCE = json.dumps({"fingerprint": "f", "cells": [CELL]}).encode()


def vector(metadata: dict[str, str] | None = None, lengths: int = 4) -> bytes:
    given = {"format": "steerchat-concept-1", "name": "n", "fingerprint": "f", "method": "mean", "report": "{}"}
    return save({"directions": torch.randn(4, 8), "raw_lengths": torch.ones(lengths)}, given | (metadata or {}))


def header(path: Path) -> object:
    return read_header(path)


def profile(path: Path) -> object:
    return load_profile(path, "f", path)


def chance(path: Path) -> object:
    found = load_chance(path, "f")
    return found and found.band(2.0, 60)


def course(path: Path) -> object:
    return read_course(path.parent)


def configuration(path: Path) -> object:
    return load_settings({}, path, {})


def history(path: Path) -> object:
    with Store.open(path) as store:
        return store.pairs(limit=5)


READERS: dict[str, tuple[str, Callable[[Path], object], bytes]] = {
    "vector": ("v.safetensors", ConceptVector.load, vector()),
    "vector's header": ("v.safetensors", header, vector()),
    "profile": ("profile.safetensors", profile, vector({"corpus": "c"})),
    "model": ("model.safetensors", tensors, vector()),
    "model's configuration": ("config.json", json_object, b'{"architectures": ["LlamaForCausalLM"]}'),
    "concept": ("c.toml", read_concept, CONCEPT),
    "examples as JSONL": ("e.jsonl", read_examples, b'{"prompt": "p", "positive": "yes", "negative": "no"}\n' * 2),
    "examples as CSV": ("e.csv", read_examples, b'prompt,positive,negative\np,"yes, yes",no\np,yes,no\n'),
    "configuration": ("config.toml", configuration, b'temperature = 0.5\nmodel = "x"\nseed = 3\n'),
    "chance": ("chance.json", chance, CHANCE),
    "lesson": ("a.md", read_lesson, LESSON),
    "course": ("course.toml", course, COURSE),
}
DEEP = 100_000
UNHURRIED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
RUBBISH: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(4096),
    "a pickle": b"\x80\x04cos\nsystem\n(S'touch owned'\ntR.",
    "a zip with a path upwards": b"PK\x03\x04" + bytes(22) + b"../../owned",
    "a header of 2**63 bytes": (2**63 - 1).to_bytes(8, "little") + b"{}",
    "a header that is not there": (1 << 30).to_bytes(8, "little") + b"{",
    "deep lists": b"x = " + b"[" * DEEP,
    "deep JSON": b"[" * DEEP,
    "deep JSON, named": b'{"fingerprint": "f", "cells": ' + b"[" * DEEP,
    "a number of 5,000 digits": b"seed = " + b"9" * 5000,
    "a key twice": b'kind = "x"\nkind = "y"\n',
    "no text": b"kind = \xff\xfe",
    "other types": b"lessons = 3\ntracks = 3\nexamples = 3\ntuned = 3\nkind = 3\nseed = [1]\nmodel = {}\n",
    "other types inside": b'lessons = []\ntracks = [1]\nexamples = [3]\ntuned = [{layers = nan}]\nmodel = ""\n',
    "NaN": b'{"fingerprint": "f", "cells": [{"strength": NaN, "tokens": 0, "mean": 1, "between": 1, "within": "x"}]}',
    "no cells": b'{"fingerprint": "f", "cells": []}',
    "a lesson that opens with a huge number": b"+++\nminutes = " + b"9" * 5000 + b"\n+++\n## One\n",
    "a lesson that opens with deep lists": b"+++\nminutes = " + b"[" * DEEP + b"\n+++\n## One\n",
    "a vector whose report is a list": vector({"report": "[1]"}),
    "a vector with deep report": vector({"report": "[" * DEEP}),
    "a vector with more lengths than layers": vector(lengths=5),
    "a vector cut short": vector()[:-5],
}
# These say nothing of what they cannot use and make it anew; the others name the file.
SILENT = {"vector's header", "profile", "chance", "course"}


@pytest.mark.parametrize("rubbish", RUBBISH)
@pytest.mark.parametrize("reader", READERS)
def test_rubbish_is_one_of_our_errors_with_the_files_name(reader: str, rubbish: str, tmp_path: Path) -> None:
    name, read, _ = READERS[reader]
    path = tmp_path / name
    path.write_bytes(RUBBISH[rubbish])
    try:
        read(path)
    except SteerchatError as error:
        assert path.name in error.message or reader == "course", error.message
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_is_as_it_should_be_is_read(reader: str, tmp_path: Path) -> None:
    name, read, right = READERS[reader]
    (tmp_path / name).write_bytes(right)
    read(tmp_path / name)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs a device")
@pytest.mark.parametrize("reader", READERS)
def test_a_link_to_a_device_is_not_read_for_ever(reader: str, tmp_path: Path) -> None:
    name, read, _ = READERS[reader]
    (tmp_path / name).symlink_to("/dev/zero")
    if reader == "course":
        with pytest.raises(SteerchatError, match="no lesson"):
            read(tmp_path / name)
    elif reader in SILENT:
        read(tmp_path / name)
    else:
        with pytest.raises(SteerchatError, match=name.partition(".")[0]):
            read(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_a_file_with_changed_bytes_is_read_or_refused(reader: str, tmp_path: Path) -> None:
    name, read, right = READERS[reader]
    path = tmp_path / name
    places = st.lists(st.tuples(st.integers(0, len(right)), st.binary(max_size=4)), min_size=1, max_size=4)

    @settings(max_examples=60, deadline=None, suppress_health_check=UNHURRIED)
    @given(places, st.integers(0, len(right)))
    def change(changes: list[tuple[int, bytes]], end: int) -> None:
        data = bytearray(right if end % 3 else right[:end])
        for at, new in changes:
            data[at : at + len(new)] = new
        path.write_bytes(bytes(data))
        try:
            read(path)
        except SteerchatError as error:
            assert error.message

    change()


@pytest.mark.slow
def test_a_history_with_changed_bytes_is_opened_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "whole.db"
    with Store.open(path) as store:
        store.start_session("m", "f")
    right = path.read_bytes()

    @settings(max_examples=40, deadline=None, suppress_health_check=UNHURRIED)
    @given(st.lists(st.tuples(st.integers(0, len(right)), st.binary(min_size=1, max_size=40)), max_size=6), st.data())
    def change(changes: list[tuple[int, bytes]], data: Any) -> None:
        end = data.draw(st.sampled_from([len(right), len(right) // 2, 100, 16]))
        broken = bytearray(right[:end])
        for at, new in changes:
            broken[at : at + len(new)] = new
        (tmp_path / "broken.db").write_bytes(bytes(broken))
        try:
            history(tmp_path / "broken.db")
        except SteerchatError as error:
            assert "broken.db" in error.message

    change()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the most memory that Linux counted")
def test_files_of_a_gigabyte_are_refused_in_little_memory(tmp_path: Path) -> None:
    """Sparse ones; a process of its own, whose peak is read off before and after."""
    for name in {name for name, _, _ in READERS.values()}:
        with (tmp_path / name).open("wb") as file:
            if name.endswith(".safetensors"):
                file.write((90 << 20).to_bytes(8, "little") + b"{")
            file.truncate(1 << 30)
    code = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_hostile as hostile
from steerchat.values.errors import SteerchatError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
for name, read, _ in hostile.READERS.values():
    if name == "model.safetensors":
        continue  # a model may be as large
    try:
        read(Path({str(tmp_path)!r}) / name)
    except SteerchatError:
        pass
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200


def test_the_numbers_of_a_gguf_are_counted_as_its_library_counts_them(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_array("tokenizer.ggml.tokens", [f"word{number}" for number in range(300)])
    writer.add_array("tokenizer.ggml.scores", [0.5] * 300)
    writer.add_bool("a", True)
    writer.add_float64("b", 0.1)
    for number, shape in enumerate([(3,), (4, 5), (2, 3, 4)]):
        writer.add_tensor(f"t{number}", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    right = sum(int(tensor.n_elements) for tensor in gguf.GGUFReader(path).tensors)
    assert count_numbers(path) == right == 3 + 20 + 24


def test_a_line_without_end_is_refused_and_lines_before_it_are_read() -> None:
    lines = read_lines(io.StringIO("one\n" + "x" * (2 << 20)))
    assert next(lines) == "one\n"
    with pytest.raises(SteerchatError, match="a line of more than"):
        next(lines)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the most memory that Linux counted, of forks")
def test_every_file_of_the_corpus_is_refused_or_left_alone_in_little_memory() -> None:
    """`python tests/corpus.py` also looks at the time that each takes."""
    command = [sys.executable, str(Path(__file__).parent / "corpus.py"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [one for one in found if not one["ours"] or not one["tidy"] or one["megabytes"] > 200] == []
    assert len(found) > 500
