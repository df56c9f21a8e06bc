"""What the scripts that measure the default model share: its prompts, and a session that logs nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from steerchat.concepts.library import Library
from steerchat.conversation.session import Session
from steerchat.models.find import find
from steerchat.models.load import load
from steerchat.system import folders
from steerchat.system.settings import Settings


@contextmanager
def default_session(dtype: str = "auto", **settings: Any) -> Iterator[Session]:
    """A session on the default model and the shipped concepts; what it makes of concepts is gone afterwards."""
    engine = load(find("smollm2", progress=lambda event: None), "cpu", dtype)
    with tempfile.TemporaryDirectory() as folder:
        library = Library(folders.packaged("vectors"), Path(folder, "concepts"), Path(folder, "cache"))
        yield Session(Settings(**settings), library, lambda: engine, None)
