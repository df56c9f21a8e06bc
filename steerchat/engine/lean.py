"""Decoder blocks of the Llama shape with fewer operations: what is left of a step once products are quick.

A step of one token is hundreds of operations on a few numbers each, and their number is its time. A lean block joins
the products that read the same input, turns queries and keys by one operation, and looks nothing up. It takes the
place of the block's `forward` alone: the block, its output and its hooks stay. A lean decoder runs the blocks one after
the other, with what they share computed once; where all weights have four bits, machine code computes a token's blocks
at once, up to the next one that is edited.

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
from .lean_block import LeanBlock
from .lean_decoder import LeanDecoder
from .linear import SmallEmbedding, SmallLinear, unpacked
from .transformers_api import Cache, DynamicLayer, cached

_CHILDREN = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_FEED_FORWARD = {"gate_proj", "up_proj", "down_proj"}
# Tokens of the text that both ways are compared on, read whole and then one by one.
_READ, _STEPS = 24, 3
# Largest difference that is rounding, as a share of the largest number.
_ROUNDING = 2e-4


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
