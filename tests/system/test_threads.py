"""torch's threads are told to wait politely, unless the user said how they are to wait."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steerchat.system import threads


def test_what_the_user_set_stays_and_the_rest_is_set() -> None:
    environment = {"LRU_CACHE_CAPACITY": "7"}
    threads.set_thread_defaults(environment)
    assert environment["LRU_CACHE_CAPACITY"] == "7"
    assert {"GOMP_SPINCOUNT", "KMP_BLOCKTIME", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"} <= environment.keys()


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_who_chose_a_way_of_waiting_gets_no_other(name: str) -> None:
    environment = {name: "active"}
    threads.set_thread_defaults(environment)
    assert [environment.get(other) for other in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")] == [
        "active" if other == name else None for other in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    ]


@pytest.mark.subprocess
def test_importing_steerchat_is_enough_and_another_program_can_be_started_without_it() -> None:
    code = "import os, steerchat; from steerchat.system.threads import without_defaults; "
    code += "print(os.environ['GOMP_SPINCOUNT'], without_defaults(os.environ).get('GOMP_SPINCOUNT'))"
    environment = {
        k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    count, without = done.stdout.split()
    assert count.isdecimal() and without == "None"


@pytest.mark.parametrize(
    ("file", "text", "least"),
    [
        ("cpu.max", "100000 100000", 1),
        ("cpu.max", "50000 100000", 1),
        ("cpu.max", "max 100000", None),
        ("cpu.max", "nonsense", None),
    ],
)
def test_threads_are_no_more_than_the_control_group_lets_compute(
    tmp_path: Path, file: str, text: str, least: Any
) -> None:
    (tmp_path / file).write_text(text)
    assert threads.most_threads({}, tmp_path) == (least or threads.most_threads({}, tmp_path / "none"))


def test_the_first_version_of_control_groups_counts_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000")
    assert threads.most_threads({}, tmp_path) == 1
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1")
    assert threads.most_threads({}, tmp_path) == threads.most_threads({}, tmp_path / "none")


def test_a_number_of_threads_that_the_user_chose_stays() -> None:
    assert threads.most_threads({"OMP_NUM_THREADS": "7"}) is None
