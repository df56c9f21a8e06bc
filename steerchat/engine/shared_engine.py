"""An engine whose rows are shared out among several processes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

from ..engine.processes import Team
from ..values.results import Delta, Finished
from .engine import Engine, Output, Row, Run
from .sampling import Sampling


class SharedEngine(Engine):
    """As `Engine`, with the answers of all processes: each computes its part of the rows.

    A row's answer does not depend on the rows beside it, so the texts are those of one process.
    """

    def __init__(self, team: Team, *given: Any) -> None:
        super().__init__(*given)
        self._team = team

    def generate(
        self, rows: Sequence[Row], sampling: Sampling, run: Run = Run()
    ) -> Generator[Delta | Finished, None, list[Output]]:
        """As `Engine.generate`: this process's rows as they come, then those of the others."""
        for row in rows:
            self.check(row.prompt)
        mine = self._team.share(len(rows))
        own = replace(run, stopped=self._team.stop.is_set)
        events = super().generate([rows[index] for index in mine], sampling, own)
        outputs: list[Output] = []
        error: Exception | None = None
        while True:
            try:
                event = next(events)
            except StopIteration as end:
                outputs = end.value
                break
            except Exception as failed:
                error = failed
                break
            row = mine[event.row]
            yield replace(event, row=row)
        outputs = self._team.gather(outputs, error)
        for row, output in enumerate(outputs):
            if row not in mine:
                yield Delta(row, output.answer.text)
                yield Finished(row, output.answer)
        return outputs
