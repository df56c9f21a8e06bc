"""Programs in a pseudo-terminal, as a person at a keyboard has them. Not on Windows."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time
from pathlib import Path

from places import ROOT


def chat_line(model: Path, tokens: int) -> list[str]:
    """The command line of a chat."""
    line = [sys.executable, "-m", "steerchat", "--model", str(model), "--device", "cpu", "--seed", "1"]
    return [*line, "--max-tokens", str(tokens)]


class Terminal:
    """A program that has a pseudo-terminal to itself, and what came on its screen.

    Args:
        line: the command line.
        home: of steerchat.
        environment: what differs from this process's.
    """

    def __init__(self, line: list[str], home: Path, columns: int = 80, **environment: str) -> None:
        self.child, self.master = pty.fork()
        if not self.child:
            os.chdir(ROOT)
            os.environ.update(PYTHONPATH=str(ROOT), STEERCHAT_HOME=str(home), TERM="xterm")
            for name in ("COLUMNS", "LINES"):
                os.environ.pop(name, None)
            os.environ.update(environment)
            os.execvp(line[0], line)
        self.text = ""
        self.resize(columns)

    def resize(self, columns: int) -> None:
        """As a window's border does; the program gets SIGWINCH."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))

    def send(self, keys: bytes) -> None:
        """Type keys; a long text as fast as the program takes it."""
        while keys:
            readable, writable, _ = select.select([self.master], [self.master], [], 1.0)
            if readable:
                self.text += os.read(self.master, 65536).decode(errors="replace")
            if writable:
                keys = keys[os.write(self.master, keys[:1024]) :]

    def wait(self, text: str, seconds: float = 60.0) -> str:
        """What came on the screen up to the first `text` since the last call."""
        end = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < end, self.text[-2000:]
            if select.select([self.master], [], [], 0.2)[0]:
                self.text += os.read(self.master, 65536).decode(errors="replace")
                if "\x1b[6n" in self.text[-200:]:  # prompt_toolkit asks where the cursor is
                    self.send(b"\x1b[1;1R")
        before, self.text = self.text.split(text, 1)
        return before

    def close(self) -> None:
        """End the program, and what it has started."""
        os.killpg(self.child, 9)
        os.waitpid(self.child, 0)
        os.close(self.master)
