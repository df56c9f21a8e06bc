"""What weights of few bits cost is said of the model as it is held, against float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType as Kind
from ggufs import write_gguf
from tiny import a_library

from steerchat.concepts.library import Library
from steerchat.experiments.precision import compare_with_float32, measured_format_cost
from steerchat.measures.calibration import Calibration
from steerchat.models.find import find
from steerchat.models.load import load
from steerchat.values.errors import Interrupted, ModelError, TooLarge
from steerchat.values.results import UNWATCHED, Watch


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("precision") / "tiny.gguf"
    write_gguf(file, Kind.Q4_1, Kind.Q8_0, tied=True)
    return str(file)


def compared(model: str, dtype: str, library: Library, stopped: Any = lambda: False) -> Any:
    engine = load(find(model, progress=lambda event: None), "cpu", dtype)
    return compare_with_float32(engine, model, library, ["hi", "hello"], 4, Watch(stopped=stopped))


@pytest.mark.slow
def test_few_bits_are_compared_with_float32(
    model: str, tmp_path: Path, described_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path))
    library = a_library(tmp_path)
    found = compared(model, "auto", library)
    assert found.dtype == "4-bit" and found.megabytes < found.float32_megabytes
    assert found.perplexity == pytest.approx(found.float32_perplexity, rel=0.05)
    assert found.perplexity != found.float32_perplexity
    assert found.vectors == 3 and 0.9 < found.cosine < 1
    assert found.answers == 4 and 0 <= found.same <= found.same_alone == 1
    assert "4-bit" in str(found.page().parts)
    with pytest.raises(ModelError, match="float32 already"):
        compared(model, "float32", library)
    with pytest.raises(Interrupted):
        compared(model, "auto", library, stopped=lambda: True)


@pytest.mark.slow
def test_the_cost_of_a_format_is_measured_once_and_kept(
    model: str, tmp_path: Path, described_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path))
    library = a_library(tmp_path)
    engine = load(find(model, progress=lambda event: None), "cpu", "auto")
    ask = engine, model, library
    cost = measured_format_cost(*ask, UNWATCHED)
    assert cost.rounded_before and cost.texts == 8 and cost.exact is not None
    assert cost.perplexity == pytest.approx(cost.exact, rel=0.05) and cost.perplexity != cost.exact
    assert f"{cost.exact:.2f} with the file's numbers in float32" in str(cost)
    kept = Calibration(library)
    assert kept.format_cost(engine.fingerprint, "4-bit") is None
    kept.keep_format_cost(engine.fingerprint, cost)
    assert Calibration(library).format_cost(engine.fingerprint, "4-bit") == cost
    assert Calibration(library).format_cost(engine.fingerprint, "8-bit") is None
    with pytest.raises(Interrupted):
        measured_format_cost(*ask, Watch(stopped=lambda: True))

    def too_large(*args: Any) -> Any:
        raise TooLarge("too large", "a smaller one", None, 1)

    monkeypatch.setattr("steerchat.experiments.precision.load", too_large)
    alone = measured_format_cost(*ask, UNWATCHED)
    assert alone.exact is None and alone.perplexity == cost.perplexity and "is not known" in str(alone)
