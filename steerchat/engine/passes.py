"""Forward passes of a model: the positions and masks that it is given, and how much was computed.

Most models take a position for each token and a mask for each pair of tokens, so rows may have gaps and fork. Some do
not: those with ALiBi (Press et al. 2022, arXiv 2108.12409) count the columns between two tokens. `check` finds out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .hooks import base_of, device_of
from .transformers_api import Cache, cached


class Passes:
    """How one model is run.

    Attributes:
        device: where it begins to compute.
        by_column: whether the model is told no more than which columns each row uses. It then finds positions and masks
            itself, so each row has to fill the last columns without a gap, and none can fork.
        by_row: whether blocks can run for some rows of a batch: not where one looks at what an earlier one computed.
        count: the passes so far.
        positions: of real tokens in them.
    """

    def __init__(self, model: Any) -> None:
        self.device = device_of(model.get_input_embeddings())
        self.by_column = False
        self.by_row = not getattr(model.config.get_text_config(), "num_kv_shared_layers", 0)
        self.count = self.positions = 0
        self._model = model
        self._base = base_of(model)
        self._config = model.config.get_text_config()

    @property
    def layers(self) -> int:
        """How many layers may keep keys and values."""
        return self._config.num_hidden_layers

    def run(
        self, ids: Tensor, positions: Tensor, columns: Tensor, cache: Cache, head: bool, branches: Tensor | None = None
    ) -> Tensor:
        """One pass over new tokens.

        Args:
            ids, positions: (rows, new) of the new tokens.
            columns: (rows, columns) the position of the token in each column, the new ones last; -1 where a row has
                none.
            cache: the keys and values of the columns before.
            head: whether to go on to the logits of the last new column.
            branches: (rows, new) the number of each new token's branch, 0 for a trunk; None when all is trunk.

        Returns:
            (rows, new, hidden) final hidden states, or (rows, vocabulary) logits when `head`.
        """
        self.count += 1
        self.positions += int((columns[:, -ids.shape[1] :] >= 0).sum())
        arguments = {
            "input_ids": ids.to(self.device),
            "position_ids": positions.to(self.device),
            "attention_mask": self._mask(positions, columns, branches),
            "use_cache": True,
        }
        if head:
            return self._model(**arguments, **cached(self._model, cache), logits_to_keep=1).logits[:, -1]
        return self._base(**arguments, **cached(self._base, cache)).last_hidden_state

    def _mask(self, positions: Tensor, columns: Tensor, branches: Tensor | None) -> Any:
        """The attention mask, by layer type where the model has several; None when plain causal."""
        new, end = positions.shape[1], columns.shape[1]
        # Right padding is behind every real token: only a gap to the left of one needs a mask.
        gaps = bool((columns[:, : end - new] < 0).any())
        if self.by_column:
            return (columns >= 0).long().to(self.device) if gaps else None
        types = list(dict.fromkeys(getattr(self._config, "layer_types", None) or ()))
        reach = [self._reach(kind, end) for kind in types or [""]]
        if branches is None and not gaps and not any(reach) and (end == new or new == 1):
            return None
        seen, asked = columns[:, None, None, :], positions[:, None, :, None]
        full = (seen >= 0) & (seen <= asked)
        if branches is not None:
            full[..., -new:] &= (branches[:, None, None, :] == 0) | (
                branches[:, None, None, :] == branches[:, None, :, None]
            )
        whole = self._additive(full) if None in reach else None
        masks = [self._additive(full & near(asked, seen)) if near else whole for near in reach]
        return dict(zip(types, masks, strict=True)) if len(types) > 1 else masks[0]

    def _reach(self, kind: str, end: int) -> Any:
        """Which tokens a layer of this type sees at all, by the positions of both; None when all of `end` columns."""
        if kind == "full_attention":
            return None
        if kind == "chunked_attention":
            chunk: int = self._config.attention_chunk_size
            return (lambda asked, seen: asked // chunk == seen // chunk) if end > chunk else None
        window = getattr(self._config, "sliding_window", None)
        if window is None or end <= window or not getattr(self._config, "use_sliding_window", True):
            return None
        return lambda asked, seen: asked - seen < window

    def _additive(self, allowed: Tensor) -> Tensor:
        lowest = torch.finfo(self._model.dtype).min
        mask = torch.zeros(allowed.shape, dtype=self._model.dtype)
        return mask.masked_fill_(~allowed, lowest).to(self.device)
