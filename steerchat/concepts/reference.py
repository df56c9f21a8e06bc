"""The mean replies of the library: what `centred` concepts are compared with.

A happy, an angry and a sad reply all differ from a plain one in the same way: they are told with feeling. Against
plain replies alone, the vectors of tones are mostly this shared direction, and each of them raises all tones. So a
centred concept is compared with the mean reply of all tones, as Jorgensen et al. 2023 do (Mean-centring, arXiv
2312.03813), and with its own plain replies for the rest.
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


@dataclass(frozen=True)
class Reference:
    """A model's mean states over replies of the library.

    Attributes:
        fingerprint: the model's.
        examples: digest of the texts.
        tones: (layers, hidden) float32, over replies that show one of the tones.
        plain: the same over their plain replies.
    """

    fingerprint: str
    examples: str
    tones: Tensor
    plain: Tensor

    @property
    def shared(self) -> Tensor:
        """(layers, hidden) what all tones share: their mean reply less the plain one."""
        return self.tones - self.plain

    def save(self, path: Path) -> None:
        """Write safetensors. The file is complete or absent."""
        from safetensors.torch import save

        tensors = {"tones": self.tones.contiguous(), "plain": self.plain.contiguous()}
        write_whole(path, save(tensors, {"fingerprint": self.fingerprint, "examples": self.examples}))


def reference_examples(tones: Sequence[Concept]) -> tuple[Example, ...]:
    """The pairs that a reference is read from: the first of each tone that are not held out."""
    examples: list[Example] = []
    for tone in tones:
        examples += [example for example in tone.examples if not example.held_out][:PAIRS]
    return tuple(examples)


def examples_digest(examples: Sequence[Example]) -> str:
    """A hash of the pairs: a reference with another one is out of date."""
    return Concept("", "", "", tuple(examples)).digest


def load_reference(path: Path, fingerprint: str, examples: str) -> Reference | None:
    """What `save` wrote; None when it is another model's, of other texts, or broken: it is read again."""

    def current(metadata: Mapping[str, str]) -> bool:
        return (metadata.get("fingerprint"), metadata.get("examples")) == (fingerprint, examples)

    kept = kept_tensors(path, current, "tones", "plain")
    if kept is None:
        return None
    tones, plain = (tensor.float() for tensor in kept)
    sound = tones.ndim == 2 and tones.shape == plain.shape and bool(torch.isfinite(tones + plain).all())
    return Reference(fingerprint, examples, tones, plain) if sound else None
