"""What the server does for a request, as events, by the verbs of a conversation."""

from __future__ import annotations

import asyncio
import functools
import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from ..conversation.app import App
from ..conversation.chat import unexpected
from ..conversation.runner import Plan, Question, Runner
from ..conversation.session import Session
from ..experiments.outcomes import Result, outcomes_of
from ..experiments.settings import at_layers, chosen
from ..measures.calibration import Calibration
from ..models.catalogue import KNOWN
from ..storage.journal import Journal
from ..storage.store import Store
from ..values.errors import SteerchatError, UsageError
from ..values.recipe import Recipe
from ..values.results import Event, Notice, Pair, Watch
from ..values.setting import Setting
from .classroom import Classroom, Client
from .lessons import Lessons
from .meter import Meter
from .requests import Ask, BadRequest
from .rows import RowQueue, ServedEngine

T = TypeVar("T")
E = TypeVar("E")

KIND = "serve"
# Layers of a sweep that are answered at once: the chart fills while others are answered too.
_LAYERS = 4
# Rows that a student may have at once, running or waiting: otherwise one could take the places of all.
_ROWS_OF_STUDENT = 16
# Clients whose conversations in the history stay open.
_CLIENTS = 256


class Service:
    """One model for many clients.

    Args:
        rows: how many answers run at once, where memory holds as many.
        waiting: how many more may wait.
        deadline: seconds after which a request is broken off.
        classroom: who joined, where a class may.
    """

    def __init__(
        self, app: App, rows: int = 32, waiting: int = 128, deadline: float = 300.0, classroom: Classroom | None = None
    ) -> None:
        self.app = app
        self.classroom = classroom
        self.engine = app.engine()
        self.deadline = deadline
        self.lessons = Lessons(app.settings.lessons, self.engine)
        self.base = app.settings.model if app.settings.model in KNOWN else self.engine.name
        self.meter = Meter(lambda: self.rows.running, lambda: self.rows.waiting)
        size = min(rows, self.engine.batch_size(min(self.engine.context_size, 2048)))
        self.rows = RowQueue(self.engine, size, self.meter.step)
        self._most = size + waiting
        self._asked: Counter[Client] = Counter()  # rows of the requests that are answered or wait
        self._threads = ThreadPoolExecutor(self._most + 8, "request")
        self.calibration = Calibration(app.library)
        self._concepts = threading.RLock()  # held while concepts are read, extracted or changed
        self._journals: OrderedDict[Client, Journal] = OrderedDict()
        self._answering: dict[Session, Client] = {}
        self._broken_off: dict[Session, BadRequest] = {}  # why
        # Measured now: its hooks must not see the rows of clients.
        self.calibration.profile(self.engine, Watch(app.report))
        self.rows.start()

    def close(self) -> None:
        """Answer what is being answered, and no more."""
        self.rows.close()
        self._threads.shutdown()
        for journal in self._journals.values():
            journal.end()

    @property
    def store(self) -> Store:
        if self.app.store is None:
            raise BadRequest("this server keeps no history", status=404)
        return self.app.store

    def session(
        self,
        client: Client,
        changes: Mapping[str, Any] | None = None,
        stops: tuple[str, ...] = (),
        likeliest: int | None = None,
    ) -> Session:
        """A conversation of one request; those of a client are one in the history."""
        engine = ServedEngine(self.engine, self.rows, f"{client.name} {client.joined}", stops, likeliest)
        settings = replace(self.app.settings, **(changes or {}))
        session = Session(settings, self.app.library, lambda: engine, None, lambda event: None)
        session.calibration, session.journal = self.calibration, self.journal(client)
        return session

    def check_model(self, name: str) -> None:
        """Raises BadRequest unless `name` is this model's, with or without a recipe."""
        if name != self.base and not name.startswith(f"{self.base}+"):
            raise BadRequest(f"no model {name!r}: this server has {self.base}", "model", 404, "model_not_found")

    # What requests ask for; runs in their threads

    def answer(self, ask: Ask, session: Session, client: Client) -> Iterator[Event]:
        """`Delta` and `Finished` with the number of the choice, and `PairDone` for each pair."""
        recipe = self._recipe(ask, session)
        if ask.compare and not recipe.active:
            raise UsageError("there is nothing to compare with", 'steer something: "steer": "happy 16 2.0"')
        messages = list(ask.messages) or [{"role": "user", "content": ask.prompt}]
        question = Question(
            ask.prompt, messages, messages if recipe.active else None, alone=recipe.active and not ask.compare
        )
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        plan = self._plan(session, client)
        plan = replace(plan, system=system, raw=not ask.messages, keep=bool(ask.messages))
        setting = Setting("", recipe, read=ask.compare)  # an answer alone has nothing to be measured against
        yield from Runner(session.reader).run([question], [setting], ask.seeds, plan)

    def _recipe(self, ask: Ask, session: Session) -> Recipe:
        with self._concepts:
            session.steer(ask.steer)
            if session.recipe.active:  # extracted here, where no one else does
                session.reader.edits(session.recipe, ask.seeds[0], ask.prompt)
        return session.recipe

    def sweep(self, body: Mapping[str, Any], session: Session, client: Client) -> Iterator[Event | Result]:
        """`PairDone` for each layer, from the first to the last, and then the result of all."""
        with self._concepts:
            recipe = chosen(session, body["concept"], None, body.get("strength"))
            session.reader.edits(recipe, 0)
        settings = at_layers(recipe, self.engine.n_layers)
        seed = body.get("seed", secrets.randbelow(2**31)) % 2**63
        runner = Runner(session.reader, memo={})  # the normal answer is the same for all
        question, plan = session.question(body["prompt"], steered=True), self._plan(session, client)
        pairs: dict[Setting, list[Pair]] = {}
        for first in range(0, len(settings), _LAYERS):
            if not session.stop.is_set():
                several = settings[first : first + _LAYERS]
                for trial in (yield from runner.run([question], several, [seed], plan)):
                    pairs.setdefault(several[trial.setting], []).append(trial.pair)
        if outcomes := outcomes_of(session.reader.chance, pairs):
            yield Result("layers", body["prompt"], outcomes, 1, session.stop.is_set())

    def _plan(self, session: Session, client: Client) -> Plan:
        thought, size = session.settings.thought, self.rows.size
        return Plan(session.sampling(), session.journal, kind=KIND, thought=thought, client=client.name, pool=size)

    def journal(self, client: Client) -> Journal:
        """The conversation of a client in the history."""
        if client not in self._journals:
            self._journals[client] = _SharedJournal(self.app.store, self.app.report)
        self._journals.move_to_end(client)
        if len(self._journals) > _CLIENTS:
            self._journals.popitem(last=False)[1].end()
        return self._journals[client]

    def forget(self, client: Client) -> None:
        """Break off what a client asks, and end their conversation."""
        self.break_off(lambda other: other == client, BadRequest("the teacher took you out of the class", status=403))
        if (journal := self._journals.pop(client, None)) is not None:
            journal.end()

    # From threads to the event loop

    @contextmanager
    def room(self, rows: int, client: Client) -> Iterator[None]:
        """Room for a request's rows among those that run or wait. Raises BadRequest when there is none."""
        asked = self._asked.total()
        if asked + rows > self._most or (client.joined and self._asked[client] + rows > _ROWS_OF_STUDENT):
            self.meter.refused.inc()
            after = max(1, round(self.meter.seconds_per_row * asked / self.rows.size))  # seconds
            headers = {"retry-after": str(after)}
            raise BadRequest("too many answers wait already", None, 429, "rate_limit_exceeded", headers)
        self._asked[client] += rows
        try:
            yield
        finally:
            self._asked[client] -= rows
            if not self._asked[client]:
                del self._asked[client]

    async def call(self, work: Callable[[], T]) -> T:
        """What `work` returns, from a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def call_alone(self, work: Callable[[], T]) -> T:
        """As `call`, while nobody else reads or changes concepts."""

        def alone() -> T:
            with self._concepts:
                return work()

        return await self.call(alone)

    def break_off(self, whose: Callable[[Client], bool], error: BadRequest) -> None:
        """End the requests of some clients with an error; what came of their answers is kept."""
        for session in [session for session, client in self._answering.items() if whose(client)]:
            self._stop(session, error)

    def _stop(self, session: Session, error: BadRequest) -> None:
        self._broken_off[session] = error
        session.stop.set()

    async def events(self, session: Session, client: Client, events: Iterator[E]) -> AsyncGenerator[E, None]:
        """Events from a thread as they come. Whoever leaves the loop early stops the work.

        Raises SteerchatError as the work does, and BadRequest after the deadline.
        """
        loop, arrived = asyncio.get_running_loop(), asyncio.Queue()

        def run() -> None:
            tell = functools.partial(loop.call_soon_threadsafe, arrived.put_nowait)
            try:
                for event in events:
                    tell(event)
                tell(None)
            except SteerchatError as error:
                tell(error)
            except Exception as error:
                tell(unexpected(error))

        late_error = BadRequest(f"no answer within {self.deadline:g} s", status=504, code="timeout")
        late = loop.call_later(self.deadline, self._stop, session, late_error)
        self._answering[session] = client
        loop.run_in_executor(self._threads, run)
        try:
            while (event := await arrived.get()) is not None:
                if isinstance(event, SteerchatError):
                    raise event
                if session.stop.is_set():
                    raise self._broken_off[session]
                yield event
        finally:
            late.cancel()
            self._answering.pop(session)
            self._broken_off.pop(session, None)
            session.stop.set()  # its rows are free at the next step, and what came is in the history


class _SharedJournal(Journal):
    """A journal that several threads write."""

    def __init__(self, store: Store | None, report: Callable[[Notice], None]) -> None:
        super().__init__(store, report)
        self._lock = threading.RLock()

    def begin(self, pair: Pair, *rest: Any) -> int | None:
        with self._lock:
            return super().begin(pair, *rest)

    def _write(self, write: Callable[[Store], Any]) -> Any:
        with self._lock:
            return super()._write(write)
