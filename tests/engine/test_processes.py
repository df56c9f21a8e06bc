"""Several processes that run one command print and log what one process does."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import socket
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import together
from places import ROOT, SUPPORT
from tiny import ANSWERS, rows, write_concepts

from steerchat.system import folders

pytestmark = [pytest.mark.slow, pytest.mark.subprocess]

# What says which of several processes one is.
RANKS = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
PROMPTS = [f"What is thing {number} like?" for number in range(5)]


class Run:
    """What a run of `together.py` left: what each line printed, its exit code, standard error, and the pairs."""

    def __init__(self, folder: Path, out: str, err: str) -> None:
        self.err = err
        self.printed: list[list[str]] = [[]]
        self.codes: list[int] = []
        for line in out.splitlines():
            if line.startswith("== "):
                self.codes.append(int(line[3:]))
                self.printed.append([])
            else:
                self.printed[-1].append(line)
        path = folder / "home" / "history.db"
        self.pairs = rows(path, ANSWERS) if path.exists() else []
        self.experiments = rows(path, "SELECT * FROM experiments ORDER BY id") if path.exists() else []

    def json(self, line: int) -> list[Any]:
        return [json.loads(text) for text in self.printed[line]]


def prepare(folder: Path, lines: list[list[str]]) -> None:
    folder.mkdir()
    write_concepts(folder / "shipped")
    for name in ("prompts.toml", "lexicons.toml"):
        shutil.copy(ROOT / "vectors" / "texts" / name, folder / "shipped" / "texts")
    (folder / "lines.json").write_text(json.dumps(lines))
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))


def run_here(folder: Path, model: Path, lines: list[list[str]]) -> Run:
    """In this process."""
    prepare(folder, lines)
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name in RANKS:
            patch.delenv(name, raising=False)
        patch.setenv("STEERCHAT_HOME", str(folder / "home"))
        patch.setattr(folders, "packaged", folders.packaged)
        patch.chdir(folder)
        together.main(folder, str(model), folder / "lines.json")
    return checked(Run(folder, out.getvalue(), err.getvalue()), lines)


def run_two(folder: Path, model: Path, lines: list[list[str]], trouble: str = "") -> Run:
    """In two processes: accelerate starts them, or with trouble this does as it would, in less time."""
    prepare(folder, lines)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = [str(SUPPORT / "together.py"), str(folder), str(model), str(folder / "lines.json")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(ROOT)]), "PYTHONIOENCODING": "utf-8"}
    for name in RANKS:
        environment.pop(name, None)
    if trouble:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
        commands = [[sys.executable, *script, trouble]] * 2
        own = [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    else:
        options = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        launch = ["-m", "accelerate.commands.launch", *options, "--num_processes", "2", "--main_process_port", port]
        commands, own = [[sys.executable, *launch, *script]], [{}]
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        processes = [
            subprocess.Popen(command, stdout=out, stderr=err, env={**environment, **mine}, cwd=folder)
            for command, mine in zip(commands, own, strict=True)
        ]
        for process in processes:
            process.wait(300)
    texts = [(folder / name).read_text(encoding="utf-8") for name in ("out", "err")]
    return checked(Run(folder, *texts), lines)


def checked(done: Run, lines: list[list[str]]) -> Run:
    assert len(done.codes) == len(lines), done.err
    return done


def alike(one: Any, other: Any) -> bool:
    """Equal, floats up to what another order of summing makes of them, and but for what a clock said."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(key == "seconds" or alike(one[key], other[key]) for key in one)
    if isinstance(one, str) and isinstance(other, str) and one != other and one.startswith("{"):
        return alike(json.loads(one), json.loads(other))  # a column of the history
    if isinstance(one, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float):
        return isinstance(other, float) and math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-4)
    return one == other


STEER = ["--steer", "happy 2 4.0"]
LINES = [
    ["compare", "--prompts", "prompts.txt", *STEER, "--json"],
    ["compare", "--prompts", "prompts.txt", *STEER, "--repeats", "2", "--control", "--json"],
    ["layers", "Tell me", "--concept", "happy", "--strength", "4", "--json"],
    ["strengths", "Tell me", "--concept", "happy", "--layer", "2", "--repeats", "3", "--json"],
    ["concept", "evaluate", "happy", "--seeds", "1", "--prompts-used", "2", "--directions", "2", "--json"],
    ["compare", "One " * 400, *STEER],
]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Run, Run]:
    folder = tmp_path_factory.mktemp("together")
    return run_here(folder / "one", tiny_folder, LINES), run_two(folder / "two", tiny_folder, LINES)


@pytest.mark.parametrize("line", range(5), ids=[" ".join(line[:2]) for line in LINES[:5]])
def test_two_processes_print_what_one_prints(both: tuple[Run, Run], line: int) -> None:
    one, two = (found.json(line) for found in both)
    assert len(one) == (5, 30, 16, 27, 1)[line]
    assert alike(one, two)


def test_two_processes_leave_the_log_of_one(both: tuple[Run, Run]) -> None:
    one, two = both
    clock = {"created", "completed", "started", "finished", "owner", "seconds", "tokens_per_second"}
    for mine, theirs in ((one.pairs, two.pairs), (one.experiments, two.experiments)):
        assert mine and len(mine) == len(theirs)
        for row, other in zip(mine, theirs, strict=True):
            timeless = [{key: value for key, value in each.items() if key not in clock} for each in (row, other)]
            differing = {key for key in timeless[0] if not alike(timeless[0][key], timeless[1][key])}
            assert not differing, [{key: each[key] for key in differing} for each in timeless]
    assert {row["status"] for row in two.pairs} == {"complete"}
    assert len({(row["normal"], row["steered"]) for row in two.pairs}) > 20


def test_an_error_is_said_once_and_ends_all_with_its_code(both: tuple[Run, Run]) -> None:
    one, two = both
    assert one.codes == two.codes == [0, 0, 0, 0, 0, 1]
    assert two.err.count("tokens and the model holds") == 1
    # Once at most: where the second process is first to extract, which it does in silence, the first finds it done.
    assert two.err.count("extracting happy") <= one.err.count("extracting happy") == 2  # begun, and done


def test_ctrl_c_in_one_process_stops_all_and_keeps_what_was_finished(tmp_path: Path, tiny_folder: Path) -> None:
    line = ["layers", "Tell me", "--concept", "happy", "--repeats", "40", "--json"]
    found = run_two(tmp_path / "stopped", tiny_folder, [line], "stop")
    assert found.codes == [130]
    states = [row["status"] for row in found.pairs]
    assert set(states) == {"complete", "interrupted"} and len(states) < 160
    assert len(found.printed[0]) == states.count("complete")
    assert found.experiments[0]["status"] == "interrupted"


def test_trouble_in_one_process_is_told_by_the_first_and_refused_commands_are_named(
    tmp_path: Path, tiny_folder: Path
) -> None:
    lines = [["compare", "Well?", *STEER], ["why", "1"], []]
    found = run_two(tmp_path / "failing", tiny_folder, lines, "fail")
    assert found.codes == [1, 2, 2]
    assert found.err.count("the second process has no memory left") == 1
    assert found.err.count("runs in one process, and 2 were started") == 2
    assert [row["status"] for row in found.pairs] == ["failed"]


def test_an_ordinary_start_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from steerchat.engine import processes

    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    assert processes.count() == 1 and processes.is_first() and processes.on_this_machine() == 1
    monkeypatch.setenv("WORLD_SIZE", "many")
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert processes.count() == 1
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    assert processes.count() == 3 and not processes.is_first()
