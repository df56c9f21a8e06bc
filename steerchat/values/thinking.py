"""Models that think before they reply: where the thought in an answer ends.

Such a model writes a thought between two marks and then its reply; some chat templates open the thought themselves.
An answer's text holds both, with the marks. Only the reply is measured, and only the reply is carried on.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Marks:
    """How a family of models marks its thoughts."""

    open: str  # how a thought begins
    close: str  # what stands between a thought and the reply
    empty: str  # a thought without words, after which the reply follows
    tokens: tuple[str, ...]  # the control tokens that the marks consist of


def _around(open: str, close: str, empty: str = "") -> Marks:
    return Marks(open, close, empty or open + close, (open, close))


MARKS = (
    _around("<think>", "</think>", "<think>\n\n</think>\n\n"),  # Qwen3, DeepSeek R1, SmolLM3, GLM
    _around("[THINK]", "[/THINK]"),  # Magistral
    _around("<seed:think>", "</seed:think>"),  # Seed-OSS
    _around("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A, Command R7B
    _around("<|channel>", "<channel|>", "<|channel>thought\n<channel|>"),  # Gemma 4
    # GPT-OSS (the harmony format): messages to the channels analysis and commentary, then one to the channel final.
    Marks(
        "<|channel|>",
        "<|channel|>final<|message|>",
        "<|channel|>final<|message|>",
        ("<|channel|>", "<|message|>", "<|start|>", "<|end|>"),
    ),
)


def marks_of(template: str) -> Marks | None:
    """The marks that a chat template knows, if only to leave earlier thoughts out; None for a model without."""
    return next((marks for marks in MARKS if marks.close in template), None)


def begins_thought(text: str) -> bool:
    """Whether a text begins as a thought does."""
    return text.lstrip().startswith(tuple(marks.open for marks in MARKS))


def thinking(text: str, opened: bool = False) -> bool:
    """Whether an answer that begins with `text` is still inside its thought, or may still begin one.

    `opened`: whether the prompt ends inside the thought.
    """
    head = text.lstrip()
    if any(marks.close in text for marks in MARKS):
        return False
    return opened or begins_thought(head) or any(marks.open.startswith(head) for marks in MARKS)


def reply_start(text: str, opened: bool = False) -> int:
    """The offset at which an answer's reply begins: 0 without a thought, the length where the thought never ended.

    `opened`: whether the prompt ends inside the thought. A closing mark without an opening one implies it.
    """
    for marks in MARKS:
        thought, close, reply = text.partition(marks.close)
        if close and (opened or marks.open not in thought or thought.lstrip().startswith(marks.open)):
            return len(text) - len(reply.lstrip())
    return len(text) if opened or begins_thought(text) else 0
