"""Models that are on this machine: converted, in the Hub's cache, or lying about as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..values.errors import ModelError
from . import default as default_model
from . import memory
from .default import SMOLLM2
from .find import ALIASES, DEFAULT, DEFAULT_ON_HUB, PARAMETERS, Found
from .fingerprint import json_object

_SPACE = 1 << 20  # smaller .gguf files hold a vector, not a model


@dataclass(frozen=True)
class Kept:
    """A model to choose.

    Attributes:
        name: what to type.
        model: what it is called where it comes from.
        disk: bytes that it takes up on the disk; None when it is not on this machine yet.
        needs: memory; None when its files do not tell.
    """

    name: str
    model: str
    disk: int | None
    needs: memory.Needs | None


def kept(itemsize: int, here: Path | None = None) -> list[Kept]:
    """Every model of this machine, and the aliases, which can be fetched.

    Args:
        itemsize: bytes a number that weights would be loaded in.
        here: a folder whose .gguf files are named too; the current one when None.
    """
    cached = dict(_hub(itemsize))
    found = [_default(itemsize, cached.pop(DEFAULT_ON_HUB, None))]
    for alias, repository in ALIASES.items():
        if alias != DEFAULT:
            known = cached.pop(repository, None)
            found.append(
                Kept(alias, repository, known.disk, known.needs)
                if known
                else Kept(alias, repository, None, _of(PARAMETERS[alias], itemsize))
            )
    return [*found, *cached.values(), *_files(here or Path.cwd(), itemsize)]


def _of(parameters: int, itemsize: int) -> memory.Needs:
    return memory.Needs(parameters, parameters * itemsize, 0)


def _default(itemsize: int, on_hub: Kept | None) -> Kept:
    try:
        folder = default_model.converted(SMOLLM2)
    except ModelError:  # a shared folder that is not there: told of when the model is wanted
        folder = None
    if folder is None:
        needs = _of(PARAMETERS[DEFAULT], itemsize)
        return Kept(DEFAULT, DEFAULT_ON_HUB, on_hub.disk if on_hub else None, needs)
    return _folder(DEFAULT, SMOLLM2.name, folder, itemsize)


def _folder(name: str, model: str, folder: Path, itemsize: int) -> Kept:
    disk = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    try:
        return Kept(name, model, disk, memory.needs(Found(name, folder, None, "", "folder"), itemsize))
    except ModelError:
        return Kept(name, model, disk, None)


def _hub(itemsize: int) -> Iterator[tuple[str, Kept]]:
    """Causal models in the Hub's cache that are there as a whole."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except (CacheNotFound, OSError, ValueError):
        return
    for repository in sorted(repositories, key=lambda one: one.repo_id):
        if repository.repo_type != "model" or not repository.revisions:
            continue
        newest = max(repository.revisions, key=lambda one: one.last_modified)
        if _is_causal(newest.snapshot_path):
            one = _folder(repository.repo_id, repository.repo_id, newest.snapshot_path, itemsize)
            if one.needs is not None:
                yield repository.repo_id, one
        for file in sorted(newest.snapshot_path.glob("*.gguf")):
            yield str(file), _gguf(file, itemsize)


def _is_causal(folder: Path) -> bool:
    try:
        architectures = json_object(folder / "config.json").get("architectures") or []
        return any(name.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")) for name in architectures)
    except (ModelError, TypeError, AttributeError):
        return False


def _files(here: Path, itemsize: int) -> Iterator[Kept]:
    for place in dict.fromkeys([here, default_model.models_dir()]):
        for file in sorted(place.glob("*.gguf")) if place.is_dir() else ():
            if file.is_file() and file.stat().st_size > _SPACE and file.name != SMOLLM2.gguf:
                yield _gguf(file, itemsize)


def _gguf(file: Path, itemsize: int) -> Kept:
    size = file.stat().st_size
    try:
        return Kept(
            str(file), file.stem, size, memory.needs(Found(file.stem, file.parent, file.name, "", "gguf"), itemsize)
        )
    except ModelError:
        return Kept(str(file), file.stem, size, None)
