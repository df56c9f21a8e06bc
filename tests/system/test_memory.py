"""Amounts of memory as text."""

from __future__ import annotations

import pytest

from steerchat.system.memory import parse_size
from steerchat.values.errors import UsageError


@pytest.mark.parametrize(("text", "size"), [("6GB", 6 * 10**9), ("1.5 gb", 1.5e9), ("800MB", 8 * 10**8), ("77", 77)])
def test_amounts_of_memory(text: str, size: float) -> None:
    assert parse_size(text) == size


def test_what_is_no_amount_of_memory_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="not an amount"):
        parse_size("much")
