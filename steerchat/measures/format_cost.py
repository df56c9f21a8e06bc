"""What weights of few bits cost a model: its perplexity over the neutral texts, beside that of float32 weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..system.untrusted import read_json

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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def load_format_cost(path: Path, dtype: str) -> FormatCost | None:
    """What `FormatCost.to_json` gave, from a file, of weights held so; None of others, a broken or a missing file."""
    try:
        cost = FormatCost(**read_json(path))
    except (OSError, ValueError, TypeError):
        return None
    return cost if cost.dtype == dtype else None
