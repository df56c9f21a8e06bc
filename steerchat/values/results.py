"""Results of the engine and the session: answers, pairs, and the events while they are generated."""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from typing import Any, Generic, Literal, TypeVar

from .errors import Interrupted
from .measures import measures
from .page import Page
from .recipe import Recipe
from .thinking import reply_start

Finish = Literal["end", "length", "interrupted", "failed", "unasked"]
Column = Literal["normal", "steered"]
_ENDINGS: dict[Finish, str] = {
    "end": "",
    "length": "max tokens",
    "interrupted": "stopped",
    "failed": "failed",
    "unasked": "not asked for",
}


@singledispatch
def html(value: object) -> str | None:
    """A value as HTML for a notebook's cell. None, which shows its repr, until `reports.cells` registers its type."""
    return None


@singledispatch
def plot(value: object) -> Any:
    """A value as a figure of matplotlib; `reports.cells` registers the types that have one.

    Raises TypeError for any other type.
    """
    raise TypeError(f"no figure of {type(value).__name__}")


@dataclass(frozen=True)
class Answer:
    """One generated text.

    Attributes:
        text: the generated text without special tokens; with the thought of a model that thinks first.
        tokens: number of generated tokens, without the end token.
        finish: `end` (the model ended its turn), `length` (max tokens), `interrupted`, `failed`, or `unasked` (there is
            none: a server's client wanted the steered answer alone).
        perplexity: of the reply, read by the unsteered model after its prompt and thought; None while unmeasured.
        concept_score: mean projection of the reply on the recipe's direction in standard deviations of the neutral
            corpus.
        repetition: share of its 3-grams that are repeats.
        token_ids: the sampled ids.
        gate: (index of a token, share) where the share of the strength that gates let through changed, and to what; it
            is 1 at first. Of several gates the one that lets most through counts.
        dial: the same of the user, who turned the strength up or down while the answer streamed.
    """

    text: str
    tokens: int
    finish: Finish
    perplexity: float | None = None
    concept_score: float | None = None
    repetition: float | None = None
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    gate: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    dial: tuple[tuple[int, float], ...] = field(default=(), repr=False)

    @property
    def reply(self) -> str:
        """The text without the thought before it."""
        return self.text[reply_start(self.text) :]

    @property
    def pushed(self) -> list[tuple[int, int]]:
        """(first, last) of each run of tokens, counted from 1, that were chosen while the gates were open."""
        runs: list[tuple[int, int]] = []
        changes = [(0, 1.0), *self.gate, (len(self.token_ids) or self.tokens, 0.0)]
        for (start, share), (end, _) in itertools.pairwise(changes):
            if share and end > start:
                joined = bool(runs) and runs[-1][1] == start
                runs[-1:] = [(runs[-1][0], end)] if joined else [*runs[-1:], (start + 1, end)]
        return runs

    @property
    def turns(self) -> str:
        """How the dial was turned, in words; empty where it was not."""
        return ", ".join(f"x{share:g} from token {token + 1} on" for token, share in self.dial)

    @property
    def ending(self) -> str:
        """Why the answer ended early, in words; empty when the model ended it."""
        return _ENDINGS[self.finish]

    def to_json(self) -> dict[str, Any]:
        plain = {name: value for name, value in vars(self).items() if name != "token_ids"}
        return plain | {name: [list(change) for change in plain[name]] for name in ("gate", "dial")}


UNANSWERED = Answer("", 0, "interrupted")
UNASKED = Answer("", 0, "unasked")


@dataclass(frozen=True)
class Pair:
    """One prompt with its normal and its steered answer.

    Attributes:
        id: in the history; None when it is not logged.
        steered: None for an unsteered turn.
        raw: whether the prompt was sent without the chat template.
        effect: how far steering moved the reply along the recipe's direction, in standard deviations of the neutral
            corpus; None while unmeasured.
        effects: the effect along each concept of the recipe, by name.
        chance: the lowest and highest effect that random directions of equal strength would have.
        diverges_at: index of the first token that differs; None when the answers are identical or unmeasured.
        layer, strength: the pair's place in a sweep.
    """

    id: int | None
    prompt: str
    model: str
    recipe: Recipe
    seed: int
    normal: Answer = UNANSWERED
    steered: Answer | None = None
    raw: bool = False
    effect: float | None = None
    effects: dict[str, float] = field(default_factory=dict)
    chance: tuple[float, float] | None = None
    diverges_at: int | None = None
    seconds: float = 0.0
    tokens_per_second: float = 0.0
    layer: int | None = None
    strength: float | None = None

    def _repr_html_(self) -> str | None:
        return html(self)

    def plot(self) -> Any:
        """Its effect and cost as a figure of matplotlib. Raises UsageError without the extra `plot`."""
        return plot(self)

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The normal answer and, if there is one, the steered one."""
        return (self.normal,) if self.steered is None else (self.normal, self.steered)

    @property
    def never_pushed(self) -> bool:
        """Whether each term of its recipe has a gate, and none of them opened."""
        steered = self.steered
        return self.recipe.gated and steered is not None and steered.tokens > 0 and not steered.pushed

    @property
    def measures(self) -> dict[str, float]:
        """The figures of its texts by name: of the normal answer as `normal_NAME`, of the steered one as NAME."""
        return measures(self.normal.reply, None if self.steered is None else self.steered.reply)

    @property
    def perplexity_ratio(self) -> float | None:
        """What steering cost: above 1, the unsteered model finds the steered answer less likely than the normal one."""
        if self.steered is None or not self.steered.perplexity or not self.normal.perplexity:
            return None
        return self.steered.perplexity / self.normal.perplexity

    def to_json(self) -> dict[str, Any]:
        """An object for programs: keys are never renamed or removed, and new ones may be added."""
        data: dict[str, Any] = {
            "id": self.id,
            "prompt": self.prompt,
            "model": self.model,
            "recipe": self.recipe.to_json(),
            "seed": self.seed,
            "normal": self.normal.to_json(),
            "steered": None if self.steered is None else self.steered.to_json(),
            "effect": self.effect,
            "effects": self.effects,
            "chance": None if self.chance is None else list(self.chance),
            "raw": self.raw,
            "perplexity_ratio": self.perplexity_ratio,
            "diverges_at": self.diverges_at,
            "seconds": round(self.seconds, 3),
            "measures": self.measures,
        }
        if self.layer is not None or self.strength is not None:
            data |= {"layer": self.layer, "strength": self.strength}
        return data


def mean_cost(pairs: Iterable[Pair]) -> float | None:
    """Geometric mean of the pairs' perplexity ratios; None when no pair could be read."""
    logs = [math.log(ratio) for pair in pairs if (ratio := pair.perplexity_ratio)]
    return math.exp(statistics.fmean(logs)) if logs else None


@dataclass(frozen=True)
class Strip:
    """How strongly the unsteered model reads a concept in each token of an answer.

    Attributes:
        column: the answer.
        tokens: its text, token by token.
        values: each token's projection on the concept, in standard deviations from the mean of the normal answer's
            tokens.
        score: of the whole answer (`Profile.score`).
    """

    concept: str
    column: Column
    tokens: list[str]
    values: list[float]
    score: float

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "values": [round(value, 3) for value in self.values]}


@dataclass(frozen=True)
class Chosen:
    """A token with its log-probability where it was chosen, and those of the likeliest tokens there."""

    text: str  # what it adds to the answer; empty for a part of a character
    start: int  # where in the answer that begins
    logprob: float
    likeliest: tuple[tuple[str, float], ...]


# Events, in the order in which a screen receives them.


class _Event:
    """An event, as a program reads it."""

    def to_json(self) -> dict[str, Any]:
        """`event` with its kind, such as `pair_done`, and its fields."""
        kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()
        return {"event": kind} | {name: _json(value) for name, value in vars(self).items()}


def _json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json(item) for item in value]
    return value.to_json() if hasattr(value, "to_json") else value


@dataclass(frozen=True)
class Notice(_Event):
    """A sentence for the user about something that the program did or changed."""

    text: str


@dataclass(frozen=True)
class Progress(_Event):
    """A long task has done `done` of `total` steps (None: unknown)."""

    label: str
    done: float
    total: float | None = None


@dataclass(frozen=True)
class Started(_Event):
    """Text is about to stream."""

    titles: tuple[str, ...]  # a heading for each streaming column, left to right; row i of later events is column i
    thinking: bool = False  # whether the answers begin inside a thought that the prompt opened
    strength: float | None = None  # of the recipe's first term with one, for what is written at a share of it


@dataclass(frozen=True)
class Delta(_Event):
    """New text in a row, never a part of a character."""

    row: int
    text: str
    share: float = 1.0  # of the strength at the time, by the dial
    chosen: tuple[Chosen, ...] = ()  # the tokens since the last event, where the row asks for their log-probabilities


@dataclass(frozen=True)
class Finished(_Event):
    """A row's answer is complete."""

    row: int
    answer: Answer


@dataclass(frozen=True)
class PairDone(_Event):
    """A pair is complete, measured and logged."""

    pair: Pair


@dataclass(frozen=True)
class Probed(_Event):
    """The strips of a pair's answers, by concept and then by column."""

    strips: tuple[Strip, ...]


# A page in a stream is a part of the result that is ready.
Event = Notice | Progress | Started | Delta | Finished | PairDone | Probed | Page
# Long work calls it with its progress and with notices.
Report = Callable[[Notice | Progress], None]


@dataclass(frozen=True)
class Watch:
    """How long work reports its progress, and learns from `stopped` that it must end."""

    report: Report = lambda event: None
    stopped: Callable[[], bool] = lambda: False

    def check(self, what: str) -> None:
        """Raises Interrupted, naming the work, once it must end."""
        if self.stopped():
            raise Interrupted(what)

    def progress(self, label: str, done: float, total: float | None = None) -> None:
        """Report how far the work is. Raises Interrupted once it must end."""
        self.check(label)
        self.report(Progress(label, done, total))


UNWATCHED = Watch()

_E = TypeVar("_E")
_T = TypeVar("_T")


class Returning(Generic[_E, _T]):
    """The events of a generator, for a loop; `value` is what the generator returned, once the loop is over."""

    value: _T

    def __init__(self, events: Generator[_E, None, _T]) -> None:
        self._events = events

    def __iter__(self) -> Iterator[_E]:
        self.value = yield from self._events


def drain(events: Generator[Any, None, _T]) -> _T:
    """Run `events` to their end. Returns what they return."""
    run = Returning(events)
    for _ in run:
        pass
    return run.value


def format_effect(value: float) -> str:
    """An effect or a score with its sign and one decimal: `+0.9`, and never `-0.0`."""
    return f"{round(value, 1) + 0.0:+.1f}"


def format_cost(ratio: float) -> str:
    """A perplexity ratio: `x1.6`, or without decimals from 100 on."""
    return f"x{ratio:.1f}" if ratio < 100 else f"x{ratio:.0f}"


def shared_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many characters, tokens or words two sequences begin with in common."""
    parts = (index for index, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(parts, min(len(first), len(second)))


def divergence(first: Sequence[int], second: Sequence[int]) -> int | None:
    """Index of the first token at which two answers diverge; None when they are identical."""
    shared = shared_length(first, second)
    return None if len(first) == len(second) == shared else shared


def repetition(tokens: Sequence[int]) -> float:
    """Share of 3-grams that occurred earlier in the same answer, from 0 to 1."""
    grams = list(zip(tokens, tokens[1:], tokens[2:], strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
