"""Long use in one process, run by hand: `python tests/support/soak.py --turns 20000`.

Turns, switches of the recipe, experiments and looks at the history on the tiny model; every so often the memory, the
open files and the threads. It fails when the end has more than a tenth more memory than the end of the first thousand
turns, or more files or threads.
"""

from __future__ import annotations

import steerchat  # noqa: F401  # before torch, which reads once what this sets

# isort: split

import argparse
import os
import tempfile
from pathlib import Path

import psutil
import torch
from monkey import Desk, Monkey, room

from steerchat.terminal.repl import run_line

STEERING = ["/steer happy 2 2.0", "/steer sad 0-1 -1.5", "/mix happy:0.7,sad:0.3 2 2.0", "/steer off"]
EXPERIMENTS = ["/compare Tell me", "/layers --tokens 4 Tell me", "/strengths --tokens 4 Tell me", "/why"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=20_000)
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    process = psutil.Process(os.getpid())
    figures: list[tuple[int, int, int]] = []
    with tempfile.TemporaryDirectory() as folder, room(Path(folder)) as model:
        desk = Desk(Monkey(0), model)
        desk.chat._ask = None
        desk.chat.settings.max_tokens = 2
        for turn in range(1, turns + 1):
            lines = [f"Tell me {turn}"]
            if turn % 10 == 0:
                lines.append(STEERING[turn // 10 % len(STEERING)])
            if turn % 50 == 0:
                lines.append(EXPERIMENTS[turn // 50 % len(EXPERIMENTS)])
            if turn % 200 == 0:
                lines.append("/new")
            for line in lines:
                assert run_line(desk.chat, desk.screen, line), f"turn {turn}, {line}: {desk.take()}"
                desk.take()
            if turn % 250 == 0:
                figures.append((process.memory_info().rss >> 20, process.num_fds(), process.num_threads()))
                print(
                    f"{turn} turns: {figures[-1][0]} MB, {figures[-1][1]} files, {figures[-1][2]} threads", flush=True
                )
        desk.whole()
        desk.chat.close()
    settled, last = figures[min(3, len(figures) - 1)], figures[-1]
    assert last[0] <= settled[0] * 1.1 and last[1] <= settled[1] and last[2] <= settled[2], f"{settled} became {last}"
    print(f"flat: {settled} at the first thousand, {last} at the end")


if __name__ == "__main__":
    main()
