"""From files on this machine to a running engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil
import torch
import transformers

from .engine import Engine
from .errors import ModelError
from .models import Found
from .linear import speed_up

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "float16", "bfloat16")


def load(found: Found, device: str = "auto", dtype: str = "auto") -> Engine:
    """Load a model that is on this machine.

    Args:
        found: where it is.
        device: one of `DEVICES`; auto takes CUDA, then MPS, then the CPU.
        dtype: one of `DTYPES`; auto is float32 on the CPU and sixteen bits elsewhere.

    Raises:
        ModelError: when the device is not there, or the files cannot be loaded.
    """
    where = _device(device)
    precision = _dtype(dtype, where)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    extra: dict[str, Any] = {"gguf_file": found.gguf} if found.gguf else {}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(found.path, local_files_only=True, **extra)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            found.path, dtype=precision, device_map={"": where}, local_files_only=True, **extra
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"{found.name} cannot be loaded: {str(error).splitlines()[0]}", "is it a causal language model, complete?"
        ) from error
    _check_memory_of_text(model, found.name)
    model.eval()
    model.requires_grad_(False)
    speed_up(model)
    return Engine(model, tokenizer, found.name, found.fingerprint, _free_memory(where))


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
    return torch.device(name)


def _dtype(name: str, device: torch.device) -> torch.dtype:
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cpu":
        return torch.float32
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16


def _free_memory(device: torch.device) -> Callable[[], int]:
    if device.type == "cuda":
        return lambda: torch.cuda.mem_get_info(device)[0]
    return lambda: psutil.virtual_memory().available
