"""`python -m steerchat`, and where the command begins."""

import atexit
import os
import signal
import sys
import threading
from contextlib import suppress

from .values.errors import ExitCode


def main() -> int:
    """The command line. Ctrl-C is no traceback even while the first modules are imported, or on the way out."""
    try:
        from .terminal.cli import main as run

        code = run()
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if any(thread.daemon for thread in threading.enumerate()):
        _leave(code)
    return code


def _leave(code: int) -> None:
    """End the program while a model still loads in its thread.

    Python would end that thread in the middle of torch's code, which ends the program with an abort.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
