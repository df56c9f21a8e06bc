"""How likely a token was when it was chosen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chosen:
    """A token with its log-probability where it was chosen, and those of the likeliest tokens there."""

    text: str  # what it adds to the answer; empty for a part of a character
    start: int  # where in the answer that begins
    logprob: float
    likeliest: tuple[tuple[str, float], ...]
