"""Models that think before they reply: where the thought in an answer ends.

Such a model writes `<think> ... </think>` and then its reply; the chat templates of some open the thought themselves.
An answer's text has all of it, tags included. What is measured of it is the reply.
"""

from __future__ import annotations

OPEN, CLOSE = "<think>", "</think>"


def thinking(text: str, opened: bool = False) -> bool:
    """Whether an answer that has got as far as `text` is still inside its thought, or may yet begin one.

    Args:
        text: from the answer's beginning.
        opened: whether the prompt ends inside the thought.
    """
    head = text.lstrip()
    return CLOSE not in text and (opened or head.startswith(OPEN) or OPEN.startswith(head))


def reply_start(text: str, opened: bool = False) -> int:
    """The offset in an answer at which its reply begins: 0 without a thought, its length where the thought never ended.

    Args:
        text: the answer.
        opened: whether the prompt ends inside the thought. A closing tag alone says so too.
    """
    thought, tag, reply = text.partition(CLOSE)
    if tag and (opened or OPEN not in thought or thought.lstrip().startswith(OPEN)):
        return len(text) - len(reply.lstrip())
    return len(text) if opened or thought.lstrip().startswith(OPEN) else 0
