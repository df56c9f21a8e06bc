"""An answer token by token, and a prompt layer by layer: what the unsteered model makes of both."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..concepts.vector import read_layer
from ..engine.engine import Engine
from ..engine.head import ending, head
from ..engine.hooks import LastOutputs, hidden_of, streams_of
from ..values.results import Column, Pair, Strip
from .reader import Reader

_WANTED = 5


@dataclass(frozen=True)
class Guess:
    """A token and its probability by the unsteered model, at temperature 1."""

    text: str
    probability: float

    def to_json(self) -> dict[str, Any]:
        return {"token": self.text, "probability": float(f"{self.probability:.4g}")}


@dataclass(frozen=True)
class Step:
    """What the logit lens shows after one layer."""

    layer: int
    guess: Guess  # the likeliest next token, as if the model ended there
    length: float  # of the residual stream at the last position

    def to_json(self) -> dict[str, Any]:
        return {"layer": self.layer, **self.guess.to_json(), "length": float(f"{self.length:.4g}")}


def likelihoods(engine: Engine, prompt: Sequence[int], answer: Sequence[int]) -> list[Guess]:
    """Each token of an answer, and how likely the unsteered model finds it after all before it."""
    if not answer:
        return []
    reading = engine.read(prompt, answer)
    chances = reading.log_probs.exp().tolist()
    return [Guess(text, chance) for text, chance in zip(_pieces(engine, answer), chances, strict=True)]


@torch.inference_mode()
def wanted(engine: Engine, tokens: Sequence[int], count: int = _WANTED) -> list[Guess]:
    """The likeliest next tokens after `tokens`, by the unsteered model."""
    last = engine.run(tokens)[-1:]
    best = head(engine.model, last)[0].float().softmax(dim=-1).topk(count)
    return [
        Guess(engine.prompter.text([int(token)]), float(chance))
        for token, chance in zip(best.indices, best.values, strict=True)
    ]


def probe(reader: Reader, concepts: Sequence[str], pair: Pair, prompts: Sequence[Sequence[int]]) -> tuple[Strip, ...]:
    """Concepts read off a pair's answers, token by token, by the unsteered model.

    Args:
        prompts: the ids that the normal and the steered answer go on from.

    Returns:
        a strip for each concept and answer; none when an answer is too short to tell its tokens apart.

    Raises:
        UnknownName: for a concept that does not exist.
    """
    engine = reader.engine
    vectors = [reader.vector(name, pair.seed) for name in concepts]
    # As scores are taken: off the text, which may be other tokens than the sampled ones.
    replies = [engine.prompter.reply(answer.text) for answer in pair.answers]
    if any(len(reply) < 2 for reply in replies):
        return ()
    layers = {read_layer(vector) for vector in vectors}
    states = [
        _states(engine, [*prompt, *reply], layers, len(prompt)) for prompt, reply in zip(prompts, replies, strict=False)
    ]
    columns: tuple[Column, ...] = ("normal", "steered")
    strips = []
    for vector in vectors:
        layer = read_layer(vector)
        direction = vector.directions[layer]
        along = [read[layer] @ direction for read in states]
        mean, spread = along[0].mean(), along[0].std().clamp_min(1e-9)
        for column, reply, read, values in zip(columns, replies, states, along, strict=False):
            score = reader.profile.score(direction, layer, read[layer].mean(dim=0))
            pieces = _pieces(engine, reply)
            strips.append(Strip(vector.name, column, pieces, ((values - mean) / spread).tolist(), score))
    return tuple(strips)


@torch.inference_mode()
def _states(engine: Engine, tokens: Sequence[int], layers: Collection[int], start: int) -> dict[int, Tensor]:
    """(tokens, hidden) after each of `layers`, from position `start` on."""
    with LastOutputs(engine.blocks, layers) as last:
        engine.run(tokens)
    return {layer: hidden_of(output)[0, start:].float().cpu() for layer, output in last.outputs.items()}


@torch.inference_mode()
def lens(engine: Engine, tokens: Sequence[int]) -> list[Step]:
    """The logit lens at the last position of `tokens`, for every layer."""
    with LastOutputs(engine.blocks) as last:
        engine.run(tokens)
    # By layer: (1, hidden), or (streams, 1, hidden).
    outputs = [streams_of(last.outputs[layer])[..., -1, :] for layer in last.layers]
    states = torch.cat([output.to(engine.device) for output in outputs], dim=-2)
    best = head(engine.model, ending(engine.model, engine.blocks, states)).float().softmax(dim=-1).max(dim=-1)
    lengths = (states if states.dim() == 2 else states[0]).float().norm(dim=-1)
    return [
        Step(layer, Guess(engine.prompter.text([int(token)]), float(chance)), float(length))
        for layer, (token, chance, length) in enumerate(zip(best.indices, best.values, lengths, strict=True))
    ]


def last_states(engine: Engine, texts: Sequence[Sequence[int]]) -> Tensor:
    """(texts, layers, hidden) float32 after each block, at the last token of each text."""
    return engine.states([(tokens[:-1] or engine.prompter.start(), tokens[-1:]) for tokens in texts], "last")


def _pieces(engine: Engine, ids: Sequence[int]) -> list[str]:
    """The text that each token adds; one that ends inside a character adds nothing until it is whole."""
    from ..engine.prompting import TextStream

    stream = TextStream(engine.prompter)
    pieces = [stream.push(token) for token in ids]
    pieces[-1] += stream.close()
    return pieces
