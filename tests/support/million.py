"""A million pairs in a history, and how long finding some takes: `python tests/support/million.py FILE [PAIRS]`.

Run by hand. A FILE that exists is measured as it is. Times are what a person waits: the store's own methods, the
median of several calls, beside the first one. Exit code 1 when a limit is missed.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path

from steerchat.storage.file import timestamp
from steerchat.storage.records import Filters, Origin, begin_row, concept_rows
from steerchat.storage.store import Store
from steerchat.values.recipe import Recipe, Term
from steerchat.values.results import Pair

CONCEPTS = ("happy", "sad", "formal", "pirate", "brief", "poetic", "angry", "calm", "shakespeare", "curious")
KINDS = ("chat", "chat", "chat", "compare", "layers", "layers", "strengths", "mix", "tune")
COMMON = "the and of to a in is that it you for with as on are this be not have from weather happy day people"
SESSION = 40  # pairs
LAYERS = 30
NEWEST = datetime(2026, 1, 31, tzinfo=UTC)
CALLS = 7

# What is asked, and the most milliseconds that it may take.
LIST, SEARCH_FILTERED = 100, 500


def words() -> tuple[list[str], list[float]]:
    """A vocabulary of 30,000 words, the common ones first, and how often each comes: by Zipf's law, summed up."""
    vocabulary = [*COMMON.split(), *(f"word{number}" for number in range(30_000))]
    return vocabulary, list(accumulate(1 / (rank + 2) for rank in range(len(vocabulary))))


def pairs(count: int) -> Iterator[tuple[Pair, Origin, list[str], dict[str, object]]]:
    """Pairs with their origin, their two texts and what was measured, oldest first."""
    draw = random.Random(0)
    vocabulary, weights = words()
    concepts = [1 / (rank + 1) for rank in range(len(CONCEPTS))]
    for number in range(count):
        texts = [" ".join(draw.choices(vocabulary, cum_weights=weights, k=length)) for length in (8, 40, 40)]
        if number == count // 2:
            texts[1] += " quantum weather"  # to be found once
        parts = [(draw.choices(CONCEPTS, concepts)[0], 1.0)]
        layer, strength = draw.randrange(LAYERS), draw.choice((1.0, 1.5, 2.0, 3.0))
        recipe = Recipe((Term(tuple(parts), (layer,), strength),)) if draw.random() < 0.8 else Recipe()
        message = [{"role": "user", "content": texts[0]}]
        model = "Rare-7B" if number == count // 3 else "SmolLM2-135M-Instruct"
        pair = Pair(None, texts[0], model, recipe, number)
        origin = Origin(
            fingerprint="fingerprint",
            kind=draw.choice(KINDS),
            session_id=number // SESSION + 1,
            messages={"normal": message, "steered": message},
            sampling={"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.1, "max_tokens": 60},
            versions={"torch": "2.9.1", "transformers": "5.23.0"},
            threads=2,
        )
        created = timestamp(NEWEST - timedelta(minutes=count - number))
        known = {"created": created, "completed": created, "effect": draw.gauss(0.5, 0.8), "status": "complete"}
        known["rating"] = draw.choice(("steered", "normal", "tie")) if draw.random() < 0.001 else None
        yield (
            pair,
            origin,
            texts,
            known | {"perplexity_ratio": draw.uniform(0.9, 3.0), "diverges_at": draw.randrange(9)},
        )


def fill(path: Path, count: int) -> None:
    """Writes the rows that the store would write, in large transactions and with its own triggers."""
    Store.open(path).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        ids = json.dumps(list(range(1000, 1060)))
        for number, (pair, origin, texts, known) in enumerate(pairs(count), 1):
            if number % SESSION == 1:
                session = ("started", "title", "model", "fingerprint")
                _insert(db, "sessions", dict(zip(session, (known["created"], texts[0], pair.model, "f"), strict=True)))
            answers = {"tokens": 60, "token_ids": ids, "finish": "length", "perplexity": 12.0, "repetition": 0.1}
            normal = _insert(db, "answers", {"text": texts[1], **answers})
            steered = _insert(db, "answers", {"text": texts[2], **answers}) if pair.recipe.active else None
            row = {**begin_row(pair, origin), **known, "normal_id": normal, "normal_indexed": 1, "steered_id": steered}
            pair_id = _insert(db, "pairs", row)
            terms = [(pair_id, *term) for term in concept_rows(pair.recipe)]
            db.executemany("INSERT INTO pair_concepts VALUES (?, ?, ?, ?, ?)", terms)
            if number % 20_000 == 0:
                db.execute("COMMIT")
                db.execute("BEGIN")
                print(f"\r{number:,} of {count:,} pairs", end="", file=sys.stderr, flush=True)
        db.execute("COMMIT")
    print(file=sys.stderr)


def _insert(db: sqlite3.Connection, table: str, row: dict[str, object]) -> int:
    marks = ", ".join("?" * len(row))
    found = db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values())).lastrowid
    assert found is not None
    return found


def questions(store: Store) -> list[tuple[str, int, Callable[[], object]]]:
    """(what is asked, its limit in milliseconds, the asking)."""
    half = store.pairs(limit=1)[0].id // 2
    since = NEWEST - timedelta(days=2)

    def listed(**filters: object) -> Callable[[], object]:
        return lambda: store.pairs(Filters(**filters))  # type: ignore[arg-type]

    def found(text: str, **filters: object) -> Callable[[], object]:
        return lambda: store.search(text, Filters(**filters))  # type: ignore[arg-type]

    return [
        ("/history", LIST, listed()),
        ("a page from the middle", LIST, lambda: store.pairs(before_id=half)),
        ("one pair", LIST, lambda: store.pair(half)),
        ("/session", LIST, store.sessions),
        ("--concept happy", LIST, listed(concept="happy")),
        ("--concept curious --layer 29", LIST, listed(concept="curious", layer=29)),
        ("--layer 7", LIST, listed(layer=7)),
        ("--strength 1..1.5", LIST, listed(strength=(1.0, 1.5))),
        ("--strength 7..9 (none)", LIST, listed(strength=(7.0, 9.0))),
        ("--concept nothing (none)", LIST, listed(concept="nothing")),
        ("--min-effect 0.5", LIST, listed(min_effect=0.5)),
        ("--min-effect 9 (none)", LIST, listed(min_effect=9.0)),
        ("--model Rare-7B (one)", LIST, listed(model="Rare-7B")),
        ("--since 2d", LIST, listed(since=since)),
        ("--since 2d --kind tune", LIST, listed(since=since, kind="tune")),
        ("--since in future (none)", LIST, listed(since=NEWEST + timedelta(days=1))),
        ("--kind nothing (none)", LIST, listed(kind="nothing")),
        ("--rated", LIST, listed(rated=True)),
        ("--session 3", LIST, listed(session=3)),
        ("--concept happy --layer 16 --strength 1..3 --min-effect 0.5", LIST,
         listed(concept="happy", layer=16, strength=(1.0, 3.0), min_effect=0.5)),
        ("--search the", LIST, found("the")),
        ("--search 'weather people'", LIST, found("weather people")),
        ("--search 'quantum weather' (one)", LIST, found("quantum weather")),
        ("--search word29999", LIST, found("word29999")),
        ("--search zzzz (none)", LIST, found("zzzz")),
        ("--search the --concept happy", SEARCH_FILTERED, found("the", concept="happy")),
        ("--search the --min-effect 9 (none)", SEARCH_FILTERED, found("the", min_effect=9.0)),
        ("--search weather --concept curious --layer 29", SEARCH_FILTERED,
         found("weather", concept="curious", layer=29)),
        ("--search the --rated", SEARCH_FILTERED, found("the", rated=True)),
        ("--search the --session 3", SEARCH_FILTERED, found("the", session=3)),
        ("--search the --model Rare-7B", SEARCH_FILTERED, found("the", model="Rare-7B")),
        ("--search quantum --kind chat", SEARCH_FILTERED, found("quantum", kind="chat")),
    ]  # fmt: skip


def measure(ask: Callable[[], object], calls: int = CALLS) -> list[float]:
    """Milliseconds of each call."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        ask()
        times.append(1000 * (time.perf_counter() - start))
    return times


def main(path: Path, count: int) -> int:
    if not path.exists():
        fill(path, count)
    missed = 0

    def tell(what: str, times: list[float], limit: float) -> None:
        nonlocal missed
        middle = statistics.median(times)
        missed += middle > limit
        print(f"{middle:9.1f} {times[0]:9.1f} {limit:7.0f}  {what}{'   MISSED' if middle > limit else ''}", flush=True)

    print("   median     first   limit  milliseconds")
    with Store.open(path) as store:
        print(f"# {store.pairs(limit=1)[0].id:,} pairs, {path.stat().st_size / 1e9:.1f} GB")
        for what, limit, ask in questions(store):
            tell(what, measure(ask), limit)
    # A start is opening the file; an empty one takes about as long.
    empty = path.with_name("empty.db")
    usual = measure(lambda: Store.open(empty).close())
    tell("opening it (limit: an empty one and 20 ms)", measure(lambda: Store.open(path).close()),
         statistics.median(usual) + 20)  # fmt: skip
    empty.unlink()
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1_000_000))
