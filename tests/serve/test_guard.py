"""Attacks on the server: none gets in, and what a client sends stays text."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from serving import Running, Serving

JSON = {"content-type": "application/json"}
PATHS = ["/v1/models", "/v1/concepts", "/v1/pairs", "/metrics"]


def chat(server: Running, **headers: str) -> httpx.Response:
    body = {"model": server.service.base, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    with server.http(headers=headers) as http:
        return http.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil@x", "", "a b"]
)
def test_a_name_that_someone_points_here_is_refused(serving: Serving, host: str):
    server = serving()
    for path in ("/", "/health", *PATHS):
        with server.http() as http:
            assert http.get(path, headers={"host": host}).status_code in (400, 421)
    assert chat(server, host=host).status_code in (400, 421)


def test_names_of_this_machine_and_those_that_were_given_are_let_in(serving: Serving):
    server = serving(guard={"hosts": ["lab.example"]})
    for host in ("localhost:8321", "127.0.0.1", "[::1]:9", "192.168.0.7", "LAB.example:80"):
        with server.http() as http:
            assert http.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1", "file://"]
)
def test_another_sites_page_may_not_ask(serving: Serving, origin: str):
    server = serving()
    refused = chat(server, origin=origin)
    assert refused.status_code == 403 and "access-control-allow-origin" not in refused.headers
    with server.http() as http:
        asked = http.options("/v1/models", headers={"origin": origin, "access-control-request-method": "POST"})
    assert asked.status_code == 403
    assert chat(server, origin=server.url).status_code == 200


def test_a_site_that_was_named_may_ask(serving: Serving):
    server = serving(guard={"origins": ["https://class.example"]})
    answered = chat(server, origin="https://class.example")
    assert answered.status_code == 200
    assert answered.headers["access-control-allow-origin"] == "https://class.example"
    with server.http() as http:
        asked = http.options("/v1/chat/completions", headers={"origin": "https://class.example"})
    assert asked.status_code == 204 and "authorization" in asked.headers["access-control-allow-headers"]


def test_without_the_token_nothing_is_told(serving: Serving):
    server = serving(guard={"token": "open sesame"})
    for authorization in ("", "Bearer", "Bearer wrong", "Basic open sesame", "Bearer open sesam\u00e9"):
        with server.http() as http:
            for path in PATHS:
                refused = http.get(path, headers=[(b"authorization", authorization.encode("latin-1"))])
                assert refused.status_code == 401 and "happy" not in refused.text
    with pytest.raises(openai.AuthenticationError):
        server.client().models.list()
    assert server.client(api_key="open sesame").models.list().data


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_could_send_is_refused(serving: Serving, kind: str):
    server = serving()
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/concepts", "/v1/sweeps"):
        with server.http() as http:
            assert http.post(path, content=b"{}", headers={"content-type": kind}).status_code == 415


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"model": NaN}',
        b"[" * 100_000,
        b'{"model": ' + b"9" * 5000 + b"}",
        b'{"model": "\\ud800", "messages": [null]}',
        b'{"\\ud800": 1}',
        b'{"model": {}, "messages": 1, "n": "x"}',
        b'{"model": "m", "messages": [{"role": "user", "content": [1, null]}], "stop": [null]}',
    ],
)
def test_a_body_that_is_no_request_is_refused_in_a_sentence(serving: Serving, body: bytes):
    server = serving()
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/concepts", "/v1/sweeps"):
        with server.http() as http:
            refused = http.post(path, content=body, headers=JSON)
        assert refused.status_code in (400, 404) and refused.json()["error"]["message"].endswith(".")
    assert server.is_idle()


def test_a_body_beyond_the_bound_is_refused_whatever_it_says_of_its_length(serving: Serving):
    server = serving()
    with server.http() as http:
        large = http.post("/v1/chat/completions", content=b" " * (2 << 20), headers=JSON)
        assert large.status_code == 413
        endless = http.post("/v1/chat/completions", content=(b" " * 65536 for _ in range(64)), headers=JSON)
        assert endless.status_code == 413


def test_a_flood_of_headers_is_refused(serving: Serving):
    server = serving()
    with server.http() as http:
        assert http.get("/health", headers={f"x-{number}": "y" for number in range(80)}).status_code == 431
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(10)
        try:
            connection.sendall(b"GET /health HTTP/1.1\r\n" + b"x-y: " + b"z" * (1 << 20) + b"\r\n\r\n")
            assert b"400" in connection.recv(100)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it hung up before all was sent


def sent_slowly(server: Running, begin: bytes, piece: bytes) -> tuple[bytes, float]:
    """What a client gets that sends a piece every twentieth of a second, and after how many seconds."""
    host, port = server.url.removeprefix("http://").split(":")
    got, began = b"", time.monotonic()
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(0.05)
        connection.sendall(begin)
        while time.monotonic() - began < 10:
            try:
                connection.sendall(piece)
                if not (new := connection.recv(4096)):
                    break
                got += new
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
    return got, time.monotonic() - began


def test_headers_and_bodies_that_come_too_slowly_hold_no_connection(serving: Serving, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("steerchat.serve.start._PATIENCE", 0.5)
    monkeypatch.setattr("steerchat.serve.guard._PATIENCE", 0.5)
    server = serving()
    got, seconds = sent_slowly(server, b"GET /health HTTP/1.1\r\nhost: localhost\r\n", b"x: y\r\n")
    assert got == b"" and 0.4 < seconds < 5
    # A second request on a connection that a first one opened.
    first = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
    got, seconds = sent_slowly(server, first + b"GET /health HTTP/1.1\r\n", b"x: y\r\n")
    assert got.count(b"HTTP/1.1 200") == 1 and 0.4 < seconds < 5
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    got, seconds = sent_slowly(server, head + b"content-length: 5000\r\n\r\n", b" ")
    assert b"408" in got.splitlines()[0] and b"too slowly" in got and seconds < 5
    assert chat(server).status_code == 200


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..%2f..%2fetc%2fpasswd", "happy%00", "%2e%2e", "random", "<script>", "a" * 300, "CON"]
)
def test_a_concepts_name_leads_to_no_file(serving: Serving, name: str):
    server = serving()
    files = sorted(Path(server.chat.library.cached(server.chat.library.get("happy"), "x")).parents[2].rglob("*"))
    with server.http() as http:
        for answered in (
            http.get(f"/v1/concepts/{name}"),
            http.delete(f"/v1/concepts/{name}"),
            http.get(f"/v1/concepts/{name}/export"),
        ):
            if name != "random":
                assert answered.status_code in (400, 404, 405), (answered.url, answered.text)
            assert "root:" not in answered.text
        body = {"name": name, "positive": "I love it", "negative": "It is here"}
        assert http.post("/v1/concepts", json=body).status_code == 400 or name == "CON"
    left = sorted(Path(server.chat.library.cached(server.chat.library.get("happy"), "x")).parents[2].rglob("*"))
    assert [path for path in left if path not in files and path.suffix == ".toml" and path.stem != "con"] == []


def test_markup_stays_text_and_no_page_may_run_it(serving: Serving):
    server = serving()
    markup = "<img src=x onerror=alert(1)>"
    with server.http() as http:
        body: dict[str, Any] = {"model": server.service.base, "messages": [{"role": "user", "content": markup}]}
        http.post("/v1/chat/completions", json=body | {"max_tokens": 2})
        listed = http.get("/v1/pairs")
        assert listed.json()["data"][0]["prompt"] == markup
        assert listed.headers["content-type"] == "application/json"
        for path in ("/v1/pairs", "/", "/nothing"):
            headers = http.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"


def test_other_paths_and_methods_are_refused_in_openais_form(serving: Serving):
    server = serving()
    with server.http() as http:
        assert http.get("/v1/nothing").json()["error"]["message"] == "no such path."
        assert http.get("/page/../../pyproject.toml").status_code == 404
        refused = http.put("/v1/concepts/happy")
        assert refused.status_code == 405 and "DELETE" in refused.headers["allow"]
