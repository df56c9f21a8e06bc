"""Connections whose requests come too slowly are closed: many of them would leave no room for others (Slowloris)."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

# Seconds for the headers of a request, or what is left of a refused one; uvicorn waits for ever. For a body that is
# read, guard.py has a bound.
_PATIENCE = 20.0


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP, with a bound on how long a request may take to come."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self._late is not None:
            self._late.cancel()
        self._late = self.loop.call_later(_PATIENCE, self._hang_up)

    def _hang_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # no whole request since, or a body that nobody reads
            self.transport.close()
