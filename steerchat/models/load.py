"""From files on this machine to a running engine."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from ..engine import processes
from ..engine.engine import Engine, is_out_of_memory
from ..engine.hooks import find_blocks
from ..engine.lean import make_lean
from ..engine.linear import Kernels
from ..engine.processes import Team
from ..engine.shared_engine import SharedEngine
from ..engine.transformers_api import transformers
from ..values.errors import ModelError, TooLarge
from . import memory
from .find import Found
from .kernel_times import times_for

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "float16", "bfloat16")

# What part of the free memory weights may take in a second form, for many rows.
_SECOND_FORM = 4
_CODE = "custom code"  # in what transformers says of a model that needs its own Python files


def load(
    found: Found,
    device: str = "auto",
    dtype: str = "auto",
    *,
    most: int | None = None,
    offload: str | None = None,
    code: bool = False,
    team: Team | None = None,
) -> Engine:
    """Load a model that is on this machine.

    Args:
        found: where it is.
        device: one of `DEVICES`; auto takes CUDA, then MPS, then the CPU.
        dtype: one of `DTYPES`; auto is float32 on the CPU and sixteen bits elsewhere.
        most: bytes that weights may take in the device's memory; what is free when None.
        offload: a folder for weights that fit into no memory.
        code: whether Python files of the model's may be run.
        team: this process among others, which share answers out.

    Raises:
        TooLarge: when it needs more memory than there is.
        ModelError: when the device is not there, or the files cannot be loaded.
    """
    where, precision = target(device, dtype)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    extra: dict[str, Any] = {"gguf_file": found.gguf} if found.gguf else {}
    extra |= {"local_files_only": True, "trust_remote_code": code}
    needs = memory.needs(found, precision.itemsize)
    place = _placement(found.name, needs, where, precision, most, offload)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(found.path, **extra)
        with _without_bar():
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                found.path, dtype=precision, **place, **extra
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, MemoryError) as error:
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            raise _too_large(found.name, needs, precision, free_memory(where)) from None
        said = (str(error) or type(error).__name__).splitlines()[0]
        if _CODE in said:
            raise ModelError(
                f"{found.name} brings Python code of its own, and steerchat runs none unasked",
                f"read it in {found.path}; --trust-remote-code runs it",
            ) from None
        raise ModelError(
            f"{found.name} cannot be loaded: {said}", "is it a causal language model, complete?"
        ) from error
    _check_memory_of_text(model, found.name)
    model.eval()
    model.requires_grad_(False)
    kernels = _quick(model, found.fingerprint, small=dtype == "auto")
    given = (model, tokenizer, found.name, found.fingerprint, lambda: free_memory(where), kernels)
    return Engine(*given) if team is None else SharedEngine(team, *given)


def _quick(model: Any, fingerprint: str, small: bool) -> Kernels:
    """Let the model compute in the quickest way that there is here.

    Args:
        model: just loaded.
        fingerprint: its own.
        small: whether weights may be held with as few bits as they have; else every number stays float32.
    """
    lean = make_lean(model, find_blocks(model))
    kernels = Kernels(model, [layer for block in lean for layer in block.layers])
    kernels.choose(times_for(kernels.layers, fingerprint))
    if small and kernels.make_small(model.get_input_embeddings(), free_memory(torch.device("cpu")) // _SECOND_FORM):
        for block in lean:
            block.detach()
    return kernels


@contextmanager
def _without_bar() -> Iterator[None]:
    """transformers draws a bar while it unpacks a GGUF, which no setting of its own turns off, across the chat."""
    module: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bar = module.tqdm
    module.tqdm = lambda tensors, **options: tensors
    try:
        yield
    finally:
        module.tqdm = bar


def check_size(name: str, parameters: int, device: str, dtype: str, most: int | None, offload: str | None) -> None:
    """Raises TooLarge when a model of so many parameters, which is not fetched yet, would not fit."""
    where, precision = target(device, dtype)
    weights = parameters * precision.itemsize
    _placement(name, memory.Needs(parameters, weights, 0), where, precision, most, offload)


def target(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """Where a model would be loaded, and in what precision. Raises ModelError for a device that is not there."""
    where = _device(device)
    return where, _dtype(dtype, where)


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still allocate on a device: on the CPU, its share of them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available // processes.on_this_machine()


def _placement(
    name: str, needs: memory.Needs, where: torch.device, precision: torch.dtype, most: int | None, offload: str | None
) -> dict[str, Any]:
    """What `from_pretrained` is told about devices: all on one, or spread by accelerate over all that there is.

    Raises:
        TooLarge: when it fits nowhere.
    """
    free = free_memory(where)
    limit = free if most is None else min(free, most + needs.beside)
    if needs.total <= limit:
        return {"device_map": {"": where}}
    room: dict[Any, int] = {}
    if where.type == "cuda":
        cards = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
        if processes.count() > 1:  # each has a card of its own
            cards = [where]
        room = {card.index: min(free_memory(card), limit) - needs.beside for card in cards}
    room["cpu"] = (limit if where.type == "cpu" else free_memory(torch.device("cpu"))) - needs.beside
    room = {place: max(0, size) for place, size in room.items()}
    if offload is None and (where.type != "cuda" or sum(room.values()) < needs.weights):
        raise _too_large(name, needs, precision, limit)
    return {"device_map": "auto", "max_memory": room, **({"offload_folder": offload} if offload else {})}


def _too_large(name: str, needs: memory.Needs, precision: torch.dtype, free: int) -> TooLarge:
    smaller = memory.smaller(needs.parameters, precision.itemsize, free)
    ways = [f"/model {smaller} is the next smaller (in a script --fallback takes it)"] if smaller else []
    if precision == torch.float32:
        ways.append("--dtype bfloat16 needs half")
    ways.append("--offload FOLDER keeps on the disk what does not fit")
    kind = str(precision).removeprefix("torch.")
    return TooLarge(
        f"{name} needs {memory.gigabytes(needs.total)} of memory in {kind}, and {memory.gigabytes(free)} may be used",
        "; ".join(ways),
        smaller,
        needs.total - free,
    )


def _check_memory_of_text(model: Any, name: str) -> None:
    """The batch keeps keys and values by position; a recurrent state has no positions to go back to."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    unknown = sorted(kinds - {"full_attention", "sliding_attention"})
    if unknown or getattr(model, "_is_stateful", False):
        what = f"layers of the kind {unknown[0]}" if unknown else "recurrent layers"
        raise ModelError(
            f"{name} has {what}, and steerchat handles attention only",
            "choose a model whose layers all attend, such as Llama, Qwen3, Gemma 3, Phi or Mistral",
        )


def _device(name: str) -> torch.device:
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    if (name.startswith("cuda") and not cuda) or (name == "mps" and not mps):
        raise ModelError(f"this machine has no {name} device", "--device cpu always works")
    if name == "cuda" and processes.count() > 1:
        return torch.device("cuda", processes.local_rank())
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cpu":
        return torch.float32
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16
