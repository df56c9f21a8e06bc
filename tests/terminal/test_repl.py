"""The chat: lines go in, transcripts come out, and pairs are logged."""

from __future__ import annotations

import io
import shutil
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from chats import Start, history, say, shown
from prompt_toolkit.application import create_app_session
from prompt_toolkit.formatted_text import to_plain_text
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from rich.console import Console

from steerchat import commands  # noqa: F401  # declares the commands
from steerchat.conversation.chat import Chat
from steerchat.screen.render import Screen
from steerchat.slash.registry import registry
from steerchat.system import folders
from steerchat.system.settings import Settings
from steerchat.terminal import repl
from steerchat.terminal.repl import read_lines, run_chat, run_line, run_script
from steerchat.values.errors import Interrupted

# /steer


def test_steering_lines_echo_the_whole_recipe(start: Start):
    chat, screen = start()
    assert "no steering" in say(chat, screen, "/steer")
    happy = "  happy at layer 2, strength 3.0: a push of 38% of that layer's typical length\n"
    sad = "  sad at layers 0-1, strength -1.5: a push of 9.4% of each layer's typical length\n"
    assert say(chat, screen, "/steer happy 2 3.0") == happy
    added = say(chat, screen, "/steer add sad 0-1 -1.5")
    assert added == happy + sad
    assert say(chat, screen, "/steer") == added
    assert "off for now; /steer on resumes it" in say(chat, screen, "/steer off")
    assert say(chat, screen, "/steer on") == added
    assert say(chat, screen, "/steer drop happy") == sad
    assert "no steering" in say(chat, screen, "/steer clear")
    assert "there is no recipe to resume" in say(chat, screen, "/steer on")


@pytest.mark.parametrize(
    ("line", "layers", "strength"),
    [
        ("/steer happy 2.0", None, 2.0),
        ("/steer happy -1", None, -1.0),
        ("/steer happy 50% 1", (2,), 1.0),
        ("/steer happy all 1", (0, 1, 2, 3), 1.0),
        ("/steer HAPPY 1-2 .5", (1, 2), 0.5),
    ],
)
def test_layers_and_strengths_are_told_apart(start: Start, line: str, layers: tuple[int, ...] | None, strength: float):
    chat, screen = start()
    assert run_line(chat, screen, line)
    [term] = chat.session.recipe.terms
    assert term.strength == strength and (layers is None or term.layers == layers)


def test_a_lone_small_number_is_taken_as_a_layer_with_a_word_where_nobody_can_be_asked(start: Start):
    chat, screen = start()
    assert "3 is taken as the layer; for strength 3 type 3.0" in say(chat, screen, "/steer happy 3")
    assert chat.session.recipe.terms[0].layers == (3,)


@pytest.mark.parametrize("answer", ["layer", "strength"])
def test_a_lone_small_number_is_asked_about_at_a_terminal(start: Start, answer: str):
    asked: list[str] = []

    def ask(question: str, choices: Sequence[str]) -> str:
        asked.append(question)
        return answer

    chat, screen = start(ask)
    say(chat, screen, "/steer happy 3")
    [term] = chat.session.recipe.terms
    assert asked == ["Is 3 the layer or the strength?"]
    assert (term.layers == (3,), term.strength == 3.0) == (answer == "layer", answer == "strength")
    say(chat, screen, "/steer happy 2 3")
    assert len(asked) == 1


# Every command


def examples() -> list[str]:
    return [example for command in registry for example in command.examples]


def test_every_command_has_examples():
    assert [command.name for command in registry if not command.examples] == []


@pytest.mark.parametrize("line", examples())
def test_every_example_binds(line: str):
    assert registry.parse(line).command.name in line


# Their models, layers and files are the default model's, or an earlier command's; bench takes minutes; a review asks
# somebody.
OWN_TESTS = (
    "/compare-methods",
    "/plot",
    "/model smollm2",
    "/model cost",
    "/bench",
    "/chance",
    "/concept",
    "/tune",
    "/lesson",
    "/glossary",
    "/help trouble",
    "/review",
)


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in examples() if not line.startswith(OWN_TESTS)])
def test_every_example_runs(start: Start, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # some write files
    chat, screen = start()
    first = ("/compare --repeats 2 Experiment 1?",) if "--experiment" in line else ()
    for earlier in ("/steer happy 2 1.0", "Tell me about the weather", "One?", "Two?", *first):
        assert run_line(chat, screen, earlier)
    fitting = line.replace(" 16 ", " 2 ").replace(" 14 ", " 1 ").replace(" 12-20", " 0-2")
    fitting = fitting.replace("excited", "sad").replace("friendly", "happy")
    screen.console.file = io.StringIO()
    assert run_line(chat, screen, fitting), shown(screen)
    assert "failed" not in shown(screen)


# The conversation


def test_a_conversation_as_a_script_and_its_rows(start: Start):
    chat, screen = start()
    lines = [
        "/steer happy 2 4.0",
        "How are you?",
        "/undo",
        "/view steered",
        "Well?",
        "/new",
        "/history 1",
        "/quit",
        "no",
    ]
    assert run_script(chat, screen, [f"{line}\n" for line in lines])
    first, second = history()
    text = shown(screen)
    assert [line for line in text.splitlines() if line.startswith("> ")] == [
        "> /steer happy 2 4.0",
        "> How are you?",
        "> /undo",
        "> /view steered",
        "> Well?",
        "> /new",
        "> /history 1",
        "> How are you?",  # the pair itself
        "> /quit",
    ]
    assert text.count("steered: happy 2 x 4.0 ") == 3 and text.count("─ normal ") == 2
    assert "Taken back: 'How are you?'. 0 turns left." in text
    words = " ".join(text.split())
    assert "The old one is session 1; /session resume 1 continues it. Steering stays: happy 2 x 4.0." in words
    assert (first["undone"], second["undone"]) == (1, 0)
    assert first["normal"] != first["steered"] and second["normal"]  # logged, though the screen left it out


def test_edit_puts_the_last_message_back_on_the_line_or_answers_another_in_its_place(start: Start):
    chat, screen = start()
    say(chat, screen, "One?")
    say(chat, screen, "/edit Two?")
    assert [turn.prompt for turn in chat.session.turns] == ["Two?"]
    say(chat, screen, "/edit")
    assert chat.editing == "Two?" and chat.session.turns == []
    assert [(row["prompt"], row["undone"]) for row in history()] == [("One?", 1), ("Two?", 1)]


def test_settings_are_shown_changed_and_refused(start: Start):
    chat, screen = start()
    assert say(chat, screen, "/set temperature 0") == "  temperature is now 0.0\n"
    assert say(chat, screen, "/set temperature") == "  temperature is 0.0 (/set)\n"
    assert "did you mean temperature?" in say(chat, screen, "/set temprature 1")
    assert "top-p is a number from 0.01 to 1, not 'nan'" in say(chat, screen, "/set top-p nan")
    assert "device is fixed once the model is loaded" in say(chat, screen, "/set device cpu")
    assert "max-tokens" in say(chat, screen, "/set")


def test_a_system_message_is_set_shown_and_taken_away(start: Start):
    chat, screen = start()
    for word in ("-", "off", "Clear"):
        said = "  System message: Don't rhyme.   (/system off removes it)\n"
        assert say(chat, screen, "/system Don't rhyme.") == say(chat, screen, "/system") == said
        assert say(chat, screen, f"/system {word}") == "  No system message is set.\n"


def test_a_message_may_begin_with_a_slash(start: Start):
    chat, screen = start()
    say(chat, screen, "//usr/bin")
    assert history()[0]["prompt"] == "/usr/bin"


# Errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("/nonsense", "no command called '/nonsense'", "/help"),
        ("/hepl", "no command called '/hepl'", "did you mean /help?"),
        ("/steer hapy 2 2.0", "no concept called 'hapy'", "did you mean happy?"),
        ("/steer happy 99 2", "no layer 99: this model has layers 0 to 3", "55%"),
        ("/steer happy 2 nan", "a strength is a finite number, not nan", "2.0"),
        ("/steer happy 2 2 2", "unexpected argument", "/steer"),
        ("/retry", "nothing was said yet", "say something first"),
        ("/compare happy 2 2.0", "steers and says nothing", "/steer happy 2 2.0, then /compare MESSAGE"),
        ("/strengths happy 2", "steers and says nothing", "/steer happy 2"),
        ("/history 99", "no pair 99", "/history"),
        ("/continue", "TEXT is missing", "/continue TEXT"),
        ("x" * 100_000, "100019 tokens and the model holds 512", "shorten it"),
    ],
)
def test_a_mistake_is_a_clear_line_and_the_chat_goes_on(start: Start, line: str, message: str, hint: str):
    chat, screen = start()
    said = say(chat, screen, line)
    assert said.startswith("  error: ") and message in said and hint in said
    assert len(said.splitlines()) <= 3 and "Traceback" not in said
    assert run_line(chat, screen, "Hello?") and len(history()) == 1


def test_an_empty_line_does_nothing(start: Start):
    chat, screen = start()
    assert run_script(chat, screen, ["\n", "   \n", "\r\n"])
    assert shown(screen) == "" and chat.session.turns == []


def test_a_mistake_in_steerchat_itself_is_a_line_with_the_details_in_a_file(start: Start):
    chat, screen = start()

    def burst(*args: object) -> None:
        raise RuntimeError("burst")

    handle = chat.session.engine.blocks[0].register_forward_pre_hook(burst)
    said = say(chat, screen, "One?")
    handle.remove()
    details = folders.data_dir() / "last-error.txt"
    assert "steerchat failed: RuntimeError: burst" in said and "Traceback" not in said
    assert "in burst" in details.read_text(encoding="utf-8")
    assert run_line(chat, screen, "Two?")
    assert [row["status"] for row in history()] == ["failed", "complete"]


# Stopping


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="sends itself a SIGINT")
def test_ctrl_c_in_an_answer_keeps_what_came_and_the_next_line_runs(start: Start):
    chat, screen = start(max_tokens=300)
    handler = signal.getsignal(signal.SIGINT)
    passes: list[int] = []

    def press(*args: object) -> None:
        passes.append(1)
        if len(passes) == 6:
            signal.raise_signal(signal.SIGINT)

    handle = chat.session.engine.blocks[0].register_forward_pre_hook(press)
    assert "(stopped)" in say(chat, screen, "One?")
    handle.remove()
    assert signal.getsignal(signal.SIGINT) is handler
    chat.settings.max_tokens = 4
    assert run_line(chat, screen, "Two?")
    first, second = history()
    assert (first["status"], first["normal_finish"], second["status"]) == ("interrupted", "interrupted", "complete")
    assert first["normal"]


def test_ctrl_c_while_a_concept_is_read_says_so_and_logs_nothing(start: Start, tmp_path: Path):
    shutil.rmtree(tmp_path / "home" / "cache")  # so that there is no vector yet
    chat, screen = start()
    say(chat, screen, "/steer happy 2 1.0")

    def press(*args: object) -> None:
        chat.session.stop.set()

    handle = chat.session.engine.blocks[0].register_forward_pre_hook(press)
    assert "extracting happy stopped." in say(chat, screen, "One?")
    handle.remove()
    assert history() == [] and run_line(chat, screen, "Two?")


def test_ctrl_c_ends_a_script(start: Start):
    chat, screen = start()
    chat.session.engine.blocks[0].register_forward_pre_hook(lambda *args: chat.session.stop.set())
    with pytest.raises(Interrupted, match="the script stopped"):
        run_script(chat, screen, ["One?", "Two?"])
    assert [row["prompt"] for row in history()] == ["One?"]


# Without a history


def test_a_history_that_cannot_be_opened_is_told_and_the_chat_goes_on(start: Start, tmp_path: Path):
    (tmp_path / "home" / "history.db").write_text("no database, and longer than a header of one hundred bytes" * 4)
    chat, screen = start()
    assert chat.session.journal.store is None
    assert run_line(chat, screen, "One?")
    assert "this chat is not logged" in say(chat, screen, "/history")


# Scripts and the terminal


def test_a_script_with_a_failed_line_goes_on_and_says_that_it_failed(start: Start):
    chat, screen = start()
    assert not run_script(chat, screen, ["/nonsense", "One?"])
    assert len(history()) == 1


def test_lines_that_are_no_text_are_read_all_the_same():
    stream = io.TextIOWrapper(io.BytesIO(b"caf\xe9\nnext\n"), encoding="utf-8")
    assert list(read_lines(stream)) == ["caf\ufffd\n", "next\n"]
    assert list(read_lines(io.StringIO("\ufeff/help\nnext\n"))) == ["/help\n", "next\n"]


def test_control_codes_in_a_script_do_not_reach_the_screen(start: Start):
    chat, screen = start()
    run_script(chat, screen, ["/nonsense \x1b[2J\x07\n"])
    assert "\x1b" not in shown(screen) and "\x07" not in shown(screen)


@pytest.mark.slow
def test_a_whole_chat_at_a_terminal(start: Start):
    chat, screen = start()
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("/steer happy 2 4.0\r")
        keys.send_text("\x1b[200~One\nof two lines\x1b[201~\r")  # pasted
        keys.send_text("Two\x1b\rlines?\r")  # Alt-Enter
        keys.send_text("gone\x03")  # Ctrl-C takes the line away
        keys.send_text("/edit\r again\r")
        keys.send_text("\x04")
        run_chat(chat, screen, keys, DummyOutput())
    assert [(row["prompt"], row["undone"]) for row in history()] == [
        ("One\nof two lines", 0),
        ("Two\nlines?", 1),
        ("Two\nlines? again", 0),
    ]
    assert all(row["steered"] for row in history())
    assert shown(screen).startswith("steerchat ")
    assert (folders.data_dir() / "input-history").read_text().count("\n+") >= 5


def test_typing_is_possible_while_the_model_loads_and_leaving_too(start: Start, monkeypatch: pytest.MonkeyPatch):
    release = threading.Event()
    monkeypatch.setattr("steerchat.models.find.find", lambda *args, **kwargs: release.wait(60))
    screen = Screen(Console(file=io.StringIO(), width=100, color_system=None))
    chat = Chat(Settings(), registry, screen.show).start()
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("/set seed 5\r/help\r/quit\r")
        run_chat(chat, screen, keys, DummyOutput())
    release.set()
    chat.close()
    text = shown(screen)
    assert "SmolLM2-135M-Instruct  loads while you type" in text
    assert "seed is now 5" in text and "/steer add CONCEPT" in text


@pytest.mark.parametrize("typed", ["", "/help\r"])
def test_why_a_model_cannot_be_loaded_is_told_once_before_it_is_asked_anything(
    start: Start, tmp_path: Path, typed: str
):
    screen = Screen(Console(file=io.StringIO(), width=200, color_system=None))
    chat = Chat(Settings(model=str(tmp_path / "nothing")), registry, screen.show).start()
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text(typed)

        def leave() -> None:
            while "error:" not in shown(screen):
                time.sleep(0.05)
            time.sleep(0.5)
            keys.send_text("\x04")

        leaving = threading.Thread(target=leave, daemon=True)
        leaving.start()
        run_chat(chat, screen, keys, DummyOutput())
        leaving.join()
    chat.close()
    assert shown(screen).count("error:") == 1
    assert str(tmp_path / "nothing") in shown(screen)


@pytest.mark.slow
def test_a_larger_model_is_suggested_once_when_one_of_the_first_chats_ends(
    start: Start, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("steerchat.models.load.free_memory", lambda device: 16 * 10**9)
    monkeypatch.setattr("steerchat.engine.kernels.Kernels.bandwidth", 200e9)
    said = []
    for _ in range(5):
        chat, screen = start()
        with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
            keys.send_text("Hello?\r\x04")
            run_chat(chat, screen, keys, DummyOutput())
        said.append("mistral-v0.3 would run well here" in " ".join(shown(screen).split()))
    assert said == [False, False, True, False, False]


def test_the_toolbar_keeps_the_speed_of_the_last_answer_after_a_sweep(start: Start):
    chat, screen = start()
    say(chat, screen, "Hello?")
    assert chat.session.shown is not None
    speed = f"{chat.session.shown.tokens_per_second:.0f} tok/s"
    say(chat, screen, "/layers --concept happy --repeats 1 --tokens 2 Hello?")
    assert speed in to_plain_text(repl._toolbar(chat, 100))


def test_options_behind_a_prompt_and_a_range_for_one_layer_are_mistakes(start: Start):
    chat, screen = start()
    assert "--tokens comes before PROMPT" in " ".join(say(chat, screen, "/layers happy --tokens 2").split())
    assert "LAYER: '1-2' is not a single layer, such as 16" in say(chat, screen, "/lens 1-2 What is it?")
    assert "after: all is well" in say(chat, screen, "/lens all is well")


def test_plural_nouns_are_aliases(start: Start):
    chat, screen = start()
    assert say(chat, screen, "/concepts") == say(chat, screen, "/concept")
    assert say(chat, screen, "/sessions list") == say(chat, screen, "/session")


@pytest.mark.slow
def test_filters_of_the_history_combine_and_a_judgement_is_kept(start: Start):
    chat, screen = start()
    for line in (
        "/steer happy 1 2.0",
        "first words",
        "/steer happy 1 4.0",
        "second words",
        "/steer clear",
        "third words",
    ):
        say(chat, screen, line)
    assert "third" in (said := say(chat, screen, "/history --since 1d")) and "first" in said
    said = say(chat, screen, "/history --concept happy --strength 1..3")
    assert "first" in said and "second" not in said and "third" not in said
    for bounds, first, second in (("1..", True, True), ("3..", False, True), ("..3", True, False), ("4", False, True)):
        said = say(chat, screen, f"/history --concept happy --strength {bounds}")
        assert ("first" in said, "second" in said) == (first, second)
    for since in ("yesterday", "monday", "last week"):
        assert "first" in say(chat, screen, f'/history --since "{since}"')
    assert "second" in say(chat, screen, "/history --concept happy --layer 1 --search second")
    assert "rated" not in say(chat, screen, "/history")
    assert ": steered" in say(chat, screen, "/rate 1 steered plainly so")
    said = say(chat, screen, "/history --rated")
    assert "first" in said and "steered" in said and "second" not in said
    assert "pair 3, 'third words': tie" in say(chat, screen, "/rate tie")
    for line, error in (
        ("/history --since whenever", "not a time"),
        ("/history --strength 3..1", "not a range"),
        ("/history --strength ..", "not a range"),
        ("/rate 1 happier", "not a rating"),
        ("/rate 99 tie", "no pair 99"),
    ):
        assert error in say(chat, screen, line)
