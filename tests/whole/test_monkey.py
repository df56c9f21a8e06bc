"""A few random lines of the monkey (`support/monkey.py`), the same ones each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from monkey import play


@pytest.mark.fuzz
@pytest.mark.slow
def test_random_lines_leave_no_traceback_lose_no_pair_and_block_no_prompt(tmp_path: Path) -> None:
    desk = play(tmp_path, lines=50, seed=7)
    assert desk.lines >= 50 and desk.pairs >= desk.lines
