"""Threads give way to other programs while an answer runs, and are as many as before when it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from engines import answers, push, tiny_engine

from steerchat.engine import cores
from steerchat.engine.cores import FreeCores, OtherPrograms
from steerchat.engine.decoding import Row
from steerchat.engine.sampling import Sampling


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def busy(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The cores that other programs use at each look, on a machine of four; a look at every step."""
    used = [0.0]
    monkeypatch.setattr(cores, "_PERIOD", 0.0)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(OtherPrograms, "cores", lambda self: used[-1])
    monkeypatch.setattr(OtherPrograms, "__init__", lambda self: setattr(self, "all", 4))
    return used


def test_threads_leave_the_cores_that_others_use(threads: int, busy: list[float]) -> None:
    free, seen = FreeCores(), []
    for used in (0.3, 0.9, 2.2, 4.0, 0.1):
        busy.append(used)
        steps = free.steps(iter([True, True, False]).__next__)
        next(steps)
        next(steps)
        seen.append(torch.get_num_threads())
        assert free.most == threads
        assert next(steps, None) is None and torch.get_num_threads() == threads and free.most is None
    assert seen == [4, 3, 2, 1, 4]


def test_the_next_answer_begins_with_what_was_seen_last(threads: int, busy: list[float]) -> None:
    free = FreeCores()
    busy.append(3.0)
    assert len(list(free.steps(iter([True, True, False]).__next__))) == 2
    steps = free.steps(iter([True, False]).__next__)
    next(steps)
    assert torch.get_num_threads() == 1
    steps.close()  # as when nobody reads on
    assert torch.get_num_threads() == threads


def test_a_number_that_the_user_chose_stays(threads: int, busy: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    busy.append(3.0)
    for _ in FreeCores().steps(iter([True, True, False]).__next__):
        assert torch.get_num_threads() == threads


def test_a_pair_says_the_same_with_fewer_threads(threads: int, busy: list[float]) -> None:
    engine, prompt = tiny_engine(stops=()), tuple(range(60, 68))
    rows = [Row(prompt, seed=3), Row(prompt, (push(2, 1),), seed=3)]
    sampling = Sampling(max_tokens=12)
    alone = [output.answer.token_ids for output in answers(engine, rows, sampling)]
    busy.append(3.0)
    assert [output.answer.token_ids for output in answers(engine, rows, sampling)] == alone
    assert torch.get_num_threads() == engine.threads == threads
