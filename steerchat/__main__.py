"""`python -m steerchat`, and where the command begins."""

import signal
import sys

from .values.errors import ExitCode


def main() -> int:
    """The command line. Ctrl-C is no traceback even while the first modules are imported, or on the way out."""
    try:
        from .terminal.cli import main as run

        return run()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
