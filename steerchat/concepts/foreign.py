"""What vector files of other tools say of themselves: which tensor belongs to which block, and what is done with it.

A tool may add a direction, take it out, or turn towards it, and in other places than a block's output. A file that says
so is read for what it is, or refused: the same numbers, used otherwise, steer without a word of warning.

- saklas: safetensors with a tensor `layer_0` for block 0, and so on.
- steering-lite: safetensors with `layer0.v`, and its settings as JSON in the metadata `cfg`.
- GLP: a GGUF control vector whose fields `glp.*` name the operation and the place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..system.untrusted import parse_json
from ..values.errors import ConceptError, shorten

_SAKLAS = re.compile(r"layer_(\d{1,4})")
_STEERING_LITE = re.compile(r"layer(\d{1,4})\.v")
# Methods of steering-lite that add their direction, and the one that takes it out.
_ADDS = {"mean_diff", "pca", "random"}
_ABLATES = "directional_ablation"
# Places of GLP that are a block's output.
_OUTPUTS = {"", "residual_stream_post_layer"}
_ADDING = "a vector that is added to the output of blocks can be imported, or one that is taken out of it"


@dataclass(frozen=True)
class Layout:
    """How to read a file."""

    tensors: Mapping[int, str]  # the name of each block's tensor, by the block's number
    ablates: bool  # whether the directions are meant to be taken out and not added
    notes: tuple[str, ...]  # sentences for the user


def layout(file: str, names: Sequence[str], metadata: Mapping[str, str]) -> Layout | None:
    """How to read a safetensors file of several tensors. None when no known tool wrote it.

    Raises ConceptError when the file says that it is for something else than steerchat does.
    """
    for pattern, tool in ((_SAKLAS, "saklas"), (_STEERING_LITE, "steering-lite")):
        matches = [pattern.fullmatch(name) for name in names]
        if names and all(matches):
            tensors = {int(match[1]): match[0] for match in matches if match}
            ablates = tool == "steering-lite" and _steering_lite(file, metadata)
            lengths = f"It was made by {tool}; its directions are taken, and not how long each is."
            return Layout(tensors, ablates, (lengths,))
    return None


def _steering_lite(file: str, metadata: Mapping[str, str]) -> bool:
    """Whether the directions are taken out."""
    try:
        settings: Any = parse_json(metadata.get("cfg", "{}"))
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise ConceptError(f"{file} does not say how steering-lite uses it: its metadata cfg is damaged", _ADDING)
    method, place = settings.get("method"), settings.get("target_submodule") or settings.get("target", "residual")
    if place != "residual":
        raise ConceptError(f"{file} steers {shorten(str(place), 40)}, and not the output of blocks", _ADDING)
    if method not in _ADDS | {_ABLATES}:
        raise ConceptError(f"{file} is for steering-lite's method {shorten(str(method), 40)}", _ADDING)
    if method == _ABLATES and settings.get("coeff"):
        raise ConceptError(f"{file} is taken out and then added again, as steering-lite's coeff says", _ADDING)
    return method == _ABLATES


def glp_ablates(file: str, field: Callable[[str], Any]) -> bool:
    """Whether a GGUF control vector is meant to be taken out: `glp.mode` is `project`. Without a mode it is added.

    Args:
        field: gives a value of the file's header by its key; None without.

    Raises:
        ConceptError: for another mode, or another place than a block's output.
    """
    mode, place, structure = (field(f"glp.{key}") or "" for key in ("mode", "hook_point", "structure"))
    if mode not in ("", "add", "project"):
        raise ConceptError(f"{file} is for another operation: its glp.mode is {shorten(str(mode), 40)}", _ADDING)
    if place not in _OUTPUTS:
        raise ConceptError(f"{file} is for another place: its glp.hook_point is {shorten(str(place), 40)}", _ADDING)
    if structure not in ("", "per-layer") or field("glp.rank") not in (None, 1):
        raise ConceptError(f"{file} has more than one direction for each block", _ADDING)
    return mode == "project"


def archive_error(path: Path) -> ConceptError:
    """What to say of several arrays in one file: how to save one of them alone."""
    source, target = path.name, path.with_suffix(".npy").name
    line = f"import numpy; v = numpy.load({source!r}); numpy.save({target!r}, v[v.files[0]])"
    return ConceptError(f"{source} may hold several arrays", f'save the one that it is: python -c "{line}"')


def pickle_error(path: Path) -> ConceptError:
    """What to say of a pickle: how to turn it into safetensors."""
    source, target = path.name, path.with_suffix(".safetensors").name
    line = (
        "import torch; from safetensors.torch import save_file; "
        f"v = torch.load({source!r}, weights_only=True); save_file({{'direction': v.float().contiguous()}}, {target!r})"
    )
    return ConceptError(
        f"{source} is a pickle, which could run code when it is read, and is never opened",
        f'if you trust it, convert it: python -c "{line}"',
    )
