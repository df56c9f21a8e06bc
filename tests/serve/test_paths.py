"""Concepts, sweeps, the history, metrics, and what the shell says."""

from __future__ import annotations

import io
import json
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from chats import Shell, say
from places import ROOT
from rich.console import Console
from safetensors.torch import load
from serving import Serving

from steerchat.screen.render import Screen


def test_a_concept_is_made_listed_steered_exported_and_deleted(serving: Serving):
    server = serving()
    new = {"name": "Loud", "positive": "HELLO THERE", "negative": "hello there", "description": "shouts"}
    with server.http() as http:
        made = http.post("/v1/concepts", json=new)
        assert made.status_code == 201 and made.json()["id"] == "loud" and made.json()["own"]
        assert http.post("/v1/concepts", json=new).status_code == 409
        assert http.post("/v1/concepts", json=new | {"replace": True}).status_code == 201
        listed = http.get("/v1/concepts").json()
        assert [row["id"] for row in listed["data"]] == ["formal", "happy", "loud", "sad", "random"]
        assert listed["layers"] == 4
        body = {"model": f"{server.service.base}+loud:2:3.0", "prompt": "Well", "max_tokens": 2}
        assert http.post("/v1/completions", json=body).status_code == 200
        vector = http.get("/v1/concepts/loud/export")
        assert load(vector.content) and 'filename="loud.safetensors"' in vector.headers["content-disposition"]
        assert http.get("/v1/concepts/loud/export?format=gguf").content.startswith(b"GGUF")
        assert json.loads(http.get("/v1/concepts/loud/export?format=json").content)[0]["layer_indices"]
        assert http.get("/v1/concepts/loud/export?format=exe").status_code == 400
        assert http.delete("/v1/concepts/loud").json() == {"id": "loud", "deleted": True, "shipped": False}
        assert http.get("/v1/concepts/loud").status_code == 404
        assert "ships" in http.delete("/v1/concepts/happy").json()["error"]["message"]


def test_examples_make_a_concept_too_and_broken_ones_are_named(serving: Serving):
    server = serving()
    good = {"prompt": "Well?", "positive": "Oh YES", "negative": "oh yes"}
    with server.http() as http:
        assert http.post("/v1/concepts", json={"name": "loud", "examples": [good, good]}).status_code == 201
        for examples, said in (
            ([], "1 to"),
            ([good, {}], "example 2"),
            ([1], "example 1"),
            ([good, good | {"prompt": 1}], "example 2: prompt"),
            ([good | {"held_out": 1}], "example 1: held_out"),
            ([good, good | {"negative": "x" * 10_001}], "example 2"),
            ([good | {"negative": " "}], "example 1"),
        ):
            refused = http.post("/v1/concepts", json={"name": "other", "examples": examples})
            assert refused.status_code == 400 and said in refused.json()["error"]["message"]
        assert http.post("/v1/concepts", json={"name": "delete", **good}).status_code == 400
        assert http.post("/v1/concepts", json={"name": "other"}).status_code == 400


def test_a_sweep_tells_each_layer_as_it_comes(serving: Serving):
    server = serving()
    body = {"prompt": "How are you?", "concept": "happy", "strength": 4.0, "seed": 3, "max_tokens": 5}
    with server.http() as http, http.stream("POST", "/v1/sweeps", json=body) as stream:
        lines = [line.removeprefix("data: ") for line in stream.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    chart = json.loads(lines.pop())["chart"]
    assert chart["chart"] == "chart" and chart["axis"] == "layer" and chart["at"] == [0, 1, 2, 3]
    rows = [json.loads(line) for line in lines]
    assert chart["series"][0]["values"] == [row["effect"] for row in rows]
    assert [row["layer"] for row in rows] == [0, 1, 2, 3]
    assert all(row["strength"] == 4.0 and row["effect"] is not None and row["cost"] > 0 for row in rows)
    with server.http() as http:
        refused = http.post("/v1/sweeps", json=body | {"concept": "nothing"})
        assert refused.status_code == 404 and refused.json()["error"]["code"] == "not_found"
        last = http.get("/v1/pairs?limit=2").json()["data"]
        assert [row["recipe"] for row in last] == ["happy 3 x 4.0", "happy 2 x 4.0"]
        assert http.get("/v1/pairs?limit=0").status_code == http.get("/v1/pairs?limit=x").status_code == 400


def test_figures_for_prometheus_count_what_was_answered(serving: Serving):
    server = serving()
    with server.http() as http:
        body = {"model": server.service.base, "prompt": "Well", "max_tokens": 5}
        http.post("/v1/completions", json=body)
        http.post("/v1/completions", json={})
        page = http.get("/metrics").text
        assert 'steerchat_requests_total{path="/v1/completions",status="200"} 1.0' in page
        assert 'steerchat_requests_total{path="/v1/completions",status="400"} 1.0' in page
        assert "steerchat_tokens_total 5.0" in page and "steerchat_rows_running 0.0" in page
        assert http.get("/health").json() | {"version": ""} == {
            "status": "ok", "model": server.service.base, "version": "", "running": 0, "waiting": 0, "rows": 8,
            "access": "open",
        }  # fmt: skip


def test_a_pair_of_the_server_is_found_in_the_history_and_answered_again(serving: Serving, shell: Shell):
    server = serving()
    with server.http() as http:
        body = {"model": server.service.base, "prompt": "Well", "max_tokens": 5, "steer": "happy 2 4.0", "user": "anna"}
        http.post("/v1/completions", json=body)
    screen = Screen(Console(file=io.StringIO(), width=100, color_system=None))
    listed = say(server.chat, screen, "/history --kind serve")
    assert "by" in listed.splitlines()[0] and "anna" in listed
    assert "asked by anna" in say(server.chat, screen, "/history 1")
    [stored] = server.service.store.pairs()
    events = list(server.chat.registry.get("history rerun").handler(server.chat, stored.id))
    assert any("token for token" in getattr(event, "text", "") for event in events)


def test_a_rerun_says_that_a_pair_ran_in_a_pool_where_its_texts_differ(serving: Serving):
    server = serving()
    with server.http() as http:
        body = {"model": server.service.base, "prompt": "Well", "max_tokens": 5, "steer": "happy 2 4.0", "seed": 1}
        http.post("/v1/completions", json=body)
    [stored] = server.service.store.pairs()
    assert stored.versions["pool"] == "8" and stored.versions["rows"] == "1"
    with sqlite3.connect(server.service.store.path) as history:  # as other roundings would have had it
        history.execute("UPDATE answers SET token_ids = '[1, 2]' WHERE finish != 'unasked'")
    events = list(server.chat.registry.get("history rerun").handler(server.chat, stored.id))
    assert any("in a pool of up to 8 rows" in getattr(event, "text", "") for event in events)


def test_lessons_are_read_by_name_and_lead_to_no_file(serving: Serving):
    server = serving()
    with server.http() as http:
        listed = http.get("/v1/lessons").json()["data"]
        assert [lesson["number"] for lesson in listed] == list(range(1, 16))
        lesson = http.get("/v1/lessons/strength").json()
        first, second = lesson["steps"][:2]
        assert lesson["title"] == listed[1]["title"] and first["do"] == ["/steer happy 2.0"] and first["hints"]
        assert [choice["right"] for choice in second["choices"]] == [None] * 3  # it is measured
        assert "wrong" not in first and "{" not in first["text"]
        assert "tutorials/cosy.csv" in http.get("/v1/lessons/making-a-concept").text
        assert str(ROOT) not in http.get("/v1/lessons/making-a-concept").text
        for name in ("../README", "..%2fREADME", "README", "99", "%00"):
            assert http.get(f"/v1/lessons/{name}").status_code == 404


def test_another_address_needs_a_token(shell: Shell):
    _, error = shell("serve", "--host", "0.0.0.0", code=2)
    assert "whoever reaches 0.0.0.0 could use this server" in error and "--token" in error
    _, error = shell("serve", "--class", code=2)
    assert "a class needs a token" in error
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        error = shell("serve", "--port", str(port), code=1)[1]
    assert f"nothing can listen at 127.0.0.1:{port}" in error and "--port" in error and "loading" not in error


def test_without_the_extra_the_shell_says_how_to_install_it(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("steerchat.terminal.serving._LIBRARIES", ("starlette", "no_such_library"))
    _, error = shell("serve", code=2)
    assert "the server needs no_such_library" in error and "pip install 'steerchat[serve]'" in error


@pytest.mark.subprocess
@pytest.mark.slow
def test_the_shell_imports_nothing_of_the_extra():
    code = (
        "import sys; from steerchat.terminal.cli import main; main(['serve', '--help']); "
        "print([n for n in ('starlette', 'uvicorn', 'torch', 'steerchat.serve') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert done.stdout.splitlines()[-1] == "[]" and "--allow-origin" in done.stdout
