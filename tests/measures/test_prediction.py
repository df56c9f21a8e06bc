"""A concept's direction read at every layer: what the output layer makes of it, and whether it would work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import LAYERS, a_library

from steerchat.concepts.concept import Concept, Example
from steerchat.concepts.vector import ConceptVector
from steerchat.engine.engine import Engine
from steerchat.measures.calibration import Calibration
from steerchat.measures.prediction import STRENGTH, predicted_order, rank_correlation, read_layers
from steerchat.measures.reader import Reader
from steerchat.values.errors import Interrupted
from steerchat.values.operation import UNIT
from steerchat.values.results import Watch


def reader_of(engine: Engine, folder: Path, stopped: bool = False) -> Reader:
    library = a_library(folder)
    return Reader(engine, library, Calibration(library), Watch(stopped=lambda: stopped))


def keep(reader: Reader, engine: Engine, raw: torch.Tensor, *examples: Example) -> None:
    """A concept of the user's with this direction at every layer."""
    vector = ConceptVector.from_raw("mine", raw.expand(LAYERS, -1), engine.fingerprint, "imported")
    concept = Concept("mine", "own", "", examples, method="imported")
    reader.library.save(concept, replace(vector, report={"examples": concept.digest}))


def token(engine: Engine, text: str) -> int:
    return engine.prompter.reply(text)[0]


def test_a_push_towards_a_token_is_predicted_where_the_output_layer_reads_it(tiny: Engine, tmp_path: Path) -> None:
    table = tiny.model.lm_head.weight
    examples = [Example("How?", "qqqq aaaa", "zzzz aaaa"), Example("Why?", "qq bb", "zz bb")]
    for sign in (1.0, -1.0):
        reader = reader_of(tiny, tmp_path)
        keep(reader, tiny, sign * (table[token(tiny, "q")] - table[token(tiny, "z")]), *examples)
        readings = read_layers(reader, "mine")
        last = readings[-1]
        assert last.lens is not None and last.step is not None
        assert last.lens * sign > 0 and last.step * sign > 0
    assert [reading.alike for reading in readings] == [None, *[pytest.approx(1.0)] * (LAYERS - 1)]


def test_the_lens_is_what_the_model_would_say_if_it_ended_there(tiny: Engine, tmp_path: Path) -> None:
    reader = reader_of(tiny, tmp_path)
    [low, high] = [token(tiny, letter) for letter in "zq"]
    direction = torch.randn(tiny.hidden, generator=torch.Generator().manual_seed(3))
    keep(reader, tiny, direction, Example("How?", "q", "z"))
    profile, vector = reader.profile, reader.vector("mine")
    for reading in read_layers(reader, "mine"):
        state = profile.states[:, reading.layer].float().mean(dim=0)
        push = vector.directions[reading.layer] * STRENGTH * UNIT * profile.lengths[reading.layer]
        plain, pushed = (
            tiny.model.lm_head(tiny.model.model.norm(each)).log_softmax(-1) for each in (state, state + push)
        )
        gain = pushed - plain
        assert reading.lens == pytest.approx(float(gain[high] - gain[low]), abs=1e-3)


def test_without_examples_nothing_is_predicted(tiny: Engine, tmp_path: Path) -> None:
    reader = reader_of(tiny, tmp_path)
    keep(reader, tiny, torch.ones(tiny.hidden))
    assert {(reading.lens, reading.step, reading.agreement) for reading in read_layers(reader, "mine")} == {(None,) * 3}


def test_a_stop_ends_the_reading(tiny: Engine, tmp_path: Path) -> None:
    reader = reader_of(tiny, tmp_path)
    assert reader.profile and reader.vector("happy")  # measured before the stop
    reader.watch = Watch(stopped=lambda: True)
    with pytest.raises(Interrupted):
        read_layers(reader, "happy")


def test_the_order_is_from_the_strongest_on(tiny: Engine, tmp_path: Path) -> None:
    readings = read_layers(reader_of(tiny, tmp_path), "happy")
    order = predicted_order(readings)
    steps = [readings[layer].step or 0.0 for layer in order]
    assert sorted(order) == list(range(LAYERS)) and steps == sorted(steps, reverse=True)


def test_rank_correlation_goes_by_order_alone_and_shares_ranks_of_equal_values() -> None:
    assert rank_correlation([1, 2, 3, 4], [10, 20, 30, 1000]) == pytest.approx(1.0)
    assert rank_correlation([1, 2, 3, 4], [9, 3, 2, -50]) == pytest.approx(-1.0)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5).
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx((4.5 / 5) ** 0.5)
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0.0
