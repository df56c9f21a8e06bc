"""Decoding: one token a step for every row that still runs, as events."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from ..values.recipe import Scope
from ..values.results import Answer, Chosen, Delta, Finish, Finished, Returning, repetition
from ..values.thinking import thinking
from .batch import Batch
from .hooks import FirstOverflow, Steering
from .operations import Edit
from .prompting import Prompter, TextStream
from .reuse import Lower
from .sampling import Sampler
from .stops import StopText

T = TypeVar("T")


class NoNumbers(Exception):
    """A step's scores are NaN. Its argument is the first layer whose output is no number; None when none is."""


@dataclass(frozen=True)
class Row:
    """One answer to generate.

    Attributes:
        prompt: token ids, at least one.
        edits: what is done to the residual stream; none for the model as it is.
        seed: of its noise.
        scope: `generated` edits the last prompt position and what follows it, `all` the whole prompt too.
        likeliest: tell each token's log-probability, before temperature and penalties, and those of so many others;
            None tells none.
        read: whether the answer is read afterwards, by the model as it is, for its cost and effect. A batch is read
            whole, or not at all where no row wants it.
    """

    prompt: tuple[int, ...]
    edits: tuple[Edit, ...] = ()
    seed: int = 0
    scope: Scope = "generated"
    likeliest: int | None = None
    read: bool = True


@dataclass(frozen=True)
class Run:
    """How rows are answered, beside their sampling."""

    stopped: Callable[[], bool] = lambda: False  # asked between steps; once it is true, rows end with what they have
    keep: Hashable = None  # the conversation that goes on from these rows: their keys and values wait for its next turn
    # Asked before each step, with the index of the token that comes, for the share of every strength.
    dial: Callable[[int], float] | None = None
    # Multiply as a batch of so many rows does, if there are fewer: more rows may round differently.
    like: int = 0


class Decoding:
    """The loop over steps: which rows still run, in which slot of the batch, and what they have said.

    Args:
        batch: its rows stand on their prompts less the last token. None for a single row in a `Pool`, which runs the
            model itself, between `steered` and `take`.
        room: tokens that an answer may have.
        stops: tokens that end an answer.
        held: leave rows as they are while they think; None edits them from the start. Whether each prompt ends inside
            the thought.
        lower: notes what the reading need not compute again; None without.
    """

    def __init__(
        self,
        batch: Batch | None,
        rows: Sequence[Row],
        room: int,
        sampler: Sampler,
        steering: Steering,
        prompter: Prompter,
        stops: Collection[int],
        held: Sequence[bool] | None = None,
        lower: Lower | None = None,
    ) -> None:
        self._batch = batch
        self._room = room
        self._sampler = sampler
        self._steering = steering
        self._stops = stops
        self._lower = lower
        self._slots = list(range(len(rows)))  # the row in each slot; the first `active` slots run
        self.active = len(rows)
        self._ids: list[list[int]] = [[] for _ in rows]
        self._streams = [TextStream(prompter) for _ in rows]
        self._texts = [StopText(prompter.end_texts) for _ in rows]  # what is told of the streams
        self._opened = held
        self._thinking = [held is not None] * len(rows)
        self._finishes: list[Finish] = ["interrupted" for _ in rows]
        self._shares: list[list[tuple[int, float]]] = [[] for _ in rows]
        self._pushed = [bool(row.edits) for row in rows]
        self._likeliest = [row.likeliest for row in rows]
        self._chosen: list[list[Chosen]] = [[] for _ in rows]  # that are not told yet
        self._prompter = prompter
        self._turns: list[list[tuple[int, float]]] = [[] for _ in rows]
        self._share = 1.0
        self.step_number = 0  # of the next step; the index of the tokens that it chooses
        self.tokens = torch.tensor([row.prompt[-1] for row in rows])  # that the next step reads
        if room <= 0:
            self.active = 0
            self._finishes = ["length" for _ in rows]

    def step(self) -> Iterator[Delta | Finished]:
        """One token for every running row."""
        batch = self._own
        width, lengths = batch.width, batch.lengths.clone()
        with self.steered():
            logits = batch.run(self.tokens[:, None], torch.ones(self.active, dtype=torch.long), head=True)
        if bool(logits.amax().isnan()):  # NaN is the largest of what holds one
            raise NoNumbers(self._first_overflow(width, lengths))
        yield from self.take(logits)

    @contextmanager
    def steered(self, place: int | None = None) -> Iterator[None]:
        """For the model call of a step alone, so that no hook outlives it whatever a reader of events does.

        `place`: of the row in a pool's batch.
        """
        if self._opened is not None:
            self._steering.only([not self._thinking[row] for row in self._slots[: self.active]])
        self._steering.place = place
        with self._lower or nullcontext(), self._steering:
            yield

    def take(self, logits: torch.Tensor) -> Iterator[Delta | Finished]:
        """The next token of every running row. `logits`: (active, vocabulary), without NaN."""
        self.step_number += 1
        if self._steering.shares is not None:
            self._note_shares(self._steering.shares.tolist())
        self.tokens = self._sampler.step(logits).cpu()
        finished: list[int] = []
        for slot, token in enumerate(self.tokens.tolist()):
            row = self._slots[slot]
            if token in self._stops:
                finish: Finish | None = "end"
            else:
                start = len(self._streams[row].text)
                delta = self._streams[row].push(token)
                if self._likeliest[row] is not None:
                    self._chosen[row].append(self._chances(row, token, delta, start, logits[slot]))
                self._ids[row].append(token)
                delta = self._texts[row].push(delta)
                if self.cut(row):
                    self._leave_out_end(row)
                if delta:
                    yield self._delta(row, delta)
                if self._opened is not None and self._thinking[row]:
                    self._thinking[row] = thinking(self._streams[row].text, self._opened[row])
                finish = "end" if self.cut(row) else "length" if len(self._ids[row]) >= self._room else None
            if finish:
                self._finishes[row] = finish
                finished.append(slot)
                yield from self._close(row)
        if finished:
            self._drop(finished)

    @property
    def _own(self) -> Batch:
        assert self._batch is not None
        return self._batch

    def turn(self, share: float) -> None:
        """From the next step on push with this share of every strength."""
        if share == self._share:
            return
        self._share = share
        self._steering.turn(share)
        for row in self._slots[: self.active]:
            if self._pushed[row]:
                self._turns[row].append((len(self._ids[row]), share))

    def _note_shares(self, shares: Sequence[float]) -> None:
        for slot, share in enumerate(shares):
            row = self._slots[slot]
            if share != (self._shares[row][-1][1] if self._shares[row] else 1.0):
                self._shares[row].append((len(self._ids[row]), round(share, 4)))

    def _first_overflow(self, width: int, lengths: torch.Tensor) -> int | None:
        """Takes the last step once more and looks on."""
        batch = self._own
        batch.rewind(width, lengths)
        batch.narrow(self.active)
        with self._steering, FirstOverflow(self._steering.blocks) as first:
            batch.run(self.tokens[:, None], torch.ones(self.active, dtype=torch.long), head=True)
        return first.layer

    def stop(self) -> Iterator[Delta | Finished]:
        """End every running row with what it has."""
        for slot in range(self.active):
            yield from self._close(self._slots[slot])
        self.active = 0

    def answers(self) -> list[Answer]:
        return [
            Answer(
                text=text.text,
                tokens=len(ids),
                finish=finish,
                repetition=repetition(ids),
                token_ids=tuple(ids),
                gate=tuple(shares),
                dial=tuple(turns),
            )
            for text, ids, finish, shares, turns in zip(
                self._texts, self._ids, self._finishes, self._shares, self._turns, strict=True
            )
        ]

    def cut(self, row: int) -> bool:
        """Whether an answer ended at a text, whose tokens the model has computed and the answer does not have."""
        return self._texts[row].stopped

    def is_whole(self, row: int, text: Sequence[int]) -> bool:
        """Whether these are all the tokens that a row sampled."""
        return list(text) == self._ids[row] and not self.cut(row)

    def _leave_out_end(self, row: int) -> None:
        """Take the tokens of the text that ended an answer off it."""
        ids, length = self._ids[row], len(self._texts[row].text)
        while ids and len(self._prompter.text(ids[:-1])) >= length:
            ids.pop()
        self._chosen[row] = [chosen for chosen in self._chosen[row] if chosen.start < length]

    def complete(self) -> None:
        """One pass for the rows whose last token nothing followed: it is a part of their text like the others."""
        unread = [row for row, ids in enumerate(self._ids) if ids and self._finishes[row] != "end"]
        if self._lower is None or not unread:
            return
        self.arrange([*unread, *(row for row in range(len(self._slots)) if row not in unread)])
        self._own.narrow(len(unread))
        self._lower.run_rows(unread)
        with self._lower:
            self._own.forward([self._ids[row][-1:] for row in unread])

    def arrange(self, order: Sequence[int]) -> None:
        """Put the batch's rows into this order: slot i gets row `order[i]`."""
        for slot, row in enumerate(order):
            if self._slots[slot] != row:
                self._swap(slot, self._slots.index(row))

    def _close(self, row: int) -> Iterator[Delta | Finished]:
        delta = self._texts[row].push(self._streams[row].close()) + self._texts[row].close()
        if delta or self._chosen[row]:
            yield self._delta(row, delta)
        yield Finished(row, self.answers()[row])

    def _delta(self, row: int, text: str) -> Delta:
        chosen, self._chosen[row] = tuple(self._chosen[row]), []
        return Delta(row, text, self._share if self._pushed[row] else 1.0, chosen)

    def _chances(self, row: int, token: int, text: str, start: int, logits: torch.Tensor) -> Chosen:
        """A row's next token with its log-probability, and the likeliest."""
        logs = logits.float().log_softmax(-1)
        values, ids = logs.topk(min(self._likeliest[row] or 0, len(logs)))
        before = self._ids[row][-1:]  # some tokenizers write a blank before a token only where another precedes it
        known = len(self._prompter.text(before))
        names = [self._prompter.text([*before, other])[known:] for other in ids.tolist()]
        return Chosen(text, start, float(logs[token]), tuple(zip(names, values.tolist(), strict=True)))

    def _drop(self, finished: Sequence[int]) -> None:
        """Finished rows change places with the last running ones, so that only running rows are computed."""
        order = list(range(self.active))
        for slot in reversed(finished):
            self.active -= 1
            if slot != self.active:
                self._swap(slot, self.active)
                order[slot], order[self.active] = order[self.active], order[slot]
        if self._batch is not None:
            self._batch.narrow(self.active)
        kept = torch.tensor(order[: self.active], dtype=torch.long)
        self.tokens = self.tokens[kept]
        self._sampler.select(kept)
        self._steering.select(kept)
        if self._lower is not None:
            self._lower.run_rows(self._slots[: self.active])

    def _swap(self, first: int, second: int) -> None:
        self._own.swap(first, second)
        self._slots[first], self._slots[second] = self._slots[second], self._slots[first]


def numbered(
    run: Generator[Delta | Finished, None, T], first: int, sent: list[int], ended: set[int]
) -> Generator[Delta | Finished, None, T]:
    """Renumbers the rows of a sub-batch, and skips text that was sent before an out-of-memory retry.

    Answers depend on their seeds alone, so a batch that is run again in halves generates the same text again.

    Args:
        run: the events of the sub-batch.
        first: the number of its first row in the whole run.
        sent: how many characters of each row were sent; updated.
        ended: rows that ended; updated.
    """
    generated: dict[int, int] = {}
    events = Returning(run)
    for event in events:
        row = first + event.row
        if isinstance(event, Finished):
            if row not in ended:
                ended.add(row)
                yield Finished(row, event.answer)
            continue
        before = generated.get(row, 0)
        generated[row] = before + len(event.text)
        new = event.text[max(0, sent[row] - before) :]
        sent[row] = max(sent[row], generated[row])
        if new:
            yield replace(event, row=row, text=new)
    return events.value


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch found no memory: on a CPU it says so in a plain RuntimeError."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text
