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

from .passes import Passes
from .transformers_api import Cache, DynamicLayer

# Room that a batch's buffers grow by, in tokens: large enough that growing is rare, small against a prompt.
_GROWTH = 128


@dataclass(frozen=True)
class Context:
    """Tokens and, per layer, their keys and values, each (heads, len(tokens), head size).

    None stands for a layer that keeps none of its own, because it attends to those of an earlier one.
    """

    tokens: tuple[int, ...]
    layers: tuple[tuple[Tensor, Tensor] | None, ...]

    def __len__(self) -> int:
        return len(self.tokens)

    def crop(self, length: int) -> Context:
        """Its first `length` tokens; shares memory with the whole."""
        if length >= len(self):
            return self
        cut = tuple(pair and (pair[0][:, :length], pair[1][:, :length]) for pair in self.layers)
        return Context(self.tokens[:length], cut)


class RowLayer(DynamicLayer):
    """One layer's keys and values in buffers that are written in place: concatenating them anew at every
    token, as DynamicLayer does, costs a copy of the whole cache per step.

    `size`: rows of the buffers; the first `rows` of them run.

    Attributes:
        length: columns in use.
        alike: so many of the first hold the same in all rows: they need not be read for each.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.length = self.alike = 0
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

    @property
    def tensors(self) -> list[Tensor]:
        """The buffers of keys and values; none before there are any."""
        return [tensor for tensor in (self.keys, self.values) if tensor is not None]

    def shrink(self, capacity: int) -> None:
        """Keep the first `capacity` columns alone."""
        assert self.keys is not None and self.values is not None
        self.keys, self.values = self.keys[:, :, :capacity].clone(), self.values[:, :, :capacity].clone()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        end = self.length + key_states.shape[-2]
        if self.keys is None or end > self.keys.shape[-2]:
            self.reserve(key_states, value_states, self._more(end))
        assert self.keys is not None and self.values is not None
        keys, values = self.keys, self.values
        if self.rows != self._size:
            keys, values = keys[: self.rows], values[: self.rows]
        keys.narrow(2, self.length, end - self.length).copy_(key_states)
        values.narrow(2, self.length, end - self.length).copy_(value_states)
        self.length = end
        return keys.narrow(2, 0, end), values.narrow(2, 0, end)

    def append(self) -> tuple[Tensor, Tensor]:
        """The buffers with one more column, which the caller writes. There must be buffers."""
        assert self.keys is not None and self.values is not None
        if self.length == self.keys.shape[2]:
            self.reserve(self.keys, self.values, self._more(self.length + 1))
        self.length += 1
        return self.keys, self.values

    def _more(self, end: int) -> int:
        return max(end + _GROWTH, self.length * 3 // 2)

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


class Batch:
    """Rows in flight on one model.

    Args:
        contexts: what each row stands on; None for a row that starts empty.
        extra: how many more tokens a row will get, as far as known.
    """

    def __init__(self, passes: Passes, contexts: Sequence[Context | None], extra: int = _GROWTH) -> None:
        self._passes = passes
        self.size = len(contexts)
        self.lengths = torch.tensor([len(context or ()) for context in contexts])
        self._width = int(self.lengths.max())
        # Position of the token in each column, -1 where a row has none: masks follow from this alone.
        self._columns = torch.full((self.size, self._width + extra), -1)
        self._layers = [RowLayer(self.size) for _ in range(passes.layers)]
        self._cache = Cache(layers=list(self._layers))
        self._active = self.size
        for row, context in enumerate(contexts):
            if context is not None and len(context):
                self._place(row, context)
        if all(context is contexts[0] for context in contexts):
            for layer in self._layers:
                layer.alike = layer.length

    def _place(self, row: int, context: Context) -> None:
        """Put a context of at least one token into a row, in the last of the columns in use."""
        columns = slice(self._width - len(context), self._width)
        self._columns[row, columns] = torch.arange(len(context))
        for layer, pair in zip(self._layers, context.layers, strict=True):
            if pair is None:
                continue
            keys, values = pair
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
        return sum(tensor.nbytes for layer in self._layers for tensor in layer.tensors)

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
        self._width = end
        self.lengths[:active] += counts
        output = self._passes.run(ids, positions, self._columns[:active, :end], self._cache, head, branches)
        if self._passes.by_column and bool((counts < most).any()):
            self._compact(int(self.lengths[:active].max()))
        return output

    @torch.inference_mode()
    def add(self, context: Context) -> None:
        """One more row runs, on top of `context`; fewer than `size` must run. Of two rows, neither knows of the other:
        columns that a row does not use are masked."""
        row, self._width = self._active, max(self._width, len(context))
        if self._width > self._columns.shape[1]:
            more = torch.full((self.size, self._width + _GROWTH - self._columns.shape[1]), -1)
            self._columns = torch.cat([self._columns, more], dim=1)
        for layer in self._layers:
            layer.length, layer.alike = self._width, 0
            if layer.keys is not None and layer.values is not None and self._width > layer.keys.shape[2]:
                layer.reserve(layer.keys, layer.values, self._columns.shape[1])
            for tensor in layer.tensors:
                tensor[row] = 0  # what is masked is multiplied by zero, and zero times Inf would be NaN
        self._columns[row] = -1
        self.lengths[row] = len(context)
        if len(context):
            self._place(row, context)
        self.narrow(row + 1)
        if self._passes.by_column:
            self._compact(self._width)

    @torch.inference_mode()
    def remove(self, row: int) -> None:
        """This row runs no more, and the last running row takes its place."""
        last = self._active - 1
        if row != last:
            for layer in self._layers:
                for tensor in layer.tensors:
                    tensor[row, :, : self._width] = tensor[last, :, : self._width]
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
                for tensor in layer.tensors:
                    tensor[row, :, new] = tensor[row].index_select(1, old.to(tensor.device))
        self._width = width
        enough = width + _GROWTH
        if self._columns.shape[1] > 2 * enough:
            self._columns = self._columns[:, :enough].clone()
        for layer in self._layers:
            layer.length, layer.alike = width, 0
            if layer.keys is not None and layer.keys.shape[2] > 2 * enough:
                layer.shrink(enough)

    @torch.inference_mode()
    def swap(self, first: int, second: int) -> None:
        """Exchange two rows. Nothing is lost: what they stand on is still needed when all have finished."""
        order = torch.tensor([second, first])
        pair = torch.tensor([first, second])
        for layer in self._layers:
            for tensor in layer.tensors:
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
            layer.length, layer.alike = width, min(layer.alike, width)
        self.narrow(self.size)

    def context(self, row: int, tokens: Sequence[int]) -> Context:
        """What row `row` now stands on, as a context of its own. `tokens` are the ids that it holds."""
        if not tokens:  # a batch in which nothing ran yet has no keys to take
            return Context((), ())
        columns = (self._columns[row, : self._width] >= 0).nonzero().squeeze(-1)[: len(tokens)]
        kept: list[tuple[Tensor, Tensor] | None] = []
        for layer in self._layers:
            if layer.keys is None or layer.values is None:
                kept.append(None)
                continue
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
