"""/doctor: what a report about a fault should say of this machine, the model and the history."""

from __future__ import annotations

import platform

from ..conversation.app import config_path, history_path
from ..conversation.chat import Chat
from ..slash.registry import registry
from ..storage.file import check
from ..storage.journal import versions
from ..system.memory import gigabytes
from ..values.errors import SteerchatError
from ..values.page import Page
from ..values.results import Notice


@registry.command("doctor", group="Setup", examples=["/doctor"], shell=True, needs_model=False)
def doctor(chat: Chat) -> Page:
    """Checks the model and the history, and says what a report about a fault should say.

    It has no prompts, no answers, and no path of your home folder.
    """
    from ..models.state import machine_facts, private

    facts = {
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "system": platform.platform(),
        **machine_facts(),
        **_model(chat),
        "history": _history(),
        "settings": _settings(chat),
    }
    facts = {name: private(text) for name, text in facts.items()}
    lines = [f"{name}: {text}" for name, text in facts.items()]
    ask = Notice("Paste this into a report about a fault, with what you typed and what you saw.")
    return Page([*lines, ask], [facts])


def _model(chat: Chat) -> dict[str, str]:
    """The model's files and how it computes. Nothing is fetched for it."""
    from ..models.state import local_files, memory_held, verified

    name = chat.loader.name
    try:
        files = local_files(name)
    except SteerchatError as error:
        return {"model": f"{name} is not here: {error.message}", "network": "needed to fetch the model"}
    facts = {"model": f"{files.name}, {files.fingerprint[:16]}", "network": "not needed"}
    try:
        facts["files"] = verified(files)
        engine = chat.session.engine
    except SteerchatError as error:
        return facts | {"loaded": f"no: {error.message}"}
    facts["loaded"] = f"{engine.n_layers} layers of {engine.hidden}, {engine.device}, {engine.dtype}"
    facts["products"] = engine.products
    facts["held"] = f"{gigabytes(memory_held())} by this process"
    return facts


def _history() -> str:
    path = history_path()
    if not path.is_file():
        return "none yet"
    try:
        damage = check(path)
    except SteerchatError as error:
        return f"{error.message}. {error.hint}"
    return f"damaged: {'; '.join(damage)}" if damage else f"intact, {path.stat().st_size / 1e6:.1f} MB"


def _settings(chat: Chat) -> str:
    """The settings that are not as they come, and where they were set."""
    changed = [f"{name} {value} ({source})" for name, value, source in chat.settings.items() if source != "default"]
    file = "" if config_path().is_file() else ", no configuration file"
    return (", ".join(changed) or "as they come") + file
