"""From files on this machine to a running engine."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import mmap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from ..engine import processes
from ..engine.check import check
from ..engine.decoding import is_out_of_memory
from ..engine.engine import Engine
from ..engine.hooks import find_blocks
from ..engine.kernels import Kernels
from ..engine.lean import is_lean, make_lean
from ..engine.processes import Team
from ..engine.shared_engine import SharedEngine
from ..engine.transformers_api import auto_model, transformers
from ..system.memory import gigabytes, trim
from ..system.threads import most_threads
from ..values.errors import ModelError, SteerchatError, TooLarge, shorten
from ..values.results import Report
from . import memory
from .checkpoint import check_quantisation, check_weights, quantisation
from .file_weights import mapped
from .find import ModelFiles
from .fingerprint import json_object
from .gguf_parts import parts_of
from .gguf_weights import load_gguf
from .kernel_times import MachineRecord
from .layer_kinds import FAMILIES, check_json, check_kinds
from .memory import FORMS
from .rounded import load_rounded, rounded

_CODE = "custom code"  # in transformers' message about a model that needs its own Python files


def load(
    files: ModelFiles,
    device: str = "auto",
    dtype: str = "auto",
    *,
    most: int | None = None,
    offload: str | None = None,
    code: bool = False,
    team: Team | None = None,
    report: Report = lambda event: None,
) -> Engine:
    """Load a model that is on this machine.

    Args:
        files: the model's.
        device, dtype: values of those settings; auto takes CUDA, then MPS, then the CPU, with float32 on the CPU and
            sixteen bits elsewhere. A model whose weights are rounded here (`int4`, `int8`) has a fingerprint of its
            own: its activations are others.
        most: the most bytes for weights in the device's memory; None for the free ones.
        offload: a folder for weights that do not fit into memory.
        code: whether the model's own Python files may run.
        team: this process among others, which divide the answers.
        report: called with the progress of rounding the weights.

    Raises:
        TooLarge: when it needs more memory than is free.
        ModelError: when the device does not exist, or the files cannot be loaded.
    """
    config = json_object(files.path / "config.json")
    where, kind = target(device, dtype, config)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": code}
    check_json(config, files.name)
    check_quantisation(config, files.name)
    # What has few bits already keeps them.
    rounds = dtype in FORMS and not files.gguf and not quantisation(config)
    if files.adapter is not None:
        _check_adapter(files, rounds)
    if rounds:
        if where.type != "cpu":
            raise ModelError(
                f"weights are rounded only on the CPU, and this is {where.type}",
                "--dtype bfloat16, or a checkpoint of few bits (AWQ, GPTQ, bitsandbytes), or --device cpu",
            )
        files = replace(files, fingerprint=f"{dtype} {files.fingerprint}")
    needs = memory.needs(files, precision_of(where, kind, dtype))
    place = _placement(files.name, needs, where, kind, most, offload)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(files.path, **options)
        bytes_: Sequence[mmap.mmap] = ()
        model: Any
        if rounds:
            model, bytes_ = load_rounded(files, rounded(files, dtype, code, report), code)
        elif files.gguf and place["device_map"] != "auto":
            bytes_ = mapped(*parts_of(files.gguf))
            model = load_gguf(files.path, bytes_, where, kind)
        else:
            model = _from_pretrained(files, dtype=kind, **place, **options)
            if files.adapter is not None:
                model = _merged(model, files.adapter)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, MemoryError) as error:
        if isinstance(error, MemoryError) or is_out_of_memory(error):
            raise _too_large(files.name, needs, where, kind, free_memory(where)) from None
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if _CODE in reason:
            raise ModelError(
                f"{files.name} needs its own Python code, which steerchat does not run by default",
                f"read the code in {files.path}; --trust-remote-code runs it",
            ) from None
        hint = "check that it is a complete causal language model"
        if quantisation(config):
            hint = "choose the same model with plain weights, or as a GGUF"
        raise ModelError(f"{files.name} cannot be loaded: {reason}", hint) from error
    check_kinds(model.config.get_text_config(), getattr(model, "_is_stateful", False), files.name)
    model.eval()
    model.requires_grad_(False)
    # Rounded weights stay small, however much memory is free.
    free = 0 if rounds else free_memory(torch.device("cpu")) // 2
    kernels = _quick(model, files.fingerprint, dtype == "auto" or dtype in FORMS, free, bytes_)
    memory.forget(bytes_)
    given = (model, tokenizer, files.name, files.fingerprint, lambda: free_memory(where), kernels)
    try:
        engine = Engine(*given)
        if not is_lean(engine.blocks):
            check(engine)
        if team is not None:
            passes, engine = engine.passes, SharedEngine(team, *given)
            engine.passes = passes
    except (SteerchatError, MemoryError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = shorten(str(error) or type(error).__name__, 120)
        raise ModelError(
            f"steerchat cannot compute with {files.name}, a {type(model).__name__}: its blocks do not take positions, "
            "masks or kept keys and values as those of other models do",
            f"choose one of {FAMILIES}; please report it, with the name and this: {reason}",
        ) from error
    return engine


def _check_adapter(files: ModelFiles, rounds: bool) -> None:
    """Raises ModelError where an adapter cannot be merged."""
    if importlib.util.find_spec("peft") is None:
        raise ModelError(f"{files.name} is a LoRA adapter, which needs the package peft", "pip install peft")
    if rounds:
        raise ModelError(f"{files.name} is a LoRA adapter, whose model is not rounded here", "--dtype auto")


def _merged(model: Any, adapter: Path) -> Any:
    """The model with a LoRA adapter added to its weights (Hu et al. 2021, arXiv 2106.09685)."""
    peft: Any = importlib.import_module("peft")
    try:
        with warnings.catch_warnings(action="ignore"):  # about its own use of transformers
            return peft.PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    except (AttributeError, TypeError) as error:
        raise ValueError(f"its adapter does not fit: {error}") from error


def _from_pretrained(files: ModelFiles, **options: Any) -> Any:
    """The model as transformers loads it. A GGUF is unpacked to float32 as a whole on the way."""
    if not files.gguf:
        own = {name: options[name] for name in ("local_files_only", "trust_remote_code")}
        kind = auto_model(transformers.AutoConfig.from_pretrained(files.path, **own))
        # With sizes that differ, transformers stops at the first kind of fault, and says little of it.
        loaded: Any = kind.from_pretrained(
            files.path, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        model, info = loaded
        check_weights(model, info, files.name)
        return model
    if len(parts_of(files.gguf)) > 1:
        raise ModelError(
            f"{files.name} is split into parts, and only a whole GGUF can be spread over several devices or the disk",
            "join the parts with llama-gguf-split --merge",
        )
    # No setting turns off the bar that it draws while it unpacks.
    module: Any = importlib.import_module("transformers.modeling_gguf_pytorch_utils")
    bar = module.tqdm
    module.tqdm = lambda tensors, **options: tensors
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            files.gguf.parent, gguf_file=files.gguf.name, **options
        )
    finally:
        module.tqdm = bar


def _quick(model: Any, fingerprint: str, small: bool, free: int, bytes_: Sequence[mmap.mmap] = ()) -> Kernels:
    """Let the model compute in the quickest way that there is here.

    Args:
        model: just loaded.
        fingerprint: its own.
        small: whether weights may be held with as few bits as they have; else every number becomes float32.
        free: bytes that float32 weights may take.
        bytes_: of the model's files. What is read of them leaves memory layer by layer.
    """
    if (threads := most_threads()) is not None:
        torch.set_num_threads(min(threads, torch.get_num_threads()))
    record = MachineRecord(fingerprint)
    lean = make_lean(model, find_blocks(model), record.lean)
    kernels = Kernels(model, [layer for block in lean for layer in block.layers])
    record.lean = bool(lean)
    times, kept = record.times(kernels.layers), record.forms() if small else {}
    kernels.choose(times, small, free, kept, partial(memory.forget, bytes_))
    forms = kernels.forms
    if not all(key in kept and kept[key][0] is pair[0] for key, pair in forms.items()):
        record.keep_forms(forms)  # some had to be prepared
    if kernels.precision != "float32":
        # What is left of a file of numbers lies in its mapping, which would stay in memory for their sake.
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
        trim()
    return kernels


def check_size(name: str, parameters: int, device: str, dtype: str, most: int | None, offload: str | None) -> None:
    """Raises TooLarge when a model that is not fetched yet would not fit into memory."""
    where, kind = target(device, dtype)
    _placement(name, memory.needs_of(parameters, precision_of(where, kind, dtype)), where, kind, most, offload)


def precision_of(where: torch.device, kind: torch.dtype, dtype: str) -> memory.Precision:
    """How weights will be held on a device. `dtype`: the setting, of which `kind` is the precision of numbers."""
    return memory.Precision(kind.itemsize, dtype if where.type == "cpu" else "")


def target(device: str, dtype: str, config: Mapping[str, Any] | None = None) -> tuple[torch.device, torch.dtype]:
    """The device and the precision for a model, by its config.json where there is one.

    Raises:
        ModelError: for a device that does not exist.
    """
    where = _device(device)
    return where, precision("float32" if dtype in FORMS else dtype, where, config or {})


def free_memory(device: torch.device) -> int:
    """The free bytes of a device; on the CPU, this process's share of them."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available // processes.on_this_machine()


def _placement(
    name: str, needs: memory.Needs, where: torch.device, dtype: torch.dtype, most: int | None, offload: str | None
) -> dict[str, Any]:
    """The arguments of `from_pretrained` about devices: one device, or accelerate's spread over all of them.

    Raises:
        TooLarge: when the model does not fit.
    """
    free = free_memory(where)
    limit = free if most is None else min(free, most + needs.beside)
    if needs.total <= limit:
        return {"device_map": {"": where}}
    room: dict[Any, int] = {}
    if where.type == "cuda":
        cards = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
        if processes.count() > 1:  # each process has its own card
            cards = [where]
        room = {card.index: min(free_memory(card), limit) - needs.beside for card in cards}
    room["cpu"] = (limit if where.type == "cpu" else free_memory(torch.device("cpu"))) - needs.beside
    room = {place: max(0, size) for place, size in room.items()}
    if offload is None and (where.type != "cuda" or sum(room.values()) < needs.weights):
        raise _too_large(name, needs, where, dtype, limit)
    return {"device_map": "auto", "max_memory": room, **({"offload_folder": offload} if offload else {})}


def _too_large(name: str, needs: memory.Needs, where: torch.device, dtype: torch.dtype, free: int) -> TooLarge:
    smaller = memory.smaller(needs.parameters, dtype.itemsize, free)
    ways = [f"/model {smaller} is the next smaller (in a script --fallback takes it)"] if smaller else []
    if where.type == "cpu" and needs.four_bits is not None and needs.four_bits < needs.weights:
        ways.append(f"--dtype int4 needs {gigabytes(needs.four_bits + needs.beside)}")
    elif dtype == torch.float32:
        ways.append("--dtype bfloat16 needs half")
    ways.append("--offload FOLDER keeps the rest on the disk")
    kind = str(dtype).removeprefix("torch.")
    return TooLarge(
        f"{name} needs {gigabytes(needs.total)} of memory in {kind}, and {gigabytes(free)} may be used",
        "; ".join(ways),
        smaller,
        needs.total - free,
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


def precision(name: str, device: torch.device, config: Mapping[str, Any]) -> torch.dtype:
    """The precision of a model's weights.

    Args:
        name: the setting's value.
        device: where the model runs.
        config: what its config.json says. A model that was made in bfloat16 may compute numbers that are too large for
            float16, as those of the Gemma family do.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cpu":
        return torch.float32
    inner = config.get("text_config")
    made_in = {part.get("dtype") or part.get("torch_dtype") for part in (config, inner) if isinstance(part, dict)}
    if device.type == "mps":
        overflows = "bfloat16" in made_in or str(config.get("model_type")).startswith("gemma")
        return torch.bfloat16 if overflows else torch.float16
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if native else torch.float16
