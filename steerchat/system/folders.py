"""The folders that steerchat reads and writes, the files that ship with it, and writing a file without half-writes."""

from __future__ import annotations

import os
import sys
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Literal

import platformdirs

from ..values.errors import SteerchatError, UsageError
from .untrusted import read_stream

APP = "steerchat"
HOME_VARIABLE = "STEERCHAT_HOME"


def data_dir() -> Path:
    """The folder of the user's history and concepts: `$STEERCHAT_HOME` when that is set. It may not exist yet."""
    return _home() or platformdirs.user_data_path(APP, appauthor=False)


def config_dir() -> Path:
    """The folder of `config.toml`: `$STEERCHAT_HOME` when that is set. It may not exist yet."""
    return _home() or platformdirs.user_config_path(APP, appauthor=False)


def cache_dir() -> Path:
    """The folder of files that can be made again, such as the default model: `$STEERCHAT_HOME/cache` when set."""
    home = _home()
    return home / "cache" if home else platformdirs.user_cache_path(APP, appauthor=False)


def packaged(name: Literal["vectors", "tutorials"]) -> Path:
    """A folder that ships with steerchat, in an installed wheel or in a checkout.

    Raises SteerchatError when the installation does not have it.
    """
    package = Path(__file__).resolve().parent.parent
    installed = package / "_data" / name
    if installed.is_dir():
        return installed
    # In a folder of installed packages, a folder of that name may be another package: it counts in a checkout only.
    checkout = package.parent / name
    if checkout.is_dir() and (package.parent / "pyproject.toml").is_file():
        return checkout
    raise SteerchatError(f"the folder {name}, which ships with steerchat, is missing", "reinstall steerchat")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part, even after a crash.

    Raises SteerchatError when it cannot be written; the old content stays.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which at the end becomes `path` as `write_whole` does it. Raises as `write_whole`."""
    temporary = path.parent / f".{uuid.uuid4().hex}.new"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "check its folder's permissions and the space on the disk, or name another file"
        raise SteerchatError(f"{path} cannot be written: {reason}", hint) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _home() -> Path | None:
    home = os.environ.get(HOME_VARIABLE)
    return Path(home).expanduser().absolute() if home else None


def read_prompts(file: str | Path) -> list[str]:
    """The prompts in a text file, one on each line; `-` is standard input.

    Raises UsageError when the file cannot be read, or has no prompt.
    """
    try:
        with nullcontext(sys.stdin) if str(file) == "-" else Path(file).expanduser().open(encoding="utf-8") as stream:
            text = read_stream(stream)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}", "use a text file with one prompt on each line") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UsageError(f"{file} has no prompt", "write one prompt on each line")
    return lines


def shipped_prompts(part: str) -> list[str]:
    """The shipped prompts for `evaluation` or for `tuning`."""
    text = (packaged("vectors") / "texts" / "prompts.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)[part]
