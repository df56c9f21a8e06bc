"""What need not be computed twice: contexts that conversations keep, and beginnings that texts share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import chain

from ..values.results import shared_length
from .batch import Context, Tree

# What the contexts of all conversations may keep together: a share of the free memory, and no more than so many tokens.
# A server would otherwise grow with each new conversation until a machine's memory is short.
_SHARE = 0.25
_TOKENS = 1 << 14
# Beyond so many tokens in a row, attention spends more on what is masked than side by side saves.
_ROW = 192


class Contexts:
    """Keys and values that conversations go on from. All conversations share one budget of memory.

    Args:
        bytes_per_token: what a token's keys and values take.
        free_memory: bytes that may still be allocated on the model's device.

    Attributes:
        preambles: what most prompts begin with, by what the products that computed it were prepared for.
    """

    def __init__(self, bytes_per_token: int, free_memory: Callable[[], int]) -> None:
        self._bytes_per_token = bytes_per_token
        self._free_memory = free_memory
        self.preambles: dict[int | None, Context] = {}
        self._kept: dict[Hashable, list[Context]] = {}  # the conversation that spoke last at the end

    def keep(self, conversation: Hashable, contexts: list[Context]) -> None:
        """Keep a conversation's contexts in place of its earlier ones, and of others that are beginnings of them.
        Beyond the budget, those that were silent longest go."""
        self._kept.pop(conversation, None)
        for other, old in list(self._kept.items()):
            if all(any(part.tokens == new.tokens[: len(part)] for new in contexts) for part in old):
                del self._kept[other]  # all of it is in these too
        self._kept[conversation] = contexts
        budget = min(self._free_memory() * _SHARE, self._bytes_per_token * _TOKENS)
        while len(self._kept) > 1 and self.bytes > budget:
            del self._kept[next(iter(self._kept))]

    def reusable(self, tokens: tuple[int, ...]) -> Context | None:
        """The kept context that shares the longest beginning with `tokens`, cut to that."""
        kept = chain.from_iterable(self._kept.values())
        best = max(kept, key=lambda context: shared_length(context.tokens, tokens), default=None)
        length = 0 if best is None else shared_length(best.tokens, tokens)
        return best.crop(length) if best is not None and length else None

    @property
    def bytes(self) -> int:
        """What all kept contexts take."""
        return self._bytes_per_token * sum(map(len, chain.from_iterable(self._kept.values())))

    def forget(self) -> None:
        self._kept, self.preambles = {}, {}


def trees(
    texts: Sequence[tuple[Sequence[int], Sequence[int]]], shared: int, forks: bool
) -> list[tuple[Tree, list[int]]]:
    """Texts as branches of what their prompts go on with after `shared` tokens, with their indices; longest first.

    `forks`: whether a tree may have several branches.
    """
    members: dict[tuple[int, ...], list[list[int]]] = {}
    for index, (prompt, text) in enumerate(texts):
        rows = members.setdefault(tuple(prompt[shared:]), [[]])
        used = len(prompt) - shared + sum(len(texts[other][1]) for other in rows[-1])
        if rows[-1] and (not forks or used + len(text) > _ROW):
            rows.append([])
        rows[-1].append(index)
    trees = [
        (Tree(trunk, tuple(tuple(texts[index][1]) for index in row)), row)
        for trunk, rows in members.items()
        for row in rows
    ]
    return sorted(trees, key=lambda tree: -len(tree[0]))


def common_prefix(texts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    if not texts:
        return ()
    # The least and the greatest differ at least as early as any two between them.
    low, high = min(texts), max(texts)
    return low[: shared_length(low, high)]
