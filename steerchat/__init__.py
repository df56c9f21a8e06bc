"""A terminal chat in which you steer a language model while you talk to it.

From Python: `steerchat.load()` gives a model; the names of `__all__` are what is kept stable, with their public
methods and attributes. They are imported on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .system.threads import set_thread_defaults

set_thread_defaults()

if TYPE_CHECKING:
    from .api import Model, history, load
    from .concepts.concept import Example
    from .concepts.vector import ConceptVector
    from .experiments.outcomes import Outcome, Result
    from .storage.records import Filters, StoredPair
    from .values.errors import SteerchatError
    from .values.recipe import Recipe, Term
    from .values.results import Answer, Delta, Event, Finished, Notice, Pair, PairDone, Progress, Started
    from .values.setting import Setting

__all__ = [
    "Answer",
    "ConceptVector",
    "Delta",
    "Event",
    "Example",
    "Filters",
    "Finished",
    "Model",
    "Notice",
    "Outcome",
    "Pair",
    "PairDone",
    "Progress",
    "Recipe",
    "Result",
    "Setting",
    "Started",
    "SteerchatError",
    "StoredPair",
    "Term",
    "__version__",
    "history",
    "load",
]

_HOMES = {
    "api": ("Model", "history", "load"),
    "concepts.concept": ("Example",),
    "values.errors": ("SteerchatError",),
    "experiments.outcomes": ("Outcome", "Result"),
    "values.recipe": ("Recipe", "Term"),
    "storage.records": ("Filters", "StoredPair"),
    "values.results": ("Answer", "Delta", "Event", "Finished", "Notice", "Pair", "PairDone", "Progress", "Started"),
    "concepts.vector": ("ConceptVector",),
    "values.setting": ("Setting",),
}


def __getattr__(name: str) -> Any:
    # Late, so that `steerchat --version` needs none of it.
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f".{home}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
