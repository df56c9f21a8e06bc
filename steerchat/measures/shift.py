"""How far steering moves what the model would say next: the KL divergence of its next-token distributions.

At every token of a steered answer there are two distributions of that token, given the same prompt and the same answer
so far: the steered model's, and the unsteered model's. Their divergence says how hard steering pushes there, whichever
token was drawn. Most tokens are decided by grammar and hardly move, so the 95th percentile counts. Methods whose
strengths give the same percentile are compared at equal KL (iso-KL calibration, as steering-lite does it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .reader import Reader

if TYPE_CHECKING:
    from ..engine.decoding import Row

SHARE = 0.95
"""Of all tokens, so many move less than the KL of a setting."""


def token_kl(
    reader: Reader, settings: Sequence[Sequence[tuple[Row, str]]], label: str = "comparing distributions"
) -> list[float | None]:
    """The KL of each setting, in nats: KL(steered || unsteered), the 95th percentile over the tokens of its answers.

    Args:
        settings: for each its answers: the row that was answered, with its edits, and the text. A thought before the
            reply is read as a part of the prompt.

    Returns:
        None for a setting whose answers have no token.

    Raises:
        Interrupted: when the reader is stopped.
    """
    import torch

    from ..engine.choices import divergences

    prompter = reader.engine.prompter
    rows, replies = [], []
    for row, text in (answer for answers in settings for answer in answers):
        thought, reply = prompter.answer(text, prompter.opened(row.prompt))
        rows.append(replace(row, prompt=(*row.prompt, *thought)))
        replies.append(reply)

    moved = divergences(reader.engine, rows, replies, lambda done: reader.watch.progress(label, done, len(rows)))
    percentiles: list[float | None] = []
    for answers in settings:
        own, moved = torch.cat([torch.zeros(0), *moved[: len(answers)]]), moved[len(answers) :]
        percentiles.append(float(own.quantile(SHARE)) if len(own) else None)
    return percentiles
