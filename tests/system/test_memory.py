"""Amounts of memory as text, and code that leaves memory."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from steerchat.system.memory import forget_code, parse_size
from steerchat.values.errors import UsageError


@pytest.mark.parametrize(("text", "size"), [("6GB", 6 * 10**9), ("1.5 gb", 1.5e9), ("800MB", 8 * 10**8), ("77", 77)])
def test_amounts_of_memory(text: str, size: float) -> None:
    assert parse_size(text) == size


def test_what_is_no_amount_of_memory_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="not an amount"):
        parse_size("much")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells where libraries lie")
def test_code_that_was_used_leaves_memory_and_is_read_again() -> None:
    name = llvm.ffi.get_library_name()

    def resident() -> int:
        code = re.compile(rf" r-xp .*/{re.escape(name)}\n(?:.+\n)*?Rss: +(\d+)")
        return sum(int(found) for found in code.findall(Path("/proc/self/smaps").read_text("utf-8")))

    text = str(llvm.parse_assembly("define void @f() { ret void }"))
    before = resident()
    assert before > 1000
    forget_code("no library")
    assert resident() >= before
    forget_code(name)
    assert resident() < before / 2
    assert str(llvm.parse_assembly("define void @f() { ret void }")) == text
