"""The server's log: what programs read of it, and what a terminal shows."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import httpx
import pytest
from serving import Running, Serving

from steerchat.serve.start import _log_lines


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def own_log() -> Iterator[None]:
    """Other tests see the log as it was."""
    log = logging.getLogger("steerchat.serve")
    before = log.handlers, log.propagate, log.level
    yield
    log.handlers, log.propagate = before[:2]
    log.setLevel(before[2])


def ask(server: Running) -> None:
    with server.http() as http:
        http.get("/v1/models")
        http.get("/v1/models/none")
        body = {"model": server.service.base, "prompt": "A secret", "max_tokens": 4, "seed": 1}
        said: httpx.Response = http.post("/v1/completions", json=body)
        assert said.status_code == 200


def test_a_program_reads_a_json_object_for_each_request_and_answer(serving: Serving):
    file = io.StringIO()
    _log_lines(file)
    ask(serving())
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    facts = [line["request"] for line in lines]
    assert [one.get("status") for one in facts] == [200, 404, None, 200]
    assert facts[2]["answers"] == 1 and facts[2]["tokens"] == 4
    assert facts[0]["path"] == "/v1/models" and facts[0]["method"] == "GET"
    assert all(line["time"].endswith("Z") and "T" in line["time"] for line in lines)
    assert "secret" not in file.getvalue()


def test_a_terminal_shows_short_lines_and_none_for_what_only_looks(serving: Serving):
    file = Terminal()
    _log_lines(file)
    ask(serving())
    lines = file.getvalue().splitlines()
    assert [line.split(maxsplit=1)[1].rpartition(" ")[0].rpartition(" ")[0] for line in lines] == [
        "GET /v1/models/{name:path} 404",
        "1 answers, 4 tokens,",
        "POST /v1/completions 200",
    ]
    assert max(map(len, lines)) < 80
