"""What is used of transformers, imported here alone.

The loader's thread and a command may want it at once. transformers puts another module in its own place as it is
imported, and a second thread would be given the first one, which has no models. Here it waits for this module instead.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

_COMPILER = "torch._dynamo"
_MASKS = f"{_COMPILER}._trace_wrapped_higher_order_op"


class _NoCompiler(ModuleType):
    """Stands for torch's compiler, or a module of it: its functions leave what they decorate as it is."""

    __path__ = []  # noqa: RUF012  # a package without modules; its type wants a list

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _unchanged


def _unchanged(function: Any = None, *values: Any, **options: Any) -> Any:
    return _unchanged if function is None else function


def _index_transform() -> Any:
    """What transformers takes from the compiler for some masks: the real one, when it is used."""
    return importlib.import_module(_MASKS).TransformGetItemToIndex()


@contextmanager
def _without_compiler() -> Iterator[None]:
    """While it is entered, transformers imports neither torch's compiler nor its modules for many machines.

    steerchat uses none of them. They are half of the time that the import takes, and 80 MB. Whoever wants the compiler
    later gets the real one. A process among others, which has use for them, imports all. The files of all models are
    read for their names once, not twice.
    """
    if "LOCAL_RANK" in os.environ or _COMPILER in sys.modules or "transformers" in sys.modules:
        yield
        return
    from transformers import utils
    from transformers.utils import import_utils

    masks = _NoCompiler(_MASKS)
    masks.TransformGetItemToIndex = _index_transform  # type: ignore[attr-defined]
    stand_ins: dict[str, ModuleType] = {_COMPILER: _NoCompiler(_COMPILER), _MASKS: masks}
    predicates = ("is_torch_distributed_available", "is_torch_flex_attn_available")
    before = {name: getattr(import_utils, name) for name in predicates if hasattr(import_utils, name)}
    structure = import_utils.define_import_structure

    def known_structure(path: str, prefix: str | None = None) -> Any:
        """The names in a folder. Those of the models are known by its path, and would be read again by its file."""
        return structure(Path(path).parent if Path(path).name == "__init__.py" else path, prefix)

    try:
        for name in before:
            for module in (utils, import_utils):
                setattr(module, name, bool)
        import_utils.define_import_structure = known_structure
        sys.modules.update(stand_ins)
        yield
    finally:
        import_utils.define_import_structure = structure
        for name in stand_ins:
            sys.modules.pop(name, None)
        for name, predicate in before.items():
            for module in (utils, import_utils):
                setattr(module, name, predicate)


# Every model's module imports this one. Where a version needs more of the compiler, it fails and is imported as usual.
with suppress(Exception), _without_compiler():
    importlib.import_module("transformers.modeling_layers")

import transformers  # noqa: E402
from transformers.cache_utils import Cache, DynamicLayer  # noqa: E402
from transformers.initialization import no_init_weights  # noqa: E402
from transformers.modeling_outputs import BaseModelOutputWithPast  # noqa: E402

__all__ = ["Cache", "DynamicLayer", "States", "auto_model", "cached", "no_init_weights", "transformers"]


class States(BaseModelOutputWithPast):
    """What a decoder returns, with None for everything that only some families return."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


def auto_model(config: Any) -> Any:
    """What loads a model of this configuration: many that see images have no class for text alone, and need none."""
    kind = type(config)
    sees = kind in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    only = sees and kind not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    return transformers.AutoModelForImageTextToText if only else transformers.AutoModelForCausalLM


@functools.cache
def _cache_name(kind: type) -> str:
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"


def cached(module: Any, cache: Cache) -> dict[str, Any]:
    """The argument by which a model's forward pass takes its keys and values: `cache` from transformers 5.24 on, in
    the models that follow it (a model's own Python file may not)."""
    return {_cache_name(type(module)): cache}
