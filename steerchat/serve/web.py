"""The server's paths: OpenAI's API, concepts, sweeps and the page. `ENDPOINTS`, below the handlers, declares them."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from .._version import __version__
from ..conversation.chat import unexpected
from ..conversation.session import Session
from ..experiments import charts
from ..experiments.outcomes import Result
from ..storage.records import Filters
from ..values.errors import SteerchatError
from ..values.results import Answer, Chosen, Delta, Finished, Pair, PairDone
from . import concepts
from .classroom import JOIN, PAUSE, Classroom, Client, paused
from .describe import Endpoint, openapi
from .guard import CLIENT, JOIN_PATH, Guard, Json, read_body, refused
from .requests import CHAT, COMPLETION, CONCEPT, SWEEP, Ask, BadRequest, client_name, read_ask
from .service import KIND, Service
from .shapes import Shape, comparison, measured, summary
from .streams import stream, unless_gone

_PAGE = Path(__file__).parent / "page"
_FILES = ("page.js", "api.js", "charts.js", "classroom.js", "lessons.js", "page.css", "icon.svg")
_LISTED = 100
_log = logging.getLogger("steerchat.serve")


async def _answer(service: Service, request: Request, body: dict[str, Any]) -> Response | dict[str, Any]:
    """To a chat or a completion."""
    service.check_model(body["model"])
    client, ask = _client(request, body), read_ask(body, service.base)
    session = service.session(client, ask.sampling, ask.stops, ask.likeliest)
    prompter, thought = service.engine.prompter, session.settings.thought

    def tokens() -> int:
        ids = prompter.chat(ask.messages, thought) if ask.messages else prompter.raw(ask.prompt)
        service.engine.check(ids)
        return len(ids)

    shape = Shape(ask, await service.call(tokens))
    chunks = _chunks(service, ask, session, client, shape)
    if ask.stream:
        return await stream(request, chunks)
    return await unless_gone(request, _whole(chunks))


async def _chunks(
    service: Service, ask: Ask, session: Session, client: Client, shape: Shape
) -> AsyncGenerator[dict[str, Any], None]:
    """The chunks of an answer. If it is not to be streamed, the last one is the whole answer."""
    began, first = time.monotonic(), True
    answers: dict[int, Answer] = {}
    chosen: dict[int, list[Chosen]] = {}
    pairs: list[Pair] = []
    with service.room(ask.rows, client):
        async with aclosing(service.events(session, client, service.answer(ask, session, client))) as events:
            async for event in events:
                if first:
                    service.meter.first.observe(time.monotonic() - began)
                    first = False
                    for number in range(ask.rows if ask.messages else 0):
                        yield shape.opening(number)
                if isinstance(event, Delta):
                    chosen.setdefault(event.row, []).extend(event.chosen)
                    yield shape.chunk(event.row, event.text, chosen=event.chosen)
                elif isinstance(event, Finished):
                    answers[event.row] = event.answer
                elif isinstance(event, PairDone):
                    pairs.append(event.pair)
    seconds = time.monotonic() - began
    service.meter.answered(seconds)
    said = [answers[number] for number in sorted(answers)]
    finished = {"answers": len(said), "tokens": sum(answer.tokens for answer in said), "seconds": round(seconds, 3)}
    _log.info("answer %s", finished)
    about = measured(pairs)
    for number, answer in enumerate(said):
        last = number == len(said) - 1
        yield shape.chunk(number, finish=answer.finish, steerchat=about if last else None)
    if ask.usage:
        yield shape.usage_chunk(said)
    if not ask.stream:
        yield shape.whole(said, about, chosen)


async def _whole(chunks: AsyncGenerator[dict[str, Any], None]) -> dict[str, Any]:
    last: dict[str, Any] = {}
    async with aclosing(chunks) as all_chunks:
        async for chunk in all_chunks:
            last = chunk
    return last


async def _sweep(service: Service, request: Request, body: dict[str, Any]) -> Response:
    client = _client(request, body)
    session = service.session(client, {"max_tokens": body.get("max_tokens", 40)})

    async def rows() -> AsyncGenerator[dict[str, Any], None]:
        with service.room(1, client):
            sweep = service.sweep(body, session, client)
            async with aclosing(service.events(session, client, sweep)) as events:
                async for event in events:
                    if isinstance(event, PairDone):
                        pair = event.pair
                        yield {"layer": pair.layer, "strength": pair.strength, "pair": pair.id, **comparison(pair)}
                    elif isinstance(event, Result):
                        yield {"chart": charts.layers(event).to_json()}

    return await stream(request, rows())


async def _models(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    names = [service.base, *(f"{service.base}+{name}" for name in service.app.library.names())]
    return {"object": "list", "data": [_described(name) for name in names]}


async def _model(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    service.check_model(request.path_params["name"])
    return _described(request.path_params["name"])


async def _pairs(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    text = request.query_params.get("limit", "10")
    limit = int(text) if text.isdecimal() and len(text) < 4 else 0
    if not 0 < limit <= _LISTED:
        raise BadRequest(f"limit is from 1 to {_LISTED}", "limit")
    client: Client = request.scope[CLIENT]
    store, filters = service.store, Filters(kind=KIND)
    if client.joined:  # nobody reads another's answers
        session_id = service.journal(client).session_id
        if session_id is None:
            return {"object": "list", "data": []}
        filters = Filters(kind=KIND, session=session_id)
    newest = await service.call(lambda: store.pairs(filters, limit))
    return {"object": "list", "data": [summary(stored) for stored in newest]}


async def _lessons(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    return {"object": "list", "data": await service.call(service.lessons.listed)}


async def _lesson(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    return await service.call(lambda: service.lessons.whole(request.path_params["name"]))


def _classroom(service: Service) -> Classroom:
    if service.classroom is None:
        raise BadRequest("this server has no class: start it with --class", status=404)
    return service.classroom


async def _class(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    return _classroom(service).described(request.scope[CLIENT])


async def _join(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    address = request.client.host if request.client else ""
    key, name = _classroom(service).join(body["code"], body["name"], address)
    return {"object": "student", "name": name, "key": key}


async def _pause(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    room = _classroom(service)
    room.paused = body["paused"]
    if room.paused:
        service.break_off(lambda client: bool(client.joined), paused())
    return room.described(request.scope[CLIENT])


async def _remove(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    room = _classroom(service)
    service.forget(room.remove(request.path_params["name"]))
    return room.described(request.scope[CLIENT])


async def _openapi(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    return openapi(ENDPOINTS)


async def _health(service: Service, request: Request, body: dict[str, Any]) -> dict[str, Any]:
    rows = service.rows
    facts = {"status": "ok" if rows.is_alive() else "stopping", "model": service.base, "version": __version__}
    facts |= {"running": rows.running, "waiting": rows.waiting, "rows": rows.size}
    return facts | {"access": request.app.state.access}


async def _metrics(service: Service, request: Request, body: dict[str, Any]) -> Response:
    return Response(service.meter.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _client(request: Request, body: Mapping[str, Any]) -> Client:
    """Who asks: a student by the name that they joined with, everyone else by the name that they give."""
    client: Client = request.scope[CLIENT]
    return client if client.joined else Client(client_name(body))


def _described(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "steerchat"}


_FORMAT = {"name": "format", "in": "query", "schema": {"enum": ["safetensors", "gguf", "json", "pt"]}}
_LIMIT = {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": _LISTED}}
ENDPOINTS = {
    "/v1/models": {"GET": Endpoint(_models, "the model, alone and with each concept", students=True)},
    "/v1/models/{name:path}": {"GET": Endpoint(_model, "one of them", students=True)},
    "/v1/chat/completions": {
        "POST": Endpoint(_answer, "an answer to a chat", body=CHAT, streams=True, students=True),
    },
    "/v1/completions": {
        "POST": Endpoint(_answer, "a text that goes on", body=COMPLETION, streams=True, students=True),
    },
    "/v1/concepts": {
        "GET": Endpoint(concepts.listed, "the concepts that can be steered", students=True),
        "POST": Endpoint(concepts.make, "makes a concept of contrast pairs", body=CONCEPT, status=201),
    },
    "/v1/concepts/{name}": {
        "GET": Endpoint(concepts.show, "a concept", students=True),
        "DELETE": Endpoint(concepts.delete, "deletes a concept of yours"),
    },
    "/v1/concepts/{name}/export": {
        "GET": Endpoint(concepts.export, "a concept's vector as a file", query=_FORMAT, students=True),
    },
    "/v1/sweeps": {
        "POST": Endpoint(_sweep, "a pair at every layer, as events", body=SWEEP, streams=True, students=True),
    },
    "/v1/pairs": {"GET": Endpoint(_pairs, "the last answers of this server", query=_LIMIT, students=True)},
    "/v1/lessons": {"GET": Endpoint(_lessons, "the lessons", students=True)},
    "/v1/lessons/{name}": {"GET": Endpoint(_lesson, "the text of a lesson, step by step", students=True)},
    "/v1/class": {
        "GET": Endpoint(_class, "whether the class is paused; for the teacher, its code and students", students=True),
    },
    JOIN_PATH: {"POST": Endpoint(_join, "a key for a student, by the class's code", body=JOIN, status=201)},
    "/v1/class/pause": {"POST": Endpoint(_pause, "makes all students wait, or lets them go on", body=PAUSE)},
    "/v1/class/students/{name}": {"DELETE": Endpoint(_remove, "takes a student out of the class")},
    "/health": {"GET": Endpoint(_health, "whether it answers")},
    "/metrics": {"GET": Endpoint(_metrics, "figures for Prometheus")},
}


def web(
    service: Service, token: str | None = None, hosts: Collection[str] = (), origins: Collection[str] = ()
) -> Starlette:
    """The ASGI application. Arguments as of `Guard`."""
    endpoints = ENDPOINTS | {"/openapi.json": {"GET": Endpoint(_openapi, "these paths")}}
    files = [("/", "index.html"), *((f"/{name}", name) for name in _FILES)]
    app = Starlette(
        routes=[
            *(Route(path, _told(service, path, each), methods=[*each]) for path, each in endpoints.items()),
            *(Route(path, _file(name), methods=["GET"]) for path, name in files),
        ],
        middleware=[Middleware(Guard, token=token, hosts=hosts, origins=origins, classroom=service.classroom)],
        exception_handlers={404: _missing, 405: _missing},
    )
    # What a client needs: `class` is a token or a student's key.
    app.state.access = "class" if service.classroom else "open" if token is None else "token"
    return app


def _told(service: Service, path: str, endpoints: Mapping[str, Endpoint]) -> Callable[[Request], Awaitable[Response]]:
    """Endpoints by method, whose errors are answers in OpenAI's form, counted and logged without what was said."""

    async def handle(request: Request) -> Response:
        began = time.monotonic()
        endpoint = endpoints["GET" if request.method == "HEAD" else request.method]
        client: Client | None = request.scope.get(CLIENT)
        try:
            if service.classroom is not None and client is not None and client.joined:
                service.classroom.admit(client, request.method, endpoint.students)
            fields = endpoint.body
            body = {} if fields is None else await read_body(request.scope, request.receive, fields)
            answer = await endpoint.handle(service, request, body)
            response = answer if isinstance(answer, Response) else Json(answer, endpoint.status)
        except Exception as error:
            response = refused(error if isinstance(error, SteerchatError) else unexpected(error))
        service.meter.requests.labels(path, str(response.status_code)).inc()
        facts = {"path": path, "status": response.status_code, "seconds": round(time.monotonic() - began, 3)}
        _log.info("request %s", {"method": request.method} | facts)
        return response

    return handle


def _file(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def send(request: Request) -> Response:
        return FileResponse(_PAGE / name)

    return send


async def _missing(request: Request, error: Exception | None = None) -> Response:
    status = getattr(error, "status_code", 404)
    message = "no such path" if status == 404 else "this path does not take that method"
    return refused(BadRequest(message, status=status, headers=getattr(error, "headers", None)))
