"""CONTRIBUTING's recipes for a command, an operation, a measure and a lesson, followed in a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from places import ROOT


def block(heading: str, number: int = 0) -> str:
    """A block of Python under a heading of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)[number]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package with what the recipes give put in where they say."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)  # which tells a checkout from an installed package
    for name in ("steerchat", "vectors", "tutorials"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    package = tmp_path / "steerchat"
    operations, measures = package / "values" / "operation.py", package / "values" / "measures.py"
    classes = package / "engine" / "operations.py"
    for path, entry in ((operations, block("To add an operation")), (measures, block("To add a measure"))):
        text = path.read_text(encoding="utf-8")
        end = text.rindex("    )\n}")
        entry = textwrap.indent(entry.rstrip() + ",\n", " " * 8)
        path.write_text(text[:end] + entry + text[end:], encoding="utf-8")
    classes.write_text(f"{classes.read_text(encoding='utf-8')}\n\n{block('To add an operation', 1)}", encoding="utf-8")
    (package / "commands" / "count.py").write_text(block("To add a command"), encoding="utf-8")
    with (package / "commands" / "__init__.py").open("a", encoding="utf-8") as names:
        names.write("from . import count\n")
    lesson = (
        (tmp_path / "tutorials" / "README.md").read_text(encoding="utf-8").split("~~~markdown\n")[1].split("~~~")[0]
    )
    (tmp_path / "tutorials" / "16-cheering-up.md").write_text(lesson, encoding="utf-8")
    course = tmp_path / "tutorials" / "course.toml"
    listed = course.read_text(encoding="utf-8").replace('"15-inside.md",', '"15-inside.md", "16-cheering-up.md",')
    course.write_text(listed.replace('"inside",\n]', '"inside", "cheering-up",\n]'), encoding="utf-8")
    return tmp_path


LINES = """/scale sad 2 4.0
How are you?
/expect scales > 0
/expect pair-capitals >= 0
/expect pair-same < 1
/help scale
/count 1
/lesson check
"""


@pytest.mark.slow
@pytest.mark.subprocess
def test_what_contributing_says_adds_a_command_an_operation_a_measure_and_a_lesson(
    copy: Path, tiny_folder: Path, shipped_home: Path, tmp_path: Path
) -> None:
    home = shutil.copytree(shipped_home, tmp_path / "home")
    environment = {**os.environ, "PYTHONPATH": str(copy), "STEERCHAT_HOME": str(home)}
    line = [sys.executable, "-m", "steerchat", "--model", str(tiny_folder), "--device", "cpu", "--max-tokens", "8"]
    done = subprocess.run(line, input=LINES, capture_output=True, text=True, env=environment, cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("As expected") == 3, done.stdout
    assert "scale sad" in done.stdout and "capitals" in done.stdout
    assert done.stdout.count(" words") == 2 and "16 lessons with" in done.stdout, done.stdout
    assert "CONCEPT [LAYER] [STRENGTH]" in " ".join(done.stdout.split())
    [history] = home.rglob("history.db")
    with sqlite3.connect(history) as db:
        names = {name for (name,) in db.execute("SELECT name FROM measures")}
    assert {"capitals", "normal_capitals", "words", "normal_words"} <= names
