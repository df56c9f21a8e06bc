"""Reading texts with the unsteered model: how likely it finds them, and its hidden states while it reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .backends import COMPILED_STEP
from .batch import Batch, Tree
from .head import head
from .hooks import StateReader
from .reuse import Plan
from .weights import slices

# Logits of one chunk stay below this many numbers (16 MB in float32): the answers of a sweep times a vocabulary
# would otherwise be the largest tensor of all, and fresh memory of that size costs as much as the product in it.
_LOGITS = 4 * 1024 * 1024

Position = Literal["mean", "last"]


@dataclass(frozen=True)
class Reading:
    """What the unsteered model makes of a text that goes on from a prompt.

    Attributes:
        tokens: the ids read: those of the text, which may differ from the sampled ones.
        log_probs: (tokens,) natural log-probability of each token given all before it.
        states: (layers, hidden) float32, each block's output averaged over the text's tokens.
    """

    tokens: tuple[int, ...]
    log_probs: Tensor
    states: Tensor

    @property
    def perplexity(self) -> float | None:
        """exp of the mean negative log-probability, the prompt not counted; None for an empty text."""
        if not len(self.log_probs):
            return None
        return math.exp(min(700.0, -float(self.log_probs.double().mean())))


def unread(layers: int, hidden: int) -> Reading:
    """In place of the reading of an answer that nobody wants measured."""
    return Reading((), torch.zeros(0), torch.zeros(layers, hidden))


def read(
    model: Any,
    blocks: nn.ModuleList,
    batch: Batch,
    heads: Sequence[Sequence[int]],
    texts: Sequence[Sequence[int]],
    plan: Plan | None = None,
) -> list[Reading]:
    """One pass over what each row of `batch` goes on with.

    Args:
        batch: rows that stand on the beginnings of their prompts.
        heads: the rest of each row's prompt, at least one token.
        texts: ids of each row's text; may be empty.
        plan: what is known of these rows, which are in its order; everything is computed without.
    """
    starts = [len(head) for head in heads]
    ends = [len(head) + len(text) for head, text in zip(heads, texts, strict=True)]
    weights = torch.zeros(len(texts), 1, max(ends))
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if start < end:
            weights[row, 0, start:end] = 1.0 / (end - start)
    reader = StateReader(blocks)
    reader.weights = weights
    with reader, nullcontext() if plan is None else plan.skipping(batch, max(ends)):
        hidden = batch.forward([[*head, *text] for head, text in zip(heads, texts, strict=True)])
    means = reader.means[:, 0]
    states = means if plan is None else plan.means(means, [len(text) for text in texts])
    scores = _log_probs(model, hidden, starts, texts)
    return [Reading(tuple(text), score, state) for text, score, state in zip(texts, scores, states, strict=True)]


def read_states(
    blocks: nn.ModuleList, batch: Batch, trees: Sequence[Tree], position: Position, check: Callable[[], None]
) -> list[Tensor]:
    """The states of every branch of one tree per row, by the unsteered model.

    Args:
        batch: rows that stand on what their trees have in common.
        trees: no branch is empty.
        position: `mean` averages states over a branch's tokens, `last` takes its last token's.
        check: called after every block; what it raises ends the pass.

    Returns:
        for each branch of the first tree, of the second, and so on: (layers, hidden) float32.
    """
    weights = torch.zeros(len(trees), max(len(tree.branches) for tree in trees), max(map(len, trees)))
    for row, tree in enumerate(trees):
        for number, place in enumerate(tree.places):
            if position == "last":
                weights[row, number, place.stop - 1] = 1.0
            else:
                weights[row, number, place] = 1.0 / (place.stop - place.start)
    reader = StateReader(blocks, check=check)
    reader.weights = weights
    with reader:
        batch.run_trees(trees)
    return [state for means, tree in zip(reader.means, trees, strict=True) for state in means[: len(tree.branches)]]


@torch.inference_mode()
def _log_probs(model: Any, hidden: Tensor, starts: Sequence[int], texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """Each text's log-probabilities from final hidden states (rows, positions, hidden), in chunks.

    The token at position p is foretold by the state at p - 1; a text begins at its row's `starts`.
    """
    rows = torch.cat([torch.full((len(text),), row) for row, text in enumerate(texts)])
    places = torch.cat([torch.arange(len(text)) + start - 1 for start, text in zip(starts, texts, strict=True)])
    wanted = torch.tensor([token for text in texts for token in text], dtype=torch.long)
    found = torch.empty(len(wanted))
    most = max(1, _LOGITS // model.config.get_text_config().vocab_size)
    for chunk in slices(len(wanted), most // COMPILED_STEP * COMPILED_STEP or most):
        scores = head(model, hidden[rows[chunk].to(hidden.device), places[chunk].to(hidden.device)]).float()
        picked = scores.gather(1, wanted[chunk].to(scores.device)[:, None]).squeeze(1)
        found[chunk] = (picked - scores.logsumexp(dim=-1)).cpu()
    return list(found.split([len(text) for text in texts]))
