"""Hostile files: every reader returns a value or raises one of our errors, whatever the file holds."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import ROOT, SUPPORT
from readers import READERS, RUBBISH, history

from steerchat.models.gguf_reader import contents
from steerchat.storage.store import Store
from steerchat.terminal.repl import read_lines
from steerchat.values.errors import SteerchatError

UNHURRIED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(ROOT)])}
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


@pytest.mark.fuzz
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


@pytest.mark.fuzz
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


@pytest.mark.subprocess
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
import resource
from pathlib import Path
import readers
from steerchat.values.errors import SteerchatError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
for name, read, _ in readers.READERS.values():
    if name == "model.safetensors":
        continue  # a model may be as large
    try:
        read(Path({str(tmp_path)!r}) / name)
    except SteerchatError:
        pass
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
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
    found = contents(path).tensors.values()
    assert sum(tensor.numbers for tensor in found) == right == 3 + 20 + 24


def test_a_line_without_end_is_refused_and_lines_before_it_are_read() -> None:
    lines = read_lines(io.StringIO("one\n" + "x" * (2 << 20)))
    assert next(lines) == "one\n"
    with pytest.raises(SteerchatError, match="a line of more than"):
        next(lines)


@pytest.mark.fuzz
@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the most memory that Linux counted, of forks")
def test_every_file_of_the_corpus_is_refused_or_left_alone_in_little_memory() -> None:
    """`python tests/support/corpus.py` also looks at the time that each takes."""
    command = [sys.executable, str(SUPPORT / "corpus.py"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert [one for one in found if not one["ours"] or not one["tidy"] or one["megabytes"] > 200] == []
    assert len(found) > 500
