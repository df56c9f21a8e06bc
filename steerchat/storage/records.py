"""What goes into the history and what comes out of it, as values, and their form as rows."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, TypeVar, cast, get_args

from ..system.untrusted import parse_json
from ..values.errors import StoreError, shorten
from ..values.recipe import Recipe
from ..values.results import Answer, Finish, Pair, html

_Kind = TypeVar("_Kind")

Status = Literal["running", "complete", "interrupted", "failed"]
Verdict = Literal["steered", "normal", "tie"]
Messages = Mapping[str, Sequence[Mapping[str, str]]]
VERDICTS: tuple[Verdict, ...] = ("steered", "normal", "tie")


@dataclass(frozen=True)
class PairRecord:
    """All that is known of a pair before it is generated.

    Attributes:
        messages: the conversation that each column answers, {"normal": [...], "steered": [...]}.
        sampling: temperature, top-p and the rest, as numbers.
        versions: of the libraries that a rerun depends on, and the processor.
        vectors: a digest of each concept's vector, by its name.
        context: ids of the pairs whose answers `messages` hold, oldest first; None for one that was not logged.
        threads: CPU threads of the run; None where that means nothing.
        layer, strength: in a sweep, this row's place in it.
    """

    prompt: str
    recipe: Recipe
    seed: int
    model: str
    fingerprint: str
    kind: str = "chat"
    session_id: int | None = None
    experiment_id: int | None = None
    raw: bool = False
    messages: Messages = field(default_factory=dict)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    dtype: str = "float32"
    versions: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    layer: int | None = None
    strength: float | None = None
    vectors: Mapping[str, str] = field(default_factory=dict)
    context: Sequence[int | None] = ()

    def to_row(self) -> dict[str, Any]:
        return {
            "session_id": self.session_id,
            "experiment_id": self.experiment_id,
            "kind": self.kind,
            "prompt": storable(self.prompt),
            "raw": int(self.raw),
            "messages": to_json(self.messages),
            "recipe": to_json(self.recipe.to_json()),
            "recipe_text": str(self.recipe),
            "seed": self.seed,
            "sampling": to_json(self.sampling),
            "model": self.model,
            "fingerprint": self.fingerprint,
            "device": self.device,
            "dtype": self.dtype,
            "versions": to_json(self.versions),
            "threads": self.threads,
            "layer": self.layer,
            "strength": self.strength,
            "vectors": to_json(self.vectors),
            "context": to_json(list(self.context)),
        }

    def concept_rows(self) -> list[tuple[str, int, int, float]]:
        """(concept, first layer, last layer, strength) for each concept and unbroken run of layers that is pushed."""
        if not self.recipe.active:
            return []
        rows = {
            (concept, first, last, term.strength)
            for term in self.recipe.terms
            for concept, _ in term.parts
            for first, last in _runs(term.layers)
        }
        return sorted(rows)


@dataclass(frozen=True)
class StoredPair:
    """A pair as the history holds it.

    While it runs, or when it was stopped before anything came, `pair.normal` is an empty answer with
    finish `interrupted` and `pair.steered` is None.

    Attributes:
        created, completed: ISO 8601 in UTC with milliseconds; completed is None while it runs.
        normal_id: the stored normal answer, to be shared by the other pairs of a sweep.
        measures: further measures by name.
        rating: which answer showed the concept, by the user; None while unrated.
        reads_better, shown_first: from a blind review, else None.
    """

    pair: Pair
    status: Status
    kind: str
    undone: bool
    created: str
    completed: str | None
    session_id: int | None
    experiment_id: int | None
    fingerprint: str
    device: str
    dtype: str
    threads: int | None
    versions: dict[str, str]
    sampling: dict[str, Any]
    messages: dict[str, list[dict[str, str]]]
    vectors: dict[str, str]
    context: list[int | None]
    normal_id: int | None
    measures: dict[str, float | None]
    rating: Verdict | None
    reads_better: Verdict | None
    shown_first: Literal["steered", "normal"] | None
    rated: str | None
    note: str

    def _repr_html_(self) -> str | None:
        return html(self)

    @property
    def id(self) -> int:
        return cast(int, self.pair.id)

    def to_json(self) -> dict[str, Any]:
        """The object of design section 8, with all that the history knows beside it."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("pair", "normal_id")}
        return {
            **self.pair.to_json(),
            "recipe_text": str(self.pair.recipe),
            "tokens_per_second": round(self.pair.tokens_per_second, 2),
            **own,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> StoredPair:
        """From a row of `PAIR_QUERY`.

        Raises:
            StoreError: another program wrote something else into it.
        """
        try:
            messages = _json(row, "messages", dict)
            if not all(isinstance(text, str) for said in messages.values() for one in said for text in one.values()):
                raise ValueError("its messages are no texts")
            return cls(
                pair=_pair(row),
                versions=_json(row, "versions", dict),
                sampling=_json(row, "sampling", dict),
                messages=messages,
                vectors=_json(row, "vectors", dict),
                context=_json(row, "context", list),
                measures=_json(row, "measures", dict),
                undone=bool(row["undone"]),
                **{name: row[name] for name in _PLAIN},
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            message = f"pair {row['id']} of the history is not as steerchat writes it: {shorten(str(error), 80)}"
            raise StoreError(message, f"/history delete {row['id']} removes it") from None


_PLAIN = (
    *("status", "kind", "created", "completed", "session_id", "experiment_id", "fingerprint", "device", "dtype"),
    *("threads", "normal_id", "rating", "reads_better", "shown_first", "rated", "note"),
)

_ANSWER_COLUMNS = ("text", "tokens", "token_ids", "finish", "perplexity", "repetition")

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
    """A conversation: when, about what, with which model, and how many pairs that are not undone it holds."""

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
    """A sweep or comparison: what was asked for, and how it ended. Its pairs name it.

    Attributes:
        spec: its settings (label, recipe, for a control the recipe `along` which it is read), repeats, raw, tokens
            and first seed.
        started, finished: ISO 8601 in UTC with milliseconds; finished is None while it runs.
    """

    id: int
    session_id: int | None
    kind: str
    prompt: str
    spec: dict[str, Any]
    status: Status
    started: str
    finished: str | None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> StoredExperiment:
        """Raises StoreError when another program wrote something else into it."""
        try:
            return cls(**{**row, "spec": _json(row, "spec", dict)})
        except (ValueError, TypeError) as error:
            message = f"experiment {row['id']} of the history is not as steerchat writes it: {shorten(str(error), 80)}"
            raise StoreError(message, "steerchat db check looks for damage") from None

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True)
class Filters:
    """Which pairs to list; what is None filters nothing, and all that is given must hold.

    Attributes:
        concept: pushed alone or as a part of a mix.
        layer: pushed at this layer, by that concept if one is given.
        strength: lowest and highest strength, of that concept at that layer if given.
        min_effect: least measured effect; pairs without one are left out.
        model: its name as logged.
        since: not older than this; local time where it names no zone.
        rated: True for judged pairs, False for those that wait.
        undone: take in the turns that were taken back.
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
    """The place of a text where a search hit; `spans` are (start, end) of the words found, in `text`."""

    where: Literal["prompt", "normal", "steered"]
    text: str
    spans: tuple[tuple[int, int], ...]

    def pieces(self) -> list[tuple[str, int]]:
        """The text on one line in pieces, each with 2 where it was found and 0 where not."""
        line = re.sub(r"\s", " ", self.text)
        edges = [0, *(edge for span in self.spans for edge in span), len(line)]
        places = enumerate(itertools.pairwise(edges))
        return [(line[low:high], 2 * (index % 2)) for index, (low, high) in places if low < high]


@dataclass(frozen=True)
class SearchHit:
    stored: StoredPair
    excerpts: tuple[Excerpt, ...]

    def to_json(self) -> dict[str, Any]:
        return {**self.stored.to_json(), "hits": [dict(vars(one)) for one in self.excerpts]}


def answer_row(answer: Answer) -> dict[str, Any]:
    return {
        "text": storable(answer.text),
        "tokens": answer.tokens,
        "token_ids": to_json(answer.token_ids),
        "finish": answer.finish,
        "perplexity": answer.perplexity,
        "repetition": answer.repetition,
    }


def result_row(pair: Pair) -> dict[str, Any]:
    """The columns of a pair that are known once it was generated and measured."""
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
        "layer": pair.layer,
        "strength": pair.strength,
    }


def storable(text: str) -> str:
    """`text` without the lone surrogates that a broken paste brings and no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def to_json(value: Any) -> str:
    return storable(json.dumps(value, ensure_ascii=False))


def _pair(row: Mapping[str, Any]) -> Pair:
    return Pair(
        id=row["id"],
        prompt=row["prompt"],
        model=row["model"],
        recipe=Recipe.from_json(_json(row, "recipe", dict)),
        seed=row["seed"],
        normal=_answer(row, "normal") or Answer("", 0, "interrupted"),
        steered=_answer(row, "steered"),
        raw=bool(row["raw"]),
        effect=row["effect"],
        effects={name: float(value) for name, value in _json(row, "effects", dict).items()},
        chance=None if row["chance_low"] is None else (row["chance_low"], row["chance_high"]),
        diverges_at=row["diverges_at"],
        seconds=row["seconds"] or 0.0,
        tokens_per_second=row["tokens_per_second"] or 0.0,
        layer=row["layer"],
        strength=row["strength"],
    )


def _answer(row: Mapping[str, Any], side: str) -> Answer | None:
    if row[f"{side}_text"] is None:
        return None
    return Answer(
        text=row[f"{side}_text"],
        tokens=row[f"{side}_tokens"],
        finish=_finish(row[f"{side}_finish"]),
        perplexity=row[f"{side}_perplexity"],
        concept_score=row[f"{side}_concept_score"],
        repetition=row[f"{side}_repetition"],
        token_ids=tuple(_json(row, f"{side}_token_ids", list)),
    )


def _json(row: Mapping[str, Any], column: str, kind: type[_Kind]) -> _Kind:
    found = parse_json(row[column])
    if not isinstance(found, kind):
        raise ValueError(f"its {column} are no {kind.__name__}")
    return found


def _finish(text: str) -> Finish:
    for one in get_args(Finish):
        if text == one:
            return one
    raise ValueError("an answer ended in no known way")


def _runs(layers: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], layer)
        else:
            runs.append((layer, layer))
    return runs
