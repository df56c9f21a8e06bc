"""What is wrong with a folder of safetensors: weights that do not fit the model, or a format that is not read here."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from ..values.errors import ModelError

# Formats of quantised weights: the packages that read them, as Python and as pip call them. FP8 and MXFP4 need none:
# without their kernels, transformers unpacks them.
_PACKAGES = {
    "awq": {"gptqmodel": "gptqmodel"},
    "gptq": {"gptqmodel": "gptqmodel", "optimum": "optimum"},
    "bitsandbytes": {"bitsandbytes": "bitsandbytes"},
    "bitsandbytes_4bit": {"bitsandbytes": "bitsandbytes"},
    "bitsandbytes_8bit": {"bitsandbytes": "bitsandbytes"},
    "compressed-tensors": {"compressed_tensors": "compressed-tensors"},
    "aqlm": {"aqlm": "aqlm[cpu]"},
    "auto-round": {"auto_round": "auto-round"},
    "hqq": {"hqq": "hqq"},
    "quanto": {"optimum.quanto": "optimum-quanto"},
    "quark": {"quark": "amd-quark"},
    "torchao": {"torchao": "torchao"},
    "vptq": {"vptq": "vptq"},
    "sinq": {"sinq": "sinq"},
}
# How the formats are written.
_NAMES = {"awq": "AWQ", "gptq": "GPTQ", "fp8": "FP8", "fbgemm_fp8": "FP8", "mxfp4": "MXFP4", "hqq": "HQQ"}
# Formats that transformers unpacks to plain numbers while it loads them.
UNPACKED = {"fp8", "mxfp4"}
_MOST_NAMED = 3


def quantisation(config: Mapping[str, Any]) -> str:
    """The format of a model's quantised weights by its config.json, such as `awq`; empty for plain numbers."""
    settings = config.get("quantization_config")
    if not isinstance(settings, dict):
        settings = config.get("compression_config")
    return str(settings.get("quant_method") or "bitsandbytes") if isinstance(settings, dict) else ""


def check_quantisation(config: Mapping[str, Any], name: str) -> None:
    """Raises ModelError when a model's weights are in a format whose package is not installed."""
    method = quantisation(config)
    missing = [package for module, package in _PACKAGES.get(method, {}).items() if not _installed(module)]
    if missing:
        form = _NAMES.get(method, method)
        raise ModelError(
            f"the weights of {name} are in the format {form}, which needs {' and '.join(missing)}",
            f"pip install {' '.join(missing)}; or choose the same model with plain weights, or as a GGUF",
        )


def check_weights(model: Any, info: Mapping[str, Any], name: str) -> None:
    """Stop when files and model do not have the same weights: transformers fills what is missing with random numbers.

    Tied weights are stored once, and buffers are computed; neither is missed. Weights of parts that the model of the
    text does not have, such as an image encoder, are left out.

    Args:
        model: as loaded.
        info: what `from_pretrained` returns as loading info.
        name: of the model, for people.

    Raises:
        ModelError: naming the weights.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    shapes = [
        f"{key} is {_shape(stored)} and not {_shape(expected)}"
        for key, stored, expected in sorted(info["mismatched_keys"])
    ]
    faults = [
        _listed("it lacks", sorted(key for key in info["missing_keys"] if key in parameters)),
        _listed("", shapes),
        _listed("the model has no", sorted(key for key in info["unexpected_keys"] if _inside(model, key))),
        *(str(message).splitlines()[0] for message in info["error_msgs"]),
    ]
    if any(faults):
        raise ModelError(
            f"the files of {name} do not fit its config.json: {'; '.join(filter(None, faults))}",
            "download or copy the whole folder again",
        )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a part of a package that is not installed
        return False


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{what} {', '.join(names[:_MOST_NAMED])}{more}".strip()


def _shape(size: Any) -> str:
    return " x ".join(map(str, size)) or "a number"


def _inside(model: Any, key: str) -> bool:
    """Whether a weight that the model does not have would lie in a part that it has."""
    module: Any = model
    for part in key.split(".")[:-1]:
        child = module._modules.get(part)
        if child is None:
            break
        module = child
    return module is not model and module is not model.base_model
