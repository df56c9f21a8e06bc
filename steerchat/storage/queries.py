"""Finding pairs: filters and words as SQL that stays fast at a million pairs.

Every list is newest first, so each query reads ids downwards and stops at its limit. Where few rows pass, it reads an
index that covers the filter, so that even reading to the end is fast. SQLite's planner does not know about the limit,
so the queries fix the order of joins (CROSS JOIN) and the index (INDEXED BY).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..values.errors import UsageError
from .file import timestamp
from .records import Excerpt, Filters, storable

if TYPE_CHECKING:
    from sqlite_utils import Database

# A search with filters first checks the matches among this many of the newest pairs one by one. For older pairs it
# collects the pairs that pass the filters first, which costs more at the start and less for a common word.
WINDOW = 20_000
MAX_WORDS = 64
EXCERPT_WORDS = 16
# Unicode non-characters, which no text contains, mark the words that a search matched.
_MATCH_START, _MATCH_END = "\ufdd0", "\ufdd1"

# Scripts that write words without blanks between them, or attach particles: Thai, Lao, Burmese, Hangul, Khmer, kana,
# Chinese characters.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u3040-\u318f\u31f0-\u31ff\u3400-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
# Characters of an excerpt on each side of a word of such a script.
_AROUND = 30

Query = tuple[str, list[Any]]


@dataclass(frozen=True)
class Words:
    """What a search looks for.

    Attributes:
        query: an FTS5 query for words between blanks; empty without.
        parts: texts that may be any part of a text. The full-text index does not know where such words end, so that
            each text is read.
    """

    query: str
    parts: tuple[str, ...] = ()


def select_ids(filters: Filters, before_id: int | None = None, parts: Sequence[str] = ()) -> Query:
    """A SELECT of the ids below `before_id` that pass the filters, to which ORDER BY and LIMIT can be appended.

    `parts`: texts that a pair's texts contain.
    """
    tests, args = _pair_tests(filters, parts)
    if before_id is not None:
        tests.append("{id} < ?")
        args.append(before_id)
    term_tests, term_args = _term_tests(filters)
    if not term_tests:
        columns = ("session", "experiment", "kind", "model")  # each has an index; the first finds the fewest rows
        index = next((column for column in columns if getattr(filters, column) is not None), "narrow")
        return _where(f"SELECT id FROM pairs INDEXED BY pairs_{index}", tests, "pairs.id"), args
    index = "" if filters.concept is None else " INDEXED BY pair_concepts_concept"
    source = (
        f"SELECT terms.pair_id FROM pair_concepts AS terms{index}"
        " CROSS JOIN pairs INDEXED BY pairs_narrow ON pairs.id = terms.pair_id"
    )
    # A pair with several terms that pass is one pair.
    return _where(source, [*term_tests, *tests], "terms.pair_id") + " GROUP BY terms.pair_id", term_args + args


def match_words(text: str) -> Words:
    """A search for pairs that contain every word of `text`.

    Raises UsageError when `text` has no word, or more than `MAX_WORDS`.
    """
    words = [word for word in storable(text).replace("\0", " ").split() if re.search(r"\w", word)]
    if not words:
        raise UsageError("a search needs a word", 'for example: --search "quantum weather"')
    if len(words) > MAX_WORDS:
        raise UsageError(f"a search takes at most {MAX_WORDS} words, not {len(words)}", "search for a few rare words")
    parts = tuple(word for word in words if _UNSPACED.search(word))
    quoted = ('"' + word.replace('"', '""') + '"' for word in words if word not in parts)
    return Words(" ".join(quoted), parts)


def search_ids(db: Database, words: Words, filters: Filters, limit: int, before_id: int | None) -> list[int]:
    """Ids of the newest pairs that match the words and pass the filters, newest first."""
    if not words.query:
        sql, args = select_ids(filters, before_id, words.parts)
        return [row[0] for row in db.execute(f"{sql} ORDER BY 1 DESC LIMIT ?", [*args, limit]).fetchall()]
    newest = db.execute("SELECT max(id) FROM pairs").fetchone()[0] or 0
    top = newest + 1 if before_id is None else min(before_id, newest + 1)
    if filters in (Filters(), Filters(undone=True)):
        return _check_matches(db, words, filters, 0, top, limit)
    edge = max(0, top - WINDOW)
    ids = _check_matches(db, words, filters, edge, top, limit)
    if len(ids) == limit or not edge:
        return ids
    passing, args = select_ids(filters, edge, words.parts)
    rows = db.execute(
        # The plus keeps SQLite from running one FTS5 lookup for each rowid.
        f"SELECT rowid FROM pair_search WHERE pair_search MATCH ? AND rowid < ? AND +rowid IN ({passing})"
        " ORDER BY rowid DESC LIMIT ?",
        [words.query, edge, *args, limit - len(ids)],
    )
    return ids + [row[0] for row in rows.fetchall()]


def find_excerpts(db: Database, words: Words, pair_id: int) -> tuple[Excerpt, ...]:
    """Excerpts of a matching pair's prompt and answers, around the matched words."""
    if words.parts:
        texts = db.execute("SELECT prompt, normal, steered FROM pair_texts WHERE id = ?", [pair_id]).fetchone()
        named = zip(("prompt", "normal", "steered"), texts, strict=True)
        around = tuple(_around(name, text or "", words.parts) for name, text in named)
        if any(excerpt.spans for excerpt in around) or not words.query:
            return tuple(excerpt for excerpt in around if excerpt.spans)
    snippets = ", ".join(f"snippet(pair_search, {column}, ?, ?, '...', {EXCERPT_WORDS})" for column in range(3))
    row = db.execute(
        f"SELECT {snippets} FROM pair_search WHERE pair_search MATCH ? AND rowid = ?",
        [*(_MATCH_START, _MATCH_END) * 3, words.query, pair_id],
    ).fetchone()
    excerpts = (_excerpt("prompt", row[0]), _excerpt("normal", row[1]), _excerpt("steered", row[2]))
    return tuple(excerpt for excerpt in excerpts if excerpt.spans)


def _check_matches(db: Database, words: Words, filters: Filters, low: int, top: int, limit: int) -> list[int]:
    """Ids from `low` to below `top` that match and pass, newest first: each match is checked against the filters."""
    tests, args = _pair_tests(filters, words.parts)
    term_tests, term_args = _term_tests(filters)
    if term_tests:
        tests.append(
            _where("EXISTS (SELECT 1 FROM pair_concepts AS terms", ["pair_id = {id}", *term_tests], "pairs.id") + ")"
        )
    sql = _where(
        "SELECT pairs.id FROM pair_search CROSS JOIN pairs INDEXED BY pairs_narrow ON pairs.id = pair_search.rowid",
        ["pair_search MATCH ?", "pair_search.rowid >= ?", "pair_search.rowid < ?", *tests],
        "pairs.id",
    )
    rows = db.execute(
        f"{sql} ORDER BY pair_search.rowid DESC LIMIT ?", [words.query, low, top, *args, *term_args, limit]
    )
    return [row[0] for row in rows.fetchall()]


def _pair_tests(filters: Filters, parts: Sequence[str]) -> tuple[list[str], list[Any]]:
    """Conditions on columns of pairs and on their texts, and their values."""
    filled: list[tuple[str, Any]] = [
        ("effect >= ?", filters.min_effect),
        ("model = ?", filters.model),
        ("created >= ?", None if filters.since is None else timestamp(filters.since)),
        ("kind = ?", filters.kind),
        ("session_id = ?", filters.session),
        ("experiment_id = ?", filters.experiment),
    ]
    if filters.since is not None:
        # Ids grow with time, mostly: the query need not read below the lowest id that passes.
        lowest = "(SELECT min(id) FROM pairs INDEXED BY pairs_created WHERE created >= ?)"
        filled.append((f"{{id}} >= {lowest}", timestamp(filters.since)))
    tests = [test for test, value in filled if value is not None]
    if filters.rated is not None:
        tests.append("rating IS NOT NULL" if filters.rated else "rating IS NULL")
    if not filters.undone:
        tests.append("undone = 0")
    values = [value for _, value in filled if value is not None]
    for part in parts:
        any_text = " OR ".join(f"texts.{name} LIKE ? ESCAPE '\\'" for name in ("prompt", "normal", "steered"))
        tests.append(f"EXISTS (SELECT 1 FROM pair_texts AS texts WHERE texts.id = {{id}} AND ({any_text}))")
        values += ["%" + re.sub(r"([%_\\])", r"\\\1", part) + "%"] * 3
    return tests, values


def _term_tests(filters: Filters) -> tuple[list[str], list[Any]]:
    """Conditions on one row of pair_concepts, so that the same term meets all of them."""
    tests: list[str] = []
    args: list[Any] = []
    if filters.concept is not None:
        tests.append("terms.concept = ?")
        args.append(filters.concept.lower())
    if filters.layer is not None:
        tests.append("? BETWEEN terms.layer_first AND terms.layer_last")
        args.append(filters.layer)
    if filters.strength is not None:
        tests.append("terms.strength BETWEEN ? AND ?")
        args.extend(filters.strength)
    return tests, args


def _where(sql: str, tests: Sequence[str], id_column: str) -> str:
    if not tests:
        return sql
    return f"{sql} WHERE " + " AND ".join(test.replace("{id}", id_column) for test in tests)


def _around(where: Any, text: str, parts: Sequence[str]) -> Excerpt:
    """An excerpt around the first of some texts, with the places of all of them."""
    lowered = text.lower()
    places = [match.span() for part in parts for match in re.finditer(re.escape(part.lower()), lowered)]
    if not places or len(lowered) != len(text):
        return Excerpt(where, "", ())
    first = min(places)
    start, end = max(0, first[0] - _AROUND), min(len(text), first[1] + _AROUND)
    before, after = "..." if start else "", "..." if end < len(text) else ""
    shift = len(before) - start
    spans = sorted((low + shift, high + shift) for low, high in places if start <= low and high <= end)
    return Excerpt(where, before + text[start:end] + after, tuple(spans))


def _excerpt(where: Any, marked: str | None) -> Excerpt:
    """An excerpt from FTS5's snippet: the text without the marks, and the places of the marked words."""
    text = ""
    spans: list[tuple[int, int]] = []
    for piece in re.split(f"({_MATCH_START}.*?{_MATCH_END})", marked or "", flags=re.DOTALL):
        plain = piece.strip(_MATCH_START + _MATCH_END)
        if piece.startswith(_MATCH_START):
            spans.append((len(text), len(text) + len(plain)))
        text += plain
    return Excerpt(where, text, tuple(spans))
