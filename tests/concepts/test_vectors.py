"""Concept vectors: their arithmetic, the edits that a recipe makes of them, and their files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engines import HIDDEN, LAYERS
from safetensors.torch import save_file
from torch import Tensor

from steerchat.concepts.vector import ConceptVector, combine, edits, random_vector
from steerchat.values.errors import ConceptError
from steerchat.values.operation import UNIT
from steerchat.values.recipe import Recipe, Term

LENGTHS = torch.tensor([10.0, 20.0, 40.0, 80.0])


def concept(name: str = "happy", seed: int = 1, fingerprint: str = "tiny", layers: int = LAYERS) -> ConceptVector:
    raw = torch.randn(layers, HIDDEN, generator=torch.Generator().manual_seed(seed)) * 3
    return ConceptVector.from_raw(name, raw, fingerprint, read_layer=2)


def term(strength: float = 2.0, layers: tuple[int, ...] = (1,), operation: str = "add", **parts: float) -> Term:
    return Term(tuple((parts or {"happy": 1.0}).items()), layers, strength, operation)


def pushes(*terms: Term, **vectors: ConceptVector) -> list[Tensor]:
    return [edit.vector for edit in edits(Recipe(terms), vectors or {"happy": concept()}, LENGTHS)]


def test_a_raw_difference_becomes_unit_directions_and_their_lengths() -> None:
    raw = torch.randn(LAYERS, HIDDEN, generator=torch.Generator().manual_seed(3)) * 7
    vector = ConceptVector.from_raw("happy", raw, "tiny")
    assert (vector.n_layers, vector.hidden) == (LAYERS, HIDDEN)
    torch.testing.assert_close(vector.directions.norm(dim=-1), torch.ones(LAYERS))
    torch.testing.assert_close(vector.raw_lengths, raw.norm(dim=-1))
    torch.testing.assert_close(vector.raw, raw)


def test_a_layer_without_a_difference_has_no_direction() -> None:
    raw = torch.ones(LAYERS, HIDDEN)
    raw[2] = 0
    vector = ConceptVector.from_raw("happy", raw, "tiny")
    assert not vector.directions[2].any()
    assert vector.directions[1].any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_raw_difference_with_nan_or_infinity_is_refused(bad: float) -> None:
    raw = torch.ones(LAYERS, HIDDEN)
    raw[1, 5] = bad
    with pytest.raises(ConceptError, match="NaN or infinity"):
        ConceptVector.from_raw("happy", raw, "tiny")


def test_a_raw_difference_of_zero_is_refused() -> None:
    with pytest.raises(ConceptError, match="zero"):
        ConceptVector.from_raw("happy", torch.zeros(LAYERS, HIDDEN), "tiny")


def test_vectors_are_values() -> None:
    v, w = concept(seed=1), concept("sad", seed=2)
    assert torch.equal((v - v).raw, torch.zeros(LAYERS, HIDDEN))
    torch.testing.assert_close((v + v).raw, (2 * v).raw)
    torch.testing.assert_close((v * 2).raw_lengths, 2 * v.raw_lengths)
    torch.testing.assert_close((2 * v).directions, v.directions)
    torch.testing.assert_close((-v).raw, -v.raw)
    torch.testing.assert_close((v + w - w).raw, v.raw, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close((v + w).raw, v.raw + w.raw, atol=1e-5, rtol=1e-5)
    assert torch.equal((v * 0).raw, torch.zeros(LAYERS, HIDDEN))


def test_cosine_is_one_with_itself_minus_one_with_its_opposite_and_small_with_a_stranger() -> None:
    v = concept(seed=1)
    torch.testing.assert_close(v.cosine(v), torch.ones(LAYERS))
    torch.testing.assert_close(v.cosine(-v), -torch.ones(LAYERS))
    assert v.cosine(concept("sad", seed=2)).abs().max() < 0.5


def test_vectors_of_two_models_do_not_mix() -> None:
    v = concept()
    for other in (concept("sad", fingerprint="other"), concept("sad", layers=LAYERS + 1)):
        for operation in (v.__add__, v.__sub__, v.cosine):
            with pytest.raises(ConceptError, match="different models"):
                operation(other)


def test_strength_is_in_units_of_the_layers_typical_length() -> None:
    v = concept()
    for layer in range(LAYERS):
        (pushed,) = pushes(term(2.0, (layer,)))
        torch.testing.assert_close(pushed, v.directions[layer] * 2.0 * UNIT * LENGTHS[layer])


def test_a_range_of_layers_shares_the_strength() -> None:
    alone = [pushes(term(2.0, (layer,)))[0] for layer in range(LAYERS)]
    torch.testing.assert_close(pushes(term(2.0, tuple(range(LAYERS)))), [push / LAYERS for push in alone])


def test_strengths_add_up_and_negative_ones_point_the_other_way() -> None:
    torch.testing.assert_close(pushes(term(-2.0))[0], -pushes(term(2.0))[0])
    torch.testing.assert_close(sum(pushes(term(1.5), term(0.5))), pushes(term(2.0))[0])


def test_strength_zero_is_no_edit_at_all() -> None:
    assert pushes(term(0.0)) == []
    assert pushes(term(0.0), term(1.0, (3,))) != []


def test_an_ablation_needs_no_strength_and_a_replacement_is_as_long_as_states_are() -> None:
    v = concept()
    (found,) = edits(Recipe((term(0.0, operation="ablate"),)), {"happy": v}, LENGTHS)
    assert (found.layer, found.operation) == (1, "ablate")
    torch.testing.assert_close(found.vector, v.directions[1])
    (placed,) = pushes(term(1 / UNIT, operation="replace"))
    torch.testing.assert_close(placed.norm(), LENGTHS[1])


def test_a_turn_of_a_small_strength_is_the_push_of_that_strength_across_a_state_of_typical_length() -> None:
    turn, push = pushes(term(0.1, operation="rotate"))[0], pushes(term(0.1))[0]
    torch.testing.assert_close(turn * LENGTHS[1], push)
    assert float(pushes(term(2.0, (0, 1), operation="rotate"))[0].norm()) == pytest.approx(UNIT)


def test_a_mix_is_as_strong_as_one_concept() -> None:
    v, w = concept("happy", 1), concept("sad", 2)
    mixed = combine([(v, 0.7), (w, -0.3)], 1)
    torch.testing.assert_close(mixed.norm(), torch.tensor(1.0))
    torch.testing.assert_close(
        mixed, torch.nn.functional.normalize(0.7 * v.directions[1] - 0.3 * w.directions[1], dim=0)
    )
    (pushed,) = pushes(term(2.0, happy=0.7, sad=-0.3), happy=v, sad=w)
    torch.testing.assert_close(pushed.norm(), 2.0 * UNIT * LENGTHS[1])


def test_a_mix_that_cancels_out_is_refused() -> None:
    with pytest.raises(ConceptError, match="cancel out at layer 1"):
        combine([(concept("happy", 1), 0.5), (concept("glad", 1), -0.5)], 1)


def test_a_random_concept_is_one_direction_for_all_layers_and_follows_its_seed() -> None:
    v = random_vector(5, LAYERS, HIDDEN, "tiny")
    assert all(torch.equal(v.directions[0], v.directions[layer]) for layer in range(LAYERS))
    assert torch.equal(v.raw, random_vector(5, LAYERS, HIDDEN, "tiny").raw)
    assert v.cosine(random_vector(6, LAYERS, HIDDEN, "tiny")).abs().max() < 0.5


def test_a_saved_vector_comes_back_whole(tmp_path: Path) -> None:
    vector = concept()
    path = tmp_path / "cache" / "happy.safetensors"
    vector.save(path)
    loaded = ConceptVector.load(path)
    torch.testing.assert_close(loaded.directions, vector.directions)
    assert torch.equal(loaded.raw_lengths, vector.raw_lengths)
    assert (loaded.name, loaded.fingerprint, loaded.method) == ("happy", "tiny", "mean")
    assert loaded.report == {"read_layer": 2}
    assert list(path.parent.iterdir()) == [path]


def test_saving_again_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "happy.safetensors"
    concept(seed=1).save(path)
    concept(seed=2).save(path)
    torch.testing.assert_close(ConceptVector.load(path).directions, concept(seed=2).directions)


def ours(path: Path, **changes: Tensor | str) -> None:
    """A file in our format but for what is changed; a text changes metadata."""
    metadata = {"format": "steerchat-concept-1", "name": "happy", "fingerprint": "tiny", "report": "{}"}
    tensors = {"directions": torch.ones(LAYERS, HIDDEN), "raw_lengths": torch.ones(LAYERS)}
    for name, value in changes.items():
        if isinstance(value, str):
            metadata[name] = value
        else:
            tensors[name] = value
    save_file(tensors, path, metadata)


def with_nan(*shape: int) -> Tensor:
    tensor = torch.ones(*shape)
    tensor.view(-1)[3] = torch.nan
    return tensor


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "another program's"},
        {"directions": with_nan(LAYERS, HIDDEN)},
        {"raw_lengths": with_nan(LAYERS)},
        {"raw_lengths": torch.ones(LAYERS + 1)},
        {"raw_lengths": torch.ones(LAYERS, 1)},
        {"directions": torch.ones(HIDDEN)},
        {"directions": torch.ones(2, LAYERS, HIDDEN)},
        {"report": "{broken"},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_files_with_wrong_contents_are_refused_by_name(tmp_path: Path, changes: dict[str, Tensor | str]) -> None:
    path = tmp_path / "happy.safetensors"
    ours(path)
    assert ConceptVector.load(path).name == "happy"
    ours(path, **changes)
    with pytest.raises(ConceptError, match=r"happy\.safetensors"):
        ConceptVector.load(path)


def test_a_file_without_our_tensors_or_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "happy.safetensors"
    save_file({"directions": torch.ones(LAYERS, HIDDEN)}, path, {"format": "steerchat-concept-1", "name": "happy"})
    with pytest.raises(ConceptError, match=r"happy\.safetensors"):
        ConceptVector.load(path)
    save_file({"directions": torch.ones(LAYERS, HIDDEN), "raw_lengths": torch.ones(LAYERS)}, path)
    with pytest.raises(ConceptError, match=r"happy\.safetensors"):
        ConceptVector.load(path)


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\xff" * 64, b"\x80\x02}q\x00."], ids=["empty", "text", "ff", "pickle"]
)
def test_files_of_another_kind_are_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "happy.safetensors"
    path.write_bytes(data)
    with pytest.raises(ConceptError, match=r"happy\.safetensors"):
        ConceptVector.load(path)


def test_a_file_cut_short_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    concept().save(whole)
    data = whole.read_bytes()
    cut = tmp_path / "happy.safetensors"
    for length in (1, 8, 100, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:length])
        with pytest.raises(ConceptError, match=r"happy\.safetensors"):
            ConceptVector.load(cut)


def test_a_missing_file_and_a_folder_are_concept_errors(tmp_path: Path) -> None:
    with pytest.raises(ConceptError):
        ConceptVector.load(tmp_path / "absent.safetensors")
    with pytest.raises(ConceptError):
        ConceptVector.load(tmp_path)
