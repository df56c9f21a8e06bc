"""The whole program: it finishes what runs when it is to stop, and loses nothing that was said when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from chats import Shell
from tiny import rows

from steerchat.storage.store import Store

pytestmark = [pytest.mark.subprocess, pytest.mark.slow]
PORT = 18_000 + os.getpid() % 2_000


@pytest.fixture
def program(shell: Shell, tiny_folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`steerchat serve` in a process of its own, once it answers."""
    command = [sys.executable, "-m", "steerchat", "serve", "--port", str(PORT), "--model", str(tiny_folder)]
    command += ["--device", "cpu", "--max-tokens", "400"]
    environment = {**os.environ, "STEERCHAT_HOME": str(shell.home)}
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert started.stderr is not None
    for line in started.stderr:
        if " answers at " in line:
            break
    # What nobody reads would fill the pipe, and stop the program.
    threading.Thread(target=started.stderr.read, daemon=True).start()
    yield started
    started.kill()
    started.wait()


def ask(tokens: int) -> httpx.Response:
    with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=60) as http:
        model = http.get("/health").json()["model"]
        return http.post("/v1/completions", json={"model": model, "prompt": "Well", "max_tokens": tokens, "seed": 1})


def ask_in_vain() -> None:
    with suppress(httpx.HTTPError):
        ask(400)


def test_what_runs_is_finished_when_it_is_asked_to_stop(program: subprocess.Popen[str]):
    answers: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: answers.append(ask(400)))
    asking.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{PORT}") as http:
        while not http.get("/health").json()["running"]:
            pass
    program.send_signal(signal.SIGTERM)
    asking.join(60)
    assert answers and answers[0].json()["usage"]["completion_tokens"] == 400
    program.wait(30)


def test_a_server_that_is_killed_while_it_answers_loses_no_finished_answer(
    program: subprocess.Popen[str], shell: Shell
):
    text = ask(5).json()["choices"][0]["text"]
    threading.Thread(target=ask_in_vain, daemon=True).start()
    with httpx.Client(base_url=f"http://127.0.0.1:{PORT}") as http:
        while not http.get("/health").json()["running"]:
            pass
    program.kill()
    program.wait()
    path = next(Path(shell.home).rglob("history.db"))
    first, second = rows(path, "SELECT * FROM pair_view")
    assert (first["normal"], first["status"], second["status"]) == (text, "complete", "running")
    with Store.open(path) as history:  # which tells that nobody is at the second one any more
        assert [stored.status for stored in history.pairs()] == ["interrupted", "complete"]
    assert rows(path, "PRAGMA integrity_check") == [{"integrity_check": "ok"}]
