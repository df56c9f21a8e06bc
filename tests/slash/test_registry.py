"""Slash lines against small commands declared here."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from steerchat.slash.arguments import (
    Choice,
    CommandName,
    Concept,
    Float,
    Int,
    Layer,
    Many,
    MixSpec,
    PairId,
    Rest,
    Setting,
    SettingValue,
    Strength,
)
from steerchat.slash.registry import Registry, is_command, message_text
from steerchat.terminal import subcommands
from steerchat.terminal.subcommands import Subcommand
from steerchat.values.errors import SteerchatError, UnknownName, UsageError
from steerchat.values.operation import OPERATIONS
from steerchat.values.page import Definitions, Heading
from steerchat.values.results import Notice

registry = Registry()


@registry.command("steer", examples=["/steer happy 16 2.0", "/steer happy -2.0", "/steer"], group="Steering")
def steer(
    chat: Any,
    concept: Annotated[str | None, Concept] = None,
    layer: Annotated[str | None, Layer] = None,
    strength: Annotated[float | None, Strength] = None,
) -> tuple[Any, ...]:
    """Steers with one concept.

    It replaces whatever was steered before.
    """
    return chat, concept, layer, strength


@registry.command("steer add", examples=["/steer add sad 55%"], group="Steering")
def steer_add(
    chat: Any,
    concept: Annotated[str, Concept],
    layer: Annotated[str | None, Layer] = None,
    strength: Annotated[float | None, Strength] = None,
) -> None:
    """Adds a term."""


@registry.command("mix", examples=["/mix happy:0.7,excited:0.3 12-20 2.0"], group="Steering", shell=True)
def mix(
    chat: Any,
    spec: Annotated[str, MixSpec],
    layer: Annotated[str | None, Layer] = None,
    strength: Annotated[float | None, Strength] = None,
) -> None:
    """Steers with a mix."""


@registry.command("compare", examples=["/compare --repeats 5 Don't panic"], group="Experiments", shell=True)
def compare(
    chat: Any,
    prompt: Annotated[str, Rest("what to ask")] = "",
    *,
    repeats: Annotated[int, Int("how many seeds", least=1)] = 1,
    control: Annotated[bool, "random pushes too"] = False,
    raw: bool = False,
) -> None:
    """Answers a prompt normal and steered."""


@registry.command("probe", examples=["/probe happy sad"], group="Experiments", shell=True)
def probe(chat: Any, concepts: Annotated[tuple[str, ...], Many(Concept)]) -> None:
    """Reads concepts live."""


@registry.command("concept", examples=["/concept"], group="Library", aliases=["concepts"])
def concept_list(chat: Any) -> None:
    """Lists the concepts."""


@registry.command("concept show", examples=["/concept show happy"], group="Library", aliases=["concept view"])
def concept_show(chat: Any, name: Annotated[str, Concept]) -> None:
    """Shows one concept."""


@registry.command("concept new", examples=['/concept new loud "I am SO excited!" "I am calm."'], group="Library")
def concept_new(
    chat: Any, name: Annotated[str, Concept], positive: str, negative: str = "", *, file: Path | None = None
) -> None:
    """Makes a concept."""


@registry.command("history", examples=["/history 3", '/history --search "two words"'], group="Notebook")
def history(
    chat: Any,
    pair: Annotated[int | None, PairId] = None,
    *,
    search: Annotated[str, "only those with these words"] = "",
    max_cost: Annotated[float, Float("only cheaper ones", least=0)] = 9.0,
) -> None:
    """Lists the pairs."""


@registry.command("rate", examples=["/rate 3 quite good", "/rate quite good"], group="Notebook")
def rate(chat: Any, pair: Annotated[int | None, PairId] = None, note: Annotated[str, Rest] = "") -> None:
    """Rates a pair."""


@registry.command("continue", examples=["/continue The meeting went"])
def continue_(chat: Any, text: Annotated[str, Rest]) -> None:
    """Carries a text on."""


@registry.command("retry", examples=["/retry same"])
def retry(chat: Any, same: Annotated[str, Choice("same")] = "") -> None:
    """Samples afresh."""


@registry.command("set", examples=["/set top-p 0.9"])
def set_(chat: Any, name: Annotated[str, Setting] = "", value: Annotated[str, SettingValue] = "") -> None:
    """Shows or changes a setting."""


@registry.command("help", examples=["/help steer add"], aliases=["h"])
def help_(chat: Any, name: Annotated[str, CommandName] = "") -> None:
    """Explains the commands."""


@registry.command("lesson next", examples=["/lesson next"])
def lesson_next(chat: Any) -> None:
    """Goes on."""


def values(line: str) -> dict[str, Any]:
    return registry.parse(line).kwargs


def fails(line: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        registry.parse(line)
    return caught.value


def test_every_example_binds_to_its_own_command():
    for command in registry:
        for example in command.examples:
            assert registry.parse(example).command is command


def test_running_a_line_calls_the_handler_with_the_chat_and_its_defaults():
    assert registry.parse("/steer happy 16").run("the chat") == ("the chat", "happy", "16", None)


def test_the_longest_name_wins_and_the_bare_noun_stays_a_command():
    assert registry.parse("/steer add happy").command.name == "steer add"
    assert registry.parse("/STEER Add happy").command.name == "steer add"
    assert registry.parse("/steer addled").kwargs == {"concept": "addled"}
    assert registry.parse('/steer "add"').kwargs == {"concept": "add"}


def test_a_lone_strength_goes_past_the_layer():
    assert values("/steer happy 2.0") == {"concept": "happy", "strength": 2.0}
    assert values("/steer happy -2") == {"concept": "happy", "strength": -2.0}
    assert values("/steer happy 3") == {"concept": "happy", "layer": "3"}
    assert values("/steer happy 12-20 -2.0") == {"concept": "happy", "layer": "12-20", "strength": -2.0}
    assert values("/rate quite good") == {"note": "quite good"}
    assert values("/rate 3 4 stars") == {"pair": 3, "note": "4 stars"}


def test_a_value_that_does_not_parse_names_its_argument():
    assert fails("/steer happy 12..20 2.0").message == "LAYER: '12..20' is not a layer"
    assert fails("/steer happy 16 nan").message.startswith("STRENGTH: ")
    assert fails("/steer happy 16 much").message.startswith("STRENGTH: ")
    assert fails("/steer happy 500.0").message.startswith("STRENGTH: ")
    assert fails("/compare --repeats many Hi").message == "--repeats: 'many' is not a whole number"
    assert fails("/compare --repeats 0 Hi").message == "--repeats: 0 is out of range: use at least 1"
    assert fails("/history --max-cost inf").message == "--max-cost: 'inf' is not a number"
    assert fails("/history three").message == "ID: 'three' is not the id of a pair"
    assert fails("/mix happy:1,sad:0.x").message.startswith("SPEC: ")
    assert fails("/retry sam").message == "same: 'sam' is not the word same"


def test_a_noun_that_is_no_command_lists_its_subcommands():
    assert fails("/lesson").message == "/lesson needs a subcommand: next"


def test_too_few_and_too_many_words_show_the_usage():
    too_few, too_many = fails("/steer add"), fails("/steer add happy 16 2.0 more")
    assert too_few.message == "CONCEPT is missing"
    assert too_many.message == "unexpected argument 'more'"
    assert too_few.hint == too_many.hint == "/steer add CONCEPT [LAYER] [STRENGTH]"
    assert fails("/continue   ").message == "TEXT is missing"


def test_unknown_commands_name_the_nearest():
    nonsense = fails("/nonsense")
    assert isinstance(nonsense, UnknownName)
    assert nonsense.message == "no command called '/nonsense'"
    assert "/help" in nonsense.hint
    assert fails("/compar Hi").hint == "did you mean /compare?"
    assert fails("/concept shwo happy").hint == "did you mean /concept show?"
    assert "/lesson next" in fails("/lesson").hint
    assert fails("/lesson nxt").hint == "did you mean /lesson next?"
    assert "/help" in fails("/").hint


def test_aliases_find_the_command_and_its_verbs():
    assert registry.parse("/h steer").command.name == "help"
    assert registry.parse("/concepts").command.name == "concept"
    assert registry.parse("/concepts show happy").command.name == "concept show"
    assert registry.parse("/concept view happy").command.name == "concept show"
    assert registry.get("/concepts  view").name == "concept show"


def test_options_come_before_the_prompt_and_the_prompt_is_text():
    assert values("/compare --repeats 5 --raw say --search  now") == {
        "prompt": "say --search  now",
        "repeats": 5,
        "raw": True,
    }
    late = fails("/compare happy --repeats 5")
    assert late.message == "--repeats comes before PROMPT, not after it" and "put -- before a text" in late.hint
    assert values("/compare -- happy --repeats 5") == {"prompt": "happy --repeats 5"}
    assert values("/compare --repeats=5 Hi") == {"prompt": "Hi", "repeats": 5}
    assert values("/compare -- --raw  Hi") == {"prompt": "--raw  Hi"}
    assert values("/history 3 --max_cost 2 --search x") == {"pair": 3, "max_cost": 2.0, "search": "x"}


def test_options_that_do_not_fit_are_named():
    assert fails("/compare --repeat 5 Hi").hint == "did you mean --repeats?"
    assert "--xyzzy" in fails("/compare --xyzzy Hi").message
    assert fails("/compare --repeats").message == "--repeats needs a value"
    assert fails("/compare --repeats --raw Hi").message == "--repeats needs a value"
    assert fails("/compare --raw=yes Hi").message == "--raw takes no value"
    assert fails("/compare --raw --raw Hi").message == "--raw is given twice"


def test_quotation_marks_join_words_and_apostrophes_are_letters():
    assert values('/concept new loud "I am SO excited!" don\'t') == {
        "name": "loud",
        "positive": "I am SO excited!",
        "negative": "don't",
    }
    assert values('/history --search "two words"') == {"search": "two words"}
    assert values('/history --search="two words" 4') == {"search": "two words", "pair": 4}
    assert values('/concept new loud "--file" ""') == {"name": "loud", "positive": "--file", "negative": ""}
    assert 'closing " is missing' in fails('/concept new loud "I am').message
    assert 'closing " is missing' in fails('/history --search="two').message


def test_the_rest_keeps_its_quotes_and_inner_blanks():
    line = '  "Hello,"  she said: it\'s 5" tall\n and "open '
    assert values(f"/continue{line}") == {"text": line.strip()}


def test_paths_settings_names_and_many_words_become_values(tmp_path: Path):
    assert values(f'/concept new a b --file "{tmp_path / "two words.toml"}"')["file"] == tmp_path / "two words.toml"
    assert values("/set Top_P 0.9") == {"name": "top-p", "value": "0.9"}
    assert values("/probe Happy sad") == {"concepts": ("happy", "sad")}
    assert values("/history #12") == {"pair": 12}
    assert values("/help /Steer  Add") == {"name": "steer add"}


@given(st.text())
def test_the_rest_comes_back_as_typed(text: str):
    assert values(f"/compare -- {text}").get("prompt", "") == text.strip()


@given(st.text(alphabet=" \"'-=/:%.,0123456789ahrstepwnoc\n", max_size=60) | st.text())
def test_no_line_fails_otherwise_than_with_a_message(tail: str):
    for line in (f"/{tail}", *(f"/{command.name} {tail}" for command in registry)):
        try:
            registry.parse(line)
        except SteerchatError as error:
            assert error.message and error.hint


def test_a_very_long_line_is_read():
    text = "word " * 20_000
    assert values(f"/continue {text}") == {"text": text.strip()}
    assert len(fails(f"/steer happy 16 2.0 {'x' * 100_000}").message) < 100


def test_two_slashes_begin_a_message():
    assert is_command("/help") and is_command("  /help")
    assert not is_command("//help") and not is_command("help /me") and not is_command("")
    assert message_text("//usr/bin // x") == "/usr/bin // x"
    assert message_text("a // b") == "a // b"


def test_usage_shows_options_then_arguments():
    assert registry.get("compare").usage == "/compare [--repeats N] [--control] [--raw] [PROMPT]"
    assert registry.get("probe").usage == "/probe CONCEPT..."
    assert registry.get("retry").usage == "/retry [same]"
    assert registry.get("concept new").usage == "/concept new [--file FILE] CONCEPT POSITIVE [NEGATIVE]"


def test_verbs_are_reserved():
    assert registry.reserved_words() == {"all", "random", "show", "view", "new", "next", *OPERATIONS}


def test_help_lists_by_group_and_explains_one_command():
    *lists, hint = registry.help().parts
    assert [part.heading for part in lists if isinstance(part, Definitions)][:2] == ["Steering", "Experiments"]
    experiments = lists[1]
    assert isinstance(experiments, Definitions) and isinstance(hint, Notice)
    assert experiments.entries[0] == ("/compare [PROMPT]", "Answers a prompt normal and steered.")  # no options
    assert ("/probe CONCEPT...", "Reads concepts live.") in experiments.entries
    *_, arguments, options, examples = registry.help("/compare").parts
    assert arguments == Definitions("Arguments", [("PROMPT", "what to ask")])
    assert isinstance(options, Definitions) and options.entries[0] == ("--repeats N", "how many seeds")
    assert examples == Definitions("Examples", [("/compare --repeats 5 Don't panic", "")])
    usage, text, *_, subcommands, examples = registry.help("steer").parts
    assert usage == Heading(registry.get("steer").usage)
    assert text == "Steers with one concept.\n\nIt replaces whatever was steered before."
    assert subcommands == Definitions("Subcommands", [("/steer add CONCEPT [LAYER] [STRENGTH]", "Adds a term.")])
    assert Definitions("Aliases", [("/h", "")]) in registry.help("h").parts
    with pytest.raises(UnknownName):
        registry.help("nonsense")


def test_the_readme_table_has_every_command_once():
    table = registry.markdown_table()
    for command in registry:
        assert table.count(f"| `{command.usage}` | {command.summary} |") == 1
    assert "| **Steering** | |" in table


def test_a_pipe_in_a_usage_does_not_break_the_table():
    own = Registry()

    @own.command("view", examples=[])
    def view(chat: Any, which: Annotated[str, Choice("both", "normal")] = "both") -> None:
        """Chooses columns."""

    assert r"| `/view [both\|normal]` | Chooses columns. |" in own.markdown_table()


def test_mistakes_in_a_declaration_are_refused():
    def undocumented(chat: Any) -> None: ...

    def greedy(chat: Any, text: Annotated[str, Rest], more: str) -> None:
        """Has an argument after the rest."""

    def strict(chat: Any, *, must: str) -> None:
        """Has an option without a default."""

    def stuck(chat: Any, *, on: bool = True) -> None:
        """Has a flag that cannot be taken off."""

    def vague(chat: Any, what: object) -> None:
        """Has an argument of no kind."""

    def starred(chat: Any, *words: str) -> None:
        """Has stars."""

    for handler in (undocumented, greedy, strict, stuck, vague, starred):
        with pytest.raises(ValueError):
            Registry().command("x", examples=[])(handler)
    for name in ("help", "h", "Three", "one two three"):
        with pytest.raises(ValueError):
            registry.command(name, examples=[])(help_)


Ran = Callable[..., tuple[Any, dict[str, Any]]]


@pytest.fixture
def in_the_shell(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Gives the values of a subcommand's own parameters, and those of the common options."""
    seen: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(subcommands, "run_command", lambda _, kwargs, **common: seen.append((kwargs, common)))

    def run(name: str, *args: str) -> tuple[Any, dict[str, Any]]:
        CliRunner().invoke(Subcommand(registry.get(name)), list(args), catch_exceptions=False)
        return seen.pop()

    return run


def test_the_shell_takes_the_same_words(in_the_shell: Ran):
    assert in_the_shell("mix", "happy:1", "16", "-2.0")[0] == values("/mix happy:1 16 -2.0")
    assert in_the_shell("mix", "happy:1", "-.5")[0] == values("/mix happy:1 -.5")
    assert in_the_shell("compare", "don't", "panic", "--repeats", "5", "--raw")[0] == {
        "prompt": "don't panic",
        "repeats": 5,
        "raw": True,
    }
    assert in_the_shell("compare", "--", "--raw  is")[0] == {"prompt": "--raw  is"}
    assert in_the_shell("compare")[0] == {}
    assert in_the_shell("probe", "Happy", "sad")[0] == {"concepts": ("happy", "sad")}
    assert in_the_shell("steer add", "happy", "-2")[0] == {"concept": "happy", "strength": -2.0}


def test_the_shell_hands_common_options_on_and_a_commands_own_win(in_the_shell: Ran):
    common = in_the_shell("mix", "a", "--model", "phi3", "--json")[1]
    assert (common["model"], common["as_json"], common["seed"]) == ("phi3", True, None)
    own = Registry()

    @own.command("draw", examples=[])
    def draw(chat: Any, *, seed: Annotated[int, "a seed of its own"] = 0) -> None:
        """Draws."""

    registered = own.get("draw")
    assert sum("--seed" in option.opts for option in Subcommand(registered).params) == 1
    assert next(option for option in Subcommand(registered).params if option.name == "seed").to_info_dict()["help"] == (
        "a seed of its own"
    )


def test_the_shell_refuses_slips():
    shell = Subcommand(registry.get("compare"))
    assert CliRunner().invoke(shell, ["--repeates", "5", "Hi"]).exit_code == 2
    assert CliRunner().invoke(shell, ["-x", "Hi"]).exit_code == 2
    missing = CliRunner().invoke(Subcommand(registry.get("steer add")), [])
    assert isinstance(missing.exception, UsageError) and missing.exception.message == "CONCEPT is missing"
    wrong = CliRunner().invoke(shell, ["--repeats", "many"])
    assert isinstance(wrong.exception, UsageError)
    assert wrong.exception.message == "--repeats: 'many' is not a whole number"


def test_the_shells_help_has_the_summary_and_the_options():
    shown = CliRunner().invoke(Subcommand(registry.get("compare")), ["--help"]).output
    assert "Answers a prompt normal and steered." in shown
    assert "--repeats N" in shown and "how many seeds" in shown and "[PROMPT]" in shown


@pytest.mark.subprocess
def test_the_registry_needs_neither_torch_nor_click():
    loaded = "sorted({'torch', 'transformers', 'click'} & set(sys.modules))"
    code = f"import sys, steerchat.terminal.completion; print({loaded})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"
