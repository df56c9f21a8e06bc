"""Whether rows of a batch compute what the model computes alone: found out once, before the first question.

An unknown kind of block may take its positions from the place in the batch, ignore a mask, or keep a state of another
shape. Most of that shows as an error, and some of it only in the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..values.errors import ModelError
from ..values.results import drain
from .batch import Batch
from .decoding import Row, is_out_of_memory
from .engine import Engine
from .head import head
from .hooks import LastOutputs, hidden_of
from .operations import Edit
from .sampling import Sampling

_TEXT = "The weather is fine today, and so we go for a walk along the river. What do you think of that? 1, 2, 3, 4."
# Tokens of the two texts: in a batch, the short one has a wide gap.
_LONG, _SHORT = 24, 4
# Largest difference that is rounding, as a share of the length of what is compared. Weights of few bits are multiplied
# in other ways for other numbers of rows.
_ROUNDING = {"float32": 2e-3}
_COARSE = 0.2


def check(engine: Engine) -> None:
    """Find out how the model takes positions and masks. See `Passes.by_column` for the second way.

    Raises: as `_check`.
    """
    if not _takes_positions(engine):
        _run_by_column(engine)
    try:
        _check(engine)
    except Exception as failed:
        if is_out_of_memory(failed) or engine.passes.by_column:
            raise
        _run_by_column(engine)
        try:
            _check(engine)
        except Exception as again:
            raise (again if is_out_of_memory(again) else failed) from None


def _run_by_column(engine: Engine) -> None:
    engine.contexts.forget()
    engine.passes.by_column, engine.passes.by_row = True, False


@torch.inference_mode()
def _takes_positions(engine: Engine) -> bool:
    """Whether other positions change the scores at all: where rounding is coarse, no comparison would show it."""
    ids = torch.tensor([engine.prompter.reply(_TEXT)[:_SHORT]], device=engine.device)
    own = torch.arange(ids.shape[1], device=engine.device)[None]
    near, far = (engine.model(input_ids=ids, position_ids=step * own, use_cache=False).logits for step in (1, 2))
    return not torch.equal(near, far)


@torch.inference_mode()
def _check(engine: Engine) -> None:
    """Answer and read as a chat does, and compare with plain passes over one text each.

    Raises:
        ModelError: when steerchat's numbers are not the model's own.
        Exception: any, when the model does not stand how steerchat runs it.
    """
    ids = engine.prompter.reply(_TEXT)
    ids = (ids * _LONG)[: _LONG + _SHORT]
    texts = ids[:_LONG], ids[-_SHORT:]
    plain = [_plain(engine, text) for text in texts]
    logits = torch.stack([scores[-1] for scores, _ in plain])
    batch = Batch(engine.passes, [None] * len(texts), _LONG)
    batch.forward([text[:-1] for text in texts])
    _compare(engine, batch.forward([text[-1:] for text in texts], head=True), logits, "for texts of different lengths")
    # Both go on from the same beginning, side by side in one row.
    begin = texts[1]
    states = engine.states([(begin, text) for text in texts], "last")[:, -1]
    alone = torch.stack([_plain(engine, [*begin, *text])[1][-1] for text in texts])
    _compare(engine, states, alone, "for texts that share their beginning")
    _compare(engine, head(engine.model, engine.run(texts[0])), plain[0][0], "in the output layer")
    nothing = Edit(0, "add", torch.zeros(engine.hidden))
    drain(engine.generate([Row(tuple(begin)), Row(tuple(texts[0]), (nothing,))], Sampling(max_tokens=2)))


def _plain(engine: Engine, text: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits (tokens, vocabulary), and the last block's output (tokens, hidden), of one text without a cache."""
    with LastOutputs(engine.blocks, [engine.n_layers - 1]) as last:
        logits = engine.model(input_ids=torch.tensor([list(text)], device=engine.device), use_cache=False).logits[0]
    return logits, hidden_of(last.outputs[engine.n_layers - 1])[0]


def _compare(engine: Engine, ours: Tensor, own: Tensor, where: str) -> None:
    ours, own = ours.float().cpu(), own.float().cpu()
    same = ours.shape == own.shape
    difference = (ours - own).norm(dim=-1) / own.norm(dim=-1).clamp_min(1e-9) if same else torch.tensor(torch.inf)
    if not bool((difference <= _ROUNDING.get(engine.dtype, _COARSE)).all()):
        raise ModelError(
            f"steerchat's numbers for {engine.name}, a {type(engine.model).__name__}, are not the model's own {where}",
            "its positions or masks work otherwise than those of the models that steerchat knows; please report it",
        )
