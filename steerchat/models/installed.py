"""The models that a user can choose: the default one, in the Hub's cache, as .gguf files, or an alias to fetch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..values.errors import ModelError
from . import default as default_model
from . import memory
from .default import SMOLLM2
from .find import ALIASES, DEFAULT, DEFAULT_ON_HUB, PARAMETERS, ModelFiles
from .fingerprint import json_object
from .gguf_parts import is_first, parts_of, whole_name
from .workplace import models_dir

_SMALLEST = 1 << 20  # bytes; a smaller .gguf file has a vector, not a model


@dataclass(frozen=True)
class ModelChoice:
    """A model to choose.

    Attributes:
        name: as a user types it after /model.
        model: its own name, or its repository on the Hub.
        disk: its bytes on the disk; None when it is not on this machine yet.
        needs: its memory; None when its files do not tell.
    """

    name: str
    model: str
    disk: int | None
    needs: memory.Needs | None


def model_choices(precision: memory.Precision, here: Path) -> list[ModelChoice]:
    """The models on this machine, and the aliases, which can be fetched.

    Args:
        precision: of the weights.
        here: a folder whose .gguf files are listed too.
    """
    cached = {choice.name: choice for choice in _hub(precision)}
    choices = [_default(precision, cached.pop(DEFAULT_ON_HUB, None))]
    for alias, repository in ALIASES.items():
        if alias != DEFAULT:
            on_disk = cached.pop(repository, None)
            choices.append(_alias(alias, on_disk.disk if on_disk else None, precision, on_disk and on_disk.needs))
    return [*choices, *cached.values(), *_files(here, precision)]


def _default(precision: memory.Precision, on_hub: ModelChoice | None) -> ModelChoice:
    try:
        folder = default_model.prepared(SMOLLM2)
    except ModelError:  # a shared folder that does not exist: loading the model reports it
        folder = None
    if folder is None:
        return _alias(DEFAULT, on_hub.disk if on_hub else None, precision)
    return _on_disk(DEFAULT, SMOLLM2.name, folder, precision, folder / SMOLLM2.gguf)


def _alias(alias: str, disk: int | None, precision: memory.Precision, needs: memory.Needs | None = None) -> ModelChoice:
    parameters = PARAMETERS[alias]
    return ModelChoice(alias, ALIASES[alias], disk, needs or memory.needs_of(parameters, precision))


def _on_disk(name: str, model: str, path: Path, precision: memory.Precision, gguf: Path | None = None) -> ModelChoice:
    """The model in a folder, its weights perhaps in a .gguf file there, or in a .gguf file alone."""
    try:
        parts = list(path.iterdir()) if path.is_dir() else parts_of(path)
    except ModelError:
        parts = [path]
    disk = sum(file.stat().st_size for file in parts if file.is_file())
    files = ModelFiles(model, path, gguf if path.is_dir() else path, "")
    try:
        return ModelChoice(name, model, disk, memory.needs(files, precision))
    except ModelError:
        return ModelChoice(name, model, disk, None)


def _hub(precision: memory.Precision) -> Iterator[ModelChoice]:
    """The complete causal models in the Hub's cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except (CacheNotFound, OSError, ValueError):
        return
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        if repository.repo_type != "model" or not repository.revisions:
            continue
        folder = max(repository.revisions, key=lambda revision: revision.last_modified).snapshot_path
        if _is_causal(folder):
            choice = _on_disk(repository.repo_id, repository.repo_id, folder, precision)
            if choice.needs is not None:
                yield choice
        for file in filter(is_first, sorted(folder.glob("*.gguf"))):
            yield _on_disk(str(file), whole_name(file), file, precision)


def _is_causal(folder: Path) -> bool:
    try:
        architectures = json_object(folder / "config.json").get("architectures") or []
        return any(name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for name in architectures)
    except (ModelError, TypeError, AttributeError):
        return False


def _files(here: Path, precision: memory.Precision) -> Iterator[ModelChoice]:
    for folder in dict.fromkeys([here, models_dir()]):
        for file in sorted(folder.glob("*.gguf")) if folder.is_dir() else ():
            if file.is_file() and file.stat().st_size > _SMALLEST and file.name != SMOLLM2.gguf and is_first(file):
                yield _on_disk(str(file), whole_name(file), file, precision)
