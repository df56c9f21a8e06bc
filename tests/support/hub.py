"""A Hub on this machine: the few pages that huggingface_hub asks for, served from folders, and trouble on demand."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_PAGE = re.compile(r"/api/models/(?P<id>[^/]+/[^/]+)(/(?P<kind>revision|tree)/(?P<rev>[^/?]+))?(\?.*)?")
_FILE = re.compile(r"/(?P<id>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>[^?]+)(\?.*)?")


@dataclass
class Hub:
    """Its models and what was asked of it.

    Attributes:
        models: a folder for each Hub id.
        gated: ids that need the token.
        token: the one that opens them.
        stall: a file name of which half is sent, and then nothing more.
        breaks: a file name of which half is sent before the connection breaks, once.
        fetched: (path, first byte, bytes sent) of each file that was asked for.
        asked: requests of any kind.
    """

    models: dict[str, Path]
    gated: set[str] = field(default_factory=set)
    token: str = "hf_secret"
    stall: str = ""
    breaks: str = ""
    fetched: list[tuple[str, int, int]] = field(default_factory=list)
    asked: int = 0

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            of = hub

        self.halfway = threading.Event()
        self._release = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()

    def hang(self) -> None:
        """Send no more until the end."""
        self.halfway.set()
        self._release.wait(60)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"


class _Handler(BaseHTTPRequestHandler):
    of: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        hub = self.of
        hub.asked += 1
        found = _PAGE.fullmatch(self.path) or _FILE.fullmatch(self.path)
        folder = hub.models.get(found["id"]) if found else None
        if found is None or folder is None:
            return self._refuse(401, "RepoNotFound")
        if found["rev"] not in (None, "main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        known = found.groupdict()
        if "path" in known:
            closed = found["id"] in hub.gated and self.headers.get("Authorization") != f"Bearer {hub.token}"
            return self._refuse(403, "GatedRepo") if closed else self._file(folder, known["path"], body)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if known["kind"] == "tree":
            return self._json([_entry(file, folder) for file in files])
        return self._json({"id": found["id"], "sha": COMMIT, "siblings": []})

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _json(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _file(self, folder: Path, path: str, body: bool) -> None:
        file = folder / path
        if not file.is_file():
            return self._refuse(404, "EntryNotFound")
        data = file.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first = int(wanted[1]) if wanted else 0
        rest = data[first : int(wanted[2]) + 1 if wanted and wanted[2] else None]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{first + len(rest) - 1}/{len(data)}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{_digest(file)}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if not body:
            return None
        stalls, breaks = path == self.of.stall, path == self.of.breaks
        halfway = stalls or breaks
        sent = rest[: len(rest) // 2] if halfway else rest
        self.wfile.write(sent)
        self.wfile.flush()
        self.of.fetched.append((path, first, len(sent)))
        if breaks:
            self.of.breaks = ""
        if stalls:
            self.of.hang()
        if halfway:
            self.close_connection = True
        return None


def _entry(file: Path, folder: Path) -> dict[str, Any]:
    entry = {"type": "file", "path": file.relative_to(folder).as_posix(), "size": file.stat().st_size}
    entry["oid"] = hashlib.sha1(file.read_bytes()).hexdigest()
    if file.suffix in (".safetensors", ".bin"):
        entry["lfs"] = {"oid": _digest(file), "size": file.stat().st_size, "pointerSize": 134}
    return entry


def _digest(file: Path) -> str:
    large = file.suffix in (".safetensors", ".bin")
    return hashlib.new("sha256" if large else "sha1", file.read_bytes()).hexdigest()
