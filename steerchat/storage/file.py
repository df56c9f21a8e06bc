"""The file behind the history: opening, migrating and copying it, ending rows of dead processes, explaining its errors.

Three kinds of lock, all held by the operating system, so that none outlives its process:

- `FILE.lock` is held while a file is created, migrated and claimed.
- `FILE.live/TOKEN.lock` is held by each `Owner` while it is open, and every row that it is writing names TOKEN. When
  another process can take the lock of a row's token, the process that wrote the row is gone. A process id would not
  do: ids are reused, and mean nothing in another container on the same disk.
- SQLite's own locks, for every read and write.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from ..values.errors import StoreError
from .migrations import APPLICATION_ID, MIGRATIONS

if TYPE_CHECKING:
    from sqlite_utils import Database

# Seconds to wait for another process's write, and for its migration, which includes a backup.
BUSY_SECONDS = 60
PREPARE_SECONDS = 300
MAX_LENGTH = 64 << 20  # bytes of one text; the context of a model bounds a message far below that


class Owner:
    """Marks a process as alive: a token, and a file lock that ends with the process."""

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
        """The tokens of all living owners, this one included; the files of dead ones are removed.

        Call it under the file's lock only: no other owner can then have created its file but not yet locked it.
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
        # Windows cannot delete a file that a virus scanner has open; the next start deletes it.
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)
        return True

    def _file(self, token: str) -> Path:
        return self.folder / f"{token}.lock"


def open_file(path: Path) -> tuple[Database, Owner]:
    """Open or create the file, migrate it, and mark unfinished rows of dead processes as interrupted.

    Raises StoreError when it cannot be opened or written, belongs to another program, or to a newer steerchat.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():  # opening a pipe would wait for a writer
            raise StoreError(f"history {path}: it cannot be opened, because it is not a file", _WRITABLE)
        try:
            with FileLock(path.with_name(path.name + ".lock"), timeout=PREPARE_SECONDS):
                return _open_locked(path)
        except Timeout:
            raise StoreError(f"another program has locked {path}", "close that program and try again") from None


def _open_locked(path: Path) -> tuple[Database, Owner]:
    with contextlib.ExitStack() as undo:  # on an error
        db = connect(path)
        undo.callback(db.close)
        migrate(db, path)
        owner = Owner(path)
        undo.callback(owner.release)
        _end_orphans(db, owner)
        undo.pop_all()
    return db, owner


def open_to_read(path: Path) -> Database:
    """A connection to a history that this process may not write; it changes nothing.

    Raises StoreError when it cannot be read, or is no history of this version.
    """
    from sqlite_utils import Database

    with explained(path), contextlib.ExitStack() as undo:
        try:
            conn = _connect_to_read(path, "mode=ro")
        except sqlite3.OperationalError:
            # SQLite wants to create files beside one that another process may write, and here it cannot.
            conn = _connect_to_read(path, "immutable=1")
        undo.callback(conn.close)
        conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_LENGTH)
        db = Database(conn, execute_plugins=False)
        if _version(db, path, MIGRATIONS) != len(MIGRATIONS):
            raise StoreError(f"history {path}: it is of an older steerchat, and cannot be written", _WRITABLE)
        undo.pop_all()
    return db


def _connect_to_read(path: Path, how: str) -> sqlite3.Connection:
    conn = sqlite3.connect(f"{path.as_uri()}?{how}", uri=True, isolation_level=None, check_same_thread=False)
    try:
        conn.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        conn.close()
        raise
    return conn


def is_unwritable(error: StoreError) -> bool:
    """Whether a history was refused because this process may not write it, or nothing beside it."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        return cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
    return getattr(cause, "sqlite_errorname", "").startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN"))


def connect(path: Path) -> Database:
    """A connection in autocommit mode, with WAL and foreign keys, for one thread at a time.

    Raises:
        sqlite3.Error: the file cannot be opened, or is not SQLite.
    """
    from sqlite_utils import Database  # imported late: it takes a third of a second, and --help does without

    conn = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        conn.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_LENGTH)
        db = Database(conn, execute_plugins=False)
        db.execute("PRAGMA foreign_keys = ON")
        # FULL survives a power cut. It slows each commit, and a pair takes only two.
        db.execute("PRAGMA synchronous = FULL")
        # Only a new file is switched to WAL: ours is in it already, and another program's must not be changed.
        if _number(db, "SELECT count(*) FROM sqlite_master") == 0:
            db.enable_wal()
    except BaseException:
        conn.close()
        raise
    return db


def migrate(db: Database, path: Path, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Apply the missing migrations in one transaction, after a backup of an older file into its folder.

    The caller holds the lock that keeps two programs from migrating at the same time.

    Raises:
        StoreError: the file belongs to another program, or to a newer version of this one.
        sqlite3.Error: it cannot be read or written; it is unchanged.
    """
    version = _version(db, path, migrations)
    if version == len(migrations):
        return
    if version is not None:
        _copy(path, path.with_name(f"{path.name}.v{version}.backup"))
    # A migration may rebuild a table, which must not delete rows by cascade; inside a transaction the pragma has no
    # effect.
    db.execute("PRAGMA foreign_keys = OFF")
    try:
        with transaction(db):
            for migration in migrations[version or 0 :]:
                db.executescript(migration)
            if db.execute("PRAGMA foreign_key_check").fetchone():
                raise StoreError(f"{path} could not be migrated", "it is unchanged; please report this")
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {len(migrations)}")
    finally:
        db.execute("PRAGMA foreign_keys = ON")


def _version(db: Database, path: Path, migrations: Sequence[str]) -> int | None:
    """How many of the migrations a file has; None for an empty one. Raises StoreError as `migrate`."""
    version = _number(db, "PRAGMA user_version")
    empty = _number(db, "SELECT count(*) FROM sqlite_master") == 0
    if not empty and _number(db, "PRAGMA application_id") != APPLICATION_ID:
        raise StoreError(f"{path} is another program's database", "move it away and start again")
    if version > len(migrations):
        raise StoreError(
            f"{path} was written by a newer steerchat (version {version}; this one reads up to {len(migrations)})",
            "upgrade with: pip install -U steerchat",
        )
    if empty:
        return None
    _check_schema(db, path, migrations[:version])
    return version


def _check_schema(db: Database, path: Path, migrations: Sequence[str]) -> None:
    """Raises StoreError when another program replaced a table or view, or added a trigger, which could run for ever.

    Tables and indexes that another program added are left alone.
    """
    from sqlite_utils import Database

    reference = Database(memory=True, execute_plugins=False)
    for migration in migrations:
        reference.executescript(migration)
    expected, actual = _schema(reference), _schema(db)
    reference.close()
    added_triggers = [name for name, (kind, _) in actual.items() if kind == "trigger" and name not in expected]
    if added_triggers or any(actual.get(name) != schema for name, schema in expected.items()):
        raise StoreError(
            f"another program changed the tables, views or triggers of {path}",
            "move it away and start again, or put a backup made by steerchat db backup in its place",
        )


def _schema(db: Database) -> dict[str, tuple[str, str]]:
    """(type, SQL) of each table, view and trigger by its name; the SQL of a table is left out."""
    rows = db.execute("SELECT type, name, sql FROM sqlite_master WHERE type IN ('table', 'view', 'trigger')")
    return {name: (kind, "" if kind == "table" else sql) for kind, name, sql in rows}


def _number(db: Database, sql: str) -> int:
    return int(db.execute(sql).fetchone()[0])


def _end_orphans(db: Database, owner: Owner) -> None:
    living = owner.living()
    with transaction(db):
        # A transaction can begin on a read-only file; this write fails now instead of at the first pair.
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        rows = db.execute(
            "SELECT owner FROM pairs WHERE status = 'running'"
            " UNION SELECT owner FROM experiments WHERE status = 'running'"
        ).fetchall()
        for (token,) in rows:
            if token not in living:
                end_running(db, token)


def end_running(db: Database, token: str) -> None:
    """Mark an owner's running rows as interrupted, inside a transaction of the caller."""
    for table, ended in (("pairs", "completed"), ("experiments", "finished")):
        db.execute(
            f"UPDATE {table} SET status = 'interrupted', owner = NULL, {ended} = ?"
            " WHERE status = 'running' AND owner IS ?",
            [timestamp(), token],
        )


@contextlib.contextmanager
def transaction(db: Database) -> Iterator[None]:
    """All writes inside, or none. IMMEDIATE takes the write lock at once: a read that upgrades later may fail."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # On a full disk the rollback may fail too, or have happened already; the first error is the one to report.
        with contextlib.suppress(sqlite3.Error):
            db.rollback()
        raise


def backup(path: Path, target: Path) -> Path:
    """Copy the whole file at `path`, even while other processes write to it. Returns the copy's absolute path.

    Raises StoreError when `path` does not exist, `target` exists, or it cannot be written.
    """
    target = target.absolute()
    _require_file(path)
    if target.exists():
        raise StoreError(f"{target} exists already", "name a new file")
    with explained(target):
        return _copy(path, target)


def _copy(source: Path, target: Path) -> Path:
    """A consistent copy of a SQLite file that other processes may be writing; `target` appears when complete."""
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    try:
        with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(partial)) as new:
            old.backup(new)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def check(path: Path) -> list[str]:
    """The damage in the file, its references and its full-text index, in words; an empty list for an intact file.

    Slow on a large file.

    Raises StoreError when the file does not exist, is locked, or is no history.
    """
    _require_file(path)
    damage: list[str] = []
    with explained(path), contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as conn:
        if conn.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise StoreError(f"{path} is another program's database", "it is no history of steerchat")
        with _noted(damage, "the tables cannot be read to their end"):
            damage += [line for (line,) in conn.execute("PRAGMA integrity_check") if line != "ok"]
        with _noted(damage, "the references between tables cannot be read"):
            for table, row, parent, _ in conn.execute("PRAGMA foreign_key_check"):
                damage.append(f"{table} row {row} refers to a missing row of {parent}")
        with _noted(damage, "the full-text index does not match the texts"):
            # Rank 1 also compares the index with the texts.
            conn.execute("INSERT INTO pair_search(pair_search, rank) VALUES ('integrity-check', 1)")
    return damage


@contextlib.contextmanager
def _noted(damage: list[str], what: str) -> Iterator[None]:
    """Add `what` to the damage where SQLite finds the file damaged."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if not error.sqlite_errorname.startswith("SQLITE_CORRUPT"):
            raise
        damage.append(what)


def _require_file(path: Path) -> None:
    if not path.is_file():  # SQLite would create it
        raise StoreError(f"there is no history at {path}", "the first chat creates it")


def timestamp(when: datetime | None = None) -> str:
    """`when`, or now, as ISO 8601 in UTC with milliseconds; a `when` without a zone is local time."""
    moment = (when or datetime.now(UTC)).astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and the file system into a StoreError that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        message, hint = _explain(path, error)
        raise StoreError(message, hint) from error
    except OverflowError as error:
        raise StoreError("a number is too large for the history", "use at most 63 bits") from error
    except UnicodeDecodeError as error:
        raise StoreError(f"history {path}: it is damaged", _DAMAGED) from error
    except UnicodeEncodeError as error:
        raise StoreError("the text contains invalid Unicode (a lone surrogate)", "type it again") from error
    except PermissionError as error:
        raise StoreError(f"{path} cannot be written", _WRITABLE) from error
    except OSError as error:
        raise StoreError(f"{path} cannot be used: {error.strerror or error}", _WRITABLE) from error


_WRITABLE = "check its permissions and its folder's, or set STEERCHAT_HOME to a folder that you can write to"
_DAMAGED = "steerchat db check lists the damage; the newest backup, if there is one, is in the same folder"
_EXPLAINED = {
    "SQLITE_FULL": ("the disk is full", "free some space; everything written before is safe"),
    "SQLITE_READONLY": ("it cannot be written", _WRITABLE),
    "SQLITE_PERM": ("it cannot be written", _WRITABLE),
    "SQLITE_CANTOPEN": ("it cannot be opened", _WRITABLE),
    "SQLITE_NOTADB": ("it is not a SQLite file", "move it away and start again"),
    "SQLITE_CORRUPT": ("it is damaged", _DAMAGED),
    "SQLITE_BUSY": ("another program has locked it", "close that program and try again"),
    "SQLITE_LOCKED": ("another program has locked it", "close that program and try again"),
    "SQLITE_IOERR": ("the disk reports an error, or is full", "check the disk; everything written before is safe"),
}


def _explain(path: Path, error: sqlite3.Error) -> tuple[str, str]:
    name = getattr(error, "sqlite_errorname", "")
    for prefix, (reason, hint) in _EXPLAINED.items():
        if name.startswith(prefix):
            return f"history {path}: {reason}", hint
    return f"history {path}: {error}", "steerchat db check looks for damage"
