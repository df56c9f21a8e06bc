"""What an endpoint declares, and the OpenAPI description of the server, made of all declarations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from .._version import __version__
from .requests import Field
from .service import Service

# Answers a request, given the checked fields of its body, which are none where it takes no body. A value that is no
# response is sent as JSON.
Handler = Callable[[Service, Request, dict[str, Any]], Awaitable[Response | dict[str, Any]]]

_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}


@dataclass(frozen=True)
class Endpoint:
    """What the server does for one method of a path.

    Attributes:
        handle, summary: what it does, for the server and for people.
        body: the fields that it takes; None for a request without a body.
        query: a parameter of the address, for the description; `handle` checks it.
        streams: whether the answer can come as server-sent events.
        status: of an answer in JSON.
        students: whether a student's key opens it; what is new is closed to students until somebody decides otherwise.
    """

    handle: Handler
    summary: str
    body: Mapping[str, Field] | None = None
    query: Mapping[str, Any] | None = None
    streams: bool = False
    status: int = 200
    students: bool = False


Endpoints = Mapping[str, Mapping[str, Endpoint]]  # by path and method


def openapi(endpoints: Endpoints) -> dict[str, Any]:
    """The description, as OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "steerchat", "version": __version__},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
        "paths": {
            path.replace(":path", ""): {method.lower(): _operation(path, each) for method, each in methods.items()}
            for path, methods in endpoints.items()
        },
    }


def _operation(path: str, endpoint: Endpoint) -> dict[str, Any]:
    kinds = {"application/json": {}} | ({"text/event-stream": {}} if endpoint.streams else {})
    operation: dict[str, Any] = {
        "summary": endpoint.summary,
        "parameters": [*([_NAME] if "{name" in path else []), *([endpoint.query] if endpoint.query else [])],
        "responses": {
            str(endpoint.status): {"description": "done"} | ({"content": kinds} if endpoint.body else {}),
            "default": {"description": "an error in OpenAI's form"},
        },
    }
    if endpoint.body is not None:
        schema = {
            "type": "object",
            "additionalProperties": False,
            "required": [name for name, field in endpoint.body.items() if field.required],
            "properties": {name: field.schema() for name, field in endpoint.body.items()},
        }
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation
