"""`bench`: every figure is present, and is right for runs of known cost."""

from __future__ import annotations

import ast
import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from engines import tiny_engine, tiny_model, tiny_tokenizer
from gguf import GGMLQuantizationType as Kind
from ggufs import write_gguf
from tiny import a_library

from steerchat import commands  # noqa: F401  # declares the commands
from steerchat.engine.engine import Engine
from steerchat.engine.sampling import Sampling
from steerchat.experiments import baseline, bench
from steerchat.experiments.bench import run_bench
from steerchat.experiments.bench_report import BenchReport
from steerchat.experiments.versus import OtherProgram, others
from steerchat.slash.registry import registry
from steerchat.system.settings import Settings
from steerchat.values.errors import Interrupted, ModelError
from steerchat.values.operation import OPERATIONS
from steerchat.values.results import Notice, Progress, Watch

pytestmark = [pytest.mark.slow, pytest.mark.subprocess]

# Design section 8.
PROMISED = [
    "pair_vs_single",
    "hook_one_layer",
    "hook_all_layers",
    "hook_operations",
    "layers_speedup",
    "strengths_speedup",
    "ttft_turn10_vs_turn2",
    "bandwidth_fraction",
    "vs_generate",
    "pair_vs_generate",
    "layers_vs_generate",
    "pair_beside_another",
    "extract_seconds",
    "start_seconds",
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Of the measured model in files, so that other processes can start with it, away from the user's folders."""
    folder = tmp_path_factory.mktemp("bench")
    tiny_model().save_pretrained(folder / "tiny")
    tiny_tokenizer().save_pretrained(folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERCHAT_HOME", str(folder / "home"))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield Settings(model=str(folder / "tiny"))


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory, settings: Settings
) -> tuple[Engine, BenchReport, list[Notice | Progress]]:
    events: list[Notice | Progress] = []
    engine = tiny_engine(stops=())
    library = a_library(tmp_path_factory.mktemp("concepts"))
    return engine, run_bench(engine, library, settings, quick=True, watch=Watch(events.append)), events


@pytest.fixture
def no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other program is started: each of its tokens takes a second."""
    other = contextlib.nullcontext(SimpleNamespace(versions={}, seconds=lambda *arguments: 1.0))
    monkeypatch.setattr(bench, "others", lambda *arguments: {"generate": other})
    monkeypatch.setattr(bench, "another", lambda settings: contextlib.nullcontext())


@pytest.fixture
def no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other steerchat is started either."""
    monkeypatch.setattr(bench._Bench, "start", lambda self: {"start_seconds": 1.0})


def test_each_operation_has_a_figure_at_one_layer_and_at_all(tmp_path: Path, settings: Settings):
    report = run_bench(tiny_engine(stops=()), a_library(tmp_path), settings, quick=True, operations=True)
    wanted = {f"{name}_{where}" for name in OPERATIONS for where in ("one_layer", "all_layers")}
    assert set(report.figures) == wanted and set(report.repeats.values()) == {3}
    assert all(0 < figure.low <= figure.median <= figure.high for figure in report.figures.values())


def test_the_object_has_every_figure_that_the_design_promises_with_its_spread(measured):
    data = json.loads(json.dumps(measured[1].to_json(), allow_nan=False))
    for name in PROMISED:
        assert data[name].keys() == {"median", "low", "high"}
        assert 0 < data[name]["low"] <= data[name]["median"] <= data[name]["high"]
        assert data["repeats"][name] >= 1
    assert (data["model"], data["device"], data["dtype"]) == ("tiny-llama", "cpu", "float32")
    assert {"cpu", "instructions", "threads", "torch", "transformers", "dtype of generate"} <= data["machine"].keys()


def test_the_reading_limit_and_the_speed_are_what_the_fraction_divides(measured):
    figures = measured[1].figures
    fraction, speed, limit = (
        figures[name] for name in ("bandwidth_fraction", "tokens_per_second", "limit_tokens_per_second")
    )
    assert speed.low / limit.high <= fraction.median <= speed.high / limit.low


def test_progress_is_told_up_to_the_end(measured):
    shares = [event.done / (event.total or 1) for event in measured[2] if isinstance(event, Progress)]
    assert shares == sorted(shares) and shares[-1] == 1


def test_nothing_is_left_on_the_model(measured):
    engine = measured[0]
    assert not any(block._forward_hooks for block in engine.blocks)


def test_bench_stops_when_it_is_told_to(tmp_path, settings, no_other, no_start):
    events: list[Notice | Progress] = []

    def stopped() -> bool:
        return any(isinstance(event, Progress) and "memory" in event.label for event in events)

    with pytest.raises(Interrupted):
        run_bench(tiny_engine(stops=()), a_library(tmp_path), settings, True, watch=Watch(events.append, stopped))
    assert "memory" in str(events[-1])


def test_a_model_that_ends_its_answers_at_once_is_an_error_that_says_so(tmp_path, settings, no_other, no_start):
    engine = tiny_engine(stops=tuple(range(300)))
    with pytest.raises(ModelError, match="ended its answer"):
        run_bench(engine, a_library(tmp_path), settings, quick=True)


def test_the_baseline_is_a_process_without_anything_of_steerchats_and_says_why_it_ends(settings):
    engine = tiny_engine(stops=())
    prompt = engine.prompter.chat([{"role": "user", "content": "Hello"}])
    with others(settings.model, engine)["generate"] as other:
        assert other.versions["torch"] == torch.__version__
        assert other.seconds(prompt, Sampling(max_tokens=4), 1) > 0
        with pytest.raises(ModelError, match="transformers alone"):
            other.seconds([10**6], Sampling(max_tokens=4), 1)
    tree = ast.parse(Path(baseline.__file__).read_text(encoding="utf-8"))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert [node.module for node in imported if node.level or "steerchat" in (node.module or "")] == []


LLAMA = """
import os
CRASH = 0
__version__ = "1.2.3"
class Llama:
    def __init__(self, path, **options): print("loaded", path, options["n_threads"])
    def set_seed(self, seed): self.seed = seed
    def reset(self): self.ready = True
    ready, seed = True, 1
    def token_bos(self): return 1
    def token_eos(self): return 2
    def generate(self, prompt, **options):
        if not options:
            os.kill(os.getpid(), CRASH) if CRASH else None
            yield 5
            return
        assert self.ready and options["temp"] == 0.7 and options["top_p"] == 0.9 and options["repeat_penalty"] == 1.1
        self.ready = False
        yield from prompt if self.seed == 1 else [2]
"""


def test_llama_cpp_is_compared_with_where_it_is_installed_and_the_model_is_a_gguf(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With a stand-in for the package, which takes minutes to build."""
    (tmp_path / "llama_cpp.py").write_text(LLAMA, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    engine, file = tiny_engine(), tmp_path / "tiny.gguf"
    write_gguf(file, Kind.Q4_0, Kind.Q8_0, tied=True)
    assert set(others(str(file), engine)) == {"generate", "llama_cpp"}
    with others(str(file), engine)["llama_cpp"] as other:
        assert other.versions == {"llama_cpp_python": "1.2.3"}
        assert other.seconds([5, 6, 7, 8], Sampling(max_tokens=3), 1) > 0
        assert other.seconds([5], Sampling(max_tokens=3), 2) > 0  # it ended at once
        with pytest.raises(ModelError, match=r"llama\.cpp, which steerchat is compared with, ended"):
            other.seconds([5], Sampling(max_tokens=3, top_p=0.5), 1)


def test_bench_goes_on_without_a_llama_cpp_that_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings, no_start: None
):
    """Built for another CPU, it ends by a signal."""
    (tmp_path / "llama_cpp.py").write_text(LLAMA.replace("CRASH = 0", "CRASH = 4"), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    program = str(Path(baseline.__file__).with_name("baseline_llama.py"))
    stub = contextlib.nullcontext(SimpleNamespace(versions={}, seconds=lambda *arguments: 1.0))
    programs = {"generate": stub, "llama_cpp": OtherProgram("llama.cpp", [program, "tiny.gguf", "1"])}
    monkeypatch.setattr(bench, "others", lambda *arguments: programs)
    monkeypatch.setattr(bench, "another", lambda settings: contextlib.nullcontext())
    events: list[Notice | Progress] = []
    report = run_bench(tiny_engine(stops=()), a_library(tmp_path), settings, quick=True, watch=Watch(events.append))
    assert "vs_generate" in report.figures and "vs_llama_cpp" not in report.figures
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert len(notices) == 1 and "by signal 4, Illegal instruction; bench goes on without it" in notices[0]


def test_another_steerchat_that_does_not_start_is_an_error_that_says_so(tmp_path, settings, no_other):
    elsewhere = replace(settings, device="cuda")
    with pytest.raises(ModelError, match="another steerchat did not start"):
        run_bench(tiny_engine(stops=()), a_library(tmp_path), elsewhere, quick=True)


def test_bench_is_a_slash_command_and_a_subcommand_of_the_shell():
    bench = registry.get("bench")
    assert bench.shell
    assert [registry.parse(example).kwargs for example in bench.examples] == [
        {"quick": True},
        {"operations": True},
        {"kernels": True},
        {},
    ]
