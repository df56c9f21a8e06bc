"""Weights rounded to four or eight bits, for models that come as safetensors: `--dtype int4` and `--dtype int8`.

transformers reads the model tensor by tensor, and each matrix is rounded as soon as it is read, so that the numbers of
the whole model never lie in memory. The result is kept with the prepared models. A start reads its weights from there,
as it reads those of a GGUF, and in the GGUF's forms: Q4_1 has 16 levels between the least and the greatest of 32
neighbours, Q8_0 has 255 around zero. The table of embeddings and the output layer always get eight bits.
"""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import save_file
from torch import Tensor, nn

from ..engine.transformers_api import auto_model, transformers
from ..values.errors import ModelError
from ..values.results import Progress, Report
from .checkpoint import check_weights
from .file_weights import complete, empty_model, keep, mapped, put
from .find import ModelFiles
from .fingerprint import tensors, weight_files
from .gguf_reader import bits
from .memory import FORMS, form_of
from .workplace import finish, is_whole, models_dir, require_space, workplace

_FILE = "weights.safetensors"
_METHOD = "steerchat"  # what transformers calls this way of rounding


def rounded(files: ModelFiles, dtype: str, code: bool, report: Report) -> Path:
    """The folder with a model's rounded weights, made when there is none yet.

    Args:
        files: a folder of safetensors.
        dtype: one of `memory.FORMS`.
        code: whether the model's own Python files may run.
        report: called with the progress.

    Raises:
        ModelError: when the model cannot be read, the disk has no room, or most weights are of another kind.
        OSError, ValueError, KeyError, RuntimeError, ImportError: as `from_pretrained`.
    """
    digest = "".join(filter(str.isalnum, files.fingerprint))
    target = models_dir() / f"{dtype}-{digest[-24:]}"
    if is_whole(target):
        return target
    with workplace(report) as work:
        if is_whole(target):
            return target
        made = work / "rounded"
        made.mkdir()
        weights = _round(files, FORMS[dtype], code, report)
        require_space(made, sum(tensor.nbytes for tensor in weights.values()))
        save_file(weights, made / _FILE)
        return finish(made, target, files.fingerprint)


def load_rounded(files: ModelFiles, folder: Path, code: bool) -> tuple[Any, list[mmap.mmap]]:
    """The model with the weights in a folder that `rounded` made, and the bytes that its layers read.

    Raises:
        OSError, ValueError, RuntimeError: when a file cannot be read, or lacks a weight.
    """
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": code}
    config = transformers.AutoConfig.from_pretrained(files.path, **options)
    model = empty_model(config, torch.float32, code)
    if (files.path / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(files.path, **options)
    file = folder / _FILE
    [bytes_] = mapped(file)
    for label, shape, start, size in tensors(file):
        data = torch.frombuffer(bytes_, dtype=torch.uint8, count=size, offset=start)
        name, _, kind = label.partition(" ")
        if kind:
            keep(model, name, data.reshape(shape), Kind[kind])
        else:
            put(model, name, data.view(torch.float32).reshape(shape).clone(), torch.device("cpu"), torch.float32)
    complete(model)
    return model, [bytes_]


def _round(files: ModelFiles, wanted: Kind, code: bool, report: Report) -> dict[str, Tensor]:
    """All tensors by name; that of a rounded one has its form behind it, such as `lm_head.weight Q8_0`."""
    label = f"rounding {files.name} to {bits(wanted)} bits, once"
    total = sum(len(tensors(file)) for file in weight_files(files.path))
    weights: dict[str, Tensor] = {}
    sizes = {True: 0, False: 0}  # of numbers, by whether they are rounded

    def add(name: str, numbers: Tensor, wanted: Kind | None) -> None:
        report(Progress(label, len(weights), total))
        numbers = numbers.detach().float().contiguous()
        form = wanted and form_of(numbers.shape, wanted)
        sizes[form is not None] += numbers.numel()
        if form is None:
            weights[name] = numbers
        else:
            weights[f"{name} {form.name}"] = torch.from_numpy(gguf.quantize(numbers.numpy(), form))

    config = transformers.AutoConfig.from_pretrained(files.path, local_files_only=True, trust_remote_code=code)
    loaded: Any = auto_model(config).from_pretrained(
        files.path,
        dtype=torch.float32,
        device_map={"": "cpu"},
        quantization_config=_rounding(lambda name, numbers: add(name, numbers, wanted)),
        output_loading_info=True,
        local_files_only=True,
        trust_remote_code=code,
    )
    model, info = loaded
    check_weights(model, info, files.name)
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    eight = {id(table.weight) for table in tables if table is not None}
    for name, parameter in model.named_parameters():
        if not parameter.is_meta:  # the others were read and forgotten
            add(name, parameter, Kind.Q8_0 if id(parameter) in eight else None)
    if sizes[True] < sizes[False]:
        raise ModelError(
            f"most weights of {files.name} are in no plain linear layers, and only those are rounded here",
            "choose another model, or this one as a GGUF",
        )
    return weights


def _rounding(add: Callable[[str, Tensor], None]) -> Any:
    """The configuration that makes `from_pretrained` give each weight of a linear layer to `add`, and forget it."""
    configuration: Any = _register()()
    configuration.add = add
    return configuration


@functools.cache
def _register() -> Any:
    """Make the way of rounding known to transformers, and return the class of its configuration."""
    from transformers.core_model_loading import ConversionOps
    from transformers.quantizers.auto import register_quantization_config, register_quantizer
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

    @register_quantization_config(_METHOD)
    class Rounding(QuantizationConfigMixin):
        add: Callable[[str, Tensor], None]

        def __init__(self) -> None:
            self.quant_method: Any = _METHOD

    class Give(ConversionOps):
        """Gives a tensor that was read to `add`."""

        def __init__(self, add: Callable[[str, Tensor], None]) -> None:
            self._add = add

        def convert(self, input_dict: Mapping[str, Any], **options: Any) -> dict[str, Tensor]:
            for name, numbers in input_dict.items():
                self._add(name, numbers[0] if isinstance(numbers, list) else numbers)
                options["missing_keys"].discard(name)
            return {}

    @register_quantizer(_METHOD)
    class Rounder(HfQuantizer):
        quantization_config: Any

        def param_needs_quantization(self, model: Any, param_name: str, **options: Any) -> bool:
            path, _, attribute = param_name.rpartition(".")
            module = model.get_submodule(path)
            return attribute == "weight" and type(module) is nn.Linear and module is not model.get_output_embeddings()

        def get_quantize_ops(self) -> Any:
            return Give(self.quantization_config.add)

        def is_serializable(self) -> bool:
            return False

        @property
        def is_trainable(self) -> bool:
            return False

    return Rounding
