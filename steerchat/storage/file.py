"""The file behind the history: opening it safely, knowing whose unfinished rows are whose, saying what went wrong.

Three locks, all of them the operating system's own, so that none outlives the process that held it:

- `FILE.lock` is held while a file is created, brought up to date and claimed.
- `FILE.live/TOKEN.lock` is held by each open `Owner` for as long as it lives, and every row that it is
  still writing names TOKEN. A row whose token's lock can be taken was left by a process that is gone. A
  process id would not do: numbers are used again, and mean nothing in another container on the same disk.
- SQLite's locks, for everything after that.
"""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from ..values.errors import StoreError
from .migrations import MIGRATIONS, copy_database, migrate

if TYPE_CHECKING:
    from sqlite_utils import Database

# Seconds to wait for a neighbour's write, and for one that is bringing the file up to date (a backup is part of it).
BUSY_SECONDS = 60
PREPARE_SECONDS = 300
MAX_LENGTH = 64 << 20  # bytes of one text; a message's is bounded by what a model holds


class Owner:
    """A mark of a living process: a token, and a file lock that ends with the process."""

    def __init__(self, path: Path) -> None:
        self.folder = path.with_name(path.name + ".live")
        self.token = uuid.uuid4().hex
        self.folder.mkdir(exist_ok=True)
        self._lock = FileLock(self._file(self.token), thread_local=False)
        self._lock.acquire()

    def release(self) -> None:
        self._lock.release()
        self._file(self.token).unlink(missing_ok=True)

    def living(self) -> set[str]:
        """The tokens of every living owner, this one too; what the dead left is removed.

        Only to be called under the file's lock: no token can then be between its file and its lock.
        """
        tokens = {file.stem for file in self.folder.glob("*.lock")} - {self.token}
        return {self.token} | {token for token in tokens if not self._gone(token)}

    def _gone(self, token: str) -> bool:
        file = self._file(token)
        try:
            with FileLock(file, timeout=0):
                pass
        except Timeout:
            return False
        # Windows may keep a file that a scanner looks at; it is then removed the next time.
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
        return True

    def _file(self, token: str) -> Path:
        return self.folder / f"{token}.lock"


def open_file(path: Path) -> tuple[Database, Owner]:
    """Open or create the file, bring it up to date, and end what processes that are gone left unfinished.

    Raises:
        StoreError: it cannot be opened or written, is not ours, or is newer than this program.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise StoreError(f"history {path}: it cannot be opened, for it is no file", _WRITABLE)
        try:
            with FileLock(path.with_name(path.name + ".lock"), timeout=PREPARE_SECONDS):
                return _open_locked(path)
        except Timeout:
            raise StoreError(f"another program keeps {path} locked", "close it and try again") from None


def _open_locked(path: Path) -> tuple[Database, Owner]:
    db = connect(path)
    try:
        migrate(db, path)
        owner = Owner(path)
        try:
            _end_orphans(db, owner)
        except BaseException:
            owner.release()
            raise
    except BaseException:
        db.close()
        raise
    return db, owner


def connect(path: Path) -> Database:
    """A connection that any thread may use, one at a time, in autocommit mode, WAL, with foreign keys.

    Raises:
        sqlite3.Error: it cannot be opened, or is not SQLite.
    """
    from sqlite_utils import Database  # a third of a second, which completion and --help need not pay

    conn = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_LENGTH)
        db = Database(conn, execute_plugins=False)
        db.execute("PRAGMA foreign_keys = ON")
        # FULL also outlives a power cut; a pair is two commits, which nobody notices.
        db.execute("PRAGMA synchronous = FULL")
        if _may_convert(db):
            db.enable_wal()
    except BaseException:
        conn.close()
        raise
    return db


def _may_convert(db: Database) -> bool:
    """Whether the file is new: another program's file must be refused as it is, and ours is WAL already."""
    return db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0


def _end_orphans(db: Database, owner: Owner) -> None:
    living = owner.living()
    with transaction(db):
        # SQLite begins even on a read-only file; this write finds out now rather than at the first pair.
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        rows = db.execute(
            "SELECT owner FROM pairs WHERE status = 'running'"
            " UNION SELECT owner FROM experiments WHERE status = 'running'"
        ).fetchall()
        for (token,) in rows:
            if token not in living:
                end_running(db, token)


def end_running(db: Database, token: str) -> None:
    """Mark what an owner left unfinished as interrupted, inside a transaction of the caller's."""
    for table, ended in (("pairs", "completed"), ("experiments", "finished")):
        db.execute(
            f"UPDATE {table} SET status = 'interrupted', owner = NULL, {ended} = ?"
            " WHERE status = 'running' AND owner IS ?",
            [timestamp(), token],
        )


@contextlib.contextmanager
def transaction(db: Database) -> Iterator[None]:
    """A write, whole or not at all. IMMEDIATE waits its turn; a read turned into a write could only fail."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # A full disk may have ended the transaction already, or refuse this too; the first error is the one to tell.
        with contextlib.suppress(sqlite3.Error):
            db.rollback()
        raise


def backup(path: Path, target: Path) -> Path:
    """A whole copy of the file at `path`, also while others write to it. Returns where it is.

    Raises:
        StoreError: there is nothing to copy, `target` exists already, or it cannot be written.
    """
    target = target.absolute()
    _must_be_there(path)
    if target.exists():
        raise StoreError(f"{target} exists already", "name a new file")
    with explained(target):
        return copy_database(path, target)


def check(path: Path) -> list[str]:
    """Every sign of damage in words; an empty list for a sound file. Slow on a large one.

    Raises:
        StoreError: there is no such file, or it cannot be read at all.
    """
    _must_be_there(path)
    with explained(path):
        return problems(path)


def _must_be_there(path: Path) -> None:
    if not path.is_file():  # SQLite would make it
        raise StoreError(f"there is no history at {path}", "it begins with the first chat")


def problems(path: Path) -> list[str]:
    """What SQLite finds wrong in the file, its references and its full-text index; empty for a sound one.

    Raises:
        sqlite3.Error: it is too damaged to be checked, or locked.
    """
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as conn:
        found = [line for (line,) in conn.execute("PRAGMA integrity_check") if line != "ok"]
        for table, row, parent, _ in conn.execute("PRAGMA foreign_key_check"):
            found.append(f"{table} row {row} refers to a missing row of {parent}")
        try:
            # Rank 1 compares the index with the texts themselves.
            conn.execute("INSERT INTO pair_search(pair_search, rank) VALUES ('integrity-check', 1)")
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorname != "SQLITE_CORRUPT_VTAB":
                raise
            found.append("the full-text index does not match the texts")
    return found


def timestamp(when: datetime | None = None) -> str:
    """A moment (now, unless given; local time where it names no zone) as ISO 8601 in UTC with milliseconds."""
    moment = (when or datetime.now(UTC)).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise into a StoreError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        message, hint = _explain(path, error)
        raise StoreError(message, hint) from error
    except OverflowError as error:
        raise StoreError("a number is too large for the history", "64 bits is the most it holds") from error
    except UnicodeDecodeError as error:
        raise StoreError(f"history {path}: it is damaged", _DAMAGED) from error
    except UnicodeEncodeError as error:
        raise StoreError("that holds halves of characters, which the history never does", "type it again") from error
    except PermissionError as error:
        raise StoreError(f"{path} cannot be written", _WRITABLE) from error
    except OSError as error:
        raise StoreError(f"{path} cannot be used: {error.strerror or error}", _WRITABLE) from error


_WRITABLE = "check its permissions and its folder's, or set STEERCHAT_HOME to a folder that you can write to"
_DAMAGED = "steerchat db check says more; the newest backup lies beside it, if there is one"
_EXPLAINED = {
    "SQLITE_FULL": ("the disk is full", "free some space; what was written before is safe"),
    "SQLITE_READONLY": ("it cannot be written", _WRITABLE),
    "SQLITE_PERM": ("it cannot be written", _WRITABLE),
    "SQLITE_CANTOPEN": ("it cannot be opened", _WRITABLE),
    "SQLITE_NOTADB": ("it is not a SQLite file", "name another file, or move that one away and start again"),
    "SQLITE_CORRUPT": ("it is damaged", _DAMAGED),
    "SQLITE_BUSY": ("another program keeps it locked", "close that program and try again"),
    "SQLITE_LOCKED": ("another program keeps it locked", "close that program and try again"),
    "SQLITE_IOERR": ("the disk does not answer as it should, or is full", "check the disk; what was written is safe"),
}


def _explain(path: Path, error: sqlite3.Error) -> tuple[str, str]:
    name = getattr(error, "sqlite_errorname", "")
    for prefix, (reason, hint) in _EXPLAINED.items():
        if name.startswith(prefix):
            return f"history {path}: {reason}", hint
    return f"history {path}: {error}", "steerchat db check looks for damage"
