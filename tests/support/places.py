"""Folders of this checkout."""

from __future__ import annotations

from pathlib import Path

SUPPORT = Path(__file__).resolve().parent  # modules that tests import; `pythonpath` in pyproject.toml names it
ROOT = SUPPORT.parent.parent
