"""/set, /config, /view, /model, /help and /quit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ..conversation.app import config_path, history_path
from ..conversation.chat import Chat
from ..course.files import course_folder, trouble
from ..models.catalogue import DEFAULT
from ..slash.arguments import Choice, CommandName, ModelName, Setting, SettingValue
from ..slash.registry import registry
from ..system.memory import gigabytes
from ..system.settings import description
from ..values.errors import UsageError
from ..values.page import Page, Table
from ..values.results import Notice

if TYPE_CHECKING:
    from ..models.installed import ModelChoice

command = partial(registry.command, group="Setup")


@command("set", examples=["/set temperature 0", "/set carry steered", "/set"])
def set_(
    chat: Chat,
    name: Annotated[str | None, Setting("the setting")] = None,
    value: Annotated[str | None, SettingValue("its new value")] = None,
) -> Any:
    """Shows or changes settings."""
    if name is None:
        return _settings(chat)
    setting = description(name)
    if value is None:
        current, source = next((value, source) for each, value, source in chat.settings.items() if each == name)
        return f"{name} is {current} ({source})"
    if name == "model":
        return model(chat, value)
    if setting.at_start:
        raise UsageError(f"{name} is fixed once the model is loaded", f"start again: steerchat --{name} {value}")
    return f"{name} is now {chat.settings.change(name, value)}"


@command("config", examples=["/config"], shell=True, needs_model=False)
def config(chat: Chat) -> Page:
    """Shows every setting with the source of its value, and the paths of the configuration and the history."""
    objects = [{"name": name, "value": value, "from": source} for name, value, source in chat.settings.items()]
    file = config_path()
    state = "is read at the start" if file.is_file() else "does not exist yet, and would be read at the start"
    parts: list[object] = [_settings(chat), Notice(f"{file} {state}; the history is {history_path()}.")]
    engine = chat.loader.ready
    if engine is not None and engine.kernels is not None:
        parts.append(Notice(engine.kernels.description))
    if (cost := _format_cost(chat)) is not None:
        parts.append(Notice(cost))
    return Page(parts, objects)


def _settings(chat: Chat) -> Table:
    return Table(
        ("setting", "value", "from"), [(name, str(value), source) for name, value, source in chat.settings.items()]
    )


@command("view", examples=["/view steered", "/view both"])
def view(
    chat: Chat, which: Annotated[str | None, Choice("both", "steered", "normal", meaning="the answers to show")] = None
) -> str:
    """Chooses which answers the screen shows; both are always computed and logged."""
    return set_(chat, "view", which)


@command("model", examples=["/model", "/model smollm2"], aliases=["models"])
def model(
    chat: Chat, name: Annotated[str | None, ModelName("an alias, Hub id, folder or .gguf file")] = None
) -> str | Page:
    """Shows the model and the others on this machine, or loads another; the conversation stays."""
    if name is None:
        return model_list(chat)
    engine = chat.switch_model(name)
    last = engine.n_layers - 1
    recipe = chat.session.recipe
    if any(max(term.layers) > last for term in recipe.terms):
        chat.session.recipe = type(recipe)(scope=recipe.scope)
        return f"{engine.name} is loaded. It has layers 0 to {last}: the recipe did not fit and is empty now."
    return f"{engine.name} is loaded. Concepts are extracted from it on first use."


@command("model list", examples=["/model list"], shell=True, needs_model=False)
def model_list(chat: Chat) -> Page:
    """Lists the models on this machine and those that can be fetched, with their size and whether they fit."""
    from ..models.load import target

    dtype = chat.settings.dtype
    where, _ = target(chat.settings.device, dtype)
    choices, free, bandwidth = _choices(chat)
    engine = chat.loader.ready
    parts: list[object] = []
    if engine is not None:
        facts = f"{engine.n_layers} layers, hidden size {engine.hidden}, context {engine.context_size} tokens"
        parts.append(f"{engine.name}: {facts}, {engine.device} {engine.dtype}")
    if (cost := _format_cost(chat)) is not None:
        parts.append(cost)
    here, elsewhere = [], []
    for choice in choices:
        needs, known = choice.needs, choice.known
        need, fits = ("?", "?") if needs is None else (gigabytes(needs.total), "yes" if needs.total <= free else "no")
        if choice.disk is None and known is not None and choice.name != DEFAULT:
            licence = f"{known.licence}, gated" if known.gated else known.licence
            four_bits = "?" if needs is None or needs.four_bits is None else gigabytes(needs.four_bits)
            speed = "?" if bandwidth is None else f"{choice.tokens_per_second(bandwidth):.1f}"
            elsewhere.append((choice.name, licence, gigabytes(known.download), need, fits, four_bits, speed))
        else:
            disk = "not fetched yet" if choice.disk is None else gigabytes(choice.disk)
            here.append((choice.name, choice.model, disk, need, fits))
    parts += [
        Table(("name", "model", "on the disk", "memory", "fits"), here, right=frozenset({2, 3})),
        Notice("To fetch from the Hub:"),
        Table(_TO_FETCH, elsewhere, right=frozenset({2, 3, 5, 6})),
        f"Memory is for --dtype {dtype} on {where.type}, where {gigabytes(free)} are free. The last two columns are "
        "for --dtype int4: its memory, and tokens a second of one answer on this machine. /model NAME loads another.",
    ]
    best = _suggestion(chat, choices, free, bandwidth)
    if best is not None:
        parts.append(Notice(best))
    return Page(parts, [_to_json(choice, free, bandwidth) for choice in choices])


@command("model suggest", examples=["/model suggest"], shell=True)
def model_suggest(chat: Chat) -> str:
    """Says which larger model would run well on this machine, by the speed and the free memory that it has now."""
    name = chat.session.engine.name  # once it is loaded, the machine's speed is known
    choices, free, bandwidth = _choices(chat)
    if (best := _suggestion(chat, choices, free, bandwidth)) is not None:
        return best
    if bandwidth is None:
        return f"How quick another model would be here is not known: the products of {name} were not timed."
    return (
        f"No larger model with a short name would run well here: {gigabytes(free)} of memory may be used, and an "
        f"answer reads {gigabytes(int(bandwidth))} of weights a second. /model lists them all."
    )


@command("model cost", examples=["/model cost"], shell=True)
def model_cost(chat: Chat) -> Page:
    """Measures what weights of few bits cost the model: its perplexity over 200 neutral texts, beside float32's.

    The model is loaded once more in float32 for it, where memory holds both. /model and /config show the result.
    """
    from ..experiments.precision import measured_format_cost

    session = chat.session
    cost = measured_format_cost(session.engine, chat.loader.name, chat.library, session.watch)
    session.calibration.keep_format_cost(session.engine.fingerprint, cost)
    return Page([str(cost)], [cost.to_json()])


def _format_cost(chat: Chat) -> str | None:
    """What is known of the loaded model's format, or how to measure it; None without a model, and for float32."""
    engine = chat.loader.ready
    if engine is None or engine.dtype == "float32":
        return None
    cost = chat.session.calibration.format_cost(engine.fingerprint, engine.dtype)
    return f"What {engine.dtype} weights cost here is not measured: /model cost" if cost is None else str(cost)


def suggested(chat: Chat) -> str | None:
    """Which larger model would run well here, in words; None when none would, or nothing is known of this machine."""
    return _suggestion(chat, *_choices(chat))


def _suggestion(chat: Chat, choices: Sequence[ModelChoice], free: int, bandwidth: float | None) -> str | None:
    """`suggested`, of what `_choices` gave."""
    from ..models.installed import suggestion

    best = None if bandwidth is None else suggestion(choices, free, bandwidth, chat.settings.model)
    if best is None or bandwidth is None or best.known is None:
        return None
    fetched = "it is on this machine" if best.disk else f"a download of {gigabytes(best.known.download)}"
    return (
        f"{best.name} would run well here, at about {best.tokens_per_second(bandwidth):.0f} tokens/s ({fetched}): "
        f"steerchat --model {best.name} --dtype int4"
    )


def _choices(chat: Chat) -> tuple[list[ModelChoice], int, float | None]:
    """The models to choose from, the bytes of memory that one may take, and how many are read in a second."""
    from ..models.installed import model_choices
    from ..models.load import free_memory, precision_of, target

    dtype = chat.settings.dtype
    where, kind = target(chat.settings.device, dtype)
    free, bandwidth, engine = free_memory(where), None, chat.loader.ready
    if engine is not None:
        free += engine.size  # loading another model unloads this one
        bandwidth = None if engine.kernels is None else engine.kernels.bandwidth
    return model_choices(precision_of(where, kind, dtype), Path.cwd()), free, bandwidth


_TO_FETCH = ("name", "licence", "download", "memory", "fits", "int4", "tok/s")


def _to_json(choice: ModelChoice, free: int, bandwidth: float | None) -> dict[str, Any]:
    needs, known = choice.needs, choice.known
    return {
        "name": choice.name,
        "model": choice.model,
        "disk": choice.disk,
        "parameters": needs.parameters if needs else None,
        "memory": needs.total if needs else None,
        "fits": None if needs is None else needs.total <= free,
        "licence": known.licence if known else None,
        "gated": known.gated if known else None,
        "int4_memory": needs.four_bits if needs else None,
        "int4_tokens_per_second": round(choice.tokens_per_second(bandwidth), 1) if bandwidth and needs else None,
    }


@command("help", examples=["/help", "/help steer", "/help trouble"])
def help_(
    chat: Chat, name: Annotated[str, CommandName("a command, or trouble for help with common failures")] = ""
) -> Any:
    """Lists the commands, or explains one."""
    if name == "trouble":
        return trouble(course_folder(chat.settings.lessons))
    return chat.registry.help(name)


@command("quit", examples=["/quit"], aliases=["exit"])
def quit_(chat: Chat) -> None:
    """Ends the chat; the history has everything."""
    chat.leaving = True
