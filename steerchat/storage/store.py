"""The history: every pair in one SQLite file, listed by filters and searched by words.

`migrations` describes the tables. Every write is one transaction. All threads share one connection under a lock,
since each call takes milliseconds; other processes may write the same file at the same time.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..values.errors import StoreError, UnknownName, UsageError, shorten
from ..values.results import Pair
from .file import Owner, end_running, explained, is_unwritable, open_file, open_to_read, timestamp, transaction
from .queries import find_excerpts, match_words, search_ids, select_ids
from .records import (
    PAIR_QUERY,
    Filters,
    Origin,
    Rating,
    SearchHit,
    Status,
    StoredExperiment,
    StoredPair,
    StoredSession,
    answer_row,
    begin_row,
    concept_rows,
    result_row,
    storable,
    to_json,
)

if TYPE_CHECKING:
    from sqlite_utils import Database


class Store:
    """The history. Open it with `Store.open`, and close it or use it as a context manager.

    Every method raises StoreError when the file cannot be read or written, on a full disk for example; no write is
    partial, and the caller may go on without logging. An id that does not exist raises UnknownName.

    Attributes:
        refused: why nothing can be written, where the file can only be read: every write raises it.
    """

    def __init__(self, path: Path, db: Database, owner: Owner | None, refused: StoreError | None = None) -> None:
        self.path = path
        self.refused = refused
        self._db = db
        self._owner = owner
        self._lock = threading.RLock()
        self._closed = False

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Open the file, created or migrated where needed; rows that dead processes left running become interrupted.

        A file of this version that cannot be written is opened to be read.

        Raises StoreError when the file cannot be opened or created, is not SQLite, belongs to another program or to a
        newer steerchat, or the disk is full.
        """
        path = Path(path).absolute()
        try:
            db, owner = open_file(path)
        except StoreError as error:
            if not is_unwritable(error) or not path.is_file():
                raise
            return cls(path, open_to_read(path), None, error)
        return cls(path, db, owner)

    def close(self) -> None:
        """Mark the rows that this process left running as interrupted, and close the file."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._owner is None:
                self._db.close()
                return
            try:
                with explained(self.path), transaction(self._db):
                    end_running(self._db, self._owner.token)
            finally:
                self._db.close()
                self._owner.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _token(self) -> str | None:
        return None if self._owner is None else self._owner.token

    # Sessions and experiments

    def start_session(self, model: str, fingerprint: str, system: str = "") -> int:
        """Log a new conversation, whose first message becomes its title. Returns its id."""
        row = {"started": timestamp(), "model": model, "fingerprint": fingerprint, "system": storable(system)}
        with self._write() as db:
            return _insert(db, "sessions", row)

    def end_session(self, session_id: int) -> None:
        self._change("session", session_id, {"ended": timestamp()})

    def reopen_session(self, session_id: int) -> None:
        self._change("session", session_id, {"ended": None})

    def sessions(self, limit: int = 20) -> list[StoredSession]:
        """The newest conversations first."""
        with self._read() as db:
            return [StoredSession(**row) for row in db.query(f"{_SESSIONS} ORDER BY id DESC LIMIT ?", [limit])]

    def session(self, session_id: int) -> StoredSession:
        return StoredSession(**self._row(_SESSIONS, "session", session_id))

    def delete_session(self, session_id: int) -> None:
        """Delete a conversation with its pairs, experiments and answers."""
        self._delete("session", session_id)

    def start_experiment(self, session_id: int | None, kind: str, prompt: str, spec: Mapping[str, Any]) -> int:
        """Log a sweep or comparison before its pairs, whose records refer to it. Returns its id."""
        row = {
            "session_id": session_id,
            "kind": kind,
            "prompt": storable(prompt),
            "spec": to_json(spec),
            "status": "running",
            "started": timestamp(),
            "owner": self._token,
        }
        with self._write() as db:
            return _insert(db, "experiments", row)

    def finish_experiment(self, experiment_id: int, status: Status = "complete") -> None:
        row = {"status": status, "finished": timestamp(), "owner": None}
        self._change("experiment", experiment_id, row)

    def experiment(self, experiment_id: int) -> StoredExperiment:
        return StoredExperiment.from_row(self._row(_EXPERIMENTS, "experiment", experiment_id))

    def newest_experiment(self, kind: str) -> int | None:
        """The id of the newest experiment of a kind, such as `layers`; None when there is none."""
        with self._read() as db:
            return next(db.query("SELECT max(id) AS id FROM experiments WHERE kind = ?", [kind]))["id"]

    # Writing pairs

    def begin_pair(self, pair: Pair, origin: Origin) -> int:
        """Log a pair before it is generated, so that a killed process leaves a trace of it. Returns its id."""
        with self._write() as db:
            # The time is taken inside the transaction, so that ids and times have the same order.
            row = {**begin_row(pair, origin), "status": "running", "created": timestamp(), "owner": self._token}
            pair_id = _insert(db, "pairs", row)
            db.conn.executemany(
                "INSERT INTO pair_concepts VALUES (?, ?, ?, ?, ?)", [(pair_id, *r) for r in concept_rows(pair.recipe)]
            )
            db.execute(
                "UPDATE sessions SET title = ? WHERE id = ? AND title = ''",
                [storable(shorten(pair.prompt, 60)), origin.session_id],
            )
            return pair_id

    def finish_pair(
        self,
        pair_id: int,
        pair: Pair,
        status: Status = "complete",
        shared_normal: int | None = None,
        measures: Mapping[str, float] | None = None,
    ) -> int:
        """Log a pair's answers, complete or partial, and its measures.

        It may be called again for the same pair, for example first with the texts and then with their measures.

        Args:
            pair: the result; its prompt, recipe and seed stay as `begin_pair` logged them.
            shared_normal: the id of the stored normal answer that an earlier call for the same sweep returned;
                `pair.normal` is not stored again.
            measures: further measures by name, added to those already stored.

        Returns:
            the id of the stored normal answer.
        """
        with self._write() as db:
            normal_id = _insert(db, "answers", answer_row(pair.normal)) if shared_normal is None else shared_normal
            row = {
                **result_row(pair),
                "status": status,
                "completed": timestamp(),
                "owner": None,
                "normal_id": normal_id,
                "normal_indexed": int(shared_normal is None),
                "steered_id": _insert(db, "answers", answer_row(pair.steered)) if pair.steered else None,
            }
            _update(db, "pair", pair_id, row)
            db.conn.executemany(
                "INSERT INTO measures (pair_id, name, value) VALUES (?, ?, ?)"
                " ON CONFLICT (pair_id, name) DO UPDATE SET value = excluded.value",
                [(pair_id, name, value) for name, value in (measures or {}).items()],
            )
            return normal_id

    def mark_undone(self, pair_ids: Sequence[int]) -> None:
        """Mark turns as undone: they stay stored, and lists leave them out unless `Filters.undone` is set."""
        with self._write() as db:
            db.execute("UPDATE pairs SET undone = 1 WHERE id IN (SELECT value FROM json_each(?))", [_ids(pair_ids)])

    def rate(
        self,
        pair_id: int,
        rating: Rating,
        note: str = "",
        *,
        reads_better: Rating | None = None,
        shown_first: Rating | None = None,
    ) -> None:
        """Log which answer the user says showed the concept; a later rating replaces an earlier one.

        Args:
            reads_better, shown_first: from a blind review: the answer that read better, and the one shown first.

        Raises:
            UsageError: for a rating other than steered, normal or tie.
        """
        for value in (rating, reads_better or "tie"):
            if value not in get_args(Rating):
                raise UsageError(f"{shorten(value, 20)!r} is not a rating", "use steered, normal or tie")
        row = {"rating": rating, "note": storable(note), "rated": timestamp()}
        self._change("pair", pair_id, {**row, "reads_better": reads_better, "shown_first": shown_first})

    def delete_pair(self, pair_id: int) -> None:
        """Delete a pair with its measures, its search entry, and each answer that no other pair shares."""
        self._delete("pair", pair_id)

    # Reading pairs

    def pair(self, pair_id: int) -> StoredPair:
        for stored in self.chosen([pair_id]):
            return stored
        raise _missing("pair", pair_id)

    def chosen(self, pair_ids: Sequence[int]) -> list[StoredPair]:
        """The pairs with these ids, newest first; an id that does not exist is left out."""
        with self._read() as db:
            return _fetch(db, pair_ids)

    @property
    def columns(self) -> list[str]:
        """Those of `rows`."""
        with self._read() as db:
            return [row["name"] for row in db.query("PRAGMA table_info(pair_view)")]

    def rows(self, pair_ids: Sequence[int]) -> list[dict[str, Any]]:
        """The same pairs as `chosen`, as rows of `pair_view`."""
        sql = "SELECT * FROM pair_view WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id DESC"
        with self._read() as db:
            return list(db.query(sql, [_ids(pair_ids)]))

    def pairs(self, filters: Filters | None = None, limit: int = 20, before_id: int | None = None) -> list[StoredPair]:
        """The newest pairs that pass the filters, newest first; only ids below `before_id`, for the next page."""
        sql, args = select_ids(filters or Filters(), before_id)
        with self._read() as db:
            rows = db.execute(f"{sql} ORDER BY 1 DESC LIMIT ?", [*args, limit]).fetchall()
            return _fetch(db, [row[0] for row in rows])

    def search(
        self, text: str, filters: Filters | None = None, limit: int = 20, before_id: int | None = None
    ) -> list[SearchHit]:
        """The newest pairs whose prompt and answers together contain every word of `text`, in any case.

        A normal answer that the pairs of a sweep share is found under one of them.

        Raises UsageError when `text` has no word, or more than 64.
        """
        words = match_words(text)
        with self._read() as db:
            ids = search_ids(db, words, filters or Filters(), limit, before_id)
            return [SearchHit(stored, find_excerpts(db, words, stored.id)) for stored in _fetch(db, ids)]

    # Shared by the methods above

    @contextlib.contextmanager
    def _read(self) -> Iterator[Database]:
        with self._lock, explained(self.path):
            if self._closed:
                raise StoreError("the history is closed")
            yield self._db

    @contextlib.contextmanager
    def _write(self) -> Iterator[Database]:
        if self.refused is not None:
            raise StoreError(self.refused.message, self.refused.hint)
        with self._read() as db, transaction(db):
            yield db

    def _change(self, noun: str, row_id: int, row: dict[str, Any]) -> None:
        with self._write() as db:
            _update(db, noun, row_id, row)

    def _delete(self, noun: str, row_id: int) -> None:
        with self._write() as db:
            if not db.execute(f"DELETE FROM {noun}s WHERE id = ?", [row_id]).rowcount:
                raise _missing(noun, row_id)

    def _row(self, query: str, noun: str, row_id: int) -> dict[str, Any]:
        with self._read() as db:
            for row in db.query(f"{query} WHERE id = ?", [row_id]):
                return row
        raise _missing(noun, row_id)


_SESSIONS = """
SELECT *, (SELECT count(*) FROM pairs WHERE session_id = sessions.id AND NOT undone) AS pairs FROM sessions
"""
_EXPERIMENTS = "SELECT id, session_id, kind, prompt, spec, status, started, finished FROM experiments"


def _missing(noun: str, row_id: int) -> UnknownName:
    return UnknownName(f"no {noun} {row_id}", "/history lists what is there")


def _insert(db: Database, table: str, row: dict[str, Any]) -> int:
    names, marks = ", ".join(row), ", ".join("?" * len(row))
    row_id = db.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values())).lastrowid
    assert row_id is not None
    return row_id


def _update(db: Database, noun: str, row_id: int, row: dict[str, Any]) -> None:
    changes = ", ".join(f"{name} = ?" for name in row)
    if not db.execute(f"UPDATE {noun}s SET {changes} WHERE id = ?", [*row.values(), row_id]).rowcount:
        raise _missing(noun, row_id)


def _ids(ids: Sequence[int]) -> str:
    return to_json(list(ids))


def _fetch(db: Database, ids: Sequence[int]) -> list[StoredPair]:
    return [StoredPair.from_row(row) for row in db.query(PAIR_QUERY, [_ids(ids)])]
