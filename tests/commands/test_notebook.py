"""The arguments by which `/history` filters pairs."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from steerchat.commands.notebook import Range, Since
from steerchat.values.errors import UsageError


def test_a_time_is_an_age_or_a_day() -> None:
    assert Since().parse("1d") > Since().parse("2d") > Since().parse("1w")
    assert Since().parse("2026-01-31").day == 31
    midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    assert Since().parse("today") == midnight and Since().parse("Yesterday") == midnight - timedelta(days=1)
    assert abs(Since().parse("2 days ago") - Since().parse("2d")) < timedelta(minutes=1)
    assert midnight - timedelta(days=6) <= Since().parse("monday") <= midnight
    for wrong in ("tomorrow", "2y", "", "-1d", "2 moons ago"):
        with pytest.raises(UsageError):
            Since().parse(wrong)


def test_a_range_is_two_numbers_in_order_or_one() -> None:
    assert Range().parse("1..3") == (1.0, 3.0)
    assert Range().parse("-2") == (-2.0, -2.0)
    assert Range().parse("1..") == (1.0, float("inf")) and Range().parse("..-1") == (float("-inf"), -1.0)
    for wrong in ("3..1", "a..b", "..", "nan", "", "1..x"):
        with pytest.raises(UsageError):
            Range().parse(wrong)
