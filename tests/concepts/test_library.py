"""The library of concepts: shipped ones, the user's own, and vectors that are extracted once for each model."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import CONCEPTS, LAYERS, a_library, write_concepts

from steerchat.concepts.concept import Concept
from steerchat.concepts.library import Library
from steerchat.concepts.vector import LEVELS
from steerchat.engine.engine import Engine
from steerchat.measures.calibration import Calibration
from steerchat.system import folders
from steerchat.values.errors import ConceptError, Interrupted, UnknownName
from steerchat.values.recipe import RANDOM
from steerchat.values.results import Notice, Progress, Watch

OWN = """
kind = "custom"
description = "mine"
[[examples]]
positive = "hurrah"
negative = "well"
"""


def test_the_shipped_concepts_have_at_least_eight_pairs_to_extract_from(tmp_path: Path):
    library = Library(folders.packaged("vectors"), tmp_path, tmp_path)
    concepts = [library.get(name) for name in library.names() if name != RANDOM]
    assert len(concepts) >= 17
    for concept in concepts:
        assert sum(not example.held_out for example in concept.examples) >= 8, concept.name
        assert concept.description and concept.kind != "custom"


def test_names_are_sorted_with_random_last_and_other_files_left_out(tmp_path: Path):
    library = a_library(tmp_path)
    (tmp_path / "concepts").mkdir()
    # Copied with the shipped concepts of an earlier version, beside which it lay.
    (tmp_path / "concepts" / "lexicons.toml").write_text("x = 1")
    (tmp_path / "shipped" / "No Name.toml").write_text(OWN)
    (tmp_path / "concepts" / "folder.toml").mkdir()
    with contextlib.suppress(OSError):  # Windows asks for a right
        (tmp_path / "concepts" / "dangling.toml").symlink_to(tmp_path / "nothing")
    assert library.names() == [*sorted(CONCEPTS), RANDOM]


def test_a_users_concept_shadows_the_shipped_one_until_it_is_gone(tmp_path: Path):
    library = a_library(tmp_path)
    own = tmp_path / "concepts" / "happy.toml"
    own.parent.mkdir()
    own.write_text(OWN)
    assert (library.get("happy").source, library.get("happy").description) == ("user", "mine")
    own.unlink()
    assert library.get("happy").source == "shipped"


def test_level_0_is_the_mean_of_the_plain_examples_and_level_1_of_those_with_the_concept(tmp_path: Path, tiny: Engine):
    library = a_library(tmp_path)
    vector = library.levelled("happy", tiny)
    chosen = [example for example in library.get("happy").examples if not example.held_out]
    for level, texts in ((0.0, [e.negative for e in chosen]), (1.0, [e.positive for e in chosen])):
        prompt = [tiny.prompter.start() if not e.prompt else tiny.prompter.chat(_asked(e.prompt)) for e in chosen]
        states = tiny.states(list(zip(prompt, map(tiny.prompter.reply, texts), strict=True)))
        for layer in range(LAYERS):
            mean = float((states[:, layer] @ vector.directions[layer]).mean())
            assert vector.at_level(layer, level) == pytest.approx(mean, abs=1e-4)
    assert vector.at_level(1, 0.5) == pytest.approx((vector.at_level(1, 0.0) + vector.at_level(1, 1.0)) / 2)


def test_a_vector_from_before_there_were_levels_gets_them_from_its_examples_once(tmp_path: Path, tiny: Engine):
    library = a_library(tmp_path)
    fresh = library.levelled("happy", tiny)
    old = replace(fresh, report={key: value for key, value in fresh.report.items() if key not in LEVELS})
    old.save(tmp_path / "shipped" / "happy.safetensors")
    for path in (tmp_path / "vectors").rglob("happy-*.safetensors"):
        path.unlink()
    again = a_library(tmp_path)
    assert LEVELS[0] not in again.vector("happy", tiny).report
    assert again.levelled("happy", tiny).report == fresh.report and again.vector("happy", tiny).report == fresh.report
    passes = tiny.passes.count
    third = a_library(tmp_path)
    assert third.levelled("happy", tiny).report == fresh.report and tiny.passes.count == passes


def test_a_concept_without_examples_has_no_levels(tmp_path: Path, tiny: Engine):
    library = a_library(tmp_path)
    with pytest.raises(ConceptError, match="random has no examples"):
        library.levelled(RANDOM, tiny)
    library.keep_import(Concept("joy", "own", "", (), method="imported"), library.vector("happy", tiny) * 2.0)
    with pytest.raises(ConceptError, match="joy has no examples"):
        library.levelled("joy", tiny)


def _asked(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def test_an_unknown_concept_suggests_the_nearest(tmp_path: Path):
    with pytest.raises(UnknownName) as raised:
        a_library(tmp_path).get("hapy")
    assert raised.value.hint == "did you mean happy?"


@pytest.mark.parametrize("name", ["../happy", "shipped/happy", "", "HAPPY.toml", "lexicons"])
def test_a_name_reaches_no_other_file(tmp_path: Path, name: str):
    with pytest.raises(UnknownName):
        a_library(tmp_path).get(name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[examples", "cannot be read"),
        ('description = "empty"', "no examples to extract from"),
        ('[[examples]]\npositive = "a"\nnegative = "  "', "empty"),
        ('[[examples]]\npositive = "a"\nnegative = "a"', "equal"),
        ('[[examples]]\npositive = "a"', "negative"),
        ('[[examples]]\npositive = 1\nnegative = "a"', "positive"),
        ("examples = 3", "broken.toml"),
    ],
)
def test_a_broken_concept_names_its_file_and_what_is_wrong(tmp_path: Path, text: str, message: str):
    library = a_library(tmp_path)
    (tmp_path / "shipped" / "broken.toml").write_text(text)
    with pytest.raises(ConceptError) as raised:
        library.get("broken")
    assert "broken.toml" in raised.value.message and message in raised.value.message
    assert library.get("happy").examples  # the others still work


def test_a_vector_is_extracted_once_and_read_from_its_file_afterwards(tmp_path: Path, tiny: Engine):
    told: list[Notice | Progress] = []
    first = a_library(tmp_path).vector("happy", tiny, Watch(told.append))
    assert told and (first.n_layers, first.hidden, first.fingerprint) == (LAYERS, tiny.hidden, tiny.fingerprint)
    again: list[Notice | Progress] = []
    second = a_library(tmp_path).vector("happy", tiny, Watch(again.append))
    assert again == [] and torch.equal(first.directions, second.directions)


def test_other_examples_make_another_vector(tmp_path: Path, tiny: Engine):
    library = a_library(tmp_path)
    before = library.vector("happy", tiny)
    path = tmp_path / "shipped" / "happy.toml"
    path.write_text(path.read_text().replace("I love it", "I adore it"))
    after = library.vector("happy", tiny)
    assert not torch.equal(before.directions, after.directions)


def test_a_random_direction_follows_from_its_seed_alone(tmp_path: Path, tiny: Engine):
    library = a_library(tmp_path)
    one, same, other = (library.vector(RANDOM, tiny, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.directions, same.directions) and not torch.equal(one.directions, other.directions)


def test_a_profile_is_measured_once_for_a_model(tmp_path: Path, tiny: Engine):
    told: list[Notice | Progress] = []
    first = Calibration(a_library(tmp_path)).profile(tiny, Watch(told.append))
    assert told and first.lengths.shape == (LAYERS,) and (first.lengths > 0).all()
    again: list[Notice | Progress] = []
    assert (
        torch.equal(Calibration(a_library(tmp_path)).profile(tiny, Watch(again.append)).states, first.states)
        and again == []
    )


def test_stopped_work_leaves_no_file_and_can_be_done_later(tmp_path: Path, tiny: Engine):
    library = a_library(tmp_path)
    with pytest.raises(Interrupted, match="extracting happy stopped"):
        library.vector("happy", tiny, Watch(stopped=lambda: True))
    with pytest.raises(Interrupted, match="measuring tiny's typical activations stopped"):
        Calibration(library).profile(tiny, Watch(stopped=lambda: True))
    assert not list((tmp_path / "vectors").rglob("*.safetensors"))
    assert library.vector("happy", tiny).n_layers == Calibration(library).profile(tiny).states.shape[1] == LAYERS


def test_a_cache_that_cannot_be_written_is_a_notice_and_costs_time_alone(tmp_path: Path, tiny: Engine) -> None:
    library, events = a_library(tmp_path), []
    (tmp_path / "vectors").write_text("a file in place of the folder")
    profile = Calibration(library).profile(tiny, Watch(events.append))
    vector = library.vector("happy", tiny, Watch(events.append))
    assert profile.states.shape[1] == vector.n_layers == LAYERS
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert ["measured again" in notices[0], "happy is extracted again" in notices[1]] == [True, True]
    assert library.vector("happy", tiny) is vector


@pytest.mark.parametrize("name", ["add", "all", "random", "9lives", "two words", "x" * 41, "prompts", ""])
def test_some_words_cannot_name_a_concept(tmp_path: Path, name: str):
    library = Library(write_concepts(tmp_path / "shipped"), tmp_path, tmp_path, reserved={"add"})
    with pytest.raises(ConceptError):
        library.check_name(name)


def test_a_name_is_taken_in_small_letters(tmp_path: Path):
    assert a_library(tmp_path).check_name(" Very-Happy ") == "very-happy"
