"""The server's paths: OpenAI's API, concepts, sweeps and the page."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import replace
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
from . import describe
from .classroom import JOIN, PAUSE, Classroom, Client, paused
from .concepts import ConceptPaths
from .guard import CLIENT, JOIN_PATH, Guard, Json, read_body
from .requests import CHAT, COMPLETION, SWEEP, Ask, BadRequest, client_name, parse_body, read_ask
from .service import KIND, Busy, Service
from .shapes import Shape, comparison, failure, measured, summary
from .streams import stream, unless_gone

_PAGE = Path(__file__).parent / "page"
_FILES = ("page.js", "api.js", "charts.js", "classroom.js", "lessons.js", "page.css", "icon.svg")
_LISTED = 100
_log = logging.getLogger("steerchat.serve")

Handler = Callable[[Request], Awaitable[Response]]


def web(
    service: Service, token: str | None = None, hosts: Collection[str] = (), origins: Collection[str] = ()
) -> Starlette:
    """The ASGI application. Arguments as of `Guard`."""
    paths = _Paths(service, "class" if service.classroom else "open" if token is None else "token")
    concepts = ConceptPaths(service)
    routes = [
        ("/v1/models", {"GET": paths.models}),
        ("/v1/models/{name:path}", {"GET": paths.model}),
        ("/v1/chat/completions", {"POST": paths.chat}),
        ("/v1/completions", {"POST": paths.completion}),
        ("/v1/concepts", {"GET": concepts.list, "POST": concepts.make}),
        ("/v1/concepts/{name}", {"GET": concepts.show, "DELETE": concepts.delete}),
        ("/v1/concepts/{name}/export", {"GET": concepts.export}),
        ("/v1/sweeps", {"POST": paths.sweep}),
        ("/v1/pairs", {"GET": paths.pairs}),
        ("/v1/lessons", {"GET": paths.lessons}),
        ("/v1/lessons/{name}", {"GET": paths.lesson}),
        ("/v1/class", {"GET": paths.classroom}),
        (JOIN_PATH, {"POST": paths.join}),
        ("/v1/class/pause", {"POST": paths.pause}),
        ("/v1/class/students/{name}", {"DELETE": paths.remove}),
        ("/openapi.json", {"GET": paths.openapi}),
        ("/health", {"GET": paths.health}),
        ("/metrics", {"GET": paths.metrics}),
    ]
    files = [("/", "index.html"), *((f"/{name}", name) for name in _FILES)]
    return Starlette(
        routes=[
            *(Route(path, _told(service, path, handlers), methods=[*handlers]) for path, handlers in routes),
            *(Route(path, _file(name), methods=["GET"]) for path, name in files),
        ],
        middleware=[Middleware(Guard, token=token, hosts=hosts, origins=origins, classroom=service.classroom)],
        exception_handlers={404: _missing, 405: _missing},
    )


def _told(service: Service, path: str, handlers: Mapping[str, Handler]) -> Handler:
    """Handlers by method, whose errors are answers in OpenAI's form, counted and logged without what was said."""

    async def handle(request: Request) -> Response:
        began = time.monotonic()
        extra: dict[str, str] = {}
        method = "GET" if request.method == "HEAD" else request.method
        client: Client | None = request.scope.get(CLIENT)
        try:
            if service.classroom is not None and client is not None and client.joined:
                service.classroom.admit(client, method, path)
            response = await handlers[method](request)
        except Busy as error:
            extra["retry-after"] = str(error.after)
            response = Json(failure(error)[1], failure(error)[0], extra)
        except SteerchatError as error:
            status, body = failure(error)
            response = Json(body, status)
        except Exception as error:
            status, body = failure(unexpected(error))
            response = Json(body, status)
        service.meter.requests.labels(path, str(response.status_code)).inc()
        facts = {"path": path, "status": response.status_code, "seconds": round(time.monotonic() - began, 3)}
        _log.info("request %s", {"method": request.method} | facts)
        return response

    return handle


class _Paths:
    """The handlers. `access`: what a client needs, `class` for a token or a student's key."""

    def __init__(self, service: Service, access: str) -> None:
        self._service = service
        self._access = access

    # Answers

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, CHAT)

    async def completion(self, request: Request) -> Response:
        return await self._answer(request, COMPLETION)

    async def _answer(self, request: Request, fields: Mapping[str, Any]) -> Response:
        service = self._service
        body = parse_body(await read_body(request.scope, request.receive), fields)
        service.check_model(body["model"])
        client, ask = _client(request, body), read_ask(body, service.base)
        ask = replace(ask, client=client.name)
        session = service.session(client, ask.sampling, ask.stops, ask.compare, ask.likeliest)
        prompter, thought = service.engine.prompter, session.settings.thought

        def tokens() -> int:
            ids = prompter.chat(ask.messages, thought) if ask.messages else prompter.raw(ask.prompt)
            service.engine.check(ids)
            return len(ids)

        shape = Shape(ask, await service.call(tokens))
        chunks = self._chunks(ask, session, client, shape)
        if ask.stream:
            return await stream(request, chunks)
        return await unless_gone(request, self._whole(chunks))

    async def _chunks(
        self, ask: Ask, session: Session, client: Client, shape: Shape
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of an answer, and last the whole of it."""
        service, began, first = self._service, time.monotonic(), True
        answers: dict[int, Answer] = {}
        chosen: dict[int, list[Chosen]] = {}
        pairs: list[Pair] = []
        with service.room(ask.rows, client):
            async with aclosing(service.events(session, client, service.answer(ask, session))) as events:
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

    async def _whole(self, chunks: AsyncGenerator[dict[str, Any], None]) -> Response:
        last: dict[str, Any] = {}
        async with aclosing(chunks) as all_chunks:
            async for chunk in all_chunks:
                last = chunk
        return Json(last)

    async def sweep(self, request: Request) -> Response:
        body = parse_body(await read_body(request.scope, request.receive), SWEEP)
        service = self._service
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

    # Models, history, lessons

    async def models(self, request: Request) -> Response:
        library = self._service.app.library
        names = [self._service.base, *(f"{self._service.base}+{name}" for name in library.names())]
        return Json({"object": "list", "data": [_model(name) for name in names]})

    async def model(self, request: Request) -> Response:
        self._service.check_model(request.path_params["name"])
        return Json(_model(request.path_params["name"]))

    async def pairs(self, request: Request) -> Response:
        text = request.query_params.get("limit", "10")
        limit = int(text) if text.isdecimal() and len(text) < 4 else 0
        if not 0 < limit <= _LISTED:
            raise BadRequest(f"limit is from 1 to {_LISTED}", "limit")
        client: Client = request.scope[CLIENT]
        store, filters = self._service.store, Filters(kind=KIND)
        if client.joined:  # nobody reads another's answers
            session_id = self._service.journal(client).session_id
            if session_id is None:
                return Json({"object": "list", "data": []})
            filters = Filters(kind=KIND, session=session_id)
        newest = await self._service.call(lambda: store.pairs(filters, limit))
        return Json({"object": "list", "data": [summary(stored) for stored in newest]})

    async def lessons(self, request: Request) -> Response:
        return Json({"object": "list", "data": await self._service.call(self._service.lessons.listed)})

    async def lesson(self, request: Request) -> Response:
        name = request.path_params["name"]
        return Json(await self._service.call(lambda: self._service.lessons.whole(name)))

    # The class

    @property
    def _class(self) -> Classroom:
        if self._service.classroom is None:
            raise BadRequest("this server has no class: start it with --class", status=404)
        return self._service.classroom

    async def classroom(self, request: Request) -> Response:
        return Json(self._class.described(request.scope[CLIENT]))

    async def join(self, request: Request) -> Response:
        body = parse_body(await read_body(request.scope, request.receive), JOIN)
        address = request.client.host if request.client else ""
        key, name = self._class.join(body["code"], body["name"], address)
        return Json({"object": "student", "name": name, "key": key}, 201)

    async def pause(self, request: Request) -> Response:
        body = parse_body(await read_body(request.scope, request.receive), PAUSE)
        self._class.paused = body["paused"]
        if self._class.paused:
            self._service.break_off(lambda client: bool(client.joined), paused())
        return Json(self._class.described(request.scope[CLIENT]))

    async def remove(self, request: Request) -> Response:
        self._service.forget(self._class.remove(request.path_params["name"]))
        return Json(self._class.described(request.scope[CLIENT]))

    # About the server

    async def openapi(self, request: Request) -> Response:
        return Json(describe.openapi())

    async def health(self, request: Request) -> Response:
        rows = self._service.rows
        facts = {"status": "ok" if rows.is_alive() else "stopping", "model": self._service.base, "version": __version__}
        facts |= {"running": rows.running, "waiting": rows.waiting, "rows": rows.size}
        return Json(facts | {"access": self._access})

    async def metrics(self, request: Request) -> Response:
        return Response(self._service.meter.page(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _client(request: Request, body: Mapping[str, Any]) -> Client:
    """Who asks: a student by the name that they joined with, everyone else by the name that they give."""
    client: Client = request.scope[CLIENT]
    return client if client.joined else Client(client_name(body))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "steerchat"}


def _file(name: str) -> Handler:
    async def send(request: Request) -> Response:
        return FileResponse(_PAGE / name)

    return send


async def _missing(request: Request, error: Exception | None = None) -> Response:
    status = getattr(error, "status_code", 404)
    message = "no such path" if status == 404 else "this path does not take that method"
    return Json(failure(BadRequest(message, status=status))[1], status, getattr(error, "headers", None))
