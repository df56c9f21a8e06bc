"""Rows that decode together, and come and go between steps.

`Engine.generate` answers rows that begin together. In a `Pool` each row has its own sampling, joins when there is room
and leaves when it has finished, so that no row waits for a longer one: continuous batching, as in Orca (Yu et al. 2022,
OSDI). What a row says does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field

import torch

from ..values.errors import ModelError
from ..values.results import Answer, Delta, Finished
from .batch import Batch, Context
from .decoding import Decoding, Row
from .engine import Engine
from .hooks import Steering
from .sampling import Sampling

# Between two steps about so many tokens of prompts are read, so that the rows that run are not kept waiting for long.
_PIECE = 256


@dataclass(eq=False)
class Seat:
    """A row on its way through a pool."""

    row: Row
    sampling: Sampling
    keep: bool = False  # keep its prompt's keys and values for prompts that begin as it does, such as a chat's next one
    answer: Answer | None = None  # once it has finished
    error: ModelError | None = None  # what ended it instead
    decoding: Decoding | None = field(default=None, repr=False)  # from when it runs

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None

    @property
    def so_far(self) -> Answer | None:
        """What it has said; None before it runs."""
        return None if self.decoding is None else self.decoding.answers()[0]


class Pool:
    """The running rows of one engine. While there are any, whatever else the engine does has to lie between two steps.

    `size`: how many rows run at most.
    """

    def __init__(self, engine: Engine, size: int) -> None:
        self.size = size
        self._engine = engine
        self._batch = Batch(engine.passes, [None] * size)
        self._batch.narrow(0)
        self._running: list[Seat] = []  # in the order of the batch's rows
        self._joining: dict[Seat, Generator[None, None, Context]] = {}

    @property
    def full(self) -> bool:
        """Whether no row can join now: all places are taken, or enough is to be read of prompts."""
        return self.rows >= self.size or sum(len(seat.row.prompt) for seat in self._joining) >= _PIECE

    @property
    def rows(self) -> int:
        """How many rows run, with those that join."""
        return len(self._running) + len(self._joining)

    @property
    def bytes(self) -> int:
        """What the keys and values of its rows take."""
        return self._batch.bytes

    def join(self, seat: Seat) -> None:
        """Let a row in, which must not be done while the pool is full.

        Raises ModelError when its prompt does not fit the model.
        """
        assert not self.full
        self._engine.check(seat.row.prompt)
        self._joining[seat] = self._read(seat)

    def leave(self, seat: Seat) -> None:
        """Take a row out; `so_far` has what it said."""
        if seat in self._running:
            self._remove(seat)
        self._joining.pop(seat, None)

    def step(self) -> list[tuple[Seat, list[Delta | Finished]]]:
        """Read a piece of each joining row's prompt, and take one token for every running row.

        Returns the events of each row, whose `row` is 0; a row with an answer or an error has left the pool.
        """
        self._engine.prepare_kernels(self.rows)
        for seat in list(self._joining):
            self._join(seat)
        events_of: list[tuple[Seat, list[Delta | Finished]]] = []
        decodings = [(seat, seat.decoding) for seat in self._running if seat.decoding is not None]
        if not decodings:
            return events_of
        with ExitStack() as steered:
            for place, (_, decoding) in enumerate(decodings):
                steered.enter_context(decoding.steered(place))
            tokens = torch.cat([decoding.tokens for _, decoding in decodings])
            logits = self._batch.run(tokens[:, None], torch.ones(len(tokens), dtype=torch.long), head=True)
        broken = logits.amax(dim=-1).isnan().tolist()
        for place, (seat, decoding) in enumerate(decodings):
            if broken[place]:
                seat.error = ModelError("this answer's scores are Inf or NaN", "a smaller strength")
                events_of.append((seat, []))
                continue
            events = list(decoding.take(logits[place : place + 1]))
            seat.answer = next((event.answer for event in events if isinstance(event, Finished)), None)
            events_of.append((seat, events))
        for seat, _ in events_of:
            if seat.done:
                self._remove(seat)
        return events_of

    def _join(self, seat: Seat) -> None:
        """Read on in a joining row's prompt; the row runs once all of it is read."""
        try:
            next(self._joining[seat])
            return
        except StopIteration as end:
            context = end.value
        del self._joining[seat]
        engine, row = self._engine, seat.row
        room = min(seat.sampling.max_tokens, engine.context_size - len(row.prompt))
        seat.decoding = engine.decoding(None, [row], room, seat.sampling)
        self._batch.add(context)
        self._running.append(seat)

    def _read(self, seat: Seat) -> Generator[None, None, Context]:
        """What a row stands on: its prompt less the last token. Yields where other rows may take a step."""
        engine, row = self._engine, seat.row
        body = row.prompt[:-1]
        pushed = row.scope == "all" and bool(row.edits)
        base = None if pushed else engine.beginning(body)
        new = body[len(base or ()) :]
        batch = Batch(engine.passes, [base], len(new) + 1)
        for start in range(0, len(new), _PIECE):
            if start:
                yield
            with Steering(engine.blocks, [row.edits], engine.hidden, prompt=True) if pushed else nullcontext():
                batch.forward([new[start : start + _PIECE]])
        context = batch.context(0, body)
        if seat.keep and not pushed:  # pushed keys and values serve no other row
            engine.contexts.keep(body, [context])
        return context

    def _remove(self, seat: Seat) -> None:
        """The batch puts its last row in the place of one that leaves."""
        place = self._running.index(seat)
        self._batch.remove(place)
        last = self._running.pop()
        if last is not seat:
            self._running[place] = last
