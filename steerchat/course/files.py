"""The files of a course: where they are, what is wrong with them, and a lesson replayed as its learner would do it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..system import folders
from ..system.untrusted import parse_toml, read_small
from ..values.operation import UNIT
from .lesson import MOST, LessonError, paragraphs

if TYPE_CHECKING:
    from ..engine.engine import Engine


def course_folder(own: str) -> Path:
    """The folder of the lessons: one's own, or the one that ships."""
    return folders.packaged("tutorials") if own == "shipped" else Path(own).expanduser()


def trouble(folder: Path) -> str:
    """What to try when something does not work: one text for lesson 12 and for /help trouble."""
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
    """The words of this field with what they mean; a folder's own ones beside those that ship.

    Raises:
        LessonError: with the file, when one cannot be read.
    """
    found: dict[str, str] = {}
    for path in dict.fromkeys((folders.packaged("tutorials") / "glossary.toml", folder / "glossary.toml")):
        if not path.is_file() and found:
            continue
        try:
            found |= {str(word): str(meaning) for word, meaning in parse_toml(text_of(path)).items()}
        except ValueError as error:
            raise LessonError(f"{path.name}: {error}", "a word, =, and what it means in quotation marks") from None
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def filled(text: str, folder: Path, engine: Callable[[], Engine]) -> str:
    """A lesson's text with what it says about the model and the folder of the course in place of its marks."""
    text = text.replace("{unit}", f"{UNIT:.1%}").replace("{folder}", folder.as_posix())
    if any(mark in text for mark in ("{model}", "{layers}", "{last}")):
        model = engine()
        for mark, value in (("model", model.name), ("layers", model.n_layers), ("last", model.n_layers - 1)):
            text = text.replace(f"{{{mark}}}", str(value))
    return text
