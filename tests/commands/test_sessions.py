"""`/session`: conversations are listed, resumed and deleted."""

from __future__ import annotations

import json

import pytest
from chats import Shell, Start, history, say, shown
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from steerchat.conversation.chat import Menu
from steerchat.slash.registry import registry
from steerchat.terminal.completion import SlashCompleter
from steerchat.terminal.repl import run_chat


@pytest.mark.slow
def test_sessions_are_listed_with_their_titles_and_resumed_by_number(start: Start):
    chat, screen = start()
    assert "no conversation yet" in say(chat, screen, "/session")
    for line in ("/steer happy 2 4.0", "About the weather", "And the sea?", "/new", "/steer clear", "Something else"):
        say(chat, screen, line)
    listed = say(chat, screen, "/session").splitlines()
    assert "Something else (this one)" in listed[1] and "About the weather" in listed[2]
    assert listed[2].split()[-1] == "2"
    menu = SlashCompleter(registry, Menu(chat)).get_completions(Document("/session resume "), CompleteEvent())
    assert [(one.text, one.display_meta_text) for one in menu] == [("2", "Something else"), ("1", "About the weather")]
    assert "/session lists the sessions" in say(chat, screen, "/session resume weather")
    said = say(chat, screen, "/session resume 1")
    assert "> And the sea?" in said and "Session 1 goes on: 2 turns." in said and "happy at layer 2" in said
    say(chat, screen, "And the lakes?")
    row = history()[-1]
    assert row["session_id"] == 1 and json.loads(row["context"]) == [1, 2]


@pytest.mark.slow
def test_the_last_conversation_is_gone_on_with_from_the_shell(shell: Shell):
    shell(stdin="/steer happy 2 4.0\nOne?\n/quit\n")
    shell("compare", "Beside it", "--steer", "sad 1 1.0")
    out, _ = shell("--resume", stdin="Two?\n/quit\n")
    assert out.startswith("> /session resume\n") and "steered: happy 2 x 4.0" in out[out.index("> Two?") :]
    assert [one["pairs"] for one in shell.json("session")] == [1, 2]
    assert "without a subcommand" in shell("--resume", "history", code=2)[1]


def test_resuming_where_nothing_was_said_is_told_and_the_chat_begins(shell: Shell):
    _, err = shell("--resume", stdin="One?\n", code=1)
    assert "no conversation in the history" in err
    assert len(shell.json("history")) == 1


def test_a_person_who_resumes_sees_where_they_were(start: Start):
    chat, screen = start()
    say(chat, screen, "How are you?")
    again, screen = start()
    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):
        keys.send_text("Once more\r\x04")
        run_chat(again, screen, keys, DummyOutput(), first=["/session resume"])
    assert "> How are you?" in shown(screen) and "Session 1 goes on: 1 turn." in shown(screen)
    assert [row["session_id"] for row in history()] == [1, 1]


@pytest.mark.slow
def test_deleting_asks_first_and_is_refused_where_nobody_answers(start: Start):
    asked: list[str] = []
    answer = "no"

    def ask(question, choices):
        asked.append(question)
        return answer

    chat, screen = start(ask)
    for line in ("One?", "Two?", "/new", "Three?"):
        say(chat, screen, line)
    assert say(chat, screen, "/history delete 2") == "  Pair 2 stays.\n" and len(history()) == 3
    assert say(chat, screen, "/session delete 1") == "  Session 1 stays.\n" and len(history()) == 3
    assert asked == ["Delete pair 2, 'Two?'?", "Delete session 1, 'One?', with 2 pairs?"]
    answer = "yes"
    assert say(chat, screen, "/history delete 2") == "  Pair 2 is deleted.\n" and len(history()) == 2
    assert say(chat, screen, "/session delete 1") == "  Session 1 is deleted.\n" and len(history()) == 1
    assert "no pair 2" in say(chat, screen, "/history 2")
    assert "This is a new conversation" in say(chat, screen, "/session delete 2") and not history()
    say(chat, screen, "Four?")
    assert [row["prompt"] for row in history()] == ["Four?"] and len(asked) == 5
    silent, screen = start()
    assert "--yes" in say(silent, screen, "/history delete 4") and "--yes" in say(silent, screen, "/session delete 3")
    assert len(history()) == 1 and len(asked) == 5


def test_deleting_from_the_shell(shell: Shell):
    shell(stdin="One?\nTwo?\n")
    assert "--yes" in shell("history", "delete", "1", code=2)[1]
    assert "deleted" in shell("history", "delete", "1", "--yes")[0] and len(shell.json("history")) == 1
    assert "deleted" in shell("session", "delete", "--yes", "1")[0] and shell.json("session") == []
