"""The rows of all requests on one pool: who waits, who runs, and who has hung up.

One thread takes the steps. A request's own thread does everything else: it calls the verbs of a conversation, whose
engine is a `ServedEngine`, and waits in `generate` for the events of its rows.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from ..engine.decoding import is_out_of_memory
from ..engine.engine import Engine, Output, Row, Run
from ..engine.pool import Pool, Seat
from ..engine.reading import unread
from ..engine.sampling import Sampling
from ..engine.stops import StopText
from ..values.errors import ModelError
from ..values.results import Answer, Chosen, Delta, Finished

# How often a request that waits for its next token looks whether its client is still there, in seconds.
_LOOK = 0.05

Events = list[Delta | Finished]


@dataclass(eq=False)
class _Entry:
    """A row of a request; `tell` is called by the thread of the pool."""

    seat: Seat
    client: str
    tell: Callable[[Seat, Events], None]


class RowQueue(threading.Thread):
    """Lets rows into a pool as places become free.

    Args:
        size: how many rows run at most.
        stepped: told after each step how many tokens it gave, and how many seconds it took.
    """

    def __init__(self, engine: Engine, size: int, stepped: Callable[[int, float], None] = lambda rows, s: None) -> None:
        super().__init__(name="rows", daemon=True)
        self.size = size
        self._engine = engine
        self._pool = Pool(engine, size)
        self._stepped = stepped
        self._changed = threading.Condition()
        self._waiting: list[_Entry] = []
        self._running: list[_Entry] = []
        self._leaving: set[Seat] = set()
        self._closed = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def add(self, seats: Sequence[Seat], client: str, tell: Callable[[Seat, Events], None]) -> None:
        """Rows that wait from now on. `tell` gets their events; a seat with an answer or an error is the last."""
        with self._changed:
            if self._closed:
                raise ModelError("the server stops", "ask again later")
            self._waiting += [_Entry(seat, client, tell) for seat in seats]
            self._changed.notify()

    def drop(self, seats: Sequence[Seat]) -> None:
        """These rows are not wanted any more: they leave before the next step."""
        with self._changed:
            self._waiting = [entry for entry in self._waiting if entry.seat not in seats]
            self._leaving |= {entry.seat for entry in self._running if entry.seat in seats}
            self._changed.notify()

    def close(self) -> None:
        """Take no more rows, and end once those that there are have finished."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._running or self._closed)
                if not self._waiting and not self._running:
                    return
                self._move()
            began = time.monotonic()
            try:
                with self._engine.turn:
                    events = self._pool.step()
            except Exception as error:  # no row may wait for a thread that has ended
                self._fail(error)
                continue
            self._stepped(len(events), time.monotonic() - began)
            self._tell(events)

    def _move(self) -> None:
        """Remove the rows that were dropped. Then admit waiting rows: first from the client with the fewest running
        rows, in order of arrival.
        """
        for seat in self._leaving:
            self._pool.leave(seat)
        self._running = [entry for entry in self._running if entry.seat not in self._leaving]
        self._leaving = set()
        while self._waiting and not self._pool.full:
            clients = [entry.client for entry in self._running]
            entry = min(self._waiting, key=lambda entry: clients.count(entry.client))
            self._waiting.remove(entry)
            try:
                self._pool.join(entry.seat)
            except ModelError as error:
                entry.seat.error = error
                entry.tell(entry.seat, [])
                continue
            self._running.append(entry)

    def _tell(self, told: Sequence[tuple[Seat, Events]]) -> None:
        entries = {entry.seat: entry for entry in self._running}
        with self._changed:
            self._running = [entry for entry in self._running if not entry.seat.done]
        for seat, events in told:
            entries[seat].tell(seat, events)

    def _fail(self, error: Exception) -> None:
        """A step that broke off leaves keys and values of which nobody knows what they hold."""
        message = "there is not enough memory for the answers that run" if is_out_of_memory(error) else f"{error!r}"
        with self._changed:
            failed, self._running, self._leaving = self._running, [], set()
        self._engine.forget()
        self._pool = Pool(self._engine, self.size)
        for entry in failed:
            entry.seat.error = ModelError(message, "ask again; fewer rows at once take less memory: --rows")
            entry.tell(entry.seat, [])


class ServedEngine(Engine):
    """The engine of one request: its rows go through the queue, and everything else is the shared engine's.

    Args:
        client: among whom places are shared fairly.
        stops: texts at which an answer ends, without them.
        likeliest: as of `Row`.
    """

    def __init__(
        self,
        engine: Engine,
        rows: RowQueue,
        client: str = "",
        stops: Sequence[str] = (),
        likeliest: int | None = None,
    ) -> None:
        vars(self).update(vars(engine))
        self._rows = rows
        self._client = client
        self._texts = tuple(stops)
        self._likeliest = likeliest

    def generate(
        self, rows: Sequence[Row], sampling: Sampling, run: Run = Run()
    ) -> Generator[Delta | Finished, None, list[Output]]:
        """As `Engine.generate`, beside the rows of other requests.

        `run.dial` is ignored, and so is `run.like`: the pool chooses the matrix products.
        """
        arrived: queue.SimpleQueue[tuple[Seat, str, tuple[Chosen, ...], bool]] = queue.SimpleQueue()
        seats = [Seat(replace(row, likeliest=self._likeliest), sampling, bool(run.keep)) for row in rows]
        texts = {seat: StopText(self._texts) for seat in seats}
        held: dict[Seat, list[Chosen]] = {seat: [] for seat in seats}

        def tell(seat: Seat, events: Events) -> None:
            """In the pool's thread, between two steps."""
            text, new = texts[seat], ""
            for event in events:
                if isinstance(event, Delta):
                    new += text.push(event.text)
                    held[seat] += event.chosen
                else:
                    new += text.close()
            if text.stopped:
                seat.answer = replace(seat.answer or _so_far(seat), text=text.text, finish="end")
                self._rows.drop([seat])
            # What stands behind a stop is no part of the answer.
            chosen = tuple(token for token in held[seat] if token.start < len(text.text))
            held[seat] = held[seat][len(chosen) :]
            arrived.put((seat, new, chosen, seat.done))

        running = set(seats)
        self._rows.add(seats, self._client, tell)
        try:
            while running and not run.stopped():
                try:
                    seat, new, chosen, done = arrived.get(timeout=_LOOK)
                except queue.Empty:
                    continue
                if seat.error is not None:
                    raise seat.error
                number = seats.index(seat)
                if new or chosen:
                    yield Delta(number, new, chosen=chosen)
                if done and seat.answer is not None:
                    running.remove(seat)
                    yield Finished(number, seat.answer)
        finally:
            self._rows.drop(list(running))
        return [self._output(seat, seat.answer or _so_far(seat)) for seat in seats]

    def _output(self, seat: Seat, answer: Answer) -> Output:
        if not seat.row.read or answer.finish == "interrupted":
            return Output(answer, unread(self.n_layers, self.hidden))
        thought, reply = self.prompter.answer(answer.text, self.prompter.opened(seat.row.prompt))
        reading = self.read([*seat.row.prompt, *thought], reply)
        return Output(replace(answer, perplexity=reading.perplexity), reading)


def _so_far(seat: Seat) -> Answer:
    return seat.so_far or Answer("", 0, "interrupted")
