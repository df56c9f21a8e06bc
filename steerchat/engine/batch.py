"""Rows of different lengths in one forward pass: their keys and values, positions and masks.

A `Context` is what is kept of one text between passes: its tokens and their unsteered keys and values. A
`Batch` stacks contexts, one per row, and runs new tokens on top of them. Rows may have different lengths:
columns that a row does not use carry position -1 and are masked, so a row computes what it would alone. Texts
that are only read need no row each: a `Tree` holds several behind the prompt that they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Any

import torch
from torch import Tensor

from .hooks import device_of
from .transformers_api import Cache, DynamicLayer, cached

# Room that a batch's buffers grow by, in tokens: large enough that growing is rare, small against a prompt.
_GROWTH = 128


@dataclass(frozen=True)
class Context:
    """Tokens and, per layer, their keys and values, each (heads, len(tokens), head size)."""

    tokens: tuple[int, ...]
    layers: tuple[tuple[Tensor, Tensor], ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def crop(self, length: int) -> Context:
        """Its first `length` tokens; shares memory with the whole."""
        if length >= len(self):
            return self
        return Context(self.tokens[:length], tuple((k[:, :length], v[:, :length]) for k, v in self.layers))


class _RowLayer(DynamicLayer):
    """One layer's keys and values in buffers that are written in place: concatenating them anew at every
    token, as DynamicLayer does, costs a copy of the whole cache per step.

    Args:
        size: rows of the buffers; the first `rows` of them run.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.length = 0
        self.rows = self._size = size

    def reserve(self, like_keys: Tensor, like_values: Tensor, capacity: int) -> None:
        """Buffers for `capacity` columns, shaped as keys and values (any, heads, any, size) are."""

        def grown(old: Tensor | None, like: Tensor) -> Tensor:
            new = like.new_zeros(self._size, like.shape[1], capacity, like.shape[3])
            if old is not None:
                new[:, :, : old.shape[2]] = old
            return new

        self.keys, self.values = grown(self.keys, like_keys), grown(self.values, like_values)
        self.is_initialized = True

    def shrink(self, capacity: int) -> None:
        """Keep the first `capacity` columns alone."""
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[:, :, :capacity].clone(), self.values[:, :, :capacity].clone()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        end = self.length + key_states.shape[-2]
        if self.keys is None or end > self.keys.shape[-2]:
            self.reserve(key_states, value_states, max(end + _GROWTH, self.length * 3 // 2))
        assert self.keys is not None and self.values is not None
        self.keys[: self.rows, :, self.length : end] = key_states
        self.values[: self.rows, :, self.length : end] = value_states
        self.length = end
        return self.keys[: self.rows, :, :end], self.values[: self.rows, :, :end]

    def get_seq_length(self) -> int:
        return self.length


@dataclass(frozen=True)
class Tree:
    """A trunk of tokens and branches that go on from it, each without a look at the others."""

    trunk: tuple[int, ...]
    branches: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.trunk) + sum(map(len, self.branches))

    @property
    def places(self) -> list[slice]:
        """Where each branch lies when trunk and branches are laid out one after the other."""
        ends = list(accumulate(map(len, self.branches), initial=len(self.trunk)))
        return [slice(start, end) for start, end in pairwise(ends)]


@dataclass
class Work:
    """What a model was made to compute: forward passes, and positions of real tokens in them."""

    passes: int = 0
    positions: int = 0


class Batch:
    """Rows in flight on one model.

    Args:
        model: a causal language model of transformers.
        contexts: what each row stands on; None for a row that starts empty.
        extra: how many more tokens a row will get, as far as known.
        work: counts what is computed.
    """

    def __init__(
        self, model: Any, contexts: Sequence[Context | None], extra: int = _GROWTH, work: Work | None = None
    ) -> None:
        self._model = model
        self._work = work or Work()
        self._device = device_of(model.get_input_embeddings())
        self._config = model.config.get_text_config()
        self.size = len(contexts)
        self.lengths = torch.tensor([len(context or ()) for context in contexts])
        self._width = int(self.lengths.max())
        # Position of the token in each column, -1 where a row has none: masks follow from this alone.
        self._columns = torch.full((self.size, self._width + extra), -1)
        self._layers = [_RowLayer(self.size) for _ in range(self._config.num_hidden_layers)]
        self._cache = Cache(layers=list(self._layers))
        self._active = self.size
        for row, context in enumerate(contexts):
            if context is not None and len(context):
                self._place(row, context)

    def _place(self, row: int, context: Context) -> None:
        """Put a context of at least one token into a row, in the last of the columns in use."""
        columns = slice(self._width - len(context), self._width)
        self._columns[row, columns] = torch.arange(len(context))
        for layer, (keys, values) in zip(self._layers, context.layers, strict=True):
            if layer.keys is None:
                layer.reserve(keys[None], values[None], self._columns.shape[1])
            assert layer.keys is not None and layer.values is not None
            layer.keys[row, :, columns] = keys
            layer.values[row, :, columns] = values
            layer.length = self._width

    @property
    def width(self) -> int:
        """Columns in use, whether or not every row uses them."""
        return self._width

    @property
    def bytes(self) -> int:
        """What its keys and values take, columns that are not in use included."""
        return sum(
            layer.keys.nbytes + layer.values.nbytes
            for layer in self._layers
            if layer.keys is not None and layer.values is not None
        )

    def forward(self, rows: Sequence[Sequence[int]], head: bool = False) -> Tensor:
        """Run new tokens, right-padded where rows differ.

        Args:
            rows: new token ids of each active row; at least one overall.
            head: whether to go on to the logits of each row's last new token.

        Returns:
            (active, most new tokens, hidden) final hidden states, or (active, vocabulary) logits when `head`.
        """
        return self.run(*_padded(rows), head)

    @torch.inference_mode()
    def run(self, ids: Tensor, counts: Tensor, head: bool) -> Tensor:
        """`forward` for ids already in a tensor: (active, most) long, of which row i uses its first counts[i]."""
        positions = self.lengths[: self._active, None] + torch.arange(ids.shape[1])
        return self._run(ids, positions, counts, head)

    @torch.inference_mode()
    def run_trees(self, trees: Sequence[Tree]) -> None:
        """One pass over a tree per row, its branches side by side; nothing can follow it.

        Each token sees what its row stands on, its trunk, and its own branch, as in tree attention (Miao et al.
        2023, SpecInfer): a trunk is computed once for all of its branches, and hardly anything is padding.
        """
        ids, counts = _padded([[*tree.trunk, *chain.from_iterable(tree.branches)] for tree in trees])
        positions = self.lengths[: self._active, None] + torch.arange(ids.shape[1])
        branches = torch.zeros_like(ids)
        for row, tree in enumerate(trees):
            for number, place in enumerate(tree.places, 1):
                positions[row, place] -= place.start - len(tree.trunk)
                branches[row, place] = number
        # Without a fork nothing needs a mask of its own, which for a long text would be large.
        forked = any(len(tree.branches) > 1 for tree in trees)
        self._run(ids, positions, counts, head=False, branches=branches if forked else None)

    def _run(
        self, ids: Tensor, positions: Tensor, counts: Tensor, head: bool, branches: Tensor | None = None
    ) -> Tensor:
        most, active = ids.shape[1], self._active
        end = self._width + most
        if end > self._columns.shape[1]:
            more = torch.full((self.size, _GROWTH + most + self._width // 2), -1)
            self._columns = torch.cat([self._columns, more], dim=1)
        self._columns[:active, self._width : end] = torch.where(torch.arange(most) < counts[:, None], positions, -1)
        mask = self._mask(positions, end, branches)
        self._width = end
        self.lengths[:active] += counts
        self._work.passes += 1
        self._work.positions += int(counts.sum())
        arguments = {
            "input_ids": ids.to(self._device),
            "position_ids": positions.to(self._device),
            "attention_mask": mask,
            "use_cache": True,
        }
        if head:
            return self._model(**arguments, **cached(self._model, self._cache), logits_to_keep=1).logits[:, -1]
        base = self._model.base_model
        return base(**arguments, **cached(base, self._cache)).last_hidden_state

    def _mask(self, positions: Tensor, end: int, branches: Tensor | None) -> Any:
        """The additive attention mask, by layer type where the model has several; None when plain causal.

        Args:
            positions: (active, new) of the new tokens.
            end: how many columns there are with them.
            branches: (active, new) the number of each new token's branch, 0 for a trunk; None when all is trunk.
        """
        columns = self._columns[: self._active, :end]
        window = getattr(self._config, "sliding_window", None)
        if not getattr(self._config, "use_sliding_window", True):
            window = None
        types = set(getattr(self._config, "layer_types", None) or ())
        slides = window is not None and end > window and types != {"full_attention"}
        # Right padding is behind every real token: only a gap to the left of one needs a mask.
        gaps = bool((columns[:, : self._width] < 0).any())
        if branches is None and not gaps and not slides and (self._width == 0 or positions.shape[1] == 1):
            return None
        seen = columns[:, None, None, :]
        asked = positions[:, None, :, None]
        full = (seen >= 0) & (seen <= asked)
        if branches is not None:
            new = full[..., self._width :]
            new &= (branches[:, None, None, :] == 0) | (branches[:, None, None, :] == branches[:, None, :, None])
        if not slides:
            mask = self._additive(full)
            return {kind: mask for kind in types} if len(types) > 1 else mask
        near = self._additive(full & (asked - seen < (window or 0)))
        if len(types) <= 1:
            return near
        return {kind: self._additive(full) if kind == "full_attention" else near for kind in types}

    def _additive(self, allowed: Tensor) -> Tensor:
        lowest = torch.finfo(self._model.dtype).min
        mask = torch.zeros(allowed.shape, dtype=self._model.dtype)
        return mask.masked_fill_(~allowed, lowest).to(self._device)

    @torch.inference_mode()
    def add(self, context: Context) -> None:
        """One more row runs, on top of `context`; fewer than `size` must run. Of two rows, neither knows of the other:
        columns that a row does not use are masked."""
        row, self._width = self._active, max(self._width, len(context))
        if self._width > self._columns.shape[1]:
            more = torch.full((self.size, self._width + _GROWTH - self._columns.shape[1]), -1)
            self._columns = torch.cat([self._columns, more], dim=1)
        for layer in self._layers:
            layer.length = self._width
            if layer.keys is not None and layer.values is not None:
                if self._width > layer.keys.shape[2]:
                    layer.reserve(layer.keys, layer.values, self._columns.shape[1])
                # What is masked is multiplied by zero, and zero times Inf would be NaN.
                layer.keys[row] = 0
                layer.values[row] = 0
        self._columns[row] = -1
        self.lengths[row] = len(context)
        if len(context):
            self._place(row, context)
        self.narrow(row + 1)

    @torch.inference_mode()
    def remove(self, row: int) -> None:
        """This row runs no more, and the last running row takes its place."""
        last = self._active - 1
        if row != last:
            for layer in self._layers:
                if layer.keys is not None and layer.values is not None:
                    layer.keys[row, :, : self._width] = layer.keys[last, :, : self._width]
                    layer.values[row, :, : self._width] = layer.values[last, :, : self._width]
            self._columns[row], self.lengths[row] = self._columns[last].clone(), self.lengths[last].clone()
        self.narrow(last)
        longest = int(self.lengths[:last].max()) if last else 0
        # Every step adds a column for all rows. Without this, rows that come and go would fill memory with columns of
        # those that went: a step costs one, and one in so many steps costs a copy of the rows.
        if not last or self._width > longest + _GROWTH:
            self._compact(longest)

    def _compact(self, width: int) -> None:
        """Give up the columns that no running row uses, and the memory of most of them."""
        for row in range(self._active):
            old = (self._columns[row, : self._width] >= 0).nonzero().squeeze(-1)
            new = slice(width - len(old), width)
            self._columns[row] = -1
            self._columns[row, new] = torch.arange(len(old))
            for layer in self._layers:
                for tensor in (layer.keys, layer.values):
                    if tensor is not None:
                        tensor[row, :, new] = tensor[row].index_select(1, old.to(tensor.device))
        self._width = width
        enough = width + _GROWTH
        if self._columns.shape[1] > 2 * enough:
            self._columns = self._columns[:, :enough].clone()
        for layer in self._layers:
            layer.length = width
            if layer.keys is not None and layer.keys.shape[2] > 2 * enough:
                layer.shrink(enough)

    @torch.inference_mode()
    def swap(self, first: int, second: int) -> None:
        """Exchange two rows. Nothing is lost: what they stand on is still needed when all have finished."""
        order = torch.tensor([second, first])
        pair = torch.tensor([first, second])
        for layer in self._layers:
            for tensor in (layer.keys, layer.values):
                if tensor is not None:
                    part = tensor[:, :, : layer.length]
                    part[pair.to(part.device)] = part[order.to(part.device)]
        self._columns[pair] = self._columns[order]
        self.lengths[pair] = self.lengths[order]

    def narrow(self, active: int) -> None:
        """From now on only the first `active` rows run."""
        self._active = active
        for layer in self._layers:
            layer.rows = active

    def limit(self, counts: Sequence[int]) -> None:
        """In the next pass, layer i computes the first `counts[i]` rows alone; `narrow` or `rewind` ends it."""
        for layer, count in zip(self._layers, counts, strict=True):
            layer.rows = count

    def rewind(self, width: int, lengths: Tensor) -> None:
        """Forget every column from `width` on, and let all rows run again, of these lengths."""
        self._width = width
        self._columns[:, width:] = -1
        self.lengths = lengths.clone()
        for layer in self._layers:
            layer.length = width
        self.narrow(self.size)

    def context(self, row: int, tokens: Sequence[int]) -> Context:
        """What row `row` now stands on, as a context of its own. `tokens` are the ids that it holds."""
        if not tokens:  # a batch in which nothing ran yet has no keys to take
            return Context((), ())
        columns = (self._columns[row, : self._width] >= 0).nonzero().squeeze(-1)[: len(tokens)]
        kept = []
        for layer in self._layers:
            assert layer.keys is not None and layer.values is not None
            index = columns.to(layer.keys.device)
            kept.append((layer.keys[row].index_select(1, index), layer.values[row].index_select(1, index)))
        return Context(tuple(tokens), tuple(kept))


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Ids (rows, most), zero behind the end of a row, and how many each has."""
    counts = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(counts.max()), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return ids, counts
