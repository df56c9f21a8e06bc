"""Command lines of the shell one after the other, in one process or as one of several.

    python together.py FOLDER MODEL LINES.json [stop|fail]

After each line the first process prints `== CODE`. With `stop` the second process gets a Ctrl-C in the middle of the
line that needs more than one batch, with `fail` it runs out of memory in every answer.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

from steerchat.engine import engine, processes
from steerchat.system import folders
from steerchat.terminal import cli
from steerchat.values.errors import ModelError


def main(folder: Path, model: str, lines: Path, trouble: str = "") -> None:
    torch.set_num_threads(1)
    os.environ["STEERCHAT_HOME"] = str(folder / "home")
    folders.packaged = lambda name: folder / "shipped"
    second = os.environ.get("RANK") == "1"
    if second and trouble == "stop":
        share, shared = processes.Team.share, []

        def stopping(self: processes.Team, size: int) -> range:
            shared.append(size)
            if len(shared) == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return share(self, size)

        processes.Team.share = stopping
    if second and trouble == "fail":

        def fails(*arguments: object) -> None:
            raise ModelError("the second process has no memory left")

        engine.Engine._run = fails  # type: ignore[assignment]
    for line in json.loads(lines.read_text()):
        code = cli.main(["--model", model, "--device", "cpu", "--max-tokens", "6", *line])
        print("==", code, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), *sys.argv[4:])
