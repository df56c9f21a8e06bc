"""One family of errors: what happened, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """How `steerchat` ends in a shell."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INTERRUPTED = 130


class SteerchatError(Exception):
    """A problem that the user can solve. It is shown as two short lines, never as a traceback.

    Args:
        message: what happened: one sentence without a full stop.
        hint: what to do about it; may be empty.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SteerchatError):
    """A line or an option that does not parse."""

    exit_code = ExitCode.USAGE


class UnknownName(UsageError):
    """A name that does not exist."""


class ConceptError(SteerchatError):
    """A concept, its examples or its vector cannot be used."""


class ModelError(SteerchatError):
    """A model cannot be found, fetched, loaded or run."""


class TooLarge(ModelError):
    """A model needs more memory than is free.

    Args:
        message, hint: as in `SteerchatError`.
        smaller: the alias of a model to use instead; None when none would fit.
        missing: bytes of memory that are missing, as far as known.
    """

    def __init__(self, message: str, hint: str = "", smaller: str | None = None, missing: int = 0) -> None:
        super().__init__(message, hint)
        self.smaller = smaller
        self.missing = missing


class StoreError(SteerchatError):
    """The history cannot be read or written."""


class Interrupted(SteerchatError):
    """The user stopped a long task. `what`: the task, as the subject of a sentence."""

    exit_code = ExitCode.INTERRUPTED

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} stopped")


def unknown(kind: str, name: str, choices: Iterable[str], hint: str = "") -> UnknownName:
    """The error for an unknown name; its hint suggests the nearest known name.

    Args:
        kind: of the name, in the singular ("concept", "setting").
        hint: when no known name is similar.
    """
    import difflib  # late: an interrupt while the program starts needs ExitCode alone

    known, lowered = sorted(choices), name.lower()
    longer = [choice for choice in known if len(lowered) > 2 and choice.startswith(lowered)]
    near = longer or difflib.get_close_matches(lowered, known, n=1, cutoff=0.6)
    return UnknownName(f"no {kind} called {shorten(name)!r}", f"did you mean {near[0]}?" if near else hint)


def shorten(text: str, width: int = 60) -> str:
    """`text` on one line of at most `width` characters, for quoting in a message."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."
