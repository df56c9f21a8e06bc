"""Writing systems of all kinds keep columns and tables aligned, on narrow and on wide screens."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console
from wcwidth import wcswidth

from steerchat.screen.render import Screen
from steerchat.values.page import Table
from steerchat.values.results import Answer, Finished, Started

# Wide, right to left, with combining marks, pictures and plain. Terminals disagree about conjuncts, as in Devanagari.
TEXTS = ["今天天气怎么样", "مرحبا بالعالم", "שלום עולם", "สวัสดีชาวโลก", "cafe\u0301 nai\u0308ve", "🙂 ok 👍", "plain"]


def written(width: int, show: Callable[[Screen], object], **options: Any) -> str:
    file = io.StringIO()
    show(Screen(Console(file=file, width=width, color_system=None, **options)))
    return file.getvalue()


def lines(width: int, value: object) -> list[str]:
    return [line for line in written(width, lambda screen: screen.show(value)).splitlines() if line.strip()]


@pytest.mark.parametrize("width", [80, 120])
def test_a_tables_columns_begin_at_the_same_cell_in_every_row(width: int) -> None:
    rows = [(text, f"#{number}", text) for number, text in enumerate(TEXTS)]
    shown = lines(width, Table(("first", "number", "last"), rows))
    places = {wcswidth(line[: line.index("#")]) for line in shown if "#" in line}
    assert len(places) == 1 and sum("#" in line for line in shown) == len(TEXTS)
    assert max(map(wcswidth, shown)) <= width


@pytest.mark.parametrize("text", TEXTS)
def test_answers_side_by_side_begin_each_line_at_their_own_cell(text: str) -> None:
    answers = [Answer(f"{text} " * 12, 12, "end", None), Answer(f"# {text}\n" * 4, 4, "end", None)]
    events = [Started(("normal", "steered")), *(Finished(row, answer) for row, answer in enumerate(answers))]
    drawn = written(120, lambda screen: screen.stream(events), force_terminal=True, _environ={"TERM": "xterm"})
    shown = [re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", line) for line in re.split(r"[\r\n]+", drawn)]
    beside = [line for line in shown if "#" in line]
    assert len(beside) == 4 and {wcswidth(line[: line.index("#")]) for line in beside} == {61}
    assert max(map(wcswidth, shown)) <= 120
