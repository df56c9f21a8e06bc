"""Who may ask: checks before a request reaches the server, and headers on every response.

A page on another site can make a browser send requests to this machine. It cannot choose their Host and Origin: a name
that its owner points here (DNS rebinding) is no name of ours, and another origin is not ours either.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..values.errors import SteerchatError
from .classroom import Classroom, Client
from .requests import BadRequest, Field, parse_body
from .shapes import failure

MAX_BODY = 1 << 20
MAX_HEADERS = 64
# Where students get their keys, and where a request's scope says who asks.
JOIN_PATH, CLIENT = "/v1/class/join", "steerchat.client"
# Seconds for a whole body: a slow one holds a connection, and no row.
_PATIENCE = 20.0
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Json(JSONResponse):
    """JSON in ASCII: a client's text may hold halves of characters, which UTF-8 cannot."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


def refused(error: SteerchatError) -> Json:
    """An error as a response."""
    status, body = failure(error)
    return Json(body, status, error.headers if isinstance(error, BadRequest) else None)


class Guard:
    """Middleware around the whole server.

    Args:
        token: what clients must send as `Authorization: Bearer TOKEN`; without one, all may ask.
        hosts: names under which this server may be asked, beside addresses and localhost.
        origins: of pages elsewhere that may ask from a browser.
        classroom: whose students' keys are let in beside the token.
    """

    def __init__(
        self,
        app: ASGIApp,
        token: str | None = None,
        hosts: Collection[str] = (),
        origins: Collection[str] = (),
        classroom: Classroom | None = None,
    ) -> None:
        self._app = app
        self._token = token
        self._classroom = classroom
        self._hosts = {"localhost", *(host.lower() for host in hosts)}
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        named = origin in self._origins

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = MutableHeaders(scope=message)
                ours.update({name: value for name, value in _HEADERS.items() if name not in ours})
                if named and origin:
                    ours.update({"access-control-allow-origin": origin, "vary": "origin"})
                    ours["cross-origin-resource-policy"] = "cross-origin"
            await send(message)

        try:
            self._check(scope, headers, origin)
        except BadRequest as error:
            await refused(error)(scope, receive, answer)
            return
        if named and scope["method"] == "OPTIONS":
            allowed = {"access-control-allow-methods": "GET, POST, DELETE", "access-control-max-age": "600"}
            allowed["access-control-allow-headers"] = "authorization, content-type"
            await Response(None, 204, allowed)(scope, receive, answer)
            return
        await self._app(scope, receive, answer)

    def _check(self, scope: Scope, headers: Headers, origin: str | None) -> None:
        if len(headers) > MAX_HEADERS:
            raise BadRequest("too many headers", status=431)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            raise BadRequest("this server is not called so: start it with --allow-host NAME", status=421)
        if origin is not None and origin not in self._origins and origin != f"{scope['scheme']}://{hosts[0]}":
            raise BadRequest("another site's page may not ask: --allow-origin names those that may", status=403)
        # What carries no answer of the model's needs no token: the page must load to ask for it.
        if (
            scope["path"].startswith(("/v1/", "/metrics"))
            and scope["path"] != JOIN_PATH
            and scope["method"] != "OPTIONS"
        ):
            scope[CLIENT] = self._client(headers.get("authorization", ""))

    def _client(self, authorization: str) -> Client:
        """Who sends this header. Raises BadRequest for nobody who may ask."""
        if self._token is None:
            return Client("")
        kind, _, given = authorization.partition(" ")
        given = given.strip() if kind.lower() == "bearer" else ""
        if hmac.compare_digest(given.encode(), self._token.encode()):
            return Client("")
        student = None if self._classroom is None else self._classroom.find(given)
        if student is None:
            needed = "a token is needed" if self._classroom is None else "the token or a student's key is needed"
            headers = {"www-authenticate": "Bearer"}
            raise BadRequest(f"{needed}: Authorization: Bearer TOKEN", None, 401, "invalid_api_key", headers)
        return student

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header is localhost, a name that was given, or an address, which nobody can point here."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name.partition("%")[0])
        except ValueError:
            return name in self._hosts
        return True


async def read_body(scope: Scope, receive: Receive, fields: Mapping[str, Field]) -> dict[str, Any]:
    """The fields of a request that says it is JSON, which a form on another site cannot say.

    Raises BadRequest when the body is too large, too slow, or something else than these fields.
    """
    headers = Headers(scope=scope)
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise BadRequest("send application/json", status=415)
    if headers.get("content-length", "0").isdecimal() and int(headers.get("content-length", "0")) > MAX_BODY:
        raise BadRequest(f"the body is larger than {MAX_BODY} bytes", status=413)
    body = bytearray()
    try:
        async with asyncio.timeout(_PATIENCE):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise BadRequest("the client hung up")
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    raise BadRequest(f"the body is larger than {MAX_BODY} bytes", status=413)
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise BadRequest("the body came too slowly", status=408) from None
    return parse_body(bytes(body), fields)
