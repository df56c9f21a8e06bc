"""Experiments: outside the conversation, each also a subcommand of the shell."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated

from ..conversation.chat import Chat
from ..conversation.rerun import logged, prompt_of
from ..experiments import pages as experiment_pages
from ..experiments import tuning
from ..experiments.outcomes import Setting
from ..experiments.run import Experiment
from ..experiments.settings import STRENGTHS, at_layers, at_strengths, chosen, mix_notes, with_controls
from ..measures import pair as measuring
from ..slash.arguments import Concept, Int, Layer, Many, MixSpec, Option, PairId, Rest, Strength
from ..slash.registry import command
from ..system import folders
from ..values.errors import UsageError
from ..values.page import Page
from ..values.recipe import Recipe, TermRequest, parse_parts
from ..values.results import BenchReport, Event, Notice

_GROUP = "Experiments"


@command(
    "compare",
    examples=["/compare Tell me about the weather", "/compare --repeats 5", "/compare --repeats 5 --control"],
    group=_GROUP,
    shell=True,
    parallel=True,
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
    prompt, concept = _asked("compare", chat, prompt, None)
    base = session.recipe if concept is None else chosen(session, concept)
    active = base.active
    if control and not active:
        raise UsageError("there is nothing to compare with controls", "/steer happy first")
    if not active or (repeats == 1 and not control):
        recipe = None if concept is None else base
        return session.compare(prompt, raw=raw, repeats=repeats, recipe=recipe)
    recipe = replace(base, scope=chat.settings.scope)
    settings = with_controls(recipe, raw) if control else [Setting("steered", recipe)]
    return experiment_pages.comparison(Experiment(session, "compare", prompt, settings, repeats, raw).run(), recipe)


@command(
    "layers",
    examples=["/layers Tell me about the weather", "/layers --raw In my opinion,"],
    group=_GROUP,
    shell=True,
    parallel=True,
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
    prompt, concept = _asked("layers", chat, prompt, concept)
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
    parallel=True,
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
    prompt, concept = _asked("strengths", chat, prompt, concept)
    recipe = chosen(chat.session, concept, layer)
    settings = at_strengths(recipe, STRENGTHS)
    return experiment_pages.strengths(
        Experiment(chat.session, "strengths", prompt, settings, repeats, raw, tokens).run(), recipe
    )


def _asked(kind: str, chat: Chat, prompt: str, concept: str | None) -> tuple[str, str | None]:
    """Prompt and concept as they are meant: a concept's name alone is no prompt, since /steer and /tune begin so."""
    if concept is None and prompt in chat.library.names():
        if not chat.session.turns:
            raise UsageError(
                f"{prompt} is a concept, and nothing was said yet",
                f"/steer {prompt}, then /compare Tell me about the weather"
                if kind == "compare"
                else f"/{kind} --concept {prompt} Tell me about the weather",
            )
        prompt, concept = "", prompt
    return prompt or chat.session.last_prompt(), concept


@command(
    "mix",
    examples=[
        "/mix happy:0.7,excited:0.3",
        "/mix formal:0.5,friendly:0.5 16 2.0",
        "/mix happy:1,sad:-1 Tell me about the weather",
    ],
    group="Steering",
    shell=True,
    parallel=True,
)
def mix(
    chat: Chat,
    spec: Annotated[str, MixSpec("concepts with weights; a negative one pushes away")],
    where: Annotated[str | None, Layer("where; as the heaviest concept's when left out")] = None,
    push: Annotated[float | None, Strength("how hard; likewise")] = None,
    prompt: Annotated[str, Rest("answer this at once, normal and steered")] = "",
    *,
    layer: Annotated[str | None, Option("another way to say where", Layer)] = None,
    strength: Annotated[float | None, Option("another way to say how hard", Strength)] = None,
    raw: Annotated[bool, Option("go on from the prompt itself, without the chat template")] = False,
) -> list[object] | Iterator[Event]:
    """Steers towards a mix of concepts.

    Weights are divided by the sum of their sizes; the parts' directions are added and made as long as one alone, so a
    mix pushes no harder than a single concept. Every answer from then on says each part's own effect.
    """
    session = chat.session
    hardness = push if strength is None else strength
    term, notes = session.resolve(TermRequest(parse_parts(spec), layer or where, hardness))
    notes += mix_notes(session, term)
    session.recipe = Recipe((term,), chat.settings.scope)
    if not prompt:
        return [*map(Notice, notes), session.recipe]
    return itertools.chain(map(Notice, notes), session.compare(prompt, raw=raw, kind="mix"))


@command("ablate", examples=["/ablate sad", "/ablate sad 12-20"], group="Steering")
def ablate(
    chat: Chat,
    concept: Annotated[str, Concept("whose direction is taken out")],
    layer: Annotated[str | None, Layer("where: 16, a range 12-20, a depth 55%, or all")] = None,
) -> list[object]:
    """Takes a concept's direction out of what the model thinks, beside what is steered already.

    The residual stream keeps everything but its part along that direction. /steer drop CONCEPT ends it.
    """
    said = chat.session.steer([TermRequest(parse_parts(concept), layer, operation="ablate")], keep=True)
    return [*map(Notice, said), chat.session.recipe]


@command("replace", examples=["/replace happy", "/replace happy 16 2.0"], group="Steering")
def replace_state(
    chat: Chat,
    concept: Annotated[str, Concept("whose direction takes the state's place")],
    layer: Annotated[str | None, Layer("where: 16, a range 12-20, a depth 55%, or all")] = None,
    strength: Annotated[float | None, Strength("how long the new state is; 2.0 when left out")] = None,
) -> list[object]:
    """Puts a concept's direction in the place of what the model thinks, beside what is steered already.

    Everything else at those positions is lost, which shows why steering adds. /steer drop CONCEPT ends it.
    """
    said = chat.session.steer([TermRequest(parse_parts(concept), layer, strength, operation="replace")], keep=True)
    return [*map(Notice, said), chat.session.recipe]


@command("why", examples=["/why", "/why 1"], group=_GROUP, shell=True)
def why(
    chat: Chat, pair: Annotated[int | None, PairId("which; the last steered one when left out", metavar="ID")] = None
) -> Page:
    """Shows a steered answer token by token, and where it parted from the normal one.

    Each token is shaded by how unlikely the unsteered model finds it; at the parting, what that model wanted to say.
    """
    from ..measures.inspection import likelihoods, wanted

    session = chat.session
    stored = logged(session, pair, earlier=chat.single)
    steered, prompt = stored.pair.steered, prompt_of(session, stored, "steered")
    if steered is None:
        raise UsageError(f"pair {stored.id} was not steered", "/steer happy, then say something")
    tokens = likelihoods(session.engine, prompt, steered.token_ids)
    at = stored.pair.diverges_at
    rather = [] if at is None else wanted(session.engine, [*prompt, *steered.token_ids[:at]])
    names = session.probes or stored.pair.recipe.concepts
    strips = measuring.probe(
        session, names, stored.pair, [prompt_of(session, stored, side) for side in ("normal", "steered")]
    )
    return experiment_pages.why(stored.pair, tokens, rather, strips)


@command("probe", examples=["/probe happy sad", "/probe --pair 1 formal"], group=_GROUP, shell=True)
def probe(
    chat: Chat,
    concepts: Annotated[tuple[str, ...], Many(Concept, "what to read; what was steered when left out")] = (),
    *,
    pair: Annotated[int | None, Option("in place of the last one", PairId(metavar="ID"))] = None,
) -> Page:
    """Reads concepts while the model talks: off the last answers at once, and under each answer from then on.

    The unsteered model reads what was said, at each concept's read layer: a steered model's own states hold the push.
    Under an answer a mark is a token or a few, and the higher it is, the more of the concept they carry. /probe off
    ends it.
    """
    session = chat.session
    for name in concepts:
        chat.library.get(name)
    stays = bool(concepts) and pair is None and not chat.single
    if stays:
        session.probes = concepts
        if session.last is None:
            return experiment_pages.probing(concepts)
    stored = logged(session, pair, earlier=chat.single)
    names = concepts or session.probes or stored.pair.recipe.concepts
    if not names:
        raise UsageError("no concept to read", "/probe happy sad")
    strips = measuring.probe(
        session, names, stored.pair, [prompt_of(session, stored, side) for side in ("normal", "steered")]
    )
    if not strips:
        raise UsageError(f"an answer of pair {stored.id} is too short to read", "say something else")
    return experiment_pages.probe(strips, names if stays else ())


@command("probe off", examples=["/probe off"], group=_GROUP)
def probe_off(chat: Chat) -> Notice:
    """Ends the reading of concepts under each answer."""
    names = " and ".join(chat.session.probes)
    chat.session.probes = ()
    return Notice(f"{names}: no longer read under the answers." if names else "no concept is read under the answers.")


@command("lens", examples=["/lens", "/lens 16 The capital of France is"], group=_GROUP, shell=True)
def lens(
    chat: Chat,
    layer: Annotated[int | None, Int("one layer; all of them when left out", metavar="LAYER", least=0)] = None,
    prompt: Annotated[str, Rest("a text to go on from; the last message when left out")] = "",
) -> Page:
    """Shows what each layer would say next: the model's guess, read off on the way.

    A text of your own is taken as it stands; the last message is read in the chat template.
    """
    from ..measures.inspection import lens as read_off

    session = chat.session
    engine = session.engine
    if layer is not None and layer >= engine.n_layers:
        raise UsageError(f"no layer {layer}: this model has layers 0 to {engine.n_layers - 1}", "/lens walks all")
    text = prompt or session.last_prompt()
    encode = engine.prompter.raw
    ids = encode(text) if prompt else engine.prompter.chat([*session.head(), {"role": "user", "content": text}])
    engine.check(ids)
    steps = read_off(engine, ids)
    return experiment_pages.lens(steps, layer, text)


@command(
    "tune", examples=["/tune happy", "/tune --prompts-used 16 happy 18-26"], group=_GROUP, shell=True, parallel=True
)
def tune(
    chat: Chat,
    concept: Annotated[str | None, Concept("what to find a setting for; what is steered when left out")] = None,
    layer: Annotated[str | None, Layer("only there, in finer steps of strength")] = None,
    *,
    prompts_used: Annotated[int, Option("how many of the tuning prompts", Int(least=1, most=24))] = 4,
    tokens: Annotated[int, Option("longest answer", Int(least=1, most=1000))] = 40,
    keep: Annotated[bool, Option("keep what is found as the concept's setting on this model")] = False,
) -> Page:
    """Finds layers and strength for a concept by what the answers say.

    Answers are judged by the concept's word measure, which does not use its vector, where there is one. Ctrl-C keeps
    what was finished. Two minutes on a laptop.
    """
    session = chat.session
    recipe = chosen(session, concept)
    places, strengths = ((layer,), tuning.FINER) if layer else (tuning.LAYERS, tuning.STRENGTHS)
    settings = tuning.grid(recipe, places, strengths, session.engine.n_layers)
    text = (folders.packaged("vectors") / "texts" / "prompts.toml").read_text(encoding="utf-8")
    result = tuning.tune(session, settings, tomllib.loads(text)["tuning"][:prompts_used], tokens)
    found = tuning.tuned(result.outcomes)
    kept = tuning.keep(session, found.setting.recipe) if keep and found is not None else ""
    return experiment_pages.tuning(result, recipe, found, kept)


@command("tune keep", examples=["/tune keep"], group=_GROUP)
def tune_keep(chat: Chat) -> Notice:
    """Keeps the layers and strength that are steered now as the concept's setting on this model."""
    name = tuning.keep(chat.session, chat.session.recipe)
    return Notice(f"/steer {name} takes this setting from now on; /concept delete {name} brings the shipped one back.")


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
    from ..experiments.bench import run_bench

    settings, session = chat.settings, chat.session
    return run_bench(session.engine, chat.library, settings, quick, chat.report, session.stop.is_set)
