"""The program's end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_BUSY = """
import sys
import torch
from steerchat import __main__
from steerchat.models import background

def busy(self):
    numbers = torch.randn(300, 300)
    while True:
        numbers @ numbers

background.Loader._load = busy
sys.argv = ["steerchat"]
sys.exit(__main__.main())
"""


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize(("line", "code"), [("/quit", 0), ("/history 9", 1)])
def test_leaving_while_a_model_loads_is_no_abort(tmp_path: Path, line: str, code: int) -> None:
    # Python ends a thread that is in torch's code with std::terminate.
    done = subprocess.run(
        [sys.executable, "-c", _BUSY],
        input=f"/help quit\n{line}\n",
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "STEERCHAT_HOME": str(tmp_path)},
    )
    assert "Ends the chat" in done.stdout
    assert (done.returncode, done.stderr.count("terminate")) == (code, 0), done.stderr
