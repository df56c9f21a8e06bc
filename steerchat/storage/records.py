"""What the history stores and returns, as values, and how they become rows and come back."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any, Literal, TypeVar, cast, get_args

from ..system.untrusted import parse_json
from ..values.errors import StoreError, shorten
from ..values.recipe import Recipe, layer_runs
from ..values.results import UNANSWERED, Answer, Finish, Pair, html
from ..values.setting import Message

_JsonType = TypeVar("_JsonType")

Status = Literal["running", "complete", "interrupted", "failed"]
Rating = Literal["steered", "normal", "tie"]
Messages = Mapping[str, Sequence[Message]]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How a pair is answered, beside its prompt, recipe and seed: everything else that a rerun needs.

    Attributes:
        fingerprint: of the model's weights.
        messages: the conversation that each column answers, {"normal": [...], "steered": [...]}.
        sampling: temperature, top-p and the rest, as numbers.
        versions: of the processor and of the libraries that a rerun depends on.
        vectors: a digest of each concept's vector, by the concept's name.
        context: ids of the pairs whose answers are in `messages`, oldest first; None for a pair that was not logged.
        threads: CPU threads of the run; None on a GPU.
    """

    fingerprint: str
    kind: str = "chat"
    session_id: int | None = None
    experiment_id: int | None = None
    messages: Messages = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    dtype: str = "float32"
    versions: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    vectors: Mapping[str, str] = field(default_factory=dict)
    context: Sequence[int | None] = ()


@dataclass(frozen=True, kw_only=True)
class StoredPair(Origin):
    """A pair as the history stores it.

    Attributes:
        pair: before its first token, its normal answer is empty with finish `interrupted`, and it has no steered one.
        created, completed: ISO 8601 in UTC with milliseconds; `completed` is None while the pair is generated.
        normal_id: id of the stored normal answer, which the other pairs of a sweep share.
        measures: further measures by name.
        rating: which answer the user says showed the concept; None while unrated.
        reads_better, shown_first: from a blind review, else None.
    """

    pair: Pair
    status: Status
    undone: bool
    created: str
    completed: str | None
    normal_id: int | None
    measures: dict[str, float | None]
    rating: Rating | None
    reads_better: Rating | None
    shown_first: Literal["steered", "normal"] | None
    rated: str | None
    note: str

    def _repr_html_(self) -> str | None:
        return html(self)

    @property
    def id(self) -> int:
        return cast(int, self.pair.id)

    @property
    def client(self) -> str:
        """Who asked a server for it; empty for a pair of the person at this machine."""
        return str(self.sampling.get("client", ""))

    def to_json(self) -> dict[str, Any]:
        """The pair's own object, with everything else that the history stores about it."""
        stored = {name: value for name, value in vars(self).items() if name not in ("pair", "normal_id")}
        stored["measures"] = self.pair.measures | self.measures
        return {
            **self.pair.to_json(),
            "recipe_text": str(self.pair.recipe),
            "tokens_per_second": round(self.pair.tokens_per_second, 2),
            **stored,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> StoredPair:
        """From a row of `PAIR_QUERY`.

        Raises StoreError when another program changed the row to something that steerchat never writes.
        """
        with as_written(f"pair {row['id']}", f"/history delete {row['id']} removes it"):
            messages = _json(row, "messages", dict)
            texts = [text for turns in messages.values() for message in turns for text in message.values()]
            if not all(isinstance(text, str) for text in texts):
                raise ValueError("its messages are not texts")
            converted = {
                "pair": _pair(row),
                "undone": bool(row["undone"]),
                "measures": _json(row, "measures", dict),
                **{name: _json(row, name, kind) for name, kind in _JSON_COLUMNS.items()},
            }
            plain = {column.name: row[column.name] for column in fields(cls) if column.name not in converted}
            return cls(**plain, **converted)


# Columns of `pairs` that hold JSON of `Origin`.
_JSON_COLUMNS: dict[str, type] = {
    "messages": dict,
    "sampling": dict,
    "versions": dict,
    "vectors": dict,
    "context": list,
}

_ANSWER_COLUMNS = ("text", "tokens", "token_ids", "finish", "perplexity", "repetition", "gate", "dial")
_ANSWER_JSON = ("token_ids", "gate", "dial")

PAIR_QUERY = f"""
SELECT pairs.*,
    {", ".join(f"{side}.{column} AS {side}_{column}" for side in ("normal", "steered") for column in _ANSWER_COLUMNS)},
    (SELECT json_group_object(name, value) FROM measures WHERE pair_id = pairs.id) AS measures
FROM pairs
LEFT JOIN answers AS normal ON normal.id = pairs.normal_id
LEFT JOIN answers AS steered ON steered.id = pairs.steered_id
WHERE pairs.id IN (SELECT value FROM json_each(?)) ORDER BY pairs.id DESC
"""


@dataclass(frozen=True)
class StoredSession:
    """A conversation; `pairs` counts those that are not undone."""

    id: int
    started: str
    ended: str | None
    title: str
    model: str
    fingerprint: str
    system: str
    pairs: int


@dataclass(frozen=True)
class StoredExperiment:
    """A sweep or comparison: its request and how it ended."""

    id: int
    session_id: int | None
    kind: str
    prompt: str
    # Its settings (label, recipe, and for a control the recipe `along` which its answers are read), repeats, raw,
    # tokens and first seed.
    spec: dict[str, Any]
    status: Status
    started: str  # ISO 8601 in UTC with milliseconds
    finished: str | None  # the same; None while it runs

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> StoredExperiment:
        """Raises StoreError when another program changed the row to something that steerchat never writes."""
        with as_written(f"experiment {row['id']}"):
            return cls(**{**row, "spec": _json(row, "spec", dict)})

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Filters:
    """Which pairs to list: those that pass every filter that is not None.

    Attributes:
        concept: steered with it, alone or in a mix.
        layer: steered at this layer; with `concept`, by that concept.
        strength: lowest and highest strength; with `concept` and `layer`, of that concept at that layer.
        min_effect: lowest measured effect; a pair that was not measured does not pass.
        model: the model's name as logged.
        since: created at this time or later; local time where it names no zone.
        rated: True for rated pairs, False for unrated ones.
        undone: whether turns that were undone pass too.
    """

    concept: str | None = None
    layer: int | None = None
    strength: tuple[float, float] | None = None
    min_effect: float | None = None
    model: str | None = None
    since: datetime | None = None
    kind: str | None = None
    rated: bool | None = None
    session: int | None = None
    experiment: int | None = None
    undone: bool = False


@dataclass(frozen=True)
class Excerpt:
    """A part of a text that a search matched; `spans` are the (start, end) of the matched words in `text`."""

    where: Literal["prompt", "normal", "steered"]
    text: str
    spans: tuple[tuple[int, int], ...]

    def pieces(self) -> list[tuple[str, int]]:
        """The text on one line, in pieces for `Shaded`: shade 2 for a matched word, 0 for the rest."""
        line = re.sub(r"\s", " ", self.text)
        edges = [0, *(edge for span in self.spans for edge in span), len(line)]
        runs = enumerate(itertools.pairwise(edges))
        return [(line[low:high], 2 * (index % 2)) for index, (low, high) in runs if low < high]


@dataclass(frozen=True)
class SearchHit:
    """A pair that a search found, with the matching excerpts."""

    stored: StoredPair
    excerpts: tuple[Excerpt, ...]

    def to_json(self) -> dict[str, Any]:
        return {**self.stored.to_json(), "hits": [dict(vars(excerpt)) for excerpt in self.excerpts]}


def begin_row(pair: Pair, origin: Origin) -> dict[str, Any]:
    """The columns of `pairs` that are known before the pair is generated."""
    return {
        **vars(origin),
        **{name: to_json(getattr(origin, name)) for name in _JSON_COLUMNS},
        "prompt": storable(pair.prompt),
        "model": pair.model,
        "recipe": to_json(pair.recipe.to_json()),
        "recipe_text": str(pair.recipe),
        "seed": pair.seed,
        "raw": int(pair.raw),
        "layer": pair.layer,
        "strength": pair.strength,
    }


def concept_rows(recipe: Recipe) -> list[tuple[str, int, int, float]]:
    """(concept, first layer, last layer, strength) for each concept and each run of adjacent layers it steers."""
    if not recipe.active:
        return []
    rows = {
        (concept, first, last, term.strength)
        for term in recipe.terms
        for concept, _ in term.parts
        for first, last in layer_runs(term.layers)
    }
    return sorted(rows)


@contextlib.contextmanager
def as_written(what: str, hint: str = "steerchat db check looks for damage") -> Iterator[None]:
    """Turn the errors of reading something that steerchat never writes into a StoreError."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        message = f"{what} of the history was changed by another program: {shorten(str(error), 80)}"
        raise StoreError(message, hint) from None


def answer_row(answer: Answer) -> dict[str, Any]:
    """Columns of `answers`."""
    plain = {name: getattr(answer, name) for name in _ANSWER_COLUMNS}
    as_json = {name: to_json(plain[name]) for name in _ANSWER_JSON}
    return {**plain, "text": storable(answer.text), **as_json}


def result_row(pair: Pair) -> dict[str, Any]:
    """The columns of `pairs` that are known after the pair was generated and measured."""
    low, high = pair.chance or (None, None)
    return {
        "effect": pair.effect,
        "effects": to_json({name: value for name, value in pair.effects.items() if math.isfinite(value)}),
        "chance_low": low,
        "chance_high": high,
        "perplexity_ratio": pair.perplexity_ratio,
        "normal_concept_score": pair.normal.concept_score,
        "steered_concept_score": pair.steered.concept_score if pair.steered else None,
        "diverges_at": pair.diverges_at,
        "seconds": pair.seconds,
        "tokens_per_second": pair.tokens_per_second,
    }


def storable(text: str) -> str:
    """`text` with `?` for lone surrogates, which a broken paste contains and UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def to_json(value: Any) -> str:
    """JSON for a column, without lone surrogates."""
    return storable(json.dumps(value, ensure_ascii=False))


def _pair(row: Mapping[str, Any]) -> Pair:
    plain = ("id", "prompt", "model", "seed", "effect", "diverges_at", "layer", "strength")
    return Pair(
        **{name: row[name] for name in plain},
        recipe=Recipe.from_json(_json(row, "recipe", dict)),
        normal=_answer(row, "normal") or UNANSWERED,
        steered=_answer(row, "steered"),
        raw=bool(row["raw"]),
        effects={name: float(value) for name, value in _json(row, "effects", dict).items()},
        chance=None if row["chance_low"] is None else (row["chance_low"], row["chance_high"]),
        seconds=row["seconds"] or 0.0,
        tokens_per_second=row["tokens_per_second"] or 0.0,
    )


def _answer(row: Mapping[str, Any], side: str) -> Answer | None:
    if row[f"{side}_text"] is None:
        return None
    plain = {column.name: row[f"{side}_{column.name}"] for column in fields(Answer) if column.name not in _ANSWER_JSON}
    if plain["finish"] not in get_args(Finish):
        raise ValueError(f"an answer cannot end with {plain['finish']!r}")
    gate, dial = (
        tuple((int(token), float(share)) for token, share in _json(row, f"{side}_{name}", list))
        for name in ("gate", "dial")
    )
    return Answer(**plain, token_ids=tuple(_json(row, f"{side}_token_ids", list)), gate=gate, dial=dial)


def _json(row: Mapping[str, Any], column: str, kind: type[_JsonType]) -> _JsonType:
    value = parse_json(row[column])
    if not isinstance(value, kind):
        raise ValueError(f"its {column} are not a {kind.__name__}")
    return value
