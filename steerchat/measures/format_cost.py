"""What weights of few bits cost a model: its perplexity over the neutral texts, beside that of float32 weights."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..engine.engine import Engine

FORMAT_COST = "perplexity.json"
# Texts that are read side by side: they wait for a key as long as one batch takes.
_TOGETHER = 50


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


def log_probs(engine: Engine, lines: Sequence[str], check: Callable[[int], None]) -> list[float]:
    """The log-probabilities of the tokens of the replies in lines of the neutral texts, text by text.

    Args:
        check: told before every batch how many texts are read; what it raises ends the work.
    """
    # Late: the chat imports this module for costs that were kept, before it asks for a model.
    from ..engine.batch import Batch
    from ..engine.contexts import common_prefix
    from ..engine.reading import read

    texts: list[tuple[tuple[int, ...], list[int]]] = []
    for line in lines:
        entry = json.loads(line)
        prompt = engine.prompter.chat([{"role": "user", "content": entry["prompt"]}], thought=False)
        texts.append((tuple(prompt), engine.prompter.reply(entry["reply"])))
    # What all prompts begin with is computed once, and texts of one length are read side by side.
    shared = common_prefix([prompt[:-1] for prompt, _ in texts])
    with engine.turn:
        start = engine.prefill([shared])[0] if shared else None
    order = sorted(range(len(texts)), key=lambda index: len(texts[index][0]) + len(texts[index][1]))
    found: list[list[float]] = [[] for _ in texts]
    for first in range(0, len(order), _TOGETHER):
        check(first)
        group = [texts[index] for index in order[first : first + _TOGETHER]]
        heads, replies = [prompt[len(shared) :] for prompt, _ in group], [reply for _, reply in group]
        with engine.turn:
            engine.prepare_kernels(1)  # what an answer is computed with
            room = max(len(head) + len(reply) for head, reply in zip(heads, replies, strict=True))
            batch = Batch(engine.passes, [start] * len(group), room)
            readings = read(engine.model, engine.blocks, batch, heads, replies)
        for index, reading in zip(order[first:], readings, strict=False):
            found[index] = reading.log_probs.tolist()
    return [log_prob for text in found for log_prob in text]


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
