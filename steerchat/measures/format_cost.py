"""What weights of few bits cost a model: its perplexity over the neutral texts, beside that of float32 weights."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..engine.engine import Engine

FORMAT_COST = "perplexity.json"


@dataclass(frozen=True)
class FormatCost:
    """Perplexities over all tokens of the replies of the neutral texts."""

    dtype: str  # how the weights are held
    texts: int  # how many were read
    perplexity: float  # of the weights as they are held
    exact: float | None  # of the same model in float32; None where that did not fit into memory
    rounded_before: bool  # whether the weights came rounded, in a GGUF, so that `exact` is of rounded numbers too

    def __str__(self) -> str:
        held = f"{self.dtype} weights: perplexity {self.perplexity:.2f} over {self.texts} neutral texts"
        if self.exact is None:
            return f"{held}; what that cost is not known, because the float32 model does not fit into memory."
        ratio = self.perplexity / self.exact
        if self.rounded_before:
            return (
                f"{held}, {self.exact:.2f} with the file's numbers in float32 (x{ratio:.3f}). What the file's own "
                "rounding cost is not known here."
            )
        return f"{held}, {self.exact:.2f} in float32: the format costs x{ratio:.3f}."


def log_probs(engine: Engine, line: str) -> list[float]:
    """The log-probabilities of the reply's tokens in one line of the neutral texts."""
    entry = json.loads(line)
    prompt = engine.prompter.chat([{"role": "user", "content": entry["prompt"]}], thought=False)
    return engine.read(prompt, engine.prompter.reply(entry["reply"])).log_probs.tolist()


def perplexity_of(found: Sequence[float]) -> float:
    return math.exp(-statistics.fmean(found))


def to_json(cost: FormatCost) -> bytes:
    return (json.dumps(asdict(cost), indent=1) + "\n").encode()


def from_json(text: str, dtype: str) -> FormatCost | None:
    """What `to_json` wrote of weights that are held so; None of others, or where it is damaged."""
    try:
        cost = FormatCost(**json.loads(text))
    except (ValueError, TypeError):
        return None
    return cost if cost.dtype == dtype else None
