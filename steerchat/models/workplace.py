"""The folder of prepared models, and work in it: under a lock, in a temporary folder, with helper programs.

What is made is renamed into place at the end. Programs that start at the same time wait for each other, and an
interruption leaves no file that a later start would use.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from ..system.folders import cache_dir
from ..values.errors import ModelError, shorten
from ..values.results import Progress, Report

_WORK_PREFIX = ".making-"
# Says that a folder is complete, and which version of this package's form it has.
_RECORD = "steerchat.json"
_FORM = 2
_TICK_SECONDS = 0.25


def models_dir() -> Path:
    """The folder of the prepared models; a user may copy the default model's wheel or GGUF into it."""
    return cache_dir() / "models"


@contextmanager
def workplace(progress: Report) -> Iterator[Path]:
    """An empty folder beside the target, for one program at a time; it is deleted at the end, also after an error."""
    home = models_dir()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _locked(home / "models.lock", progress):
            # A work folder that exists under the lock is left over from a killed program.
            for stale in home.glob(_WORK_PREFIX + "*"):
                shutil.rmtree(stale, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=_WORK_PREFIX, dir=home, ignore_cleanup_errors=True) as work:
                yield Path(work)
    except OSError as error:
        where = error.filename or home
        raise ModelError(
            f"the model cannot be prepared: {error.strerror or error} ({where})",
            "check the space on the disk and the rights to that file; STEERCHAT_HOME moves everything elsewhere",
        ) from error


@contextmanager
def _locked(path: Path, progress: Report) -> Iterator[None]:
    lock = filelock.FileLock(path)
    start = time.monotonic()
    while True:
        try:
            lock.acquire(timeout=_TICK_SECONDS)
            break
        except filelock.Timeout:
            waited = time.monotonic() - start
            progress(Progress("waiting for another steerchat that is preparing the model", waited))
    try:
        yield
    finally:
        lock.release()


def is_whole(folder: Path) -> bool:
    """Whether `finish` put this folder in its place, and every file has the recorded size."""
    try:
        record = json.loads((folder / _RECORD).read_text("utf-8"))
        sizes = record["sizes"].items()
        return record["form"] == _FORM and all((folder / name).stat().st_size == size for name, size in sizes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def finish(made: Path, target: Path, fingerprint: str) -> Path:
    """Put a folder that is complete in its place."""
    record = {"form": _FORM, "fingerprint": fingerprint, "sizes": {f.name: f.stat().st_size for f in made.iterdir()}}
    (made / _RECORD).write_text(json.dumps(record, indent=1), "utf-8")
    if target.exists():
        shutil.rmtree(target)
    os.replace(made, target)
    return target


def require_space(folder: Path, needed: int) -> None:
    """Raises ModelError when fewer bytes than that are free where the folder is."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"preparing the model needs {needed // 10**6} MB on the disk, and {free // 10**6} MB are free",
            f"free some space under {models_dir()}, or set STEERCHAT_HOME to a folder on a larger disk",
        )


def run(command: list[str], environment: dict[str, str], log: Path, tick: Callable[[], None]) -> int:
    """Run a helper program to its end and call `tick` meanwhile; an exception ends the program too."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
        ) as process,
    ):
        try:
            while True:
                tick()
                try:
                    return process.wait(timeout=_TICK_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            process.kill()
            raise


def read_log(log: Path) -> str:
    """What a helper program has written."""
    return log.read_text("utf-8", errors="replace") if log.exists() else ""


def cause(log: str) -> str:
    """The line of a program's output that most likely tells why it failed."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return shorten((errors or lines or ["it gave no reason"])[-1].removeprefix("ERROR:"), 160)
