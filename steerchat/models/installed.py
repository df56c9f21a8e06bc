"""The models that a user can choose: the default one, in the Hub's cache, as .gguf files, or an alias to fetch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..values.errors import ModelError
from . import default as default_model
from . import memory
from .catalogue import DEFAULT, KNOWN, KnownModel
from .default import SMOLLM2
from .find import ModelFiles
from .fingerprint import json_object
from .gguf_parts import is_first, parts_of, whole_name
from .workplace import models_dir

# A model runs well that takes no more of the free memory.
_OF_FREE = 0.7
# And whose answers come as fast as people read: 238 words a minute (Brysbaert 2019, a review of 190 studies) are some
# 5.3 tokens a second, and one answer alone is a quarter quicker than each answer of a pair.
_READABLE = 7.0
_SMALLEST = 1 << 20  # bytes; a smaller .gguf file has a vector, not a model


@dataclass(frozen=True)
class ModelChoice:
    """A model to choose.

    Attributes:
        name: as a user types it after /model.
        model: its own name, or its repository on the Hub.
        disk: its bytes on the disk; None when it is not on this machine yet.
        needs: its memory; None when its files do not tell.
        known: what is known of a model with an alias.
    """

    name: str
    model: str
    disk: int | None
    needs: memory.Needs | None
    known: KnownModel | None = None

    def tokens_per_second(self, bandwidth: float) -> float:
        """What one answer would run at in four bits: each token reads every weight once.

        Args:
            bandwidth: bytes of weights that products read in a second.
        """
        return bandwidth / self.needs.four_bits if self.needs and self.needs.four_bits else math.nan


def model_choices(precision: memory.Precision, here: Path) -> list[ModelChoice]:
    """The models on this machine, and the aliases, which can be fetched.

    Args:
        precision: of the weights.
        here: a folder whose .gguf files are listed too.
    """
    cached = {choice.name: choice for choice in _hub(precision)}
    choices = [_default(precision, cached.pop(KNOWN[DEFAULT].repository, None))]
    for alias in KNOWN:
        if alias != DEFAULT:
            choices.append(_alias(alias, cached.pop(KNOWN[alias].repository, None), precision))
    return [*choices, *cached.values(), *_files(here, precision)]


def suggestion(choices: Sequence[ModelChoice], free: int, bandwidth: float, now: str = DEFAULT) -> ModelChoice | None:
    """The largest known model that would run well on this machine in four bits; None when none would.

    Args:
        choices: as `model_choices` gives them.
        free: bytes of memory.
        bandwidth: bytes of weights that products read in a second here.
        now: the model at hand, by a name of `choices`; only a larger one is worth a word.
    """
    held = max(
        (choice.needs.parameters for choice in choices if now in (choice.name, choice.model) and choice.needs),
        default=0,
    )
    fitting = [
        choice
        for choice in choices
        if choice.known is not None
        and not choice.known.gated
        and choice.needs is not None
        and choice.known.parameters > held
        and (choice.needs.four_bits or 0) < free * _OF_FREE
        and choice.tokens_per_second(bandwidth) >= _READABLE
    ]
    return max(fitting, key=lambda choice: choice.known.parameters if choice.known else 0, default=None)


def _default(precision: memory.Precision, on_hub: ModelChoice | None) -> ModelChoice:
    try:
        folder = default_model.prepared(SMOLLM2)
    except ModelError:  # a shared folder that does not exist: loading the model reports it
        folder = None
    if folder is None:
        return _alias(DEFAULT, on_hub, precision)
    choice = _on_disk(DEFAULT, SMOLLM2.name, folder, precision, folder / SMOLLM2.gguf)
    return replace(choice, known=KNOWN[DEFAULT])


def _alias(alias: str, on_disk: ModelChoice | None, precision: memory.Precision) -> ModelChoice:
    known = KNOWN[alias]
    disk = on_disk.disk if on_disk else None
    needs = on_disk.needs if on_disk else None
    return ModelChoice(alias, known.repository, disk, needs or memory.needs_of(known.parameters, precision), known)


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
