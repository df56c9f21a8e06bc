"""The OpenAPI description of the server, made of the tables that requests are checked by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._version import __version__
from .classroom import JOIN, PAUSE
from .requests import CHAT, COMPLETION, CONCEPT, SWEEP, Field

_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_FORMAT = {"name": "format", "in": "query", "schema": {"enum": ["safetensors", "gguf", "json", "pt"]}}
_LIMIT = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100}}


def openapi() -> dict[str, Any]:
    """The description, as OpenAPI 3.1."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "steerchat", "version": __version__},
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
        "paths": {
            "/v1/models": {"get": _operation("the model, alone and with each concept")},
            "/v1/models/{name}": {"get": _operation("one of them", _NAME)},
            "/v1/chat/completions": {"post": _operation("an answer to a chat", body=CHAT, streams=True)},
            "/v1/completions": {"post": _operation("a text that goes on", body=COMPLETION, streams=True)},
            "/v1/concepts": {
                "get": _operation("the concepts that can be steered"),
                "post": _operation("makes a concept of contrast pairs", body=CONCEPT, status="201"),
            },
            "/v1/concepts/{name}": {
                "get": _operation("a concept", _NAME),
                "delete": _operation("deletes a concept of yours", _NAME),
            },
            "/v1/concepts/{name}/export": {"get": _operation("a concept's vector as a file", _NAME, _FORMAT)},
            "/v1/sweeps": {"post": _operation("a pair at every layer, as events", body=SWEEP, streams=True)},
            "/v1/pairs": {"get": _operation("the last answers of this server", _LIMIT)},
            "/v1/lessons": {"get": _operation("the lessons")},
            "/v1/lessons/{name}": {"get": _operation("the text of a lesson, step by step", _NAME)},
            "/v1/class": {"get": _operation("whether the class is paused; for the teacher, its code and students")},
            "/v1/class/join": {"post": _operation("a key for a student, by the class's code", body=JOIN, status="201")},
            "/v1/class/pause": {"post": _operation("makes all students wait, or lets them go on", body=PAUSE)},
            "/v1/class/students/{name}": {"delete": _operation("takes a student out of the class", _NAME)},
            "/health": {"get": _operation("whether it answers")},
            "/metrics": {"get": _operation("figures for Prometheus")},
        },
    }


def _operation(
    summary: str,
    *parameters: dict[str, Any],
    body: Mapping[str, Field] | None = None,
    status: str = "200",
    streams: bool = False,
) -> dict[str, Any]:
    kinds = {"application/json": {}} | ({"text/event-stream": {}} if streams else {})
    operation: dict[str, Any] = {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            status: {"description": "done"} | ({"content": kinds} if body else {}),
            "default": {"description": "an error in OpenAI's form"},
        },
    }
    if body is not None:
        schema = {
            "type": "object",
            "additionalProperties": False,
            "required": [name for name, field in body.items() if field.required],
            "properties": {name: field.schema() for name, field in body.items()},
        }
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation
