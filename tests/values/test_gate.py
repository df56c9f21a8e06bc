"""Gates as they are typed, shown and logged."""

from __future__ import annotations

import pytest

from steerchat.values.errors import UsageError
from steerchat.values.gate import Condition, Gate
from steerchat.values.recipe import Recipe, Term, parse_term


@pytest.mark.parametrize(
    ("typed", "gate", "words"),
    [
        ("--when sad>1", Gate(Condition("sad", True, 1.0)), "only while the answer so far scores more than 1 on sad"),
        (
            "--when prompt:Angry<-0.5 --first=20",
            Gate(Condition("angry", False, -0.5, True), first=20),
            "only while the prompt scores less than -0.5 on angry, up to token 20",
        ),
        ("--after 10 --decay 0.9", Gate(after=10, decay=0.9), "from token 11 on, times 0.9 from token to token"),
        ("", Gate(), ""),
    ],
)
def test_a_gate_is_typed_after_a_term_and_survives_json(typed: str, gate: Gate, words: str) -> None:
    request = parse_term(f"rotate happy 16 2.0 {typed}")
    assert (request.operation, request.layers, request.strength, request.gate) == ("rotate", "16", 2.0, gate)
    assert gate.in_words == words
    term = Term((("happy", 1.0),), (16,), 2.0, "rotate", gate)
    assert Term.from_json(term.to_json()) == term
    assert ("gate" in term.to_json()) == bool(typed)
    again = parse_term(f"happy:16:2.0 {' '.join(f'--{part}' for part in _options(str(gate)))}")
    assert again.gate == gate


def _options(text: str) -> list[str]:
    words = text.split()
    return [f"{name} {value}" for name, value in zip(words[::2], words[1::2], strict=True)]


@pytest.mark.parametrize(
    "options",
    [
        "--when sad",
        "--when >1",
        "--when sad>much",
        "--when sad>nan",
        "--first 0",
        "--first x",
        "--after -1",
        "--decay 0",
        "--decay 1.5",
        "--decay",
        "--until 3",
        "--first 3 --after 3",
    ],
)
def test_what_is_no_gate_is_refused_with_an_example(options: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_term(f"happy 16 2.0 {options}")
    assert raised.value.hint


@pytest.mark.parametrize("gate", [{"when": "sad"}, {"first": "x"}, {"until": 3}, {"decay": None}, {"first": [1]}])
def test_a_gate_of_a_changed_file_is_an_error_of_that_file(gate: dict[str, object]) -> None:
    data = Term((("happy", 1.0),), (1,), 2.0).to_json() | {"gate": gate}
    with pytest.raises(ValueError, match="no valid gate"):
        Term.from_json(data)


def test_a_recipe_names_the_concepts_that_its_gates_read_beside_those_that_it_steers() -> None:
    recipe = Recipe((Term((("happy", 1.0),), (1,), 2.0, gate=Gate(Condition("sad", True, 1.0))),))
    assert (recipe.concepts, recipe.named) == (("happy",), ("happy", "sad"))
    assert recipe.drop("sad") == recipe and not recipe.drop("happy").terms
