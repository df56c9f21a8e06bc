"""Servers with the tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from chats import Start
from places import ROOT
from serving import Running, Serving, serve

from steerchat.serve.classroom import Classroom


@pytest.fixture
def serving(start: Start) -> Iterator[Serving]:
    """Starts servers. Arguments as of `Service`, those of `web` in `guard`, and settings."""
    stops: list[Callable[[], None]] = []

    def begin(
        rows: int = 8,
        waiting: int = 64,
        deadline: float = 60.0,
        guard: dict[str, Any] | None = None,
        classroom: Classroom | None = None,
        **settings: Any,
    ) -> Running:
        chat, _ = start(**{"lessons": str(ROOT / "tutorials"), **settings})
        running, stop = serve(chat, rows, waiting, deadline, guard or {}, classroom)
        stops.append(stop)
        return running

    yield begin
    for stop in stops:
        stop()
