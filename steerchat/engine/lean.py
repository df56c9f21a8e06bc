"""Decoder blocks of the Llama shape with fewer operations: what is left of a step once products are quick.

A step of one token is hundreds of operations on a few numbers each, and their number is its time. A lean block joins
the products that read the same input, turns queries and keys by one operation, and looks nothing up. It takes the
place of the block's `forward` alone: the block, its output and its hooks stay, and so does the model around it.

Whether a model has this shape is not believed but checked: `make_lean` compares both ways on a text, with the states
pushed at random between the blocks, and takes the lean one only where they agree.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .hooks import hidden_of, with_hidden
from .linear import FastLinear, Part
from .transformers_api import Cache, DynamicLayer, cached

_CHILDREN = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_FEED_FORWARD = {"gate_proj", "up_proj", "down_proj"}
# Tokens of the text that both ways are compared on, read whole and then one by one.
_READ, _STEPS = 24, 3
# Largest difference that is rounding, as a share of the largest number.
_ROUNDING = 2e-4


class LeanBlock:
    """The forward pass of one block.

    Args:
        block: of a model on the CPU in float32, without gradients. Its linear layers keep their weights, as parts of
            the joined ones.

    Attributes:
        layers: the joined linear layers, in the order in which they are used.
    """

    def __init__(self, block: Any) -> None:
        attention, feed_forward = block.self_attn, block.mlp
        self._number: int = attention.layer_idx
        self._size: int = attention.head_dim
        self._scaling: float = attention.scaling
        self._before, self._between = block.input_layernorm, block.post_attention_layernorm
        self._activation = feed_forward.act_fn
        query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
        self._heads, self._shared = (layer.out_features // self._size for layer in (query, key))
        self._inward = _joined([query, key, value])
        self._outward = FastLinear.in_place_of(attention.o_proj)
        self._wide = _joined([feed_forward.gate_proj, feed_forward.up_proj])
        self._down = FastLinear.in_place_of(feed_forward.down_proj)
        self.layers = [self._inward, self._outward, self._wide, self._down]
        self._parents = ((attention, ("q_proj", "k_proj", "v_proj"), self._inward),)
        self._parents += ((feed_forward, ("gate_proj", "up_proj"), self._wide),)

    def detach(self) -> None:
        """Let the block's own layers hold no weights any more: from now on they ask the joined ones."""
        for parent, names, whole in self._parents:
            start = 0
            for name in names:
                end = start + getattr(parent, name).out_features
                setattr(parent, name, Part(whole, slice(start, end)))
                start = end

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
        rows, positions, hidden = hidden_states.shape
        state = hidden_states.reshape(rows * positions, hidden)
        inward = self._inward.product(_normed(self._before, state)).view(rows, positions, -1, self._size)
        turned, values = inward.split((self._heads + self._shared, self._shared), dim=2)
        turned = _turned(turned, *position_embeddings).transpose(1, 2)
        queries, keys = turned.split((self._heads, self._shared), dim=1)
        values = values.transpose(1, 2)
        kept = past_key_values if cache is None else cache
        if kept is not None:
            keys, values = kept.update(keys, values, self._number)
        mixed = self._attend(queries, keys, values, attention_mask)
        state = self._outward.product(mixed.reshape(rows * positions, -1)).add_(state)
        gate, up = self._wide.product(_normed(self._between, state)).chunk(2, dim=-1)
        state = self._down.product(self._activation(gate).mul_(up)).add_(state)
        return state.view(rows, positions, hidden)

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


def make_lean(model: Any, blocks: nn.ModuleList) -> list[LeanBlock]:
    """Give every block a lean forward pass, if the model computes the same with it.

    Args:
        model: a causal language model of transformers on the CPU.
        blocks: its decoder blocks.

    Returns:
        one for each block; none where the model is of another shape, and then nothing has changed.
    """
    if not all(_fits(block) for block in blocks):
        return []
    weight = model.get_input_embeddings().weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return []
    usual = _trial(model, blocks)
    lean = [LeanBlock(block) for block in blocks]
    for block, forward in zip(blocks, lean, strict=True):
        block.forward = forward
    try:
        found = _trial(model, blocks)
        if bool((found - usual).abs().max() <= _ROUNDING * usual.abs().max()):
            return lean
    except (RuntimeError, TypeError, AttributeError, AssertionError):
        pass  # of another shape after all
    for block in blocks:
        del block.forward
    return []


def _fits(block: Any) -> bool:
    """Whether a block has the parts of the Llama shape and no others."""
    if "forward" in vars(block) or {name for name, _ in block.named_children()} != _CHILDREN:
        return False
    parts = {name for name, _ in block.self_attn.named_children()}, {name for name, _ in block.mlp.named_children()}
    if parts[0] != _ATTENTION or parts[1] - {"act_fn"} != _FEED_FORWARD:
        return False
    layers = [getattr(block.self_attn, name) for name in sorted(_ATTENTION)]
    layers += [getattr(block.mlp, name) for name in sorted(_FEED_FORWARD)]
    norms = (block.input_layernorm, block.post_attention_layernorm)
    return (
        all(type(layer) is nn.Linear for layer in layers)
        and all(hasattr(norm, "variance_epsilon") and hasattr(norm, "weight") for norm in norms)
        and all(hasattr(block.self_attn, name) for name in ("head_dim", "scaling", "layer_idx"))
    )


@torch.inference_mode()
def _trial(model: Any, blocks: nn.ModuleList) -> Tensor:
    """Final states of a text that is read whole and then token by token, each block's output pushed at random."""
    noise = torch.Generator().manual_seed(0)
    config = model.config.get_text_config()
    ids = torch.randint(config.vocab_size, (2, _READ + _STEPS), generator=noise)

    def push(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = hidden_of(output)
        size = hidden.norm(dim=-1, keepdim=True) / hidden.shape[-1] ** 0.5 * 0.1
        return with_hidden(output, hidden + size * torch.randn(hidden.shape, generator=noise))

    base = model.base_model
    cache = Cache(layers=[DynamicLayer() for _ in blocks])
    noise.manual_seed(1)
    with ExitStack() as stack:
        for block in blocks:
            stack.callback(block.register_forward_hook(push).remove)
        states = []
        for start, end in [(0, _READ), *((at, at + 1) for at in range(_READ, _READ + _STEPS))]:
            positions = torch.arange(start, end).expand(2, -1)
            passed = base(input_ids=ids[:, start:end], position_ids=positions, use_cache=True, **cached(base, cache))
            states.append(passed.last_hidden_state)
    return torch.cat(states, dim=1)


def _joined(layers: list[nn.Linear]) -> FastLinear:
    """One layer whose output is those of several, side by side. They become parts of it, so that memory holds one."""
    biases = [layer.bias for layer in layers]
    whole = FastLinear.of(
        torch.cat([layer.weight.detach() for layer in layers]),
        None if any(bias is None for bias in biases) else torch.cat([bias.detach() for bias in biases]),
    )
    start = 0
    for layer in layers:
        rows = slice(start, start + layer.out_features)
        layer.weight = nn.Parameter(whole.weight[rows], requires_grad=False)
        if whole.bias is not None:
            layer.bias = nn.Parameter(whole.bias[rows], requires_grad=False)
        start = rows.stop
    return whole


def _normed(norm: Any, state: Tensor) -> Tensor:
    """RMSNorm of (rows, hidden): torch's own is a dozen operations on a CPU."""
    scale = torch.linalg.vector_norm(state, dim=-1, keepdim=True).square_()
    scale = scale.mul_(1 / state.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
    return (state * scale).mul_(norm.weight)


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of (rows, positions, heads, head size) by (rows, positions, head size)."""
    left, right = heads.chunk(2, dim=-1)
    return (heads * cos[:, :, None]).addcmul_(torch.cat((-right, left), dim=-1), sin[:, :, None])
