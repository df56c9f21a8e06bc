"""The shell: exit codes, JSON, the order of the output, and which modules are imported."""

from __future__ import annotations

import csv
import io
import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chats import STEER, Shell
from places import ROOT
from tiny import ANSWERS, rows

from steerchat._version import __version__
from steerchat.terminal import cli

PAIR = {
    *("id", "prompt", "model", "recipe", "seed", "normal", "steered", "effect", "effects", "chance", "raw"),
    *("perplexity_ratio", "diverges_at", "seconds"),
}
ANSWER = {"text", "tokens", "finish", "perplexity", "concept_score"}


# Scripts


@pytest.mark.slow
def test_a_script_answers_logs_and_exits_with_0(shell: Shell):
    out, _ = shell(stdin="/steer happy 2 4.0\nHow are you?\n/history\n/quit\n")
    [row] = rows(shell.home / "history.db", ANSWERS)
    assert out.startswith("> /steer happy 2 4.0\n  happy at layer 2, strength 4.0: a push of 50% of that layer's")
    assert row["normal"] != row["steered"] and row["fingerprint"] and row["status"] == "complete"
    assert out.index("steered: happy 2 x 4.0") < out.index("> /history") < out.index("> /quit")
    assert "\x1b" not in out


@pytest.mark.slow
@pytest.mark.parametrize("line", ["/nonsense", "/steer hapy 2 2.0", "/steer happy 99 2", "x" * 100_000])
def test_a_script_with_a_failed_line_exits_with_1_after_the_other_lines(shell: Shell, line: str):
    out, err = shell(stdin=f"{line}\nHello?\n", code=1)
    assert "> Hello?" in out and "error: " in err and "error" not in out
    assert len(rows(shell.home / "history.db", ANSWERS)) == 1


def test_an_empty_script_is_no_failure(shell: Shell):
    assert shell(stdin="")[0] == ""


# Subcommands


def test_compare_gives_the_object_of_the_design(shell: Shell):
    [pair] = shell.json("compare", "How are you?", *STEER)
    assert set(pair) >= PAIR and set(pair["normal"]) >= ANSWER and set(pair["steered"]) >= ANSWER
    assert (pair["prompt"], pair["id"], pair["model"]) == ("How are you?", 1, "tiny")
    assert pair["recipe"]["terms"][0] == {
        "concept": "happy",
        "parts": {"happy": 1.0},
        "layers": [2],
        "strength": 4.0,
        "operation": "add",
    }
    assert pair["normal"]["text"] != pair["steered"]["text"] and pair["diverges_at"] is not None


@pytest.mark.slow
def test_other_operations_have_options_beside_steer_and_are_logged_as_such(shell: Shell):
    options = ("--rotate", "sad 1-2 3.0", "--ablate", "happy:1")
    [pair] = shell.json("compare", "How are you?", *STEER, *options)
    terms = [(term["operation"], term["concept"], term["layers"], term["strength"]) for term in pair["recipe"]["terms"]]
    assert terms[::2] == [("add", "happy", [2], 4.0), ("rotate", "sad", [1, 2], 3.0)]
    assert terms[1][:3] == ("ablate", "happy", [1])
    [same] = shell.json("compare", "How are you?", *STEER, "--steer", "ablate happy 1", "--steer", "rotate sad 1-2 3.0")
    assert (same["steered"]["text"], same["recipe"]) == (pair["steered"]["text"], pair["recipe"])
    assert "token for token" in shell("history", "rerun", str(pair["id"]))[0]
    assert "ablate takes no strength" in shell("compare", "Hi", "--ablate", "happy 1 2.0", code=2)[1]


@pytest.mark.slow
def test_a_gate_follows_a_term_in_the_shell_and_in_the_chat_and_why_says_where_it_was_open(shell: Shell):
    [pair] = shell.json("compare", "How are you?", "--steer", "happy 2 9.0 --after 2 --first 4")
    assert pair["recipe"]["terms"][0]["gate"] == {"first": 4, "after": 2}
    assert pair["steered"]["gate"] == [[0, 0.0], [2, 1.0], [4, 0.0]] and pair["normal"]["gate"] == []
    assert "The gates were open at tokens 3-4." in shell("why", "1")[0]
    lines = "/rotate happy 2 9.0 --when prompt:sad>1000\n/steer add sad 1 1.0 --decay 0.5\nHow are you?\n/why\n"
    out, _ = shell(stdin=lines)
    assert "only while the prompt scores more than 1000 on sad" in out and "times 0.5 from token to token" in out
    assert "'sad>x'" not in out
    out, err = shell(stdin="/steer happy --when sad\n/cap sad 1 --decay 0.9\n/steer happy --when hapy>1\n", code=1)
    assert "'sad' is not a condition" in err and "cap has no strength that could decay" in err
    assert "no concept called 'hapy'" in err


def test_a_mix_can_be_gated_too(shell: Shell):
    [pair] = shell.json("mix", "happy:1,sad:-1", "2", "3.0", "Why?", "--first", "2")
    assert pair["recipe"]["terms"][0]["gate"] == {"first": 2}


def test_compare_without_steering_has_no_second_answer(shell: Shell):
    [pair] = shell.json("compare", "How are you?")
    assert set(pair) >= PAIR and pair["steered"] is None and pair["effect"] is None


@pytest.mark.slow
def test_compare_takes_prompts_from_a_file_and_from_standard_input(shell: Shell, tmp_path: Path):
    file = tmp_path / "prompts.txt"
    file.write_text("One?\n\nTwo?\n")
    found = shell.json("compare", "--prompts", str(file), *STEER)
    piped = shell.json("compare", "--prompts", "-", *STEER, stdin="One?\nTwo?\n")
    assert [pair["prompt"] for pair in found] == [pair["prompt"] for pair in piped] == ["One?", "Two?"]
    assert [pair["steered"]["text"] for pair in found] == [pair["steered"]["text"] for pair in piped]


@pytest.mark.slow
def test_concepts_are_measured_on_prompts_of_ones_own(shell: Shell, tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("One?\n\nTwo?\n")
    options = ("--prompts", f"{tmp_path}/prompts.txt", "--seeds", "1", "--directions", "1")
    given, usual = shell.json("concept", "evaluate", "happy:2:1.5", "sad", *options)
    assert (given["concept"], given["layers"], given["strength"], given["answers"]) == ("happy", "2", 1.5, 2)
    assert usual["concept"] == "sad" and [sample[0] for sample in usual["samples"]] == ["One?", "Two?"]
    again = given["command"].replace("prompts.txt", f"{tmp_path}/prompts.txt").split()[1:]
    [same] = [json.loads(line) for line in shell(*again)[0].splitlines()]
    assert same == given and given["version"].startswith(__version__)


def test_a_file_with_one_prompt_is_too_small_to_measure_on(shell: Shell, tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("One?\n")
    assert "at least two" in shell("concept", "evaluate", "happy", "--prompts", f"{tmp_path}/prompts.txt", code=2)[1]


@pytest.mark.slow
def test_a_noun_has_its_verbs_in_the_plural_too_and_evaluate_alone_measures_all_concepts(shell: Shell):
    rows = shell.json("concepts", "evaluate")
    assert [row["concept"] for row in rows] == ["formal", "happy", "sad"]


def test_options_count_before_and_after_the_subcommand(shell: Shell):
    [first] = shell.json("compare", "One?", "--seed", "5", "--max-tokens", "2")
    [second] = shell.json("--seed", "5", "compare", "One?", "--max-tokens", "2")
    assert first["seed"] == second["seed"] == 5 and first["normal"] == second["normal"]


@pytest.mark.slow
def test_both_spellings_of_a_recipe_are_the_same(shell: Shell):
    [words] = shell.json("compare", "One?", "--steer", "happy 2 4.0", "--steer", "sad 1 -1.0")
    [colons] = shell.json("compare", "One?", "--steer", "happy:2:4.0", "--steer", "sad:1:-1.0")
    assert words["recipe"] == colons["recipe"] and len(words["recipe"]["terms"]) == 2


@pytest.mark.slow
def test_history_lists_as_a_table_and_as_json(shell: Shell):
    shell("compare", "How are you?", *STEER)
    shell("compare", "Where are you?")
    out, _ = shell("history")
    assert "How are you?" in out and out.index("Where") < out.index("How")
    newest, older = shell.json("history")
    assert set(newest) >= PAIR and (newest["id"], older["id"]) == (2, 1)
    assert [pair["id"] for pair in shell.json("history", "--search", "how")] == [1]
    assert [pair["id"] for pair in shell.json("history", "--limit", "1")] == [2]
    [one] = shell.json("history", "1")
    assert one["prompt"] == "How are you?" and set(one["steered"]) >= ANSWER


@pytest.mark.slow
def test_history_as_csv_and_markdown_has_the_same_pairs_as_json(shell: Shell):
    shell("compare", 'A "comma", and\na line', *STEER)
    shell("compare", "# No *heading*")
    listed = shell.json("history")
    found = list(csv.DictReader(io.StringIO(shell("history", "--csv")[0])))
    assert [(row["id"], row["prompt"], row["normal"]) for row in found] == [
        (str(one["id"]), one["prompt"], one["normal"]["text"]) for one in listed
    ]
    assert (found[0]["steered"], found[1]["concepts"], found[1]["layer"]) == ("", "happy", "")
    assert float(found[1]["effect"]) == pytest.approx(listed[1]["effect"])
    assert [row["id"] for row in csv.DictReader(io.StringIO(shell("history", "--csv", "--search", "comma")[0]))] == [
        "1"
    ]
    page = shell("history", "--markdown")[0]
    assert "## \\# No \\*heading\\*" in page and page.index("heading") < page.index("comma")
    assert shell("history", "1", "--markdown")[0].count("## ") == 1
    assert shell("history", "--csv", "--concept", "sad")[0] == shell("history", "--csv")[0].splitlines(True)[0]
    assert "No pair passes the filters." in shell("history", "--concept", "sad")[0]
    assert "one form" in shell("history", "--csv", "--json", code=2)[1]


@pytest.mark.slow
def test_a_search_shows_where_its_words_are(shell: Shell):
    shell("compare", "The quantum\nweather of Norway", *STEER)
    out, _ = shell("history", "--search", "weather QUANTUM")
    assert "pair 1" in out and "prompt: The [quantum] [weather] of Norway" in out
    [pair] = shell.json("history", "--search", "quantum")
    assert pair["hits"] == [{"where": "prompt", "text": "The quantum\nweather of Norway", "spans": [[4, 11]]}]
    assert "No pair contains all" in shell("history", "--search", "snow")[0]


def test_a_prompt_beside_a_file_of_prompts_is_not_dropped_in_silence(shell: Shell):
    assert "both a prompt and a file" in shell("compare", "Mine?", "--prompts", "-", stdin="One?\n", code=2)[1]


def test_a_byte_order_mark_belongs_to_no_prompt_and_no_command(shell: Shell, tmp_path: Path):
    shell("compare", "--prompts", "-", stdin="\ufeffOne?\n")
    assert shell.json("history", "1")[0]["prompt"] == "One?"
    script = tmp_path / "b.steer"
    script.write_text("\ufeff/history\n", encoding="utf-8")
    assert "One?" in shell("run", str(script))[0] and len(shell.json("history")) == 1


def test_a_full_page_says_how_to_get_the_next(shell: Shell):
    shell("compare", "--prompts", "-", stdin="One?\nTwo?\nThree?\n")
    out, _ = shell("history", "--limit", "2")
    assert "Older pairs: --before 2" in out and "One?" not in out
    out, _ = shell("history", "--limit", "2", "--before", "2")
    assert "One?" in out and "Two?" not in out and "Older" not in out
    assert "Older" not in shell("history", "--limit", "3")[0]


@pytest.mark.slow
def test_the_file_of_the_history_is_named_copied_and_checked(shell: Shell, tmp_path: Path):
    assert "no history" in shell("db", "check", code=1)[1]
    assert "no history" in shell("db", "backup", str(tmp_path / "copy.db"), code=1)[1]
    shell("compare", "How are you?")
    file = shell.home / "history.db"
    assert shell("db", "path")[0] == f"{file}\n"
    assert shell("db", "backup", str(tmp_path / "copy.db"))[0] == f"{tmp_path / 'copy.db'}\n"
    assert rows(tmp_path / "copy.db", ANSWERS) == rows(file, ANSWERS)
    assert "exists already" in shell("db", "backup", str(tmp_path / "copy.db"), code=1)[1]
    assert shell("db", "check")[0] == "no damage found\n"
    with sqlite3.connect(file) as db:
        db.execute("INSERT INTO pair_search(pair_search) VALUES ('delete-all')")
    db.close()
    assert "full-text index" in shell("db", "check", code=1)[0]
    file.write_text("This is no database at all, whatever its name says. " * 50)
    assert "not a SQLite file" in shell("db", "check", code=1)[1]


@pytest.mark.slow
def test_a_pair_is_run_again_from_the_shell(shell: Shell):
    [pair] = shell.json("compare", "How are you?", *STEER)
    [again] = shell.json("history", "rerun", "1")
    assert (again["id"], again["normal"], again["steered"]) == (2, pair["normal"], pair["steered"])
    assert "The same texts as in pair 1" in shell("history", "rerun", "1")[0]
    assert shell("history", "1")[0] == shell("history", "list", "1")[0]
    assert "--min-effect" in shell("history", "list", "--help")[0] and "rerun" in shell("history", "--help")[0]


@pytest.mark.slow
def test_the_newest_steered_pair_is_looked_into_from_the_shell(shell: Shell):
    assert "there is no answer yet" in shell("why", code=2)[1]
    shell("compare", "How are you?", *STEER)
    shell("compare", "Unsteered?")
    [why] = shell.json("why")
    assert (why["id"], why["prompt"]) == (1, "How are you?") and why["tokens"]
    assert {strip["concept"] for strip in shell.json("probe")} == {"happy"}


@pytest.mark.slow
def test_the_same_seed_gives_the_same_objects_twice(shell: Shell):
    def run() -> list[dict[str, Any]]:
        found = shell.json("compare", "--prompts", "-", *STEER, "--seed", "1", stdin="One?\nTwo?\n")
        return [{key: value for key, value in pair.items() if key not in ("id", "seconds")} for pair in found]

    first = run()
    assert len(first) == 2 and first == run()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "own"),
    [
        (["layers", "One?", "--concept", "happy", "--strength", "2", "--repeats", "1"], "layer"),
        (["strengths", "One?", "--concept", "happy", "--layer", "2", "--repeats", "1"], "strength"),
        (["mix", "happy:1,sad:-1", "One?", "--layer", "2", "--strength", "2", "--raw"], "raw"),
    ],
)
def test_sweeps_and_mixes_give_the_object_of_compare(shell: Shell, arguments: list[str], own: str):
    found = shell.json(*arguments)
    assert all(set(pair) >= PAIR and pair["steered"] and pair[own] is not None for pair in found)
    assert len({pair[own] for pair in found}) == len(found)


def test_what_is_told_beside_a_result_is_on_standard_error(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    from steerchat.conversation.session import Session
    from steerchat.values.results import Notice

    asked = Session.compare

    def compare(self: Session, *args: Any, **options: Any) -> Any:
        self.report(Notice("something was done"))
        return asked(self, *args, **options)

    monkeypatch.setattr(Session, "compare", compare)
    out, err = shell("compare", "One?", "--json")
    assert "something was done" in err and len(out.splitlines()) == 1 and json.loads(out)["prompt"] == "One?"


@pytest.mark.slow
def test_progress_is_on_standard_error_alone(shell: Shell):
    sweep = ("layers", "One?", "--concept", "happy", "--strength", "2", "--repeats", "1")
    out, err = shell(*sweep, "--json")
    assert [json.loads(line)["layer"] for line in out.splitlines()] == [0, 1, 2, 3] and "layers: 5 answers" in err
    out, err = shell(*sweep)
    assert "5 answers" not in out and "loading" not in out and "layers: 5 answers" in err
    assert max(map(len, out.splitlines())) <= 80  # where nobody says how wide it is


def test_ctrl_c_exits_with_130(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    def compare(*args: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return iter(())

    monkeypatch.setattr("steerchat.conversation.session.Session.compare", compare)
    assert shell("compare", "One?", code=130)[0] == ""


def test_config_says_where_each_value_comes_from(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    (shell.home / "config.toml").write_text("temperature = 0.5\n")
    monkeypatch.setenv("STEERCHAT_TOP_P", "0.5")
    found = {row["name"]: (row["value"], row["from"]) for row in shell.json("config", "--seed", "3")}
    assert found["temperature"] == (0.5, str(shell.home / "config.toml")) and found["top-p"] == (0.5, "environment")
    assert found["seed"] == (3, "command line") and found["scope"] == ("generated", "default")
    assert "config.toml" in "".join(shell("config")[0].split())  # a long path is broken into lines


@pytest.mark.parametrize("words", ["steerchat comp", "steerchat compare --st"])
def test_the_shell_completes_commands_and_options(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("_STEERCHAT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    with pytest.raises(SystemExit):
        cli.main([])
    assert {"plain,compare", "plain,--steer"} & set(capsys.readouterr().out.splitlines())


# Mistakes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense"], 2, "No such command 'nonsense'. To ask the model once: steerchat compare \""),
        (["tell me a joke"], 2, "steerchat compare"),
        (["compar"], 2, "Did you mean 'compare'?"),
        (["/history"], 2, "Without the slash and the quotation marks: steerchat history"),
        (["steer happy"], 2, "/steer is a command of the chat"),
        (["compare", "--nonsense"], 2, "--nonsense"),
        (["compare"], 2, "nothing was said yet"),
        (["compare", "x", "--steer", "hapy 2 2.0"], 2, "did you mean happy?"),
        (["compare", "x", "--steer", "happy 2 nan"], 2, "finite number"),
        (["compare", "x", "--temperature", "hot"], 2, "temperature is a number"),
        (["compare", "--prompts", "no-such-file"], 2, "no-such-file cannot be read"),
        (["compare", "x" * 100_000], 1, "the model holds 512"),
        (["--model", "no/where/at/all", "compare", "x"], 1, "there is no file or folder"),
        (["history", "99"], 2, "no pair 99"),
    ],
)
def test_a_mistake_is_a_line_on_standard_error_and_a_code(shell: Shell, arguments: list[str], code: int, message: str):
    out, err = shell(*arguments, code=code)
    assert out == "" and message in err


def test_a_mistake_in_steerchat_itself_is_a_line_with_the_details_in_a_file(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
):
    def burst(*args: object, **kwargs: object) -> None:
        raise RuntimeError("burst")

    monkeypatch.setattr("steerchat.conversation.session.Session.compare", burst)
    assert "steerchat failed: RuntimeError: burst" in shell("compare", "One?", code=1)[1]
    assert "in burst" in (shell.home / "last-error.txt").read_text(encoding="utf-8")


def test_a_wrong_setting_in_the_file_or_the_environment_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    (shell.home / "config.toml").write_text("temprature = 1\n")
    assert "did you mean temperature?" in shell("history", code=2)[1]
    (shell.home / "config.toml").write_text("temperature = 0\n")
    monkeypatch.setenv("STEERCHAT_SEDE", "1")
    assert "did you mean seed?" in shell("history", code=2)[1]


def test_settings_come_from_the_command_line_over_the_environment_over_the_file(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
):
    (shell.home / "config.toml").write_text("seed = 1\ntop-p = 0.5\nrepetition-penalty = 1.2\n")
    monkeypatch.setenv("STEERCHAT_SEED", "2")
    monkeypatch.setenv("STEERCHAT_TOP_P", "0.6")
    table = {line.split()[0]: line.split()[1] for line in shell("--seed", "3", stdin="/set\n")[0].splitlines()[2:]}
    assert (table["seed"], table["top-p"], table["repetition-penalty"]) == ("3", "0.6", "1.2")


# What is imported

_LISTING = "import sys\n{}\nprint([m for m in ('torch', 'transformers', 'gguf') if m in sys.modules])"


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import steerchat",
        "from steerchat.terminal.cli import main; main(['--help'])",
        "from steerchat.terminal.cli import main; main(['--version'])",
        "from steerchat.terminal.cli import main; main(['compare', '--help'])",
        "from steerchat.terminal.cli import main; main(['history'])",
        "from steerchat.terminal.cli import main; main(['history', '--json'])",
        "import steerchat.terminal.repl, steerchat.terminal.completion, steerchat.commands",
    ],
)
def test_what_needs_no_model_imports_neither_torch_nor_gguf(tmp_path: Path, code: str):
    run = subprocess.run(
        [sys.executable, "-c", _LISTING.format(code)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={"STEERCHAT_HOME": str(tmp_path), "PATH": "", "SYSTEMROOT": "C:\\Windows"},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_json_and_text_reach_an_output_that_is_not_utf8(shell: Shell, encoding: str, monkeypatch: pytest.MonkeyPatch):
    asked = "héllo 天气 \U0001f642"
    shell("compare", asked, "--max-tokens", "1")
    for arguments in (["history", "--json"], ["history"], ["history", "--markdown"]):
        written = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
        assert cli.main(arguments) == 0
        sys.stdout.flush()
        if "--json" in arguments:
            assert json.loads(written.getvalue().decode(encoding))["prompt"] == asked
        else:
            assert "llo" in written.getvalue().decode(encoding, "replace")


@pytest.mark.slow
def test_doctor_says_what_a_report_needs_and_nothing_private(shell: Shell, monkeypatch: pytest.MonkeyPatch):
    shell("compare", "my secret question")
    monkeypatch.setattr(Path, "home", lambda: shell.home.parent)
    [facts] = shell.json("doctor")
    assert {"versions", "CPU", "GPU", "memory", "threads", "model", "files", "history", "network"} <= set(facts)
    assert f"steerchat {__version__}" in facts["versions"] and facts["history"].startswith("intact")
    assert facts["network"] == "not needed" and "4 layers of 64" in facts["loaded"]
    out, _ = shell("doctor")
    assert all(text.split()[-1] in out for text in facts.values())
    assert "secret" not in out + json.dumps(facts) and str(shell.home.parent) not in out + json.dumps(facts)
    (shell.home / "history.db").write_bytes(b"no database" * 100)
    [facts] = shell.json("doctor")
    assert not facts["history"].startswith("intact")
    assert shell.json("doctor", "--model", "/nowhere/at/all")[0]["network"].startswith("needed")


def test_help_lists_the_subcommands_and_options(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for word in ("compare", "history", "model", "--temperature", "--seed", "--model"):
        assert word in out
