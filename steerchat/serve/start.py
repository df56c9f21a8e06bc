"""Runs the server until it is stopped: uvicorn, with a bound on everything that a client can make it hold."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, TextIO

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..values.errors import SteerchatError, UsageError
from .service import Service
from .web import web

_LOCAL = ("127.0.0.1", "::1", "localhost")
_CONNECTIONS = 512
_HEADER_BYTES = 16 << 10
# Seconds that answers may take to finish once the server is asked to stop.
_FINISH = 30
# Seconds for the headers of a request, or what is left of a refused one; uvicorn waits for ever. For a body that is
# read, guard.py has a bound.
_PATIENCE = 20.0


def check_address(host: str, token: str | None, classroom: bool) -> None:
    """Raises UsageError for an address that others can reach, or for a class, without a token."""
    if classroom and not token:
        raise UsageError(
            "a class needs a token, by which the server knows the teacher",
            "--token TEXT, or STEERCHAT_TOKEN in the environment; students join with a code",
        )
    if host not in _LOCAL and not token:
        raise UsageError(
            f"whoever reaches {host} could use this server",
            "--token TEXT, or STEERCHAT_TOKEN in the environment, lets in only those who know it",
        )


def check_port(host: str, port: int) -> None:
    """Raises SteerchatError when nothing can listen there: before a model is loaded for it."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, os.name == "posix")
            probe.bind(place)
    except OSError as error:
        reason = error.strerror or error
        raise SteerchatError(f"nothing can listen at {host}:{port}: {reason}", "--port 8001 names another") from None


def serve(
    service: Service,
    host: str,
    port: int,
    token: str | None,
    hosts: Sequence[str],
    origins: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Serve a model until Ctrl-C or SIGTERM; what runs then is finished, and the service is closed.

    Args:
        host: where to listen; `check_address` has let it pass with this token.
        token, hosts, origins: as of `Guard`.
        say: told in a sentence when it is ready, and when it stops.
    """
    _log_lines(sys.stderr)
    names = [*hosts, *([] if host in ("0.0.0.0", "::") else [host])]
    config = uvicorn.Config(
        web(service, token, names, origins),
        host=host,
        port=port,
        http=PatientProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=_FINISH,
    )
    ready = f"{service.base} answers at http://{host}:{port}/ ({service.rows.size} rows)"
    if service.classroom is not None:
        ready += f"; students join there with the code {service.classroom.code}"
    server = _Server(config, ready, say)
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    finally:
        service.close()
        say("stopped")


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP, with a bound on how long a request may take: many slow ones would leave no room (Slowloris)."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = self.loop.call_later(_PATIENCE, self._hang_up)

    def _hang_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # no whole request since, or a body that nobody reads
            self.transport.close()


class _Server(uvicorn.Server):
    """Says when it is `ready`, and what Ctrl-C does."""

    def __init__(self, config: uvicorn.Config, ready: str, say: Callable[[str], None]) -> None:
        super().__init__(config)
        self._ready, self._say = ready, say

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._say(self._ready)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            self._say("the answers that run are finished first; Ctrl-C again cuts them off")
        super().handle_exit(sig, frame)


def _log_lines(file: TextIO) -> None:
    """A line on `file` for each request and each answer, without what was asked or answered: a JSON object for
    programs; in a terminal a short line, and none for what only looks."""
    handler = logging.StreamHandler(file)
    handler.setFormatter(_Short() if file.isatty() else _Json())
    handler.addFilter(lambda record: not file.isatty() or not _only_looks(_facts(record)))
    log = logging.getLogger("steerchat.serve")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def _facts(record: logging.LogRecord) -> Mapping[str, Any]:
    return record.args if isinstance(record.args, Mapping) else {}


def _only_looks(facts: Mapping[str, Any]) -> bool:
    return facts.get("method") == "GET" and facts.get("status") == 200


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return json.dumps({"time": f"{when}.{record.msecs:03.0f}Z", "request": _facts(record)})


class _Short(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        words = {"answers": "{} answers,", "tokens": "{} tokens,", "seconds": "{} s"}
        line = " ".join(words.get(name, "{}").format(value) for name, value in _facts(record).items())
        return f"  {time.strftime('%H:%M:%S', time.localtime(record.created))}  {line}"
