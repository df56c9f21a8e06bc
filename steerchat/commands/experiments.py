"""Experiments: outside the conversation, each also a subcommand of the shell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from ..arguments import Int, Option, Rest
from ..chat import Chat
from ..registry import command
from ..results import BenchReport, Event

_GROUP = "Experiments"


@command("compare", examples=["/compare Tell me about the weather", "/compare --repeats 5"], group=_GROUP, shell=True)
def compare(
    chat: Chat,
    prompt: Annotated[str, Rest("what to answer; the last message when left out")] = "",
    *,
    repeats: Annotated[int, Option("how many seeds", Int(least=1, most=200))] = 1,
    raw: Annotated[bool, Option("go on from the prompt itself, without the chat template")] = False,
) -> Iterator[Event]:
    """Answers a prompt normal and steered, outside the conversation."""
    return chat.session.compare(prompt or chat.session.last_prompt(), raw=raw, repeats=repeats)


@command("bench", examples=["/bench --quick", "/bench"], group=_GROUP, shell=True)
def bench(
    chat: Chat,
    *,
    quick: Annotated[bool, Option("shorter answers, fewer repeats: rough figures in a minute or two")] = False,
) -> BenchReport:
    """Measures steerchat's speed on this machine and model.

    Takes several minutes on a CPU; Ctrl-C stops it. Anything else that runs meanwhile spoils the figures. Every
    ratio is measured by turns within one run; below 1 means that steerchat is faster than what it is compared with.
    """
    from ..bench import run_bench

    settings, session = chat.settings, chat.session
    return run_bench(session.engine, chat.library, settings, quick, chat.report, session.stop.is_set)
