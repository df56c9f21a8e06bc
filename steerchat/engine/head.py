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

from .hooks import hidden_of
from .transformers_api import States


def head(model: Any, hidden: Tensor) -> Tensor:
    """Logits (positions, vocabulary) from final hidden states (positions, hidden), as the model computes them."""
    ids = torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)
    with ExitStack() as replaced:
        for decoder in {id(decoder): decoder for decoder in (model.base_model, _decoder(model))}.values():
            replaced.enter_context(_left_out(decoder, hidden[None]))
        return model(input_ids=ids, use_cache=False).logits[0]


@torch.inference_mode()
def last_norms(model: Any, blocks: nn.ModuleList, token: int) -> list[nn.Module]:
    """The layers between the last block and the output layer, in order: in most models one norm.

    Args:
        token: of a text of one token, through which they are found.

    Returns:
        nothing where what follows the last block is not a chain of the decoder's own layers.
    """
    decoder = _decoder(model)
    chain: list[nn.Module] = []
    state: list[Any] = [None]

    def follow(module: nn.Module, args: Any, output: Any) -> None:
        if args and args[0] is state[0]:
            chain.append(module)
            state[0] = hidden_of(output)

    def begin(module: nn.Module, args: Any, output: Any) -> None:
        state[0] = hidden_of(output)

    with ExitStack() as hooks:
        hooks.callback(blocks[-1].register_forward_hook(begin).remove)
        for child in decoder.children():
            hooks.callback(child.register_forward_hook(follow).remove)
        ids = torch.tensor([[token]], device=model.device)
        final = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return chain if state[0] is not None and torch.equal(final, state[0]) else []


def _decoder(model: Any) -> Any:
    return model.get_decoder() if hasattr(model, "get_decoder") else model.base_model


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
