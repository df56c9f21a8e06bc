"""Steering without steerchat: the few lines of torch that a lesson shows, as they run."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from ..engine.decoding import Row
from ..engine.sampling import Sampling
from ..measures.reader import Reader
from ..values.recipe import Recipe, Term
from ..values.results import drain


def by_hand(reader: Reader, term: Term, prompt: str, count: int = 12) -> tuple[list[int], list[int]]:
    """The same greedy answer twice: by `steer_by_hand`, and by the engine."""
    engine = reader.engine
    pushes = reader.edits(Recipe((term,)), 0)
    ids = engine.prompter.chat([{"role": "user", "content": prompt}])
    greedy = Sampling(temperature=0.0, repetition_penalty=1.0, max_tokens=count)
    [output] = drain(engine.generate([Row(tuple(ids), pushes, 0)], greedy))
    theirs = list(output.answer.token_ids)
    push = pushes[0]
    block = engine.blocks[push.layer]
    return steer_by_hand(engine.model, block, push.vector.to(engine.device), ids, len(theirs)), theirs


# A lesson shows these lines, in a terminal of 80.
@torch.inference_mode()
def steer_by_hand(model: Any, block: Any, push: Tensor, prompt: list[int], count: int) -> list[int]:
    # The answer begins at the last position of the prompt.
    start = len(prompt) - 1

    def add_the_push(module: Any, inputs: Any, output: Any) -> Any:
        # The stream is (batch, position, hidden); some blocks
        # give a tuple that begins with it.
        alone = isinstance(output, Tensor)
        stream = (output if alone else output[0]).clone()
        stream[:, start:] += push
        return stream if alone else (stream, *output[1:])

    handle = block.register_forward_hook(add_the_push)
    try:
        tokens = list(prompt)
        for _ in range(count):
            read = torch.tensor([tokens], device=push.device)
            scores = model(read).logits[0, -1]
            tokens.append(int(scores.argmax()))
    finally:
        # Or every later answer would be steered too.
        handle.remove()
    return tokens[len(prompt) :]


def source_by_hand() -> str:
    """The lines of `steer_by_hand` as they run."""
    return inspect.getsource(steer_by_hand).rstrip()
