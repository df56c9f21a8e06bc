"""Experiments outside the conversation, and the commands that look inside the model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated

from ..conversation.chat import Chat
from ..conversation.rerun import logged
from ..experiments import inspection_pages, readings, tuning
from ..experiments import pages as experiment_pages
from ..experiments.run import experiment
from ..experiments.settings import STRENGTHS, at_layers, at_strengths, chosen, with_controls
from ..measures.capability import capability as measured_capability
from ..measures.capability import questions
from ..slash.arguments import Concept, Float, Int, Layer, Many, MixSpec, OneLayer, PairId, Rest, Strength
from ..slash.registry import registry
from ..system import folders
from ..values.errors import UsageError
from ..values.page import Page
from ..values.recipe import check_layer
from ..values.results import Event, Notice
from ..values.setting import Setting

command = partial(registry.command, group="Experiments")
_PLACE = re.compile(r"[+-]?\d+(\.\d+)?(-\d+)?%?")  # a layer or a strength behind a concept's name
_Prompt = Annotated[str, Rest("the prompt; by default the last message")]
_Concept = Annotated[str | None, MixSpec("a concept or mix in place of the recipe", metavar="CONCEPT")]
_Seeds = Annotated[int, Int("the number of seeds", least=1, most=200)]
_Tokens = Annotated[int, Int("the longest answer, in tokens", least=1, most=1000)]
_Raw = Annotated[bool, "continue the prompt itself, without the chat template"]


@command(
    "compare",
    examples=["/compare Tell me about the weather", "/compare --repeats 5", "/compare --repeats 5 --control"],
    shell=True,
    parallel=True,
)
def compare(
    chat: Chat,
    prompt: _Prompt = "",
    *,
    repeats: _Seeds = 1,
    control: Annotated[bool, "also run random directions of equal strength, and ask for the concept"] = False,
    capability: Annotated[bool, "also ask questions with one right answer: how many are still right?"] = False,
    raw: _Raw = False,
) -> Iterator[Event] | Page:
    """Answers a prompt normal and steered, outside the conversation.

    A single pair streams. With more seeds or with controls, the table has means and the chance band.

    --capability asks some two hundred short questions (facts, arithmetic, copying, grammar) in each of these ways, and
    counts where the right answer is likelier than three wrong ones. Each way takes some twenty seconds on a laptop.
    """
    session = chat.session
    prompt, concept = _prompt_and_concept("compare", chat, prompt, None)
    base = session.recipe if concept is None else chosen(session, concept)
    active = base.active
    if (control or capability) and not active:
        option = "--control" if control else "--capability"
        raise UsageError(f"{option} needs a recipe to compare with", "/steer happy first")
    if not active or (repeats == 1 and not control and not capability):
        return session.compare(prompt, raw=raw, repeats=repeats, recipe=None if concept is None else base)
    recipe = replace(base, scope=chat.settings.scope)
    settings = with_controls(session, recipe, raw) if control else [Setting("steered", recipe)]
    result = experiment(session, "compare", prompt, settings, repeats, raw=raw)
    page = experiment_pages.page(result)
    if not capability or result.stopped:
        return page
    shares = measured_capability(session.reader, settings, questions(), session.settings.seed)
    return experiment_pages.with_capability(page, shares)


@command(
    "layers", examples=["/layers Tell me about the weather", "/layers --raw In my opinion,"], shell=True, parallel=True
)
def layers(
    chat: Chat,
    prompt: _Prompt = "",
    *,
    concept: _Concept = None,
    strength: Annotated[float | None, Strength("a strength in place of the recipe's")] = None,
    repeats: _Seeds = 4,
    tokens: _Tokens = 40,
    raw: _Raw = False,
) -> Page:
    """Steers at every layer, one at a time, and shows effect and cost.

    Ctrl-C stops and keeps the finished rows. A minute on a laptop.
    """
    prompt, concept = _prompt_and_concept("layers", chat, prompt, concept)
    recipe = chosen(chat.session, concept, None, strength)
    settings = at_layers(recipe, chat.session.engine.n_layers)
    result = experiment(chat.session, "layers", prompt, settings, repeats, raw=raw, tokens=tokens)
    page = experiment_pages.page(result)
    return page if result.stopped else inspection_pages.with_prediction(page, result, chat.session.reader)


@command(
    "strengths",
    examples=["/strengths Tell me about the weather", "/strengths --concept happy --layer 16 How was your day?"],
    shell=True,
    parallel=True,
)
def strengths(
    chat: Chat,
    prompt: _Prompt = "",
    *,
    concept: _Concept = None,
    layer: Annotated[str | None, Layer("layers in place of the recipe's")] = None,
    repeats: _Seeds = 4,
    tokens: _Tokens = 40,
    raw: _Raw = False,
) -> Page:
    """Steers with strengths from negative to too high, and shows where steering begins and where it breaks fluency.

    Effects are along the concept: a negative strength shows below 0. Ctrl-C stops and keeps the finished rows.
    """
    prompt, concept = _prompt_and_concept("strengths", chat, prompt, concept)
    recipe = chosen(chat.session, concept, layer)
    settings = at_strengths(recipe, STRENGTHS)
    result = experiment(chat.session, "strengths", prompt, settings, repeats, raw=raw, tokens=tokens)
    return experiment_pages.page(result)


def _prompt_and_concept(name: str, chat: Chat, prompt: str, concept: str | None) -> tuple[str, str | None]:
    """What a command's prompt means: a concept's name alone is no prompt, because in /steer and /tune it is a concept.

    A notice says so, since the word could be meant as a message.
    """
    first, *rest = prompt.split() or [""]
    if concept is None and rest and first in chat.library.names() and all(map(_PLACE.fullmatch, rest)):
        raise UsageError(
            f"{prompt} steers and says nothing", f"/steer {prompt}, then /{name} MESSAGE; /{name} {prompt}? sends it"
        )
    if concept is not None or prompt not in chat.library.names():
        return prompt or chat.session.last_prompt(), concept
    if not chat.session.turns:
        steered = f"/steer {prompt}, then /compare" if name == "compare" else f"/{name} --concept {prompt}"
        raise UsageError(f"{prompt} is a concept, and nothing was said yet", f"{steered} Tell me about the weather")
    last = chat.session.last_prompt()
    chat.report(Notice(f"{prompt} is a concept: it steers the last message again. /{name} {prompt}? sends the word."))
    return last, prompt


@command("why", examples=["/why", "/why 1"], shell=True)
def why(chat: Chat, pair: Annotated[int | None, PairId("a pair; by default the last steered one")] = None) -> Page:
    """Shows a steered answer token by token, and where it diverges from the normal one.

    Each token is shaded by how unlikely the unsteered model finds it. Where the answers diverge, the table has that
    model's own likeliest tokens.
    """
    stored = logged(chat.session, pair, earlier=chat.single)
    return inspection_pages.why(readings.why(chat.session, stored, chat.session.probes))


@command("probe", examples=["/probe happy sad", "/probe --pair 1 formal"], shell=True)
def probe(
    chat: Chat,
    concepts: Annotated[tuple[str, ...], Many(Concept, "the concepts; by default the steered ones")] = (),
    *,
    pair: Annotated[int | None, PairId("a pair in place of the last one")] = None,
) -> Page:
    """Shows how much of each concept every token carries, for the last answers and under each new one.

    The unsteered model reads the answers at each concept's read layer, because a steered model's own states hold the
    push. A mark under an answer stands for a token or a few; a higher mark means more of the concept. /probe off ends
    it.
    """
    session = chat.session
    for name in concepts:
        chat.library.get(name)
    keeps_on = bool(concepts) and pair is None and not chat.single
    if keeps_on:
        session.probes = concepts
        if session.last is None:
            return inspection_pages.probing(concepts)
    stored = logged(session, pair, earlier=chat.single)
    names = concepts or session.probes or stored.pair.recipe.concepts
    if not names:
        raise UsageError("/probe needs a concept", "/probe happy sad")
    strips = readings.strips(session, names, stored)
    if not strips:
        raise UsageError(f"an answer of pair {stored.id} is too short to read", "try another pair or a longer answer")
    return inspection_pages.probe(strips, names if keeps_on else ())


@command("probe off", examples=["/probe off"])
def probe_off(chat: Chat) -> Notice:
    """Stops showing concepts under each answer."""
    names = " and ".join(chat.session.probes)
    chat.session.probes = ()
    return Notice(f"{names}: no longer read under the answers." if names else "no concept is read under the answers.")


@command("lens", examples=["/lens", "/lens 16 The capital of France is", "/lens happy"], shell=True)
def lens(
    chat: Chat,
    layer: Annotated[int | None, OneLayer("a layer; by default all of them", least=0)] = None,
    prompt: Annotated[str, Rest("a text or a concept; by default the last message")] = "",
) -> Page:
    """Shows which token each layer would predict next (logit lens), or what a concept's direction promotes there.

    A text of your own is read as it stands; the last message is read in the chat template. Of a concept, each layer's
    direction is read, and where steering will work is predicted without an answer: /layers says how well. (On the
    default model, the depth alone is as good a guess.)
    """
    from ..measures.inspection import lens as predictions
    from ..measures.prediction import read_layers

    session = chat.session
    engine = session.engine
    if layer is not None:
        check_layer(layer, engine.n_layers, "/lens shows all")
    if prompt in chat.library.names():
        return inspection_pages.concept_lens(prompt, read_layers(session.reader, prompt), layer)
    text = prompt or session.last_prompt()
    messages = session.question(text, steered=False).normal
    ids = engine.prompter.raw(text) if prompt else engine.prompter.chat(messages, session.settings.thought)
    engine.check(ids)
    return inspection_pages.lens(predictions(engine, ids), layer, text)


@command(
    "tune",
    examples=["/tune happy", "/tune --prompts-used 16 happy 18-26", "/tune --cost 1.5 happy", "/tune --kl 1 happy"],
    shell=True,
    parallel=True,
)
def tune(
    chat: Chat,
    concept: Annotated[str | None, Concept("the concept to tune; by default the steered one")] = None,
    layer: Annotated[str | None, Layer("try only these layers, in finer steps of strength")] = None,
    *,
    prompts_used: Annotated[int, Int("the number of tuning prompts", least=1, most=24)] = 4,
    tokens: _Tokens = 40,
    keep: Annotated[bool, "keep the best setting as the concept's own on this model"] = False,
    cost: Annotated[float | None, Float("find the strength that costs so much", least=1.05, most=50)] = None,
    kl: Annotated[float | None, Float("find the strength of this KL divergence, in nats", least=0.01, most=20)] = None,
) -> Page:
    """Finds layers and strength for a concept by measuring answers.

    The concept's word measure, which does not use its vector, judges the answers where there is one. Ctrl-C stops and
    keeps the finished rows. Two minutes on a laptop.

    --cost 1.5 looks for the strength whose answers cost x1.5 instead, at the recommended layers or those that you name:
    methods are compared fairly at equal cost. Without a concept it is about the recipe, whatever its operation.

    --kl 1 looks for the strength whose KL divergence is 1 nat. At every token of the steered answers, the distribution
    of the steered model is compared with that of the unsteered model, which reads the same answer so far, before
    temperature and penalties: KL(steered || unsteered). 95% of the tokens have less.
    """
    session = chat.session
    prompts = folders.shipped_prompts("tuning")[:prompts_used]
    if (budget := tuning.budget_of(cost, kl)) is not None:
        result = tuning.at_budget(session, chosen(session, concept, layer), budget, prompts, tokens)
        allowed = tuning.within(result.outcomes, budget)
        kept = tuning.keep(session, allowed.setting.recipe) if keep and allowed is not None else ""
        return experiment_pages.page(result, kept, budget)
    recipe = chosen(session, concept)
    places, strengths = ((layer,), tuning.FINER) if layer else (tuning.LAYERS, tuning.STRENGTHS)
    settings = tuning.grid(recipe, places, strengths, session.engine.n_layers)
    result = tuning.tune(session, settings, prompts, tokens)
    best = tuning.tuned(result.outcomes)
    kept = tuning.keep(session, best.setting.recipe) if keep and best is not None else ""
    return experiment_pages.page(result, kept)


@command("tune keep", examples=["/tune keep"])
def tune_keep(chat: Chat) -> Notice:
    """Keeps the recipe's layers and strength as the concept's setting on this model."""
    name = tuning.keep(chat.session, chat.session.recipe)
    return Notice(f"/steer {name} uses this setting from now on; /concept delete {name} restores the shipped one.")


@command("bench", examples=["/bench --quick", "/bench --operations", "/bench --kernels", "/bench"], shell=True)
def bench(
    chat: Chat,
    *,
    quick: Annotated[bool, "use shorter answers and fewer repeats: rough figures in a minute or two"] = False,
    kernels: Annotated[bool, "measure again which kernel multiplies the weights, and show the times"] = False,
    operations: Annotated[bool, "measure what each operation adds to decoding, at one layer and at all"] = False,
    precision: Annotated[bool, "compare perplexity, vectors and answers with those of float32 weights"] = False,
    answers: Annotated[int, Int("the number of answers that --precision compares", least=2, most=2000)] = 200,
) -> Page:
    """Measures steerchat's speed on this machine and model.

    Takes several minutes on a CPU; Ctrl-C stops it. Other programs that run at the same time distort the figures. A
    ratio alternates the two measurements within one run; below 1 means that steerchat is the faster one.
    """
    from ..experiments.bench import run_bench
    from ..experiments.kernels import choose_again
    from ..experiments.precision import compare_with_float32

    session = chat.session
    if kernels:
        return choose_again(chat)
    if precision:
        prompts = folders.shipped_prompts("evaluation")
        compared = compare_with_float32(session.engine, chat.loader.name, chat.library, prompts, answers, session.watch)
        return compared.page()
    return run_bench(session.engine, chat.library, chat.settings, quick, operations, session.watch).page()
