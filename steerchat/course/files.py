"""The files beside the lessons: the folder of a course, its glossary, and the text of /help trouble."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..system import folders
from ..system.untrusted import parse_toml, read_small
from ..values.operation import UNIT
from .lesson import MOST, LessonError, paragraphs

if TYPE_CHECKING:
    from ..engine.engine import Engine

_MODEL_MARKS = re.compile(r"\{(?:model|layers|last)\}")


def course_folder(own: str) -> Path:
    """The folder of the lessons: the shipped one, or the user's own."""
    return folders.packaged("tutorials") if own == "shipped" else Path(own).expanduser()


def filled(text: str, folder: Path, engine: Callable[[], Engine]) -> str:
    """A lesson's text with facts about the model and the folder of the course in place of its marks.

    `engine`: gives the model, for a text that names something of it.
    """
    text = text.replace("{unit}", f"{UNIT:.1%}").replace("{folder}", folder.as_posix())
    if _MODEL_MARKS.search(text):
        model = engine()
        facts = {"{model}": model.name, "{layers}": model.n_layers, "{last}": model.n_layers - 1}
        text = _MODEL_MARKS.sub(lambda mark: str(facts[mark[0]]), text)
    return text


def trouble(folder: Path) -> str:
    """Help with common failures, for the lesson on debugging and /help trouble."""
    path = folder / "trouble.txt"
    path = path if path.is_file() else folders.packaged("tutorials") / "trouble.txt"
    return paragraphs(text_of(path).splitlines())


def text_of(path: Path) -> str:
    """A file beside the lessons. Raises LessonError when it cannot be read."""
    try:
        return read_small(path, MOST)
    except (OSError, UnicodeDecodeError) as error:
        raise LessonError(f"{path} cannot be read: {error}", "install steerchat again") from None


def glossary(folder: Path) -> dict[str, str]:
    """The technical terms with their meanings: the shipped ones, and those of the folder.

    Raises LessonError with the file, when one cannot be read.
    """
    entries: dict[str, str] = {}
    for path in dict.fromkeys((folders.packaged("tutorials") / "glossary.toml", folder / "glossary.toml")):
        if not path.is_file() and entries:
            continue
        try:
            entries |= {str(word): str(meaning) for word, meaning in parse_toml(text_of(path)).items()}
        except ValueError as error:
            raise LessonError(
                f"{path.name}: {error}", "an entry is a word, =, and its meaning in quotation marks"
            ) from None
    return dict(sorted(entries.items(), key=lambda item: item[0].lower()))
