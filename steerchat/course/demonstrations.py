"""What a lesson can show: each demonstration measures something on the model at hand and gives it as facts.

A lesson names one by `show = "strengths happy"`. Its facts are what the lesson's choices and goals may compare.
To add one, write a function with the decorator in `effects` or `states`.
"""

from __future__ import annotations

from ..values.errors import unknown
from . import effects, states  # noqa: F401  # declare the demonstrations
from .demonstration import ALL, Shown
from .lab import Lab


def run(lab: Lab, name: str, words: tuple[str, ...]) -> Shown:
    """Raises UnknownName for a demonstration that does not exist."""
    if name not in ALL:
        raise unknown("demonstration", name, ALL, "tutorials/README.md lists them")
    return ALL[name].show(lab, *words)
