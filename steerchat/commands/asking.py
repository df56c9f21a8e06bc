"""Questions that commands ask before they replace or delete something."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from ..conversation.chat import Chat
from ..values.errors import Interrupted, UsageError

Yes = Annotated[bool, "delete without asking"]
Replace = Annotated[bool, "replace without asking"]


def confirm(chat: Chat, question: str, option: str, given: bool) -> bool:
    """Whether the user says yes.

    Args:
        question: put to the user, unless the answer is `given`.
        option: the option that answers yes on the line.
        given: whether the line has it.

    Raises:
        UsageError: when nobody is there to answer.
    """
    if given:
        return True
    if not chat.can_ask:
        raise UsageError(f"{question} Nobody is there to answer", f"add {option}")
    return chat.ask(question, ["yes", "no"]) == "yes"


def confirm_replacing(chat: Chat, file: Path, replace: bool) -> None:
    """Asks before an existing file is replaced, unless the line has --replace.

    Raises Interrupted when the user says no, UsageError when nobody is there to answer.
    """
    if os.path.lexists(file) and not confirm(chat, f"{file} exists already. Replace it?", "--replace", replace):
        raise Interrupted(f"writing {file.name}")
