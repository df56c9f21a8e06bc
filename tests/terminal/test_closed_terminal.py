"""A terminal that is closed in the middle of an answer (SIGHUP): nothing that was finished is lost."""

from __future__ import annotations

import os
import select
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chats import Shell

from steerchat.storage.file import check
from steerchat.storage.store import Store

pty, fcntl, termios = (pytest.importorskip(name) for name in ("pty", "fcntl", "termios"))  # not on Windows
pytestmark = [pytest.mark.subprocess, pytest.mark.slow]


class Terminal:
    """A chat in a pseudo-terminal, which hangs up when it is closed."""

    def __init__(self, *arguments: str) -> None:
        self.child, self._end = pty.fork()
        if not self.child:
            os.environ["TERM"] = "xterm"
            os.execv(sys.executable, [sys.executable, "-m", "steerchat", *arguments])
        fcntl.ioctl(self._end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self._seen = b""

    def until(self, *texts: bytes) -> None:
        """Reads until all of these have been on the screen since the last call."""
        self.wait(lambda: all(text in self._seen for text in texts))

    def wait(self, condition: Callable[[], bool]) -> None:
        """Reads what the program prints until this holds."""
        late = time.monotonic() + 40
        while not condition():
            assert time.monotonic() < late, self._seen[-2000:]
            if select.select([self._end], [], [], 0.02)[0]:
                self._seen += os.read(self._end, 65536)
            if b"\x1b[6n" in self._seen:  # where the cursor is: a terminal answers
                self._seen = self._seen.replace(b"\x1b[6n", b"")
                os.write(self._end, b"\x1b[1;1R")
        self._seen = b""

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def close(self) -> int:
        """How the program ended."""
        os.close(self._end)
        late = time.monotonic() + 30
        while time.monotonic() < late:
            ended, status = os.waitpid(self.child, os.WNOHANG)
            if ended:
                return status
            time.sleep(0.05)
        os.kill(self.child, 9)
        os.waitpid(self.child, 0)
        raise AssertionError("the chat went on without a terminal")


def count(history: Path) -> int:
    with Store.open(history) as store:
        return len(store.pairs())


def test_a_closed_terminal_loses_nothing_that_was_finished(shell: Shell, tiny_folder: Path) -> None:
    terminal = Terminal("--model", str(tiny_folder), "--device", "cpu", "--max-tokens", "200", "--seed", "1")
    terminal.until(b"quits")
    terminal.type("How are you?\r")
    terminal.until(b"pair 1")
    terminal.type("And the weather?\r")
    store = shell.home / "history.db"
    terminal.wait(lambda: count(store) == 2)  # the second answer has begun: the screen may still show the first
    terminal.close()
    with Store.open(store) as opened:
        assert check(opened.path) == []
        first = opened.pair(1)
        assert first.status == "complete" and first.pair.normal.tokens > 10
        second = opened.pair(2)
        assert second.status in ("complete", "interrupted") and second.pair.prompt == "And the weather?"
