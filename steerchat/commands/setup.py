"""Settings, models, help, and the way out."""

from __future__ import annotations

from typing import Annotated, Any

from ..conversation.chat import Chat, config_path, history_path
from ..course.files import course_folder, trouble
from ..models.installed import kept
from ..models.memory import gigabytes
from ..slash.arguments import Choice, CommandName, ModelName, Setting, SettingValue
from ..slash.registry import command
from ..system.settings import description
from ..values.errors import UsageError
from ..values.page import Page, Table
from ..values.results import Notice

_GROUP = "Setup"


@command("set", examples=["/set temperature 0", "/set carry steered", "/set"], group=_GROUP)
def set_(
    chat: Chat,
    name: Annotated[str | None, Setting("which setting")] = None,
    value: Annotated[str | None, SettingValue("its new value")] = None,
) -> Any:
    """Shows or changes settings."""
    rows = chat.settings.items()
    if name is None:
        return Table(("setting", "value", "from"), [(n, str(v), source) for n, v, source in rows])
    setting = description(name)
    if value is None:
        current, source = next((value, source) for n, value, source in rows if n == name)
        return f"{name} is {current} ({source})"
    if name == "model":
        return model(chat, value)
    if setting.at_start:
        raise UsageError(f"{name} is chosen at the start", f"steerchat --{name} {value}")
    new = chat.settings.change(name, value)
    return f"{name} is now {new}"


@command("config", examples=["/config"], group=_GROUP, shell=True, needs_model=False)
def config(chat: Chat) -> Page:
    """Shows every setting with where its value comes from, and where things are kept."""
    rows = [(name, str(value), source) for name, value, source in chat.settings.items()]
    objects = [{"name": name, "value": value, "from": source} for name, value, source in chat.settings.items()]
    file = config_path()
    written = "is read" if file.is_file() else "may be written"
    places = f"{file} {written}; the history is {history_path()}."
    return Page([Table(("setting", "value", "from"), rows), Notice(places)], objects)


@command("view", examples=["/view steered", "/view both"], group=_GROUP)
def view(
    chat: Chat, which: Annotated[str | None, Choice("both", "steered", "normal", meaning="what to show")] = None
) -> str:
    """Chooses which answers the screen shows; both are always computed and logged."""
    if which is None:
        return f"view is {chat.settings.view}"
    return set_(chat, "view", which)


@command("model", examples=["/model", "/model smollm2"], group=_GROUP)
def model(chat: Chat, name: Annotated[str | None, ModelName("alias, Hub id, folder or .gguf")] = None) -> str | Page:
    """Shows the model and the others of this machine, or changes it; the conversation stays."""
    if name is None:
        return _shelf(chat)
    engine = chat.switch_model(name)
    last = engine.n_layers - 1
    recipe = chat.session.recipe
    if any(max(term.layers) > last for term in recipe.terms):
        chat.session.recipe = type(recipe)(scope=recipe.scope)
        return f"{engine.name} is loaded. It has layers 0 to {last}: the recipe did not fit and is empty now."
    return f"{engine.name} is loaded. Its concepts are read from it on first use."


@command("model list", examples=["/model list"], group=_GROUP, shell=True, needs_model=False)
def model_list(chat: Chat) -> Page:
    """Lists the models of this machine, with their size and whether they fit."""
    return _shelf(chat)


def _shelf(chat: Chat) -> Page:
    from ..models.load import free_memory, target

    where, precision = target(chat.settings.device, chat.settings.dtype)
    engine, free = chat.loader.ready, free_memory(where)
    parts: list[object] = []
    if engine is not None:
        free += engine.size  # a switch gives it back
        facts = f"{engine.n_layers} layers, hidden size {engine.hidden}, context {engine.context_size} tokens"
        parts.append(f"{engine.name}: {facts}, {engine.device} {engine.dtype}")
    rows, objects = [], []
    for one in kept(precision.itemsize):
        total = one.needs.total if one.needs else None
        fits = None if total is None else total <= free
        disk = "to be fetched" if one.disk is None else gigabytes(one.disk)
        need = "?" if total is None else gigabytes(total)
        rows.append((one.name, one.model, disk, need, "?" if fits is None else "yes" if fits else "no"))
        objects.append(
            {
                "name": one.name,
                "model": one.model,
                "disk": one.disk,
                "parameters": one.needs.parameters if one.needs else None,
                "memory": total,
                "fits": fits,
            }
        )
    kind = str(precision).removeprefix("torch.")
    parts.append(Table(("name", "model", "on the disk", "memory", "fits"), rows, right=frozenset({2, 3})))
    parts.append(f"Memory is for {kind} on {where.type}, where {gigabytes(free)} can be had. /model NAME switches.")
    return Page(parts, objects)


@command("help", examples=["/help", "/help steer", "/help trouble"], group=_GROUP)
def help_(chat: Chat, name: Annotated[str, CommandName("a command, or trouble for help with what fails")] = "") -> Any:
    """Lists the commands, or explains one."""
    if name == "trouble":
        return trouble(course_folder(chat.settings.lessons))
    return chat.registry.page(name) if name else chat.registry.overview()


@command("quit", examples=["/quit"], group=_GROUP, aliases=["exit"])
def quit_(chat: Chat) -> None:
    """Leaves; everything is in the history."""
    chat.leaving = True
