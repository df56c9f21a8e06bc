"""/concept: the library of concepts, and the making of new ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace as changed
from pathlib import Path
from typing import Annotated, Any

from ..concepts.concept import METHODS, Example, Tuning, check_examples
from ..concepts.concept import Concept as ConceptValue
from ..concepts.files import read_examples
from ..concepts.library import DEFAULT_LAYERS
from ..concepts.pages import default_description, entries, entry, extraction_lines, list_page, show_page
from ..conversation.chat import Chat
from ..slash.arguments import Choice, Concept, Layer, Option, PathArg, Text
from ..slash.registry import command
from ..values.errors import ConceptError, Interrupted, SteerchatError, UsageError
from ..values.page import Page
from ..values.recipe import RANDOM, TermRequest, format_layers, name_layers, parse_layers
from ..values.results import Event, Notice

_GROUP = "Concepts"
# What the wizard tries a new concept on: steering shows well on it.
_TRY = "Tell me about the weather"
_Method = Annotated[str, Option("how the vector is read from the pairs", Choice(*METHODS, metavar="METHOD"))]
_Replace = Annotated[bool, Option("without asking, in place of what is there")]


@command("concept", examples=["/concept"], group=_GROUP)
def concept(chat: Chat) -> Page:
    """Lists the concepts."""
    return list_concepts(chat)


@command("concept list", examples=["/concept list"], group=_GROUP, shell=True, needs_model=False)
def list_concepts(
    chat: Chat, *, evaluate: Annotated[bool, Option("measure every one instead, as /concept evaluate does")] = False
) -> Page:
    """Lists the concepts: kind, recommended layer and strength, how well their pairs agree."""
    if evaluate:
        from .evaluation import evaluate as measured

        return measured(chat)
    return list_page(entries(chat.library, _fingerprint(chat)))


@command("concept show", examples=["/concept show happy"], group=_GROUP, shell=True)
def show(chat: Chat, concept: Annotated[str, Concept("which")]) -> Page:
    """Shows a concept: its pairs, how well they agree and separate by layer, and what it resembles."""
    library, engine = chat.library, chat.session.engine
    vector = library.vector(concept, engine, chat.report, stopped=chat.session.stop.is_set)
    one = entry(library, concept, engine.fingerprint)
    from ..concepts.vector import read_layer

    layer = read_layer(vector)
    near: list[tuple[str, float]] = []
    unread = 0
    for name in library.names():
        if name in (concept, RANDOM):
            continue
        try:
            other = library.stored(library.get(name), engine.fingerprint)
        except ConceptError:
            other = None
        if other is None or other.directions.shape != vector.directions.shape:
            unread += 1
        else:
            near.append((name, float(vector.cosine(other)[layer])))
    near.sort(key=lambda pair: -abs(pair[1]))
    return show_page(changed(one, report=vector.report or one.report), vector, near, unread)


@command(
    "concept new",
    examples=[
        '/concept new eager "I am SO excited and thrilled about this!" "I am neutral about this." 16',
        "/concept new grumpy --examples grumpy.csv 14",
        "/concept new",
    ],
    group=_GROUP,
    shell=True,
)
def new(
    chat: Chat,
    name: Annotated[str | None, Text("what to call it", metavar="NAME")] = None,
    positive: Annotated[str | None, Text('a text with the concept, in "..."', metavar="WITH")] = None,
    negative: Annotated[str | None, Text("a text like it, without", metavar="WITHOUT")] = None,
    layer: Annotated[str | None, Layer("where it is to steer: 16, 12-20, or 55%")] = None,
    *,
    examples: Annotated[Path | None, Option("a TOML, JSONL or CSV with prompt, positive, negative", PathArg)] = None,
    method: _Method = "",
    replace: _Replace = False,
) -> Page | Iterator[Event]:
    """Makes a concept from two texts or a file of pairs; alone, asks for them one by one.

    One text shows the concept and the other is like it in everything else: the vector is the difference. Every layer
    is read; LAYER is the one recommended from then on. One pair makes a vector of its topic too: eight or more are
    better. Methods: mean, the mean difference over the reply's tokens; pca, their first principal direction; end, the
    mean difference at the replies' last tokens; last, the first pair's last token, as textbooks show.
    """
    if name is None:
        return _wizard(chat)
    name = chat.library.check_name(name)
    if examples is not None:
        # With a file the only text that can follow is the layer.
        if negative is not None or (positive is not None and layer is not None):
            raise UsageError("the texts come from the file, or from the line", f"/concept new {name} --examples FILE")
        layer = Layer().parse(positive) if positive is not None else layer
        made = changed(read_examples(examples), name=name)
    elif positive is None or negative is None:
        raise UsageError(
            "two texts are needed: one with the concept, one without", f'/concept new {name} "I love it" "It is here"'
        )
    else:
        made = ConceptValue(name, "custom", "", check_examples([Example("", positive, negative)]))
    _ask_to_replace(chat, name, replace)
    return _made(chat, made, layer, method)


@command("concept edit", examples=["/concept edit happy"], group=_GROUP, shell=True, needs_model=False)
def edit(chat: Chat, concept: Annotated[str, Concept("which")]) -> list[object]:
    """Opens your copy of a concept in $EDITOR, or says where it is."""
    library = chat.library
    path, copied = library.own_copy(concept)
    said: list[object] = []
    if copied:
        said.append(Notice(f"A copy of the {concept} that ships: it hides that one until /concept delete {concept}."))
    if not chat.can_ask:
        return [*said, f"{concept} is in {path}"]
    before = path.read_bytes()
    _open_editor(path)
    if path.read_bytes() == before:
        if copied:
            library.delete(concept)
        return [f"{concept} is as it was."]
    library.forget(concept)
    try:
        library.get(concept)
    except ConceptError as error:
        raise ConceptError(error.message, f"/concept edit {concept} again; the file is {path}") from None
    return [*said, f"{concept} is saved; its vector is read again when it is used next."]


@command("concept delete", examples=["/concept delete eager"], group=_GROUP, shell=True, needs_model=False)
def delete(
    chat: Chat,
    concept: Annotated[str, Concept("one of your own")],
    *,
    yes: Annotated[bool, Option("without asking")] = False,
) -> str:
    """Deletes a concept of your own; a shipped one that it hid is back."""
    chat.library.check_deletable(concept)
    if not yes:
        _must_ask(chat, "deleting", f"/concept delete {concept} --yes")
        if chat.ask(f"Delete {concept}? Its examples are gone then.", ["yes", "no"]) == "no":
            return f"{concept} stays."
    ships = chat.library.delete(concept)
    if ships:
        return f"{concept} is deleted. The {concept} that ships with steerchat is back."
    if concept in chat.session.recipe.concepts:
        chat.session.drop(concept)
        return f"{concept} is deleted, and no longer steers: {chat.session.recipe}."
    return f"{concept} is deleted."


@command(
    "concept export",
    examples=["/concept export happy happy.gguf", "/concept export happy happy.safetensors"],
    group=_GROUP,
    shell=True,
)
def export(
    chat: Chat,
    concept: Annotated[str, Concept("which")],
    file: Annotated[Path, PathArg("a .safetensors, or a .gguf for llama.cpp and repeng")],
    *,
    replace: _Replace = False,
) -> list[object]:
    """Writes a concept's vector for others: safetensors, or a GGUF control vector for llama.cpp and repeng.

    A GGUF's direction.N is added to the output of block N, counted from 0; block 0 cannot be stored. llama.cpp and
    repeng push the prompt's positions too, as `/set scope all` does.
    """
    from ..concepts.exchange import SUFFIXES, export_vector

    if file.suffix.lower() not in SUFFIXES:
        raise ConceptError(f"cannot tell the format of {file.name}", "name it .safetensors, or .gguf for llama.cpp")
    library, engine = chat.library, chat.session.engine
    value = library.get(concept)
    vector = library.vector(concept, engine, chat.report, stopped=chat.session.stop.is_set)
    lengths = chat.session.calibration.profile(engine, chat.report).lengths
    if os.path.lexists(file) and not replace:
        _must_ask(chat, f"writing over {file.name}", f"/concept export {concept} {file} --replace")
        if chat.ask(f"Write over {file}?", ["yes", "no"]) == "no":
            raise Interrupted("exporting")
    facts = {"kind": value.kind, "description": value.description}
    said: list[object] = [export_vector(vector, file, lengths, engine.model.config.model_type, facts)]
    if file.suffix.lower() == ".gguf":
        layers, strength, _ = library.recommended(concept, engine.fingerprint)
        numbers = [layer for layer in parse_layers(layers, engine.n_layers) if layer > 0] or [1]
        scale = f"{strength / len(numbers):.3g}"
        span = f"--control-vector-layer-range {numbers[0]} {numbers[-1]}"
        said.append(Notice(f"llama-cli -m MODEL.gguf --control-vector-scaled {file}:{scale} {span}"))
        said.append(Notice("An older llama.cpp wants a blank in place of the colon."))
    return said


@command(
    "concept import",
    examples=["/concept import joy joy.gguf", "/concept import joy direction.npy --layer 14"],
    group=_GROUP,
    shell=True,
)
def import_(
    chat: Chat,
    name: Annotated[str, Text("what to call it", metavar="NAME")],
    file: Annotated[Path, PathArg("a .safetensors, a .gguf control vector, or an .npy array")],
    *,
    layer: Annotated[str, Option("for a plain direction: the block whose output it is, counted from 0", Layer)] = "",
    replace: _Replace = False,
) -> list[object]:
    """Brings in a vector from steerchat, llama.cpp, repeng or a single direction.

    A plain direction is a safetensors file with one tensor, or an .npy, of as many numbers as the model's hidden size;
    one of shape (layers, hidden) has a row for each block. Row i and --layer i mean the output of block i, counted
    from 0. Only directions are taken; how hard to push is yours to find. Pickles (.pt) are never opened.
    """
    from ..concepts.exchange import import_vector

    library = chat.library
    name = library.check_name(name)
    engine = chat.session.engine
    layers = parse_layers(layer, engine.n_layers) if layer else ()
    if len(layers) > 1:
        raise UsageError("a plain direction belongs to one layer", "--layer 14")
    found = import_vector(file, name, engine, layers[0] if layers else None)
    _ask_to_replace(chat, name, replace)
    where = found.layers
    usual = parse_layers(DEFAULT_LAYERS, engine.n_layers)
    best = tuple(one for one in usual if one in where) or where
    tuned = () if best == usual else (Tuning(engine.fingerprint, format_layers(best)),)
    said: list[object] = [Notice(note) for note in found.notes]
    if library.ships(name):
        said.append(Notice(_hides(name)))
    library.keep_import(
        ConceptValue(
            name,
            found.facts.get("kind") or "imported",
            found.facts.get("description") or f"Imported from {file.name}.",
            (),
            tuned,
            method="imported",
        ),
        found.vector,
    )
    said.append(f"{name} is imported, with a direction at {name_layers(where)}.")
    said.append(Notice(f"Its strength is uncalibrated on {engine.name}: /steer {name} {format_layers(best)} 2.0"))
    return said


# Making one


def _made(chat: Chat, made: ConceptValue, layer: str | None, method: str) -> Page:
    engine = chat.session.engine
    if method:
        made = changed(made, method=next(one for one in METHODS if one == method))
    if made.method == "imported":
        raise ConceptError(
            f"the file of {made.name} has a vector's name and no examples", "/concept import reads those"
        )
    if layer:
        layers = format_layers(parse_layers(layer, engine.n_layers))
        others = tuple(one for one in made.tuned if one.fingerprint != engine.fingerprint)
        made = changed(made, tuned=(*others, Tuning(engine.fingerprint, layers)))
    made = changed(made, description=made.description or default_description(made))
    vector = chat.library.add(made, engine, chat.report, chat.session.stop.is_set)
    said = extraction_lines(made, vector, engine.fingerprint)
    if chat.library.ships(made.name):
        said.append(Notice(_hides(made.name)))
    one = entry(chat.library, made.name, engine.fingerprint)
    said.append(f"It steers at {name_layers(parse_layers(one.layers, engine.n_layers))}: /steer {made.name} tries it.")
    return Page(said, [one.to_json()])


def _wizard(chat: Chat) -> Iterator[Event]:
    """Asks for what a concept needs, extracts it, and offers to try it."""
    _must_ask(chat, "/concept new alone", '/concept new NAME "a text with it" "a text without"')
    # First of all: a model that does not load must not cost what was typed.
    engine = chat.session.engine
    name = _until(chat, "What is it called?", chat.library.check_name)
    if name is None:
        yield Notice("Nothing was made.")
        return
    _ask_to_replace(chat, name, False)
    description = chat.ask("In a sentence, what does it do to a reply? (empty: skip)")
    yield Notice("Now pairs: two replies alike in everything but the concept. An empty one ends.")
    examples: list[Example] = []
    while (example := _pair(chat, len(examples) + 1)) is not None:
        examples.append(example)
    if not examples:
        yield Notice("Nothing was made: at least one pair is needed.")
        return
    layer = _until(
        chat, "Which layer is to be recommended? (empty: the usual ones)", lambda t: _known_layer(t, engine.n_layers)
    )
    made = ConceptValue(name, "custom", description, check_examples(examples))
    for part in _made(chat, made, layer, "").parts:
        yield part if isinstance(part, Notice) else Notice(str(part))
    if chat.ask("Try it now?", ["yes", "no"]) == "yes":
        for note in chat.session.steer([TermRequest(((name, 1.0),))]):
            yield Notice(note)
        yield Notice(f"{chat.session.recipe}: > {_TRY}")
        yield from chat.session.compare(_TRY)


def _pair(chat: Chat, number: int) -> Example | None:
    while True:
        prompt = chat.ask(f"Pair {number}, what both reply to (empty: plain text, no prompt):")
        positive = chat.ask(f"Pair {number}, with the concept (empty: no more pairs):")
        if not positive:
            return None
        negative = chat.ask(f"Pair {number}, without:")
        example = Example(prompt, positive, negative)
        try:
            check_examples([example])
            return example
        except ConceptError as error:
            chat.report(Notice(f"{error.message}; {error.hint}. This pair again:"))


def _until(chat: Chat, question: str, read: Any) -> Any:
    """The first answer that `read` takes; None for an empty one."""
    while True:
        answer = chat.ask(question)
        if not answer:
            return None
        try:
            return read(answer)
        except SteerchatError as error:
            chat.report(Notice(f"{error.message}; {error.hint}"))


def _known_layer(text: str, n_layers: int) -> str:
    parse_layers(text, n_layers)
    return text


# Asking


def _must_ask(chat: Chat, what: str, instead: str) -> None:
    if not chat.can_ask:
        raise UsageError(f"{what} asks first, and nobody is there to answer", instead)


def _ask_to_replace(chat: Chat, name: str, replace: bool) -> None:
    """Raises unless `name` is free, or its concept may go; a shipped one is only hidden and needs no asking."""
    if replace or not chat.library.owns(name):
        return
    _must_ask(chat, f"replacing your own {name}", "--replace, or another name")
    if chat.ask(f"You have a concept {name} already. Replace it?", ["yes", "no"]) == "no":
        raise Interrupted(f"making {name}")


def _hides(name: str) -> str:
    return f"Your {name} hides the one that ships; /concept delete {name} brings that back."


def _open_editor(path: Path) -> None:
    import click

    try:
        click.edit(filename=str(path))
    except click.ClickException as error:
        raise ConceptError(error.message, f"set EDITOR, or edit {path}") from None


def _fingerprint(chat: Chat) -> str:
    """The model's, without loading it; empty while it is not on this machine."""
    if chat.loader.ready is not None:
        return chat.loader.ready.fingerprint
    from ..models.find import find

    try:
        return find(chat.loader.name, progress=chat.report, offline=True).fingerprint
    except SteerchatError:
        return ""
