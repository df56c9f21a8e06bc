"""The library's tones on a model: what `centred` concepts are compared with.

A happy, an angry and a sad reply all differ from a plain one in the same way: they are told with feeling. Against
plain replies alone, the vectors of tones are mostly this shared direction, and each of them raises all tones. So a
centred concept is made in two steps:

1. It is compared with the mean reply of all tones, as Jorgensen et al. 2023 do (Mean-centring, arXiv 2312.03813), and
   with its own plain replies for the rest.
2. What it still shares with single tones, such as calm with poetic, is damped: (C + RIDGE)^-1 v, where C is the sum of
   the tones' unit directions, each times itself. That is a linear discriminant against the other tones (Fisher 1936),
   shrunk with a ridge because the directions are few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..system.folders import write_whole
from ..system.untrusted import kept_tensors
from .concept import Concept, Example

# Of each tone, so many pairs are read: a mean over all tones needs no more.
PAIRS = 8
# The weight of the tones' mean reply in what a centred concept is compared with; the rest is its own plain reply.
CENTRED = 0.8
# How much of what a concept shares with another tone is left: with a ridge of 2, a shared cosine shrinks to 2/3.
RIDGE = 2.0
# A tone at this mean cosine is the concept itself, or another word for it: it is not damped. Of the shipped tones, the
# nearest two have 0.55, and a tone from eight pairs has 0.87 or more with the same from all pairs.
_SAME = 0.75


@dataclass(frozen=True)
class Reference:
    """A model's mean states over replies of the library."""

    fingerprint: str  # the model's
    examples: str  # digest of the texts
    tones: Tensor  # (layers, hidden) float32, over replies that show one of the tones
    plain: Tensor  # the same over their plain replies
    each: Tensor  # (number of tones, layers, hidden) float32, the unit direction of each tone, centred

    @classmethod
    def of(cls, fingerprint: str, examples: str, positive: Tensor, negative: Tensor) -> Reference:
        """From the mean replies of each tone with it and without, each (number of tones, layers, hidden)."""
        tones = positive.mean(dim=0)
        each = torch.nn.functional.normalize(positive - centre(tones, negative), dim=-1)
        return cls(fingerprint, examples, tones, negative.mean(dim=0), each)

    @property
    def shared(self) -> Tensor:
        """(layers, hidden) what all tones share: their mean reply less the plain one."""
        return self.tones - self.plain

    def apart(self, raw: Tensor) -> Tensor:
        """A centred difference, (layers, hidden), less most of what it shares with other tones."""
        cosines = torch.einsum("tlh,lh->tl", self.each, torch.nn.functional.normalize(raw, dim=-1))
        others = self.each[cosines.mean(dim=1) < _SAME].transpose(0, 1)  # (layers, others, hidden)
        if not others.shape[1]:
            return raw
        overlap = others @ others.mT + RIDGE * torch.eye(others.shape[1])
        weights = torch.linalg.solve(overlap, others @ raw.unsqueeze(-1))
        return raw - (others.mT @ weights).squeeze(-1)

    def save(self, path: Path) -> None:
        """Write safetensors. The file is complete or absent."""
        from safetensors.torch import save

        tensors = {"tones": self.tones.contiguous(), "plain": self.plain.contiguous(), "each": self.each.half()}
        write_whole(path, save(tensors, {"fingerprint": self.fingerprint, "examples": self.examples}))


def centre(tones: Tensor, plain: Tensor) -> Tensor:
    """What a tone is compared with: most of the tones' mean reply, and plain replies for the rest."""
    return CENTRED * tones + (1 - CENTRED) * plain


def reference_examples(tones: Sequence[Concept]) -> tuple[tuple[Example, ...], ...]:
    """The pairs that a reference is read from: for each tone, the first that are not held out."""
    return tuple(tuple([e for e in tone.examples if not e.held_out][:PAIRS]) for tone in tones)


def examples_digest(examples: Sequence[Sequence[Example]]) -> str:
    """A hash of the pairs: a reference with another one is out of date."""
    return Concept("", "", "", tuple(example for tone in examples for example in tone)).digest


def load_reference(path: Path, fingerprint: str, examples: str) -> Reference | None:
    """What `save` wrote; None when it is another model's, of other texts, or broken: it is read again."""

    def current(metadata: Mapping[str, str]) -> bool:
        return (metadata.get("fingerprint"), metadata.get("examples")) == (fingerprint, examples)

    kept = kept_tensors(path, current, "tones", "plain", "each")
    if kept is None:
        return None
    tones, plain, each = (tensor.float() for tensor in kept)
    sound = tones.ndim == 2 and tones.shape == plain.shape == each.shape[1:]
    sound = sound and bool(torch.isfinite(tones + plain).all()) and bool(torch.isfinite(each).all())
    return Reference(fingerprint, examples, tones, plain, each) if sound else None
