"""Some seconds of the monkey (`monkey.py`), the same ones each time as far as the machine is as quick."""

from __future__ import annotations

from pathlib import Path

import pytest
from monkey import play


@pytest.mark.slow
def test_random_lines_leave_no_traceback_lose_no_pair_and_block_no_prompt(tmp_path: Path) -> None:
    desk = play(tmp_path, lines=400, seed=7, seconds=12)
    assert desk.lines >= 10 and desk.pairs >= desk.lines
