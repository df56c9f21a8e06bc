"""/concept: list, show, make, edit, delete, export and import concepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace as changed
from functools import partial
from pathlib import Path
from typing import Annotated, cast

from ..concepts.concept import METHODS, Example, Method, Tuning, check_examples
from ..concepts.concept import Concept as ConceptValue
from ..concepts.files import read_examples
from ..concepts.library import DEFAULT_LAYERS
from ..concepts.pages import default_description, entries, entry, extraction_lines, list_page, show_page
from ..conversation.chat import Chat
from ..slash.arguments import Choice, Concept, Layer, PathArg, Strength, Text
from ..slash.registry import registry
from ..values.errors import ConceptError, Interrupted, SteerchatError, UsageError
from ..values.operation import ADD
from ..values.page import Page
from ..values.recipe import RANDOM, TermRequest, format_layers, name_layers, parse_layers
from ..values.results import Event, Notice
from ..values.text import counted
from .asking import Replace, Yes, confirm, confirm_replacing

command = partial(registry.command, group="Concepts")
# The wizard tries a new concept on this prompt: steering shows well on it.
_TRY = "Tell me about the weather"
_Method = Annotated[str, Choice(*METHODS, metavar="METHOD", meaning="how the vector is extracted from the pairs")]


@command("concept", examples=["/concept"], aliases=["concepts", "concept list"], shell=True, needs_model=False)
def concept(chat: Chat) -> Page:
    """Lists the concepts: kind, recommended layer and strength, how well their pairs agree."""
    return list_page(entries(chat.library, fingerprint_of(chat)))


@command("concept show", examples=["/concept show happy"], shell=True)
def show(chat: Chat, concept: Annotated[str, Concept("the concept")]) -> Page:
    """Shows a concept: its pairs, how well they agree and separate at each layer, and the most similar concepts."""
    from ..concepts.vector import read_layer

    library, fingerprint = chat.library, chat.session.engine.fingerprint
    vector = chat.session.reader.vector(concept)
    shown = entry(library, concept, fingerprint)
    layer = read_layer(vector)
    similar: list[tuple[str, float]] = []
    without_vector = 0
    for name in library.names():
        if name in (concept, RANDOM):
            continue
        try:
            other = library.stored(library.get(name), fingerprint)
        except ConceptError:
            other = None
        if other is None or other.directions.shape != vector.directions.shape:
            without_vector += 1
        else:
            similar.append((name, float(vector.cosine(other)[layer])))
    similar.sort(key=lambda item: -abs(item[1]))
    return show_page(changed(shown, report=vector.report or shown.report), vector, similar, without_vector)


@command(
    "concept new",
    examples=[
        '/concept new eager "I am SO excited and thrilled about this!" "I am neutral about this." 16',
        "/concept new grumpy --examples grumpy.csv 14",
        "/concept new",
    ],
    shell=True,
)
def new(
    chat: Chat,
    name: Annotated[str | None, Text("the name of the new concept", metavar="NAME")] = None,
    positive: Annotated[str | None, Text('a text that shows the concept, in "..."', metavar="WITH")] = None,
    negative: Annotated[str | None, Text("a text like it that does not", metavar="WITHOUT")] = None,
    layer: Annotated[str | None, Layer("the recommended layer: 16, 12-20, or 55%")] = None,
    *,
    examples: Annotated[Path | None, PathArg("a TOML, JSONL or CSV file of contrast pairs")] = None,
    method: _Method = "",
    replace: Replace = False,
) -> Page | Iterator[Event]:
    """Makes a concept from two texts or a file of pairs; without arguments, asks for them.

    One text shows the concept and the other is like it in everything else: the vector is the difference. Every layer
    is read; LAYER becomes the recommended one. The vector of a single pair also carries the pair's topic: eight or
    more pairs are better. Methods: centred, the mean difference over the reply's tokens, less what all tones of the
    library share, which is used when you name none; mean, the same with nothing taken out; pca, the first principal
    component of the differences; end, the mean difference at the replies' last tokens; last, the difference at the
    first pair's last tokens, as textbooks show it.
    """
    if name is None or (positive is None and examples is None and chat.can_ask):
        return _wizard(chat, name)
    name = chat.library.check_name(name)
    if examples is not None:
        # With a file, the only further argument is the layer.
        if negative is not None or (positive is not None and layer is not None):
            raise UsageError(
                "the texts come from the file or from the line, not both", f"/concept new {name} --examples FILE"
            )
        layer = Layer().parse(positive) if positive is not None else layer
        concept = changed(read_examples(examples), name=name)
        # A TOML says how it is extracted; without a word about it, that is the plain mean difference.
        method = method or ("" if examples.suffix.lower() == ".toml" else "centred")
    elif positive is None or negative is None:
        raise UsageError(
            "two texts are needed: one shows the concept, one does not",
            f'/concept new {name} "I love it" "It is here"; in the chat, /concept new asks for them',
        )
    else:
        concept = ConceptValue(name, "custom", "", check_examples([Example("", positive, negative)]))
        method = method or "centred"
    _ask_to_replace(chat, name, replace)
    return _add(chat, concept, layer, method)


@command("concept edit", examples=["/concept edit happy"], shell=True, needs_model=False)
def edit(chat: Chat, concept: Annotated[str, Concept("the concept")]) -> list[object]:
    """Opens your copy of a concept in $EDITOR, or prints its path."""
    library = chat.library
    path, copied = library.own_copy(concept)
    notes: list[object] = []
    if copied:
        notes.append(Notice(f"This is a copy of the shipped {concept}, and hides it until /concept delete {concept}."))
    if not chat.can_ask:
        return [*notes, f"{concept} is in {path}"]
    before = path.read_bytes()
    _open_editor(path)
    if path.read_bytes() == before:
        if copied:
            library.delete(concept)
        return [f"{concept} is unchanged."]
    library.forget(concept)
    try:
        library.get(concept)
    except ConceptError as error:
        raise ConceptError(error.message, f"/concept edit {concept} again; the file is {path}") from None
    return [*notes, f"{concept} is saved; its vector is extracted again at the next use."]


@command("concept delete", examples=["/concept delete eager"], shell=True, needs_model=False)
def delete(chat: Chat, concept: Annotated[str, Concept("a concept of your own")], *, yes: Yes = False) -> str:
    """Deletes a concept of your own; a shipped concept that it hid comes back."""
    chat.library.check_deletable(concept)
    if not confirm(chat, f"Delete {concept} with its examples?", "--yes", yes):
        return f"{concept} stays."
    ships = chat.library.delete(concept)
    if ships:
        return f"{concept} is deleted. The shipped {concept} is back."
    if concept in chat.session.recipe.concepts:
        chat.session.drop(concept)
        return f"{concept} is deleted and no longer steers; steering: {chat.session.recipe}."
    return f"{concept} is deleted."


@command(
    "concept export",
    examples=["/concept export happy happy.gguf", "/concept export happy happy.json --layer 16 --strength 2.0"],
    shell=True,
)
def export(
    chat: Chat,
    concept: Annotated[str, Concept("the concept")],
    file: Annotated[Path, PathArg(".safetensors, .gguf for llama.cpp, .json for vllm-lens, .pt for hotwire-vllm")],
    *,
    layer: Annotated[str, Layer("of the push that another program is told; the recommended ones when left out")] = "",
    strength: Annotated[float | None, Strength("of that push; the recommended one when left out")] = None,
    replace: Replace = False,
) -> list[object]:
    """Writes a concept's vector as a file for another program; the file's suffix says which.

    .safetensors is steerchat's own form. .gguf is a control vector for llama.cpp and repeng: direction.N is added to
    the output of block N, counted from 0; the format cannot store block 0. .json and .pt are for plug-ins of vLLM:
    vllm-lens takes the text of the file with a request, hotwire-vllm loads the file when it starts. llama.cpp, repeng
    and vllm-lens push the prompt's positions too, as `/set scope all` does.
    """
    from ..concepts.export import Push, check_suffix, export_vector

    suffix = check_suffix(file)
    reader, library, engine = chat.session.reader, chat.library, chat.session.engine
    value, vector, lengths = library.get(concept), reader.vector(concept), reader.profile.lengths
    layers, usual, _ = library.recommended(concept, engine.fingerprint)
    push = Push(parse_layers(layer or layers, engine.n_layers), usual if strength is None else strength)
    confirm_replacing(chat, file, replace)
    facts = {"kind": value.kind, "description": value.description}
    said, *usage = export_vector(vector, file, lengths, engine.model.config.model_type, facts, push)
    parts: list[object] = [said, *map(Notice, usage)]
    if suffix != ".safetensors":
        terms = [term for term in chat.session.recipe.terms if concept in dict(term.parts)]
        lost = [term for term in terms if term.operation != ADD or term.gate]
        parts += [Notice(f"A control vector is only ever added: the file cannot express {term}.") for term in lost]
    return parts


@command(
    "concept import",
    examples=["/concept import joy joy.gguf", "/concept import joy direction.npy --layer 14"],
    shell=True,
)
def import_(
    chat: Chat,
    name: Annotated[str, Text("the name of the new concept", metavar="NAME")],
    file: Annotated[Path, PathArg("a .safetensors file, a .gguf control vector, or an .npy array")],
    *,
    layer: Annotated[str, Layer("of a plain direction: the block whose output it steers, counted from 0")] = "",
    replace: Replace = False,
) -> list[object]:
    """Imports a vector of steerchat, llama.cpp, repeng, saklas or steering-lite, or a plain direction.

    A plain direction is an .npy array, or a safetensors file with one tensor, of shape (hidden,), or (layers, hidden)
    with a row for each block. Row i and --layer i mean the output of block i, counted from 0. Lengths are not
    imported: find a strength with /strengths. Pickles (.pt) are never opened.
    """
    from ..concepts.exchange import import_vector

    library = chat.library
    name = library.check_name(name)
    engine = chat.session.engine
    layers = parse_layers(layer, engine.n_layers) if layer else ()
    if len(layers) > 1:
        raise UsageError("a plain direction belongs to one layer", "--layer 14")
    imported = import_vector(file, name, engine, layers[0] if layers else None)
    _ask_to_replace(chat, name, replace)
    usual = parse_layers(DEFAULT_LAYERS, engine.n_layers)
    recommended = tuple(layer for layer in usual if layer in imported.layers) or imported.layers
    tuned = () if recommended == usual else (Tuning(engine.fingerprint, format_layers(recommended)),)
    parts: list[object] = [Notice(note) for note in imported.notes]
    if library.ships(name):
        parts.append(Notice(_hides(name)))
    library.keep_import(
        ConceptValue(
            name,
            imported.facts.get("kind") or "imported",
            imported.facts.get("description") or f"Imported from {file.name}.",
            (),
            tuned,
            method="imported",
        ),
        imported.vector,
    )
    parts.append(f"{name} is imported, with a direction at {name_layers(imported.layers)}.")
    example = f"/steer {name} {format_layers(recommended)} 2.0"
    if imported.ablates:
        parts.append(Notice(f"Try /ablate {name} {format_layers(recommended)}"))
        return parts
    parts.append(Notice(f"No strength was measured for it on {engine.name}: try {example}"))
    return parts


# Making a concept


def _add(chat: Chat, concept: ConceptValue, layer: str | None, method: str) -> Page:
    """Extract a new concept and keep it."""
    engine = chat.session.engine
    if method:
        concept = changed(concept, method=cast(Method, method))
    if concept.method == "imported":
        raise ConceptError(
            f"the file of {concept.name} describes an imported vector and has no examples", "use /concept import"
        )
    if layer:
        layers = format_layers(parse_layers(layer, engine.n_layers))
        others = tuple(tuning for tuning in concept.tuned if tuning.fingerprint != engine.fingerprint)
        concept = changed(concept, tuned=(*others, Tuning(engine.fingerprint, layers)))
    concept = changed(concept, description=concept.description or default_description(concept))
    vector = chat.library.add(concept, engine, chat.session.watch)
    parts = extraction_lines(concept, vector)
    if chat.library.ships(concept.name):
        parts.append(Notice(_hides(concept.name)))
    added = entry(chat.library, concept.name, engine.fingerprint)
    place = name_layers(parse_layers(added.layers, engine.n_layers))
    parts.append(f"It steers at {place}: try /steer {concept.name}")
    return Page(parts, [added.to_json()])


def _wizard(chat: Chat, name: str | None) -> Iterator[Event]:
    """Asks for a concept's name, unless it is given, and pairs, extracts it, and offers to try it."""
    if not chat.can_ask:
        texts = '/concept new NAME "a text with it" "a text without"'
        raise UsageError("/concept new alone asks questions, and nobody is there to answer", texts)
    # The model comes first: if it does not load, the user has not typed the examples in vain.
    engine = chat.session.engine
    check = chat.library.check_name
    name = check(name) if name else _until(chat, "What is the concept called?", check)
    if name is None:
        yield Notice("No concept was made.")
        return
    _ask_to_replace(chat, name, False)
    description = chat.ask("In a sentence, what does it do to a reply? (empty: skip)")
    yield Notice("Now pairs: two replies alike in everything but the concept. An empty reply ends.")
    examples: list[Example] = []
    try:
        while (example := _ask_for_pair(chat, len(examples) + 1)) is not None:
            examples.append(example)
    except Interrupted:
        typed = counted(len(examples), "pair")
        if not examples or chat.ask(f"Make {name} from the {typed} typed so far?", ["yes", "no"]) == "no":
            raise
    if not examples:
        yield Notice("No concept was made: at least one pair is needed.")
        return
    layers = _until(
        chat,
        "At which layer should it steer? (empty: the usual ones)",
        lambda text: format_layers(parse_layers(text, engine.n_layers)),
    )
    concept = ConceptValue(name, "custom", description, check_examples(examples))
    for part in _add(chat, concept, layers, "centred").parts:
        yield part if isinstance(part, Notice) else Notice(str(part))
    if chat.ask("Try it now?", ["yes", "no"]) == "yes":
        for note in chat.session.steer([TermRequest(((name, 1.0),))]):
            yield Notice(note)
        yield Notice(f"{chat.session.recipe}: > {_TRY}")
        yield from chat.session.compare(_TRY)


def _ask_for_pair(chat: Chat, number: int) -> Example | None:
    while True:
        prompt = chat.ask(f"Pair {number}, the prompt that both reply to (empty: plain texts, no prompt):")
        positive = chat.ask(f"Pair {number}, the reply that shows the concept (empty: no more pairs):")
        if not positive:
            return None
        negative = chat.ask(f"Pair {number}, the reply that does not:")
        example = Example(prompt, positive, negative)
        try:
            check_examples([example])
            return example
        except ConceptError as error:
            chat.report(Notice(f"{error.message}; {error.hint}. Type this pair again:"))


def _until(chat: Chat, question: str, parse: Callable[[str], str]) -> str | None:
    """Ask until `parse` takes the answer. Returns what it made of it; None for an empty answer."""
    while True:
        answer = chat.ask(question)
        if not answer:
            return None
        try:
            return parse(answer)
        except SteerchatError as error:
            chat.report(Notice(f"{error.message}; {error.hint}"))


def _ask_to_replace(chat: Chat, name: str, replace: bool) -> None:
    """Raises unless the user lets a concept of their own be replaced; hiding a shipped one needs no question."""
    question = f"You have a concept {name} already. Replace it?"
    if chat.library.owns(name) and not confirm(chat, question, "--replace, or use another name", replace):
        raise Interrupted(f"making {name}")


def _hides(name: str) -> str:
    return f"Your {name} hides the shipped one; /concept delete {name} brings that back."


def _open_editor(path: Path) -> None:
    import click

    try:
        click.edit(filename=str(path))
    except click.ClickException as error:
        raise ConceptError(error.message, f"set EDITOR, or edit {path}") from None


def fingerprint_of(chat: Chat) -> str:
    """The model's fingerprint, without loading the model; empty while it is not on this machine."""
    if chat.loader.ready is not None:
        return chat.loader.ready.fingerprint
    from ..models.find import find

    try:
        return find(chat.loader.name, progress=chat.report, offline=True).fingerprint
    except SteerchatError:
        return ""
