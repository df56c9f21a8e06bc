"""What is known of this machine and of a model's files without loading the model: for a report about a fault."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import psutil
import torch

from ..system.memory import gigabytes
from ..system.threads import most_threads
from ..values.errors import ModelError
from .default import SMOLLM2, prepared
from .find import ModelFiles, find
from .kernel_times import cpu_name, instructions


def machine_facts() -> dict[str, str]:
    """The computing parts of this machine, in words."""
    memory = psutil.virtual_memory()
    cards = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    gpus = [f"{card.name}, {gigabytes(card.total_memory)}" for card in cards]
    gpus += ["Apple (mps)"] if torch.backends.mps.is_available() else []
    threads = torch.get_num_threads()
    return {
        "CPU": f"{cpu_name()}, {os.cpu_count()} cores, {instructions()}",
        "GPU": "; ".join(gpus) or "none",
        "memory": f"{gigabytes(memory.total)}, {gigabytes(memory.available)} free",
        "threads": str(min(threads, most_threads() or threads)),
        "load": f"{psutil.getloadavg()[0] / (psutil.cpu_count() or 1):.1f} programs a core",
    }


def memory_held() -> int:
    """Bytes of memory that this process holds."""
    return psutil.Process().memory_info().rss


def local_files(name: str) -> ModelFiles:
    """A model's files, without fetching any. Raises ModelError as `find`."""
    return find(name, progress=lambda event: None, offline=True)


def verified(files: ModelFiles) -> str:
    """What is known of a model's files: whether they are those that were published, or complete.

    `find` and `load` refuse files that are incomplete; the default model's GGUF also has a known hash.
    """
    if files.gguf is None or files.gguf.name != SMOLLM2.gguf or files.gguf.parent != prepared(SMOLLM2):
        return "complete"
    try:
        with files.gguf.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"the model's file cannot be read: {error.strerror}", "check its rights") from error
    return "as published" if digest == SMOLLM2.gguf_sha256 else f"not as published: sha256 {digest}"


def private(text: str) -> str:
    """`text` with `~` for the home folder."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text
