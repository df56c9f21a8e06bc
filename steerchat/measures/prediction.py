"""What a concept's direction says at each layer, and where steering with it will work: read, not tried.

The logit lens (nostalgebraist 2020) reads a state as if the model ended at its layer. Billa 2026 (Predicting Where
Steering Vectors Succeed, arXiv 2604.15557) finds that steering succeeds at the layers where the lens reads the concept
off the states. Concepts there are single answer words. A tone is many words, so here they are weighed by how much more
often the examples with the tone have them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..concepts.concept import Example
from ..engine.choices import next_log_probs
from ..engine.decoding import Row
from ..engine.engine import Engine
from ..engine.head import ending, head
from ..engine.operations import Edit
from ..values.operation import ADD, OPERATIONS
from .reader import Reader

STRENGTH = 2.0
"""Of the push whose reading is shown."""

_SHOWN = 6  # tokens of a layer
_USUAL = 1 / 6  # only this share of the vocabulary, the likeliest tokens at a layer, can be shown
_TEXTS = 4  # of the concept's examples, in whose replies the next token is looked at


@dataclass(frozen=True)
class LayerReading:
    """A concept's direction at one layer."""

    layer: int
    tokens: tuple[str, ...]  # those that a push promotes most, by the logit lens
    # Mean cosine of each pair's difference with the mean of the others; None where there are no pairs.
    agreement: float | None
    alike: float | None  # cosine with the direction at the layer before; None at the first
    lens: float | None  # how much the push favours the concept's words by the logit lens, in log-probability per word
    # The same in the model's own next token, with the push at this layer: one step for each of a few texts.
    step: float | None

    def to_json(self) -> dict[str, Any]:
        figures = {name: getattr(self, name) for name in ("agreement", "alike", "lens", "step")}
        rounded = {name: None if value is None else round(value, 4) for name, value in figures.items()}
        return {"layer": self.layer, "tokens": list(self.tokens), **rounded}


@torch.inference_mode()
def read_layers(reader: Reader, name: str) -> list[LayerReading]:
    """Read a concept's direction at every layer. Nothing is generated.

    Args:
        name: a concept. Its examples say which words are its own: without any, nothing is predicted.

    Raises:
        Interrupted: when the reader is stopped.
    """
    engine, vector, profile = reader.engine, reader.vector(name), reader.profile
    sizes = [OPERATIONS[ADD].size(STRENGTH, 1, float(length)) for length in profile.lengths]
    push = vector.directions * torch.tensor(sizes).unsqueeze(-1)
    typical = profile.states.float().mean(dim=0)
    before = _lens(engine, typical)
    gains = _lens(engine, typical + push) - before  # (layers, vocabulary)
    examples = [example for example in reader.library.get(name).examples if not example.held_out]
    weights = _weights(engine, examples) if examples else None
    steps = None if weights is None else _steps(reader, name, examples, push) @ weights
    agreement = vector.report.get("agreement")
    cosines = torch.cosine_similarity(vector.directions[1:], vector.directions[:-1], dim=-1).tolist()
    readings = []
    for layer, (gain, base) in enumerate(zip(gains, before, strict=True)):
        # Tokens that a model hardly ever says have scores that say little.
        usual = base >= base.topk(max(_SHOWN, round(_USUAL * len(base)))).values[-1]
        best = gain.masked_fill(~usual, -math.inf).topk(_SHOWN).indices.tolist()
        readings.append(
            LayerReading(
                layer,
                tuple(engine.prompter.text([token]) for token in best),
                None if agreement is None else float(agreement[layer]),
                cosines[layer - 1] if layer else None,
                None if weights is None else float(gain @ weights),
                None if steps is None else float(steps[layer]),
            )
        )
    return readings


def predicted_order(readings: Sequence[LayerReading]) -> list[int]:
    """The layers, from the one where a push is predicted to do most for the concept."""
    return [reading.layer for reading in sorted(readings, key=lambda reading: -(reading.step or 0.0))]


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's: 1 where both put the layers into the same order, -1 where into the opposite one."""

    def ranks(values: Sequence[float]) -> Tensor:
        numbers = torch.tensor(values)
        # A value's rank is the mean of those that equal values share.
        return (numbers[:, None] > numbers).float().sum(1) + 0.5 * (numbers[:, None] == numbers).float().sum(1)

    ordered = torch.stack([ranks(first), ranks(second)])
    return float(torch.corrcoef(ordered)[0, 1].nan_to_num(0.0))


def _lens(engine: Engine, states: Tensor) -> Tensor:
    """(layers, vocabulary) log-probabilities of the next token, as if the model ended with each state."""
    normed = ending(engine.model, engine.blocks, states)
    return head(engine.model, normed).float().log_softmax(dim=-1).cpu()


def _weights(engine: Engine, examples: Sequence[Example]) -> Tensor:
    """(vocabulary,) how much more the replies with the concept have of each token, which adds up to 1 on either side.

    The difference of both counts in units of its own spread, so that frequent words do not outweigh telling ones.
    """
    with_it, without = (
        Counter(token for example in examples for token in engine.prompter.reply(getattr(example, side)))
        for side in ("positive", "negative")
    )
    weights = torch.zeros(engine.vocabulary)
    for token in with_it | without:
        more, less = with_it[token], without[token]
        weights[token] = (more - less) / math.sqrt(more + less)
    above, below = weights.clamp_min(0.0), weights.clamp_max(0.0)
    return above / above.sum().clamp_min(1e-9) - below / below.sum().clamp_max(-1e-9)


def _steps(reader: Reader, name: str, examples: Sequence[Example], push: Tensor) -> Tensor:
    """(layers, vocabulary) what a push at each layer adds to the log-probabilities of the next token.

    It is the mean over replies without the concept that are broken off in their middle.
    """
    engine, chosen = reader.engine, examples[:_TEXTS]
    total = torch.zeros(len(push), engine.vocabulary)
    for done, example in enumerate(chosen):
        reader.watch.progress(f"reading {name} at every layer", done, len(chosen))
        chat = [{"role": "user", "content": example.prompt}]
        prompt = engine.prompter.chat(chat, thought=False) if example.prompt else engine.prompter.start()
        reply = engine.prompter.reply(example.negative)
        text = (*prompt, *reply[: len(reply) // 2])
        rows = [Row(text), *(Row(text, (Edit(layer, ADD, vector),)) for layer, vector in enumerate(push))]
        scores = next_log_probs(engine, rows)
        total += scores[1:] - scores[0]
    return total / len(chosen)
