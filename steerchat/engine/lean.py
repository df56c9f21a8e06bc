"""Decoder blocks of the Llama shape with fewer operations: what is left of a step once products are quick.

A step of one token is hundreds of operations on a few numbers each, and their number is its time. A lean block joins
the products that read the same input, turns queries and keys by one operation, and looks nothing up. It takes the
place of the block's `forward` alone: the block, its output and its hooks stay. A lean decoder runs the blocks one after
the other, with what they share computed once.

Whether a model has this shape is not believed but checked: `make_lean` computes every block both ways on a text, with
the states pushed at random between the blocks, then the decoder, and takes the lean way only where both agree. Where
all blocks are alike but for their weights, the first and the last stand for the others: a large GGUF is unpacked anew
for each product until its forms are chosen.
"""

from __future__ import annotations

import copy
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .hooks import hidden_of, with_hidden
from .linear import FastLinear, Part, SmallEmbedding, SmallLinear, unpacked
from .transformers_api import Cache, DynamicLayer, States, cached
from .weights import Dense, Weight, joined

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
        block: of a model on the CPU in float32, without gradients.

    Attributes:
        layers: the linear layers in the order in which they are used.
    """

    def __init__(self, block: Any) -> None:
        attention, feed_forward = block.self_attn, block.mlp
        self._number: int = attention.layer_idx
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
        inward = self._inward.product(self._before(state)).view(rows, positions, -1, self._size)
        turned, values = inward.split((self._heads + self._shared, self._shared), dim=2)
        turned = turn.of(turned).transpose(1, 2)
        queries, keys = turned.split((self._heads, self._shared), dim=1)
        values = values.transpose(1, 2)
        kept = past_key_values if cache is None else cache
        if kept is not None:
            keys, values = kept.layers[self._number].update(keys, values)
        mixed = self._attend(queries, keys, values, attention_mask)
        state = self._outward.product(mixed.reshape(rows * positions, -1)).add_(state)
        gate, up = self._wide.product(self._between(state)).chunk(2, dim=-1)
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


class LeanDecoder:
    """The forward pass of a decoder from its embeddings to its last norm.

    Args:
        decoder: of a model whose blocks are lean.
    """

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._usual = decoder.forward
        self._window = getattr(decoder.config, "sliding_window", None)

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
        for block in self._decoder.layers:
            states = block(states, attention_mask=attention_mask, position_embeddings=turn, cache=kept)
        return States(last_hidden_state=self._decoder.norm(states))


def make_lean(model: Any, blocks: nn.ModuleList, checked: bool = False) -> list[LeanBlock]:
    """Give every block and the decoder a lean forward pass, if the model computes the same with them.

    Args:
        model: a causal language model of transformers on the CPU.
        blocks: its decoder blocks.
        checked: whether an earlier load of this model compared both ways and found them alike.

    Returns:
        one for each block; none where the model is of another shape, and then nothing has changed.
    """
    if not all(_fits(block) for block in blocks):
        return []
    embeddings = model.get_input_embeddings()
    weight = embeddings._parameters.get("weight")
    dense = weight is not None and weight.device.type == "cpu" and weight.dtype == torch.float32
    if not dense and not isinstance(embeddings, SmallEmbedding):
        return []
    lean = [LeanBlock(block) for block in blocks] if checked else _alike(model, blocks)
    for block in lean:
        block.install()
    if lean:
        model.base_model.forward = LeanDecoder(model.base_model)
    return lean


def is_lean(blocks: nn.ModuleList) -> bool:
    """Whether `make_lean` changed these blocks."""
    return any(isinstance(vars(block).get("forward"), LeanBlock) for block in blocks)


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
        all(type(layer) in (nn.Linear, SmallLinear) for layer in layers)
        and all(hasattr(norm, "variance_epsilon") and hasattr(norm, "weight") for norm in norms)
        and all(hasattr(block.self_attn, name) for name in ("head_dim", "scaling", "layer_idx"))
    )


@torch.inference_mode()
def _alike(model: Any, blocks: nn.ModuleList) -> list[LeanBlock]:
    """Lean blocks, none of them installed, if each of them and a lean decoder compute what the model's do; else none.

    A text is read whole and then token by token; each block computes it both ways, and its output is pushed at random.
    """
    config, base = model.config.get_text_config(), model.base_model
    whole = getattr(base, "layers", None)
    if whole is not blocks:
        return []
    compared = [0, len(blocks) - 1] if len(blocks) > 2 and len({*map(_kind, blocks)}) == 1 else range(len(blocks))
    noise = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (2, _READ + _STEPS), generator=noise)
    cache = Cache(layers=[DynamicLayer() for _ in blocks])
    lean: dict[int, LeanBlock] = {}
    held = ExitStack()

    def both(number: int, usual: Any, hidden_states: Tensor, *args: Any, **options: Any) -> Any:
        # Each way appends to a cache of its own.
        ours = Cache(layers=[copy.deepcopy(cache.layers[number])] * (number + 1))
        others = {name: ours for name, value in options.items() if value is cache}
        output = usual(hidden_states, *args, **options)
        expected, got = hidden_of(output), lean[number](hidden_states, *args, **options | others)
        _check_alike(got, expected)
        size = expected.norm(dim=-1, keepdim=True) / expected.shape[-1] ** 0.5 * 0.1
        return with_hidden(output, expected + size * torch.randn(expected.shape, generator=noise))

    for number in compared:
        blocks[number].forward = partial(both, number, blocks[number].forward)

    def states(run: Any, kept: Any) -> list[Tensor]:
        parts = [(0, _READ), *((at, at + 1) for at in range(_READ, _READ + _STEPS))]
        places = [(slice(*part), torch.arange(*part).expand(2, -1)) for part in parts]
        return [
            run(input_ids=ids[:, part], position_ids=at, use_cache=True, **cached(base, kept)).last_hidden_state
            for part, at in places
        ]

    try:
        base.layers = nn.ModuleList([blocks[number] for number in compared])
        lean |= {number: LeanBlock(blocks[number]) for number in compared}
        layers = [layer for block in lean.values() for layer in block.layers]
        held.enter_context(unpacked({*base.layers.modules(), *layers}))
        states(base, cache)
        for block in base.layers:
            del block.forward
        kept, ours = (Cache(layers=[DynamicLayer() for _ in blocks]) for _ in range(2))
        expected = states(base, kept)
        for number, block in zip(compared, base.layers, strict=True):
            block.forward = lean[number]
        for got, wanted in zip(states(LeanDecoder(base), ours), expected, strict=True):
            _check_alike(got, wanted)
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError):
        return []  # of another shape after all
    finally:
        held.close()
        base.layers = whole
        for block in blocks:
            vars(block).pop("forward", None)
    return [lean[number] if number in lean else LeanBlock(block) for number, block in enumerate(blocks)]


def _kind(block: Any) -> tuple[Any, ...]:
    """What a block computes, apart from the numbers of its weights and its place: equal for blocks that are alike."""
    kind: list[Any] = []
    for name, part in block.named_modules():
        own = {
            key: value
            for key, value in vars(part).items()
            if key != "layer_idx" and (callable(value) or isinstance(value, bool | int | float | str | None))
        }
        kind.append((name, type(part), tuple(sorted(own.items(), key=lambda item: item[0]))))
    return tuple(kind)


def _check_alike(got: Tensor, expected: Tensor) -> None:
    """Raises ValueError where the difference is no rounding."""
    if bool((got - expected).abs().max() > _ROUNDING * expected.abs().max()):
        raise ValueError("the lean way computes something else")


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
        self._weight = norm.weight.detach() * size**0.5
        self._least = torch.tensor((size * norm.variance_epsilon) ** 0.5)  # a tensor: torch takes longer for a float

    def __call__(self, state: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(state, dim=-1, keepdim=True)
        return (state / torch.hypot(length, self._least)).mul_(self._weight)
