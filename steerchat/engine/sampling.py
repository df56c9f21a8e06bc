"""Choosing the next token of every row with shared noise.

Sampling is Gumbel-max over the processed logits: argmax(logits / temperature + noise) draws from the softmax.
The noise depends on the seed and the step alone, so rows with one seed differ only where their logits do
(common random numbers), and a row draws the same whatever else is in its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .likeliest import likeliest

# So many of the likeliest tokens nearly always hold the nucleus at temperature 0.7. For a row that needs more, as an
# incoherent one does, the number grows by this factor: to sort a vocabulary for all rows takes as long as a step.
_NUCLEUS, _GROWTH = 128, 8


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0 is greedy.
        top_p: the nucleus: the smallest set of tokens with this probability; 1 is everything.
        repetition_penalty: 1 is none; divides positive logits of tokens already seen (Keskar et al. 2019).
        max_tokens: how many at most, the end token not counted.
        steer_thinking: whether a model that thinks first is pushed while it does; else from the end of its thought on.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    repetition_penalty: float = 1.1
    max_tokens: int = 200
    steer_thinking: bool = True

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Sampler:
    """Chooses tokens for the rows of one batch.

    `prompts`: token ids of each row's prompt, which the repetition penalty counts as seen.
    """

    def __init__(
        self, sampling: Sampling, prompts: Sequence[Sequence[int]], seeds: Sequence[int], device: torch.device
    ) -> None:
        self._sampling = sampling
        self._device = device
        distinct = list(dict.fromkeys(seeds))
        self._generators = [torch.Generator().manual_seed(seed) for seed in distinct]
        self._noise_of = torch.tensor([distinct.index(seed) for seed in seeds], device=device)
        width = max(map(len, prompts))
        # Padding repeats a token that the row has seen anyway: any other would be penalised in this row
        # only because its neighbour is longer.
        self._seen = torch.tensor([[p[0]] * (width - len(p)) + list(p) for p in prompts], device=device)

    def step(self, logits: Tensor) -> Tensor:
        """The next token of each row. `logits`: (rows, vocabulary); returns (rows,) long."""
        tokens = self._choose(self._processed(logits.float()))
        self._seen = torch.cat([self._seen, tokens[:, None]], dim=1)
        return tokens

    def _processed(self, scores: Tensor) -> Tensor:
        """Scores with the repetition penalty and the temperature, number for number as transformers applies them.

        Its own processors go through the whole vocabulary five times, which is a tenth of a sweep's step.
        """
        penalty, temperature = self._sampling.repetition_penalty, self._sampling.temperature or 1.0
        processed = scores / temperature
        if penalty != 1.0:
            seen = scores.gather(1, self._seen)
            seen = torch.where(seen < 0, seen * penalty, seen / penalty) / temperature
            processed.scatter_(1, self._seen, seen)
        return processed

    def _choose(self, scores: Tensor) -> Tensor:
        if self._sampling.temperature == 0:
            return scores.argmax(dim=-1)
        noise = self._noise(scores.shape[-1])
        if self._sampling.top_p >= 1:
            return (scores + _gumbel(noise[self._noise_of])).argmax(dim=-1)
        values, indices = self._nucleus(scores)
        noisy = values + _gumbel(noise[self._noise_of[:, None], indices])
        return indices.gather(1, noisy.argmax(dim=-1, keepdim=True)).squeeze(1)

    def _noise(self, vocabulary: int) -> Tensor:
        """Uniform noise of this step, (seeds, vocabulary). Drawn on the CPU: a seed means the same everywhere."""
        draws = [torch.rand(vocabulary, generator=generator) for generator in self._generators]
        return torch.stack(draws).to(self._device)

    def _nucleus(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The likeliest tokens that together hold top_p, and their equals, as (values, indices); -inf beyond them."""
        total, top_p, vocabulary = scores.logsumexp(dim=-1, keepdim=True), self._sampling.top_p, scores.shape[-1]
        size = min(_NUCLEUS, vocabulary)
        values, indices = likeliest(scores, size)
        while True:
            mass = (values - total).exp().cumsum(dim=-1)
            short = mass[:, -1] < top_p
            if size == vocabulary or not bool(short.any()):
                break
            more = min(size * _GROWTH, vocabulary) - size
            size += more
            values = nn.functional.pad(values, (0, more), value=-torch.inf)
            indices = nn.functional.pad(indices, (0, more))
            values[short], indices[short] = scores[short].topk(size, dim=-1)
        before = torch.cat([torch.zeros_like(mass[:, :1]), mass[:, :-1]], dim=-1)
        # Equal scores, of which products in sixteen bits make many, come in an order that depends on how many tokens
        # are looked at: those equal to the last one of the nucleus belong to it, so that a row needs no other row.
        last = values.masked_fill(before >= top_p, torch.inf).amin(dim=-1, keepdim=True)
        return values.masked_fill(values < last, -torch.inf), indices

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        rows = rows.to(self._device)
        self._seen, self._noise_of = self._seen[rows], self._noise_of[rows]


def _gumbel(uniform: Tensor) -> Tensor:
    # rand draws from [0, 1): zero would give -inf, and the smallest normal number keeps it finite.
    return -torch.log(-torch.log(uniform.clamp_min(torch.finfo(torch.float32).tiny)))
