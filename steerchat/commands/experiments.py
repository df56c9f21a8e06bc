"""Experiments: outside the conversation, each also a subcommand of the shell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

from ..arguments import Int, Layer, MixSpec, Option, Rest, Strength
from ..chat import Chat
from ..errors import UsageError
from ..experiments import STRENGTHS, Experiment, Setting, at_layers, at_strengths, chosen, with_controls
from ..registry import command
from ..results import BenchReport, Event
from ..text import Page
from . import experiment_pages

_GROUP = "Experiments"


@command(
    "compare",
    examples=["/compare Tell me about the weather", "/compare --repeats 5", "/compare --repeats 5 --control"],
    group=_GROUP,
    shell=True,
)
def compare(
    chat: Chat,
    prompt: Annotated[str, Rest("what to answer; the last message when left out")] = "",
    *,
    repeats: Annotated[int, Option("how many seeds, in one batch", Int(least=1, most=200))] = 1,
    control: Annotated[bool, Option("beside it random pushes of the same size, and asking in the prompt")] = False,
    raw: Annotated[bool, Option("go on from the prompt itself, without the chat template")] = False,
) -> Iterator[Event] | Page:
    """Answers a prompt normal and steered, outside the conversation.

    One pair streams. With more seeds or with controls the figures are means, beside what chance alone would do.
    """
    session = chat.session
    prompt = prompt or session.last_prompt()
    active = session.recipe.active
    if control and not active:
        raise UsageError("there is nothing to compare with controls", "/steer happy first")
    if not active or (repeats == 1 and not control):
        return session.compare(prompt, raw=raw, repeats=repeats)
    recipe = replace(session.recipe, scope=chat.settings.scope)
    settings = with_controls(recipe, raw) if control else [Setting("steered", recipe)]
    return experiment_pages.comparison(Experiment(session, "compare", prompt, settings, repeats, raw).run(), recipe)


@command(
    "layers", examples=["/layers Tell me about the weather", "/layers --raw In my opinion,"], group=_GROUP, shell=True
)
def layers(
    chat: Chat,
    prompt: Annotated[str, Rest("what to answer; the last message when left out")] = "",
    *,
    concept: Annotated[str | None, Option("in place of what is steered", MixSpec(metavar="CONCEPT"))] = None,
    strength: Annotated[float | None, Option("in place of the one at hand", Strength)] = None,
    repeats: Annotated[int, Option("how many seeds", Int(least=1, most=50))] = 4,
    tokens: Annotated[int, Option("longest answer", Int(least=1, most=1000))] = 40,
    raw: Annotated[bool, Option("go on from the prompt itself, without the chat template")] = False,
) -> Page:
    """Tries every layer, each by itself, and shows effect and cost.

    Ctrl-C keeps what was finished. A minute on a laptop.
    """
    prompt = prompt or chat.session.last_prompt()
    recipe = chosen(chat.session, concept, None, strength)
    settings = at_layers(recipe, chat.session.engine.n_layers)
    return experiment_pages.layers(
        Experiment(chat.session, "layers", prompt, settings, repeats, raw, tokens).run(), recipe
    )


@command(
    "strengths",
    examples=["/strengths Tell me about the weather", "/strengths --concept happy --layer 16 How was your day?"],
    group=_GROUP,
    shell=True,
)
def strengths(
    chat: Chat,
    prompt: Annotated[str, Rest("what to answer; the last message when left out")] = "",
    *,
    concept: Annotated[str | None, Option("in place of what is steered", MixSpec(metavar="CONCEPT"))] = None,
    layer: Annotated[str | None, Option("in place of those at hand", Layer)] = None,
    repeats: Annotated[int, Option("how many seeds", Int(least=1, most=50))] = 4,
    tokens: Annotated[int, Option("longest answer", Int(least=1, most=1000))] = 40,
    raw: Annotated[bool, Option("go on from the prompt itself, without the chat template")] = False,
) -> Page:
    """Tries strengths from pushing away to too much, and shows where it begins and where it breaks.

    Effects are along the concept: a push away shows below 0. Ctrl-C keeps what was finished.
    """
    prompt = prompt or chat.session.last_prompt()
    recipe = chosen(chat.session, concept, layer)
    settings = at_strengths(recipe, STRENGTHS)
    return experiment_pages.strengths(
        Experiment(chat.session, "strengths", prompt, settings, repeats, raw, tokens).run(), recipe
    )


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
