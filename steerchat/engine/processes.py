"""Several processes at one command, started by `accelerate launch` or torchrun.

Each of them runs the whole command, so that all know the same recipe, vectors and settings. Only answering is shared
out, row by row, and every process then gets every answer: what follows from them is the same everywhere. The first
process alone writes the history and speaks to the screen. The engine for all this is accelerate's.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from threading import Event as Flag
from typing import TypeVar

from ..values.errors import ModelError, SteerchatError

T = TypeVar("T")

# A slow process's share may take hours; one that dies ends the others through the launcher.
_PATIENCE = timedelta(days=2)


def count() -> int:
    """How many processes were started together; 1 for an ordinary start."""
    return _number("WORLD_SIZE", 1) if "LOCAL_RANK" in os.environ else 1


def on_this_machine() -> int:
    """How many of them share this machine's memory."""
    return _number("LOCAL_WORLD_SIZE", 1) if count() > 1 else 1


def local_rank() -> int:
    """Which of this machine's processes this is, and so which of its GPUs is its own."""
    return _number("LOCAL_RANK", 0)


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return count() == 1 or _number("RANK", 0) == 0


def _number(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else otherwise


class Team:
    """This process among the others.

    Every method is a meeting: all processes call the same ones in the same order, and wait for each other.

    Attributes:
        stop: set by Ctrl-C in this process. Whether the work stops is settled at the next meeting, for all at once:
            one that left by itself would be waited for.
        stopped: what is called then.
    """

    def __init__(self, device: str) -> None:
        import torch
        from accelerate import PartialState

        cpu = device == "cpu" or not torch.cuda.is_available()
        self._state = PartialState(cpu=cpu, timeout=_PATIENCE)
        atexit.register(self._state.destroy_process_group)
        self.stop = Flag()
        self.stopped: Callable[[], None] = lambda: None

    def share(self, size: int) -> range:
        """Which of `size` rows are this process's."""
        with self._state.split_between_processes(list(range(size))) as mine:
            return range(mine[0], mine[-1] + 1) if mine else range(0)

    def gather(self, mine: Sequence[T], error: Exception | None = None) -> list[T]:
        """Every process's items, in the order of the processes.

        Args:
            error: what went wrong here instead. It is raised here, and told to all others.

        Raises:
            SteerchatError: something went wrong in one of the processes.
        """
        from accelerate.utils import gather_object

        reported = error
        if error is not None and not isinstance(error, SteerchatError):
            reported = ModelError(f"process {self._state.process_index} failed: {type(error).__name__}: {error}")
        gathered = gather_object([(list(mine), reported, self.stop.is_set())])
        if error is not None:
            raise error
        for _, failed, _ in gathered:
            if failed is not None:
                raise failed
        if any(stop for _, _, stop in gathered):
            self.stopped()
        return [item for items, _, _ in gathered for item in items]

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, for all: a file may lie on its machine only, and standard input is its own.

        Raises SteerchatError as `make`.
        """
        made: list[T] = []
        error: Exception | None = None
        if is_first():
            try:
                made = [make()]
            except Exception as failed:
                error = failed
        return self.gather(made, error)[0]
