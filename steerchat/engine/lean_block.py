"""The forward pass of one block of the Llama shape, with fewer operations than transformers' own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .backends import FOUR_BIT
from .compiled_blocks import BlockWeights, CompiledParts
from .linear import FastLinear, Part
from .machine_code import LANES
from .weights import Dense, Weight, joined


class LeanBlock:
    """The forward pass of one block.

    Args:
        block: of a model on the CPU in float32, without gradients.

    Attributes:
        number: of the block.
        layers: the linear layers in the order in which they are used.
        believed: whether machine code may compute many tokens: it has been seen to compute the same.
    """

    believed = False

    def __init__(self, block: Any) -> None:
        attention, feed_forward = block.self_attn, block.mlp
        self.number: int = attention.layer_idx
        self._size: int = attention.head_dim
        self._scaling: float = attention.scaling
        self._before, self._between = _Norm(block.input_layernorm), _Norm(block.post_attention_layernorm)
        self._activation = feed_forward.act_fn
        self._heads, self._shared = (layer.out_features // self._size for layer in (attention.q_proj, attention.k_proj))
        self._block = block
        self._parts: list[tuple[nn.Module, str, Part]] = []
        self._inward = self._joined(attention, "q_proj", "k_proj", "v_proj")
        self._outward = _fast(attention.o_proj)
        self._wide = self._joined(feed_forward, "gate_proj", "up_proj")
        self._down = _fast(feed_forward.down_proj)
        self.layers = [self._inward, self._outward, self._wide, self._down]
        runs = all(not layer.out_features % LANES for layer in self.layers)
        self._compiles = _is_silu(self._activation) and runs and not self._size % (2 * LANES)
        self._forms: list[Any] = [None] * len(self.layers)  # that `_weights` are of
        self._weights: BlockWeights | None = None
        self._compiled: CompiledParts | None = None

    def install(self) -> None:
        """Take the place of the block's forward pass; the layers that were joined become parts of the joined ones."""
        self._block.forward = self
        for parent, name, part in self._parts:
            setattr(parent, name, part)

    def _joined(self, parent: Any, *names: str) -> FastLinear:
        """One layer whose output is those of several, side by side."""
        layers = [getattr(parent, name) for name in names]
        biases = [layer.bias for layer in layers]
        whole = FastLinear.of(
            joined([_stored(layer) for layer in layers]),
            None if any(bias is None for bias in biases) else torch.cat([bias.detach() for bias in biases]),
        )
        start = 0
        for name, layer in zip(names, layers, strict=True):
            rows = slice(start, start + layer.out_features)
            if "weight" in layer._parameters:  # memory holds one of them
                layer.weight = nn.Parameter(whole.weight[rows], requires_grad=False)
            self._parts.append((parent, name, Part(whole, rows)))
            start = rows.stop
        return whole

    def __call__(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        use_cache: bool = False,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """As the block's own: states (rows, positions, hidden) to states of the same shape."""
        assert position_embeddings is not None
        turn = position_embeddings
        if not isinstance(turn, Rotation):
            turn = Rotation.prepared(*turn)
        rows, positions, hidden = hidden_states.shape
        state = hidden_states.reshape(rows * positions, hidden)
        parts = self._compiled_parts(rows * positions) if positions > 1 else None
        inward = (parts or self).inward(state).view(rows, positions, -1, self._size)
        turned, values = inward.split((self._heads + self._shared, self._shared), dim=2)
        turned = turn.of(turned).transpose(1, 2)
        queries, keys = turned.split((self._heads, self._shared), dim=1)
        values = values.transpose(1, 2)
        kept = past_key_values if cache is None else cache
        if kept is not None:
            keys, values = kept.layers[self.number].update(keys, values)
        mixed = self._attend(queries, keys, values, attention_mask).reshape(rows * positions, -1)
        return (parts or self).outward(mixed, state).view(rows, positions, hidden)

    def inward(self, states: Tensor) -> Tensor:
        """Queries, keys and values side by side, (n, all), of the states (n, hidden) that enter."""
        return self._inward.product(self._before(states))

    def outward(self, mixed: Tensor, states: Tensor) -> Tensor:
        """The states that leave, of what attention gives (n, all) and the states that enter."""
        states = self._outward.product(mixed).add_(states)
        gate, up = self._wide.product(self._between(states)).chunk(2, dim=-1)
        return self._down.product(self._activation(gate).mul_(up)).add_(states)

    def compiled(self, rows: int) -> BlockWeights | None:
        """What machine code needs to compute it for one token of so many rows: of products of four bits alone."""
        forms = [layer.form_for(rows, FOUR_BIT) for layer in self.layers]
        if not self._compiles or any(form is None for form in forms):
            return None
        if any(form is not own for form, own in zip(forms, self._forms, strict=True)):
            norms = (self._before, self._between)
            self._forms = forms
            self._weights = BlockWeights(
                [form[:2] for form in forms],
                [layer.bias for layer in self.layers],
                [norm.weight for norm in norms],
                [norm.epsilon for norm in norms],
                (self._heads, self._shared),
                self._size,
                self._scaling,
            )
        return self._weights

    def _compiled_parts(self, rows: int) -> CompiledParts | None:
        """Machine code for what is around attention, where it has been seen to compute the same."""
        weights = self.compiled(rows) if self.believed else None
        if weights is None or self._compiled is None or self._compiled.weights is not weights:
            self._compiled = None if weights is None else CompiledParts(weights)
        return self._compiled

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Attention as (rows, positions, heads, head size)."""
        rows, heads, positions, size = queries.shape
        attend = nn.functional.scaled_dot_product_attention
        if positions == 1:
            # The heads that share keys are as many queries of one head: the keys are read once for all of them.
            grouped = queries.reshape(rows, self._shared, heads // self._shared, size)
            return attend(grouped, keys, values, mask, scale=self._scaling).reshape(rows, 1, heads, size)
        if mask is not None and heads != self._shared:
            keys, values = (t.repeat_interleave(heads // self._shared, dim=1) for t in (keys, values))
        mixed = attend(
            queries,
            keys,
            values,
            mask,
            is_causal=mask is None,
            scale=self._scaling,
            enable_gqa=keys.shape[1] != heads,
        )
        return mixed.transpose(1, 2)


class Rotation(tuple[Tensor, Tensor]):
    """Rotary position embedding of a pass, for all blocks: cosines and sines, (rows, positions, 1, head size)."""

    @classmethod
    def prepared(cls, cos: Tensor, sin: Tensor) -> Rotation:
        """Of what the model computes: cosines and sines, (rows, positions, head size)."""
        left, right = sin.chunk(2, dim=-1)
        # A head's halves change places and the left one its sign, which the sines have here.
        return cls((cos[:, :, None], torch.cat((-left, right), dim=-1)[:, :, None]))

    def of(self, heads: Tensor) -> Tensor:
        """Heads (rows, positions, heads, head size) at their positions."""
        cos, sin = self
        return (heads * cos).addcmul_(heads.roll(heads.shape[-1] // 2, -1), sin)


def _is_silu(activation: Any) -> bool:
    probe = torch.linspace(-9, 9, 33)
    return torch.allclose(activation(probe), nn.functional.silu(probe), atol=1e-6)


def _stored(layer: nn.Linear) -> Weight:
    return layer.stored if isinstance(layer, FastLinear) else Dense(layer.weight.detach())


def _fast(layer: nn.Linear) -> FastLinear:
    return layer if isinstance(layer, FastLinear) else FastLinear.in_place_of(layer)


class _Norm:
    """RMSNorm of (rows, hidden). torch's own is a dozen operations on a CPU, each as long as these four.

    `norm` is the block's, x * weight / sqrt(mean(x^2) + epsilon); here, x * weight * sqrt(n) / sqrt(|x|^2 + n * eps).
    """

    def __init__(self, norm: Any) -> None:
        size = norm.weight.shape[-1]
        self.weight, self.epsilon = norm.weight.detach(), norm.variance_epsilon
        self._weight = self.weight * size**0.5
        self._least = torch.tensor((size * self.epsilon) ** 0.5)  # a tensor: torch takes longer for a float

    def __call__(self, state: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(state, dim=-1, keepdim=True)
        return (state / torch.hypot(length, self._least)).mul_(self._weight)
