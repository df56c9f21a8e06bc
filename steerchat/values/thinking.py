"""Models that think before they reply: where the thought in an answer ends.

Such a model writes `<think> ... </think>` and then its reply; some chat templates open the thought themselves.
An answer's text holds both, with the tags. Only the reply is measured.
"""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


def thinking(text: str, opened: bool = False) -> bool:
    """Whether an answer that begins with `text` is still inside its thought, or may still begin one.

    Args:
        text: from the answer's beginning.
        opened: whether the prompt ends inside the thought.
    """
    head = text.lstrip()
    return CLOSE not in text and (opened or head.startswith(OPEN) or OPEN.startswith(head))


def reply_start(text: str, opened: bool = False) -> int:
    """The offset at which an answer's reply begins: 0 without a thought, the length where the thought never ended.

    Args:
        text: the answer.
        opened: whether the prompt ends inside the thought. A closing tag without an opening one implies it.
    """
    thought, tag, reply = text.partition(CLOSE)
    if tag and (opened or OPEN not in thought or thought.lstrip().startswith(OPEN)):
        return len(text) - len(reply.lstrip())
    return len(text) if opened or thought.lstrip().startswith(OPEN) else 0
