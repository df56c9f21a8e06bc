"""Metrics in Prometheus' form."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Meter:
    """What the server counts and times.

    Args:
        running, waiting: how many rows run and wait now.
    """

    def __init__(self, running: Callable[[], int], waiting: Callable[[], int]) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "steerchat_requests", "requests by path and status", ["path", "status"], registry=registry
        )
        self.tokens = Counter("steerchat_tokens", "generated tokens", registry=registry)
        self.refused = Counter("steerchat_refused", "requests refused because too many waited", registry=registry)
        self.first = Histogram(
            "steerchat_first_token_seconds", "time to an answer's first text", buckets=_SECONDS, registry=registry
        )
        self.whole = Histogram("steerchat_answer_seconds", "time of a request", buckets=_SECONDS, registry=registry)
        self._steps = Histogram(
            "steerchat_step_seconds", "time of a step of all rows", buckets=_SECONDS, registry=registry
        )
        for name, help, value in (
            ("steerchat_rows_running", "answers that run", running),
            ("steerchat_rows_waiting", "answers that wait for a place", waiting),
        ):
            Gauge(name, help, registry=registry).set_function(value)
        self.seconds_per_row = 1.0  # of the answers of late

    def step(self, rows: int, seconds: float) -> None:
        self._steps.observe(seconds)
        self.tokens.inc(rows)

    def answered(self, seconds: float) -> None:
        """A request was answered in so many seconds."""
        self.whole.observe(seconds)
        self.seconds_per_row += (seconds - self.seconds_per_row) / 8

    def page(self) -> bytes:
        return generate_latest(self._registry)
