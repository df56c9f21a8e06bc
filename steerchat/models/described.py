"""The folder that describes a GGUF: configuration and tokenizer as transformers reads them, and where the tensors are.

To read them from the file itself takes seconds, so it is done once.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..values.errors import Interrupted, ModelError, shorten
from ..values.results import Progress, Report
from .gguf_parts import parts_of, whole_name
from .workplace import cause, finish, is_whole, models_dir, read_log, run, workplace

if TYPE_CHECKING:
    from .gguf_reader import Contents

_TENSORS = "tensors.json"
# How `gguf_describer.py` ends when transformers does not know the architecture.
UNKNOWN = 3
_NO_MODELS = {
    "controlvector": ("a control vector and no model", "/concept import NAME FILE reads it"),
    "clip": ("the image encoder of a model and not the model itself", "name the other GGUF file of that model"),
}


@dataclass(frozen=True)
class Description:
    """What is known of a GGUF's weights: its contents, and the model's parameter for each tensor that has one."""

    contents: Contents
    parameters: Mapping[str, str]


def describe(gguf: Path, name: str, work: Path, progress: Report) -> Path:
    """A new folder in `work` that describes a GGUF.

    Raises:
        ModelError: when transformers cannot read it.
        Interrupted: when Ctrl-C reached the helper program.
    """
    from .gguf_reader import read_contents  # late: it imports numpy and gguf, a fifth of a second of every start

    held = read_contents(gguf)
    folder, log = work / "described", work / "describe.log"
    start = time.monotonic()
    label = f"preparing {name} (about 10 s, once)"
    files = map(str, parts_of(gguf))
    # This steerchat, wherever it was imported from.
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    code = run(
        [sys.executable, "-P", "-m", "steerchat.models.gguf_describer", held.architecture, str(folder), *files],
        {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONIOENCODING": "utf-8"},
        log,
        lambda: progress(Progress(label, time.monotonic() - start)),
    )
    if code != 0:
        text = read_log(log)
        if cause(text) == "KeyboardInterrupt":
            raise Interrupted("preparing the model")
        if code == UNKNOWN:
            raise _unreadable(name, held.architecture)
        reason = "it ran out of memory" if code == -9 else cause(text)
        raise ModelError(
            f"{name} could not be prepared: {reason}",
            "check that it is a causal language model that this version of transformers reads",
        )
    parameters = json.loads((folder / _TENSORS).read_text("utf-8"))
    (folder / _TENSORS).write_text(json.dumps({"contents": held.to_json(), "parameters": parameters}), "utf-8")
    return folder


def described(gguf: Path, fingerprint: str, progress: Report) -> Path:
    """The folder that describes a user's GGUF, made when there is none yet. Raises as `describe`."""
    target = models_dir() / f"gguf-{fingerprint[:16]}"
    if is_whole(target):
        return target
    with workplace(progress) as work:
        if is_whole(target):
            return target
        return finish(describe(gguf, whole_name(gguf), work, progress), target, fingerprint)


def _unreadable(name: str, architecture: str) -> ModelError:
    """What to say of an architecture that transformers does not read from a GGUF."""
    what, hint = _NO_MODELS.get(
        architecture,
        (
            f"the architecture {shorten(architecture)}, which the installed transformers does not read from a GGUF"
            if architecture
            else "no name of an architecture",
            "choose the same model as a folder of safetensors; a later transformers may read more",
        ),
    )
    return ModelError(f"{name} has {what}", hint)


def description(folder: Path) -> Description:
    """What a folder that `describe` made says of the weights. Raises ModelError when it is damaged."""
    from .gguf_reader import Contents

    try:
        record = json.loads((folder / _TENSORS).read_text("utf-8"))
        return Description(Contents.from_json(record["contents"]), record["parameters"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} is damaged", "delete it and start steerchat again") from error
