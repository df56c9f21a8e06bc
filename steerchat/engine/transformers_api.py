"""What is used of transformers, imported here alone.

The loader's thread and a command may want it at once. transformers puts another module in its own place as it is
imported, and a second thread would be given the first one, which has no models. Here it waits for this module instead.
"""

import functools
import inspect
from typing import Any

import transformers
from transformers.cache_utils import Cache, DynamicLayer

__all__ = ["Cache", "DynamicLayer", "cached", "transformers"]


@functools.cache
def _cache_name(kind: type) -> str:
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"


def cached(module: Any, cache: Cache) -> dict[str, Any]:
    """The argument by which a model's forward pass takes its keys and values: `cache` from transformers 5.24 on, in
    the models that follow it (a model's own Python file may not)."""
    return {_cache_name(type(module)): cache}
