"""`python -m steerchat`, and where the command begins."""

import atexit
import gc
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from .values.errors import ExitCode

# New objects after which Python looks for garbage among them. Nearly all that importing and loading make stay: at
# Python's own 700, to look at them again and again takes an eighth of the start.
_LOOK_AFTER = 50_000


def main() -> NoReturn:
    """The command line. Ctrl-C is no traceback even while the first modules are imported, or on the way out."""
    gc.set_threshold(_LOOK_AFTER)
    try:
        from .terminal.cli import main as run

        code = run()
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the program without taking it apart.

    That takes Python half a second, and it would end the thread of a model that still loads in the middle of torch's
    code, which ends the program with an abort.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
