"""Where steerchat keeps things on this machine, where the files that ship with it are, and how it writes one."""

from __future__ import annotations

import os
import sys
import uuid
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import platformdirs

from ..values.errors import SteerchatError, UsageError
from .untrusted import read_stream

APP = "steerchat"
HOME_VARIABLE = "STEERCHAT_HOME"


def data_dir() -> Path:
    """The folder of what the user made: history, concepts. `$STEERCHAT_HOME` itself when that is set.

    Like the other two it is only named here, not created.
    """
    return _home() or platformdirs.user_data_path(APP, appauthor=False)


def config_dir() -> Path:
    """The folder of `config.toml`. `$STEERCHAT_HOME` itself when that is set."""
    return _home() or platformdirs.user_config_path(APP, appauthor=False)


def cache_dir() -> Path:
    """The folder of what can be made again: the converted model. `$STEERCHAT_HOME/cache` when that is set."""
    home = _home()
    return home / "cache" if home else platformdirs.user_cache_path(APP, appauthor=False)


def packaged(name: Literal["vectors", "tutorials"]) -> Path:
    """A folder that ships with steerchat, in an installed wheel or in a checkout.

    Raises:
        SteerchatError: when the installation lacks it.
    """
    package = Path(__file__).resolve().parent.parent
    installed = package / "_data" / name
    if installed.is_dir():
        return installed
    # Beside an installed package lie other packages, so a sibling folder counts only in a checkout.
    checkout = package.parent / name
    if checkout.is_dir() and (package.parent / "pyproject.toml").is_file():
        return checkout
    raise SteerchatError(f"the folder {name}, which ships with steerchat, is missing", "install steerchat again")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, meets the old one or the new one and nothing between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{uuid.uuid4().hex}.new"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _home() -> Path | None:
    home = os.environ.get(HOME_VARIABLE)
    return Path(home).expanduser().absolute() if home else None


def read_prompts(file: str | Path) -> list[str]:
    """The prompts of a text file, one a line; of standard input for `-`.

    Raises:
        UsageError: it cannot be read, or holds none.
    """
    try:
        with nullcontext(sys.stdin) if str(file) == "-" else Path(file).expanduser().open(encoding="utf-8") as stream:
            text = read_stream(stream)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}", "a text file with a prompt a line") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise UsageError(f"{file} holds no prompt", "one a line")
    return lines
