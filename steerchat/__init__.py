"""A terminal chat in which you steer a language model while you talk to it.

From Python: `steerchat.load()` gives a model; the names below are what is kept stable.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import Model, history, load
    from .concepts import Example
    from .errors import SteerchatError
    from .results import Answer, Pair
    from .vectors import ConceptVector

__all__ = ["Answer", "ConceptVector", "Example", "Model", "Pair", "SteerchatError", "__version__", "history", "load"]

_HOMES = {
    **dict.fromkeys(("Model", "history", "load"), "api"),
    **dict.fromkeys(("Answer", "Pair"), "results"),
    "ConceptVector": "vectors",
    "Example": "concepts",
    "SteerchatError": "errors",
}


def __getattr__(name: str) -> Any:
    # Late, so that `steerchat --version` needs none of it.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
