"""The completer, called with a document as prompt_toolkit calls it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from steerchat.slash.arguments import (
    Choice,
    CommandName,
    Concept,
    Int,
    Layer,
    Many,
    MixSpec,
    ModelName,
    PairId,
    PathArg,
    Rest,
    Setting,
    SettingValue,
    Strength,
)
from steerchat.slash.registry import Registry
from steerchat.terminal.completion import SlashCompleter

registry = Registry()


@dataclass
class Chat:
    n_layers: int | None = 30

    def offers(self, what: str) -> list[tuple[str, str]]:
        lists = {
            "concepts": [("happy", "joyful and warm"), ("sad", "low and grey"), ("very happy", "two words")],
            "settings": [("carry", "which answers go on"), ("top-p", "nucleus")],
            "models": [("smollm2", "the default")],
            "commands": [(command.name, command.summary) for command in registry],
            "pairs": [("12", "Tell me about the weather"), ("11", "Hi")],
        }
        return lists[what]

    def recommended(self, concept: str) -> Sequence[str]:
        return ("10-18", "2.5") if concept == "happy" else ()

    def choices(self, setting: str) -> Sequence[str]:
        return ("own", "steered", "normal") if setting == "carry" else ()


@registry.command("steer", examples=[])
def steer(
    chat: Any,
    concept: Annotated[str | None, Concept] = None,
    layer: Annotated[str | None, Layer] = None,
    strength: Annotated[float | None, Strength] = None,
) -> None:
    """Steers with one concept."""


@registry.command("steer add", examples=[])
def steer_add(chat: Any, concept: Annotated[str, Concept], layer: Annotated[str | None, Layer] = None) -> None:
    """Adds a term."""


@registry.command("steer off", examples=[])
def steer_off(chat: Any) -> None:
    """Pauses steering."""


@registry.command("compare", examples=[], aliases=["versus"])
def compare(
    chat: Any,
    prompt: Annotated[str, Rest] = "",
    *,
    repeats: Annotated[int, Int("how many seeds", least=1)] = 1,
    concept: Annotated[str, Concept("what to push")] = "",
    raw: bool = False,
) -> None:
    """Answers a prompt twice."""


@registry.command("mix", examples=[])
def mix(chat: Any, spec: Annotated[str, MixSpec]) -> None:
    """Steers with a mix."""


@registry.command("probe", examples=[])
def probe(chat: Any, concepts: Annotated[tuple[str, ...], Many(Concept)]) -> None:
    """Reads concepts."""


@registry.command("set", examples=[])
def set_(chat: Any, name: Annotated[str, Setting] = "", value: Annotated[str, SettingValue] = "") -> None:
    """Changes a setting."""


@registry.command("model", examples=[])
def model(chat: Any, name: Annotated[str, ModelName] = "") -> None:
    """Changes the model."""


@registry.command("history", examples=[])
def history(chat: Any, pair: Annotated[int | None, PairId] = None) -> None:
    """Lists the pairs."""


@registry.command("report", examples=[])
def report(chat: Any, file: Annotated[Path, PathArg]) -> None:
    """Writes a report."""


@registry.command("retry", examples=[])
def retry(chat: Any, same: Annotated[str, Choice("same")] = "") -> None:
    """Samples afresh."""


@registry.command("help", examples=[])
def help_(chat: Any, name: Annotated[str, CommandName] = "") -> None:
    """Explains."""


@registry.command("lesson next", examples=[])
def lesson_next(chat: Any) -> None:
    """Goes on."""


def menu(line: str, chat: Chat | None = None) -> dict[str, str]:
    """What is offered at the end of `line`: the line with it, and its meaning."""
    completer = SlashCompleter(registry, chat or Chat())
    found = completer.get_completions(Document(line), CompleteEvent())
    return {line[: len(line) + one.start_position] + one.text: one.display_meta_text for one in found}


def test_commands_are_offered_with_their_summary():
    offered = menu("/")
    assert offered["/steer"] == "Steers with one concept."
    assert offered["/versus"] == "same as /compare"
    assert offered["/lesson"] == "next"
    assert "/steer add" not in offered
    assert menu("/mo") == {"/mo" + "del": "Changes the model."}
    assert list(menu("/cmpr")) == ["/compare"]


def test_verbs_are_mixed_with_the_bare_nouns_first_argument():
    offered = menu("/steer ")
    assert offered["/steer add"] == "Adds a term."
    assert offered["/steer happy"] == "joyful and warm"
    assert list(menu("/steer s")) == ["/steer sad"]
    assert list(menu("/steer o")) == ["/steer off"]
    assert list(menu("/lesson ")) == ["/lesson next"]


def test_after_a_verb_come_its_own_arguments():
    assert list(menu("/steer add ")) == ["/steer add happy", "/steer add sad", '/steer add "very happy"']
    assert menu("/steer off ") == {}


def test_layers_mark_the_recommended_ones():
    offered = menu("/steer happy ")
    assert next(iter(offered.items())) == ("/steer happy 10-18", "recommended")
    assert offered["/steer happy 29"] == "100% deep"
    assert "/steer happy 30" not in offered
    assert list(menu("/steer happy 2")) == [f"/steer happy {n}" for n in (2, *range(20, 30))]
    assert "recommended" not in menu("/steer sad ").values()


def test_layers_are_offered_while_the_model_loads():
    assert list(menu("/steer happy ", Chat(n_layers=None))) == [
        f"/steer happy {one}" for one in ("10-18", "55%", "all")
    ]


def test_strengths_mark_the_recommended_one():
    assert menu("/steer happy 16 ")["/steer happy 16 2.5"] == "recommended"
    assert "/steer sad 16 2.0" in menu("/steer sad 16 ")
    assert "/steer happy 16 -2.0" in menu("/steer happy 16 -")


def test_options_not_yet_given_are_offered_with_their_help():
    assert menu("/compare --")["/compare --repeats"] == "how many seeds"
    assert list(menu("/compare --raw ")) == ["/compare --raw --repeats", "/compare --raw --concept"]
    assert menu("/compare --raw -- ") == {}


def test_an_options_value_is_completed_after_a_blank_or_an_equals_sign():
    assert list(menu("/compare --concept ha")) == ["/compare --concept happy"]
    assert list(menu("/compare --concept=ha")) == ["/compare --concept=happy"]
    assert list(menu('/compare --concept="ver')) == ['/compare --concept="very happy"']
    assert menu("/compare --repeats ") == {}


def test_messages_and_prompts_are_left_alone():
    assert menu("hello /st") == {}
    assert menu("//st") == {}
    assert menu("") == {}
    assert menu("/compare h") == {}
    assert menu("/compare tell me --re") == {}
    assert menu('/compare "say ') == {}


def test_a_quoted_name_is_completed_with_its_quotation_marks():
    assert list(menu('/steer "ver')) == ['/steer "very happy"']
    assert list(menu('/steer "very h')) == ['/steer "very happy"']


def test_a_mix_is_completed_part_by_part():
    assert list(menu("/mix ha")) == ["/mix happy:"]
    assert menu("/mix happy:0.5,s") == {"/mix happy:0.5,sad:": "low and grey"}


def test_every_word_of_many_is_completed():
    assert list(menu("/probe happy s")) == ["/probe happy sad"]


def test_settings_and_their_values():
    assert menu("/set ca") == {"/set carry": "which answers go on"}
    assert list(menu("/set carry ")) == ["/set carry own", "/set carry steered", "/set carry normal"]
    assert menu("/set top-p ") == {}


def test_models_pairs_choices_and_command_names():
    assert menu("/model ") == {"/model smollm2": "the default"}
    assert menu("/history ")["/history 12"] == "Tell me about the weather"
    assert list(menu("/retry ")) == ["/retry same"]
    assert list(menu("/help steer a")) == ["/help steer add"]
    assert list(menu("/help /steer o")) == ["/help /steer off"]


def test_files_are_completed_and_quoted_where_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "my report.md").touch()
    (tmp_path / "news.txt").touch()
    (tmp_path / ".hidden").touch()
    monkeypatch.chdir(tmp_path)
    assert menu("/report ") == {"/report news.txt": "", "/report notes/": "folder"}
    assert list(menu("/report notes/")) == ['/report "notes/my report.md"']
    assert list(menu('/report "notes/my r')) == ['/report "notes/my report.md"']
    assert list(menu("/report .h")) == ["/report .hidden"]
    assert menu(f"/report missing{os.sep}") == {}


def test_what_was_typed_wrong_before_offers_nothing():
    assert menu("/nonsense x ") == {}
    assert menu("/compare --nonsense x ") == {}
    assert menu("/steer happy 16 2.0 more ") == {}


@pytest.mark.slow
@given(st.text(alphabet=" \"'-=/:%.,\\~0129adehinopstvry\n\0", max_size=40) | st.text())
def test_no_partial_line_raises(text: str):
    for line in (text, f"/{text}", *(f"/{command.name} {text}" for command in registry)):
        menu(line)
        menu(line, Chat(n_layers=None))
