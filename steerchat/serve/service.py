"""What the server does for a request, as events, by the verbs of a conversation."""

from __future__ import annotations

import asyncio
import functools
import secrets
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

from ..conversation.app import App
from ..conversation.chat import unexpected
from ..conversation.runner import Plan, Question, Runner
from ..conversation.session import Session
from ..experiments.settings import at_layers, chosen
from ..measures.calibration import Calibration
from ..models.catalogue import KNOWN
from ..storage.journal import Journal
from ..storage.store import Store
from ..values.errors import SteerchatError, UsageError
from ..values.recipe import Recipe
from ..values.results import Event, Notice, Pair
from ..values.setting import Setting
from .meter import Meter
from .requests import Ask, BadRequest
from .rows import RowQueue, ServedEngine

T = TypeVar("T")

KIND = "serve"
# Layers of a sweep that are answered at once: the chart fills while others are answered too.
_LAYERS = 4
# Clients whose conversations in the history stay open.
_CLIENTS = 256


class Busy(BadRequest):
    """More wait than may. `after`: seconds until it is worth to ask again."""

    def __init__(self, after: int) -> None:
        super().__init__("too many answers wait already", status=429, code="rate_limit_exceeded")
        self.after = after


class Service:
    """One model for many clients.

    Args:
        app: the parts of steerchat; its model loads or is loaded.
        rows: how many answers run at once, where memory holds as many.
        waiting: how many more may wait.
        deadline: seconds after which a request is broken off.
    """

    def __init__(self, app: App, rows: int = 32, waiting: int = 128, deadline: float = 300.0) -> None:
        self.app = app
        self.engine = app.engine()
        self.deadline = deadline
        self.base = app.settings.model if app.settings.model in KNOWN else self.engine.name
        self.meter = Meter(lambda: self.rows.running, lambda: self.rows.waiting)
        size = min(rows, self.engine.batch_size(min(self.engine.context_size, 2048)))
        self.rows = RowQueue(self.engine, size, self.meter.step)
        self._most = size + waiting
        self._asked = 0  # rows of the requests that are answered or wait
        self._threads = ThreadPoolExecutor(self._most + 8, "request")
        self._calibration = Calibration(app.library)
        self._concepts = threading.RLock()  # held while concepts are read, extracted or changed
        self._journals: OrderedDict[str, Journal] = OrderedDict()
        # Measured now: its hooks must not see the rows of clients.
        self._calibration.profile(self.engine, app.report)
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
        client: str,
        changes: Mapping[str, Any] | None = None,
        stops: tuple[str, ...] = (),
        read: bool = True,
        likeliest: int | None = None,
    ) -> Session:
        """A conversation of one request; those of a client are one in the history."""
        engine = ServedEngine(self.engine, self.rows, client, stops, read, likeliest)
        settings = replace(self.app.settings, **(changes or {}))
        session = Session(settings, self.app.library, lambda: engine, None, lambda event: None)
        session.calibration, session.journal = self._calibration, self._journal(client)
        return session

    def check_model(self, name: str) -> None:
        """Raises BadRequest unless `name` is this model's, with or without a recipe."""
        if name != self.base and not name.startswith(f"{self.base}+"):
            raise BadRequest(f"no model {name!r}: this server has {self.base}", "model", 404, "model_not_found")

    # What requests ask for; runs in their threads

    def answer(self, ask: Ask, session: Session) -> Iterator[Event]:
        """`Delta` and `Finished` with the number of the choice, and `PairDone` for each pair."""
        recipe = self._recipe(ask, session)
        if ask.compare and not recipe.active:
            raise UsageError("there is nothing to compare with", 'steer something: "steer": "happy 16 2.0"')
        messages = list(ask.messages) or [{"role": "user", "content": ask.prompt}]
        question = Question(
            ask.prompt, messages, messages if recipe.active else None, alone=recipe.active and not ask.compare
        )
        system = messages[0]["content"] if messages[0]["role"] == "system" else ""
        plan = self._plan(session, ask.client)
        plan = replace(plan, system=system, raw=not ask.messages, keep=bool(ask.messages))
        yield from Runner(session.reader).run([question], [Setting("", recipe)], ask.seeds, plan)

    def _recipe(self, ask: Ask, session: Session) -> Recipe:
        with self._concepts:
            session.steer(ask.steer)
            if session.recipe.active:  # extracted here, where no one else does
                session.reader.edits(session.recipe, ask.seeds[0], ask.prompt)
        return session.recipe

    def sweep(self, body: Mapping[str, Any], session: Session) -> Iterator[Event]:
        """`PairDone` for each layer, from the first to the last."""
        with self._concepts:
            recipe = chosen(session, body["concept"], None, body.get("strength"))
            session.reader.edits(recipe, 0)
        settings = at_layers(recipe, self.engine.n_layers)
        seed = body.get("seed", secrets.randbelow(2**31)) % 2**63
        runner = Runner(session.reader, memo={})  # the normal answer is the same for all
        question, plan = session.question(body["prompt"], steered=True), self._plan(session, KIND)
        for first in range(0, len(settings), _LAYERS):
            if not session.stop.is_set():
                yield from runner.run([question], settings[first : first + _LAYERS], [seed], plan)

    def with_concepts(self, work: Callable[[Session], T]) -> T:
        """Reads or changes concepts while nobody else does."""
        with self._concepts:
            return work(self.session("concepts"))

    def _plan(self, session: Session, client: str) -> Plan:
        return Plan(session.sampling(), session.journal, kind=KIND, thought=session.settings.thought, client=client)

    def _journal(self, client: str) -> Journal:
        if client not in self._journals:
            self._journals[client] = _SharedJournal(self.app.store, self.app.report)
        self._journals.move_to_end(client)
        if len(self._journals) > _CLIENTS:
            self._journals.popitem(last=False)[1].end()
        return self._journals[client]

    # From threads to the event loop

    @contextmanager
    def room(self, rows: int) -> Iterator[None]:
        """Room for a request's rows among those that run or wait. Raises Busy when there is none."""
        if self._asked + rows > self._most:
            self.meter.refused.inc()
            raise Busy(max(1, round(self.meter.seconds_per_row * self._asked / self.rows.size)))
        self._asked += rows
        try:
            yield
        finally:
            self._asked -= rows

    async def call(self, work: Callable[[], T]) -> T:
        """What `work` returns, from a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def events(self, session: Session, events: Iterator[Event]) -> AsyncGenerator[Event, None]:
        """Events from a thread as they come. Whoever leaves the loop early stops the work.

        Raises:
            SteerchatError: as the work does, and BadRequest after the deadline.
        """
        loop, told = asyncio.get_running_loop(), asyncio.Queue()

        def run() -> None:
            tell = functools.partial(loop.call_soon_threadsafe, told.put_nowait)
            try:
                for event in events:
                    tell(event)
                tell(None)
            except SteerchatError as error:
                tell(error)
            except Exception as error:
                tell(unexpected(error))

        late = loop.call_later(self.deadline, session.stop.set)
        loop.run_in_executor(self._threads, run)
        try:
            while (event := await told.get()) is not None:
                if isinstance(event, SteerchatError):
                    raise event
                if session.stop.is_set():
                    raise BadRequest(f"no answer within {self.deadline:g} s", status=504, code="timeout")
                yield event
        finally:
            late.cancel()
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
