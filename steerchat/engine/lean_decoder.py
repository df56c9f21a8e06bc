"""The forward pass of a decoder whose blocks are lean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .batch import RowLayer
from .compiled_blocks import BlockWeights, CompiledBlocks, CompiledParts
from .hooks import only_reads, pushed_by
from .lean_block import LeanBlock, Rotation
from .linear import FastLinear
from .transformers_api import States, cached

# Largest difference that is rounding, as a share of the largest number.
_ROUNDING = 2e-4


class LeanDecoder:
    """The forward pass of a decoder from its embeddings to its last norm.

    Args:
        decoder: of a model whose blocks are lean.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._usual = decoder.forward
        self._window = getattr(decoder.config, "sliding_window", None)
        self._compiled: CompiledBlocks | None = None
        self._agree: bool | None = None  # whether machine code computes what the lean blocks do, once that was seen
        # What was found for the products in use and a number of rows.
        self._known: tuple[tuple[int, int], Sequence[BlockWeights | None]] | None = None

    def __call__(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Any = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        use_cache: bool | None = None,
        **others: Any,
    ) -> Any:
        """As the decoder's own: ids (rows, positions) to final states. What `Batch` never asks for is left to that."""
        kept = past_key_values if cache is None else cache
        more = any(value is not None and value is not False for value in others.values())
        if input_ids is None or position_ids is None or kept is None or more:
            usual = True
        elif attention_mask is None:  # plain causal, unless there is a past or a window to mask
            past, new = kept.get_seq_length(), input_ids.shape[1]
            usual = (past > 0 and new > 1) or (self._window is not None and past + new > self._window)
        else:
            usual = not isinstance(attention_mask, Tensor) or attention_mask.dim() != 4
        if usual:
            given = {"attention_mask": attention_mask, "position_ids": position_ids, "use_cache": use_cache, **others}
            if kept is not None:
                given |= cached(self._decoder, kept)
            return self._usual(input_ids=input_ids, **given)
        states = self._decoder.embed_tokens(input_ids)
        turn = Rotation.prepared(*self._decoder.rotary_emb(states, position_ids=position_ids))
        blocks, first = [*self._decoder.layers], 0
        if self._agree is None:  # the first text is read as all later ones are
            self._weights(blocks, states.shape[0] * states.shape[1])
        while first < len(blocks):
            run, pushes = self._run(blocks, first, kept, states)
            if run:
                states = self._compute(blocks, run, pushes, states, turn, kept, attention_mask)
                first = run.stop
            else:
                states = blocks[first](states, attention_mask=attention_mask, position_embeddings=turn, cache=kept)
                first += 1
        return States(last_hidden_state=self._decoder.norm(states))

    def _run(self, blocks: Sequence[Any], first: int, kept: Any, states: Tensor) -> tuple[range, Mapping[int, Tensor]]:
        """The blocks from `first` on that machine code computes at once, and what is added to the outputs of some.

        It does so for one token, up to a block whose output is changed in another way.
        """
        rows, positions, _ = states.shape
        pushes: dict[int, Tensor] = {}
        if positions > 1 or not isinstance(kept.layers[first], RowLayer) or kept.layers[first].keys is None:
            return range(first, first), pushes
        for number, weights in enumerate(self._weights(blocks, rows)[first:], first):
            block = blocks[number]
            if weights is None or block._forward_pre_hooks or not isinstance(vars(block).get("forward"), LeanBlock):
                return range(first, number), pushes
            *before, last = block._forward_hooks.values() or (None,)
            if last is None or (only_reads(last) and all(map(only_reads, before))):
                continue
            push = pushed_by(last)
            if push is None or not all(map(only_reads, before)):
                return range(first, number + 1), pushes
            pushes[number] = push
        return range(first, len(blocks)), pushes

    def _weights(self, blocks: Sequence[Any], rows: int) -> Sequence[BlockWeights | None]:
        """What machine code needs for so many rows of each block; None for one that it does not compute."""
        if self._known is None or self._known[0] != (FastLinear.uses, rows):
            lean = [vars(block).get("forward") for block in blocks]
            weights = [block.compiled(rows) if isinstance(block, LeanBlock) else None for block in lean]
            some = {number: own for number, own in enumerate(weights) if own is not None}
            if some and self._agree is None:
                self._agree = all(_agree(lean[number], some[number]) for number in (min(some), max(some)))
                for number in some:
                    lean[number].believed = self._agree
            if some and self._agree:
                self._compiled = self._compiled or CompiledBlocks(len(blocks))
                for number, own in some.items():
                    self._compiled.use(number, own)
            self._known = (FastLinear.uses, rows), weights if self._agree else [None] * len(blocks)
        return self._known[1]

    def _compute(
        self,
        blocks: Sequence[Any],
        run: range,
        pushes: Mapping[int, Tensor],
        states: Tensor,
        turn: Rotation,
        kept: Any,
        mask: Tensor | None,
    ) -> Tensor:
        """The states that leave a run of blocks; the hooks of each are called, but for those that push."""
        assert self._compiled is not None
        first = kept.layers[run.start]
        length, caches = first.length, [kept.layers[number].append() for number in run]
        outputs, last = self._compiled.run(run, states, turn, caches, length, first.alike, mask, pushes)
        for number, output in zip(run, outputs.unbind(), strict=True):
            block = blocks[number]
            for hook in block._forward_hooks.values():
                if number in pushes and not only_reads(hook):
                    continue
                changed = hook(block, (states,), output)
                if changed is not None:
                    output = last = changed
            states = output
        return last


def _agree(block: LeanBlock, weights: BlockWeights) -> bool:
    """Whether machine code computes for two tokens what the block does, and adds the same keys and values."""
    noise = torch.Generator().manual_seed(0)
    (rows, past), size, hidden = (2, 5), weights.size, len(weights.norms[0])
    kept, own = RowLayer(rows), RowLayer(rows)
    keys, values = torch.randn(2, rows, weights.heads[1], past, size, generator=noise)
    for layer in (kept, own):
        layer.update(keys, values)
    states = torch.randn(rows, 1, hidden, generator=noise)
    angles = torch.rand(rows, 1, size // 2, generator=noise).repeat(1, 1, 2)
    turn = Rotation.prepared(angles.cos(), angles.sin())
    mask = torch.zeros(rows, 1, 1, past + 1)
    mask[0, ..., 0] = torch.finfo(mask.dtype).min
    expected = block(states, mask, position_embeddings=turn, cache=SimpleNamespace(layers={block.number: kept}))
    compiled = CompiledBlocks(1)
    compiled.use(0, weights)
    _, got = compiled.run(range(1), states, turn, [own.append()], past, 0, mask, {})
    pairs = [(got, expected), *zip(own.tensors, kept.tensors, strict=True)]
    parts = CompiledParts(weights)
    for many in (5, 300):  # threads share few outputs, and many rows
        states = torch.randn(many, hidden, generator=noise)
        mixed = torch.randn(many, weights.heads[0] * size, generator=noise)
        pairs += [
            (parts.inward(states), block.inward(states)),
            (parts.outward(mixed, states), block.outward(mixed, states)),
        ]
    return all(bool((left - right).abs().max() <= _ROUNDING * right.abs().max()) for left, right in pairs)
