"""The model's output layers alone: what it makes of hidden states that are already computed.

What comes after the last block differs between families: Granite divides the logits where HyperCLOVA X multiplies them
by a setting of the same name, Gemma bounds them. So the model itself computes it, with its decoder left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .hooks import base_of, device_of, streams_of, with_hidden
from .transformers_api import States


def head(model: Any, hidden: Tensor) -> Tensor:
    """Logits (positions, vocabulary) from final hidden states (positions, hidden), as the model computes them."""
    ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
    with ExitStack() as replaced:
        for decoder in {id(decoder): decoder for decoder in (base_of(model), _decoder(model))}.values():
            replaced.enter_context(_left_out(decoder, hidden[None]))
        return model(input_ids=ids, use_cache=False).logits[0]


@torch.inference_mode()
def ending(model: Any, blocks: nn.ModuleList, states: Tensor) -> Tensor:
    """What the model makes of states after its last block, before the output layer: in most models one norm.

    A text of one token goes through the model for each state, and its last block's output is exchanged for the state.

    Args:
        states: (states, hidden), or (streams, states, hidden) where blocks have several streams. The first stream
            alone is exchanged where it alone is given.

    Returns:
        (states, hidden)
    """

    def exchange(module: nn.Module, args: Any, output: Any) -> Any:
        new = states[..., None, :].to(streams_of(output))
        if new.dim() == 3:
            return with_hidden(output, new)
        return new if isinstance(output, Tensor) else (new, *output[1:])

    ids = torch.zeros(states.shape[-2], 1, dtype=torch.long, device=device_of(model.get_input_embeddings()))
    handle = blocks[-1].register_forward_hook(exchange)
    try:
        return base_of(model)(input_ids=ids, use_cache=False).last_hidden_state[:, 0]
    finally:
        handle.remove()


def _decoder(model: Any) -> Any:
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    return base_of(model) if decoder is model else decoder


@contextmanager
def _left_out(decoder: Any, hidden: Tensor) -> Iterator[None]:
    """While it is entered, a decoder returns these states without computing."""
    before = vars(decoder).get("forward")  # where accelerate moves layers between devices
    decoder.forward = lambda *args, **kwargs: States(last_hidden_state=hidden)
    try:
        yield
    finally:
        if before is None:
            del decoder.forward
        else:
            decoder.forward = before
