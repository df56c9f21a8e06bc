"""The handlers of concepts: listed, shown, made, deleted, and exported as files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ..concepts.concept import Concept, Example, check_examples
from ..concepts.files import read_example
from ..values.errors import ConceptError
from ..values.recipe import parse_layers
from .classroom import Client
from .requests import BadRequest
from .service import Service

_LONGEST = 10_000  # characters of a text


async def listed(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    concepts = await service.call_alone(lambda: [_concept(service, name) for name in service.app.library.names()])
    return {"object": "list", "model": service.base, "layers": service.engine.n_layers, "data": concepts}


async def show(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    return await service.call_alone(lambda: _concept(service, request.path_params["name"]))


async def make(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    def add() -> dict[str, Any]:
        library = service.app.library
        name = library.check_name(body["name"])
        if library.owns(name) and not body.get("replace"):
            raise BadRequest(f"there is a concept {name} already: replace", "name", 409)
        concept = Concept(name, "custom", body.get("description", ""), _examples(body), method="centred")
        library.add(concept, service.engine)
        return _concept(service, name)

    with service.room(1, Client("concepts")):
        return await service.call_alone(add)


async def delete(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    name = request.path_params["name"]
    shipped = await service.call_alone(lambda: service.app.library.delete(name))
    return {"id": name, "deleted": True, "shipped": shipped}


async def export(service: Service, request: Request, body: dict[str, Any]) -> Response:
    from ..concepts.export import Push, check_suffix, export_vector

    name, form = request.path_params["name"], request.query_params.get("format", "safetensors")
    suffix = check_suffix(Path(f"vector.{form[:20]}"))

    def export() -> bytes:
        library, engine = service.app.library, service.engine
        concept = library.get(name)
        lengths = service.calibration.profile(engine).lengths
        facts = {"kind": concept.kind, "description": concept.description}
        layers, strength, _ = library.recommended(name, engine.fingerprint)
        push = Push(parse_layers(layers, engine.n_layers), strength)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"vector{suffix}"
            vector, model_type = library.vector(name, engine), engine.model.config.model_type
            export_vector(vector, file, lengths, model_type, facts, push)
            return file.read_bytes()

    data = await service.call_alone(export)
    # The name is a concept's, so nothing in it can end the header.
    attached = {"content-disposition": f'attachment; filename="{name}{suffix}"'}
    return Response(data, 200, attached, "application/octet-stream")


def _concept(service: Service, name: str) -> dict[str, Any]:
    library = service.app.library
    try:
        concept = library.get(name)
    except ConceptError as error:
        if name not in library.names():
            raise
        return {"id": name, "object": "concept", "error": error.message}
    layers, strength, tuned = library.recommended(name, service.engine.fingerprint)
    about = {"kind": concept.kind, "description": concept.description, "own": concept.source == "user"}
    return {"id": name, "object": "concept", **about, "layers": layers, "strength": strength, "tuned": tuned}


def _examples(body: Mapping[str, Any]) -> tuple[Example, ...]:
    """The contrast pairs of a new concept."""
    examples = body.get("examples")
    if examples is None:
        if "positive" not in body or "negative" not in body:
            raise BadRequest("a concept needs positive and negative, or examples", "examples")
        examples = [{"positive": body["positive"], "negative": body["negative"]}]
    checked = []
    for number, entry in enumerate(examples, 1):
        try:
            example = read_example(f"example {number}", entry)
        except ConceptError as error:  # its hint is about files
            raise BadRequest(error.message, "examples") from None
        if max(map(len, (example.prompt, example.positive, example.negative))) > _LONGEST:
            raise BadRequest(f"a text of example {number} has more than {_LONGEST} characters", "examples")
        checked.append(example)
    return check_examples(checked)
