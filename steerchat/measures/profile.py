"""What is typical of a model's residual stream, measured once on the neutral corpus.

Two things: how long the stream is at each layer, which is the unit of strength, and what states ordinary
replies have, whose mean and spread along any direction are the zero and the unit of a concept score.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..engine.engine import Engine
from ..engine.hooks import LengthReader
from ..system.folders import write_whole
from ..system.untrusted import kept_tensors
from ..values.errors import ConceptError
from ..values.results import Watch

# Texts whose positions are measured for the typical length: thousands of positions, and the median is steady.
_LENGTH_TEXTS = 24


@dataclass(frozen=True)
class Profile:
    """A model's typical states.

    Attributes:
        fingerprint: of the model.
        corpus: digest of the texts it was measured on.
        lengths: (layers,) median length of the residual stream after each layer, over all positions but the
            first, which in many models is an attention sink tens of times longer.
        states: (texts, layers, hidden) mean state of each neutral reply, reply positions only.
    """

    fingerprint: str
    corpus: str
    lengths: Tensor
    states: Tensor

    def score(self, direction: Tensor, layer: int, state: Tensor) -> float:
        """How far a text's mean state lies along a direction, in standard deviations of the neutral corpus.

        Args:
            direction: (hidden,) of unit length.
            layer: where both are read.
            state: (hidden,) the text's mean state there.
        """
        mean, spread = self.scale(direction, layer)
        return (float(state @ direction) - mean) / spread

    def scale(self, direction: Tensor, layer: int) -> tuple[float, float]:
        """The projection on a direction at a layer that scores 0, and what a difference of 1 is."""
        neutral = self.states[:, layer].float() @ direction
        return float(neutral.mean()), float(neutral.std().clamp_min(1e-9))

    def save(self, path: Path) -> None:
        from safetensors.torch import save

        tensors = {"lengths": self.lengths, "states": self.states.to(torch.float16).contiguous()}
        write_whole(path, save(tensors, {"fingerprint": self.fingerprint, "corpus": self.corpus}))


def load_profile(path: Path, fingerprint: str, corpus: Path) -> Profile | None:
    """What `save` wrote, or None when it is another model's, another corpus's, or broken: it is measured again."""

    def current(metadata: Mapping[str, str]) -> bool:
        return (metadata.get("fingerprint"), metadata.get("corpus")) == (fingerprint, _digest(corpus))

    kept = kept_tensors(path, current, "lengths", "states")
    if kept is None:
        return None
    lengths, states = kept
    fits = lengths.ndim == 1 and states.ndim == 3 and lengths.shape[0] == states.shape[1] and len(states) > 0
    sound = fits and all(tensor.is_floating_point() and tensor.isfinite().all() for tensor in kept)
    return Profile(fingerprint, _digest(corpus), lengths, states) if sound else None


def neutral_texts(engine: Engine, corpus: Path) -> list[tuple[tuple[int, ...], list[int]]]:
    """The ids of each neutral prompt and of its reply. Raises ConceptError when the file cannot be read."""
    texts: list[tuple[tuple[int, ...], list[int]]] = []
    try:
        for line in corpus.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            prompt = engine.prompter.chat([{"role": "user", "content": entry["prompt"]}], thought=False)
            texts.append((tuple(prompt), engine.prompter.reply(entry["reply"])))
    except (OSError, ValueError, KeyError) as error:
        raise ConceptError(f"{corpus.name} cannot be read: {error}", "install steerchat again") from None
    return texts


def measure_profile(engine: Engine, corpus: Path, watch: Watch) -> Profile:
    """Read the corpus with the unsteered model.

    Raises:
        ConceptError: when the file cannot be read.
        Interrupted: when the watch stops it, between two blocks.
    """
    texts = neutral_texts(engine, corpus)
    states = engine.states(texts, "mean", watch, f"measuring {engine.name}'s typical activations", ", once")
    # Kept in sixteen bits, and used so from the start: a score is the same before and after a restart.
    return Profile(engine.fingerprint, _digest(corpus), _lengths(engine, texts), states.to(torch.float16))


def _lengths(engine: Engine, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Tensor:
    step = max(1, len(texts) // _LENGTH_TEXTS)
    with LengthReader(engine.blocks) as reader:
        for prompt, text in texts[::step]:
            engine.run([*prompt, *text])
    return reader.medians


def _digest(corpus: Path) -> str:
    return hashlib.sha256(corpus.read_bytes()).hexdigest()[:16]
