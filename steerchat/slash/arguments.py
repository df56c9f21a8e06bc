"""The kinds of argument that a command can take.

A kind parses a typed word into a value and offers completions for it. A handler annotates each parameter with one:

    layer: Annotated[str | None, Layer] = None               # the kind as it is
    prompt: Annotated[str, Rest("what to ask")] = ""         # with its own meaning in help
    concepts: Annotated[tuple[str, ...], Many(Concept)] = () # all remaining words
    *, repeats: Annotated[int, Int("how many seeds", least=1)] = 1
    raw: Annotated[bool, "without the chat template"] = False # the type gives the kind, the text its meaning

Without a kind, `int`, `float`, `str`, `Path` and `bool` stand for `Int`, `Float`, `Text`, `PathArg` and `Flag`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ..values.errors import UsageError, shorten
from ..values.gate import PROMPT, Condition
from ..values.recipe import TermRequest, is_layers, parse_parts, parse_strength, parse_term
from ..values.text import only_text

Candidate = tuple[str, str]
"""A completion: the value, and its meaning for the menu."""


class Completions(Protocol):
    """What completion needs from a chat. Every method answers at once, without a model, torch or network access."""

    @property
    def n_layers(self) -> int | None:
        """How many decoder blocks the model has; None while it loads."""
        ...

    def offers(self, what: str) -> Iterable[Candidate]:
        """All "concepts", "models", "commands" or "settings" with their meanings; the newest "pairs" or "sessions"."""
        ...

    def recommended(self, concept: str) -> Sequence[str]:
        """A concept's recommended layers and strength, as a user types them; empty if unknown."""
        ...

    def choices(self, setting: str) -> Sequence[str]:
        """The values of a setting; empty when it takes any value, or does not exist."""
        ...


class Kind:
    """One word of text. Subclasses define its form and its completions.

    Args:
        meaning: for help; empty: the kind's own.
        metavar: the placeholder in usage lines; empty: the kind's own, or the parameter's name in capitals.

    Attributes:
        offers: which list of `Completions.offers` has its values.
        takes_rest: whether it takes the rest of the line as typed instead of one word.
    """

    meaning = ""
    metavar = ""
    offers = ""
    takes_rest = False

    def __init__(self, meaning: str = "", *, metavar: str = "") -> None:
        self.meaning = meaning or self.meaning
        self.metavar = metavar or self.metavar

    def parse(self, text: str) -> Any:
        """The value of `text`. Raises UsageError for an invalid one."""
        return text

    def fits(self, text: str) -> bool:
        """Whether `text` has the form of a value; an optional argument is skipped for a word that does not."""
        try:
            self.parse(text)
        except UsageError:
            return False
        return True

    def completions(self, chat: Completions, word: str, earlier: Mapping[str, str]) -> Iterable[Candidate]:
        """(value, meaning) of what `word` may become; `earlier` holds the words before it, by parameter name."""
        return chat.offers(self.offers) if self.offers else ()


class Text(Kind):
    """One word, or several in quotation marks."""


class Rest(Kind):
    """The rest of the line exactly as typed, without outer blanks. Always the last argument."""

    takes_rest = True

    def fits(self, text: str) -> bool:
        return True


class Flag(Kind):
    """An option without a value."""


class Many(Kind):
    """All remaining words, each of one kind; the value is a tuple."""

    def __init__(self, kind: Kind | type[Kind], meaning: str = "") -> None:
        self.item = kind() if isinstance(kind, type) else kind
        super().__init__(meaning or self.item.meaning, metavar=f"{self.item.metavar or 'WORD'}...")
        self.parse = self.item.parse
        self.completions = self.item.completions


class Concept(Kind):
    meaning = "a concept's name"
    metavar = "CONCEPT"
    offers = "concepts"

    def parse(self, text: str) -> str:
        if not text.strip():
            raise UsageError("the concept's name is empty", "/concept lists the names")
        return text.strip().lower()


class TermWord(Concept):
    """One word; the value is a `TermRequest`."""

    meaning = "a concept, or one with layer and strength: happy:16:2.0"

    def parse(self, text: str) -> TermRequest:
        return parse_term(super().parse(text))


class MixSpec(Kind):
    """Validated; the value is the text as typed."""

    meaning = "concepts with weights, such as happy:0.7,excited:0.3"
    metavar = "SPEC"

    def parse(self, text: str) -> str:
        parse_parts(text)
        return text

    def completions(self, chat: Completions, word: str, earlier: Mapping[str, str]) -> Iterable[Candidate]:
        earlier_parts = word[: word.rfind(",") + 1]
        return [(f"{earlier_parts}{name}:", meaning) for name, meaning in chat.offers("concepts")]


class Layer(Kind):
    """Only its form is checked, since the number of layers depends on the model; the value is the text as typed."""

    meaning = "a layer 16, a range 12-20, a depth 55%, or all"
    metavar = "LAYER"

    def parse(self, text: str) -> str:
        if not is_layers(text):
            raise UsageError(f"{shorten(text, 20)!r} is not a layer", "a number 16, a range 12-20, a depth 55%, or all")
        return text

    def completions(self, chat: Completions, word: str, earlier: Mapping[str, str]) -> Iterable[Candidate]:
        count = chat.n_layers or 0
        meanings = {str(layer): f"{100 * layer / max(1, count - 1):.0f}% deep" for layer in range(count)}
        meanings |= {"55%": "a little past the middle, on any model", "all": "every layer"}
        first = dict.fromkeys(chat.recommended(earlier.get("concept", "").lower())[:1], "recommended")
        return {**first, **meanings, **first}.items()  # the recommended one first


class Strength(Kind):
    meaning = "how hard to push: 2.0 is a good first try, a negative one pushes away"
    metavar = "STRENGTH"

    def parse(self, text: str) -> float:
        return parse_strength(text)

    def fits(self, text: str) -> bool:
        try:
            float(text)  # a number out of range is meant as a strength too, and `parse` reports the range
        except ValueError:
            return False
        return True

    def completions(self, chat: Completions, word: str, earlier: Mapping[str, str]) -> Iterable[Candidate]:
        meanings = {"1.5": "gentle", "2.0": "a good first try", "3.0": "strong", "-2.0": "away"}
        first = dict.fromkeys(chat.recommended(earlier.get("concept", "").lower())[1:], "recommended")
        return {**first, **meanings, **first}.items()  # the recommended one first


class Level(Strength):
    meaning = "the level: 0.0 is typical of replies without the concept, 1.0 of those with it"
    metavar = "LEVEL"

    def completions(self, chat: Completions, word: str, earlier: Mapping[str, str]) -> Iterable[Candidate]:
        return {"1.0": "as replies with the concept", "0.0": "as replies without it"}.items()


class When(Kind):
    meaning = "push only while it holds: sad>1 reads the answer so far, prompt:sad>1 the prompt"
    metavar = "CONDITION"

    def parse(self, text: str) -> Condition:
        return Condition.parse(text)

    def completions(self, chat: Completions, word: str, earlier: Mapping[str, str]) -> Iterable[Candidate]:
        before = PROMPT if word.startswith(PROMPT) else ""
        return [(f"{before}{name}>", meaning) for name, meaning in chat.offers("concepts")]


class _Number(Kind):
    """A number within bounds, both included."""

    noun = ""
    convert: Callable[[str], float]

    def __init__(
        self, meaning: str = "", *, metavar: str = "", least: float = -math.inf, most: float = math.inf
    ) -> None:
        super().__init__(meaning, metavar=metavar)
        self.least, self.most = least, most

    def parse(self, text: str) -> Any:
        try:
            value = type(self).convert(text)
        except ValueError:
            value = math.nan
        if value != value or value in (math.inf, -math.inf):  # isfinite() fails on an integer of 400 digits
            raise UsageError(f"{shorten(text, 20)!r} is not a {self.noun}")
        if not self.least <= value <= self.most:
            bound = f"at least {self.least:g}" if value < self.least else f"at most {self.most:g}"
            raise UsageError(f"{shorten(text, 20)} is out of range: use {bound}")
        return value


class Int(_Number):
    metavar = "N"
    noun = "whole number"
    convert = int


class OneLayer(Int):
    """A single layer. A range or a depth is refused, and never taken as the text that follows."""

    meaning = "a layer"
    metavar = "LAYER"
    noun = "single layer, such as 16"

    def fits(self, text: str) -> bool:
        return text[:1].isdigit() and is_layers(text)


class Float(_Number):
    metavar = "X"
    noun = "number"
    convert = float


class PairId(Kind):
    meaning = "a pair's id in the history"
    metavar = "ID"
    offers = "pairs"
    noun, lists = "pair", "/history lists the pairs"

    def parse(self, text: str) -> int:
        digits = text.removeprefix("#")
        # 18 digits always fit SQLite's integers
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
            raise UsageError(f"{shorten(text, 20)!r} is not the id of a {self.noun}", self.lists)
        return int(digits)


class SessionId(PairId):
    meaning = "a session's id"
    offers = "sessions"
    noun, lists = "session", "/session lists the sessions"


class PathArg(Kind):
    meaning = "a file"
    metavar = "FILE"

    def parse(self, text: str) -> Path:
        if not text.strip():
            raise UsageError("the file's name is empty")
        if only_text(text) != text or re.search("[\n\t\u2028-\u202e\u2066-\u2069]", text):
            raise UsageError(f"the file's name {shorten(text, 60)!r} contains control characters", "type it again")
        return Path(os.path.expanduser(text))

    def completions(self, chat: Completions, word: str, earlier: Mapping[str, str]) -> Iterable[Candidate]:
        folder, name = os.path.split(word)
        typed = word[: len(word) - len(name)]
        try:
            with os.scandir(os.path.expanduser(folder) or ".") as entries:
                files = [(entry.name, entry.is_dir()) for entry in entries]
        except (OSError, ValueError):
            return ()
        visible = sorted(file for file in files if not file[0].startswith(".") or name.startswith("."))
        return [(f"{typed}{name}/", "folder") if is_folder else (typed + name, "") for name, is_folder in visible]


class Setting(Kind):
    meaning = "a setting's name"
    metavar = "NAME"
    offers = "settings"

    def parse(self, text: str) -> str:
        return text.lower().replace("_", "-")


class SettingValue(Kind):
    """Offers the choices of the setting that the parameter `name` holds."""

    meaning = "its new value"
    metavar = "VALUE"

    def completions(self, chat: Completions, word: str, earlier: Mapping[str, str]) -> Iterable[Candidate]:
        return [(choice, "") for choice in chat.choices(Setting().parse(earlier.get("name", "")))]


class ModelName(Kind):
    meaning = "an alias, a Hub id, a folder or a .gguf file"
    metavar = "MODEL"
    offers = "models"


class CommandName(Rest):
    """A command's name, of one word or two, with or without its slash."""

    meaning = "a command's name"
    metavar = "COMMAND"

    def parse(self, text: str) -> str:
        return " ".join(text.lower().removeprefix("/").split())

    def completions(self, chat: Completions, word: str, earlier: Mapping[str, str]) -> Iterable[Candidate]:
        slash = "/" if word.startswith("/") else ""
        return [(slash + name, meaning) for name, meaning in chat.offers("commands")]


class Choice(Kind):
    """One of a few fixed words."""

    def __init__(self, *choices: str, meaning: str = "", metavar: str = "") -> None:
        super().__init__(meaning, metavar=metavar or "|".join(choices))
        self.choices = choices

    def parse(self, text: str) -> str:
        if text.lower() not in self.choices:
            word = shorten(text, 20)
            if len(self.choices) == 1:
                raise UsageError(f"{word!r} is not the word {self.choices[0]}")
            raise UsageError(f"{word!r} is not one of {', '.join(self.choices)}")
        return text.lower()

    def completions(self, chat: Completions, word: str, earlier: Mapping[str, str]) -> Iterable[Candidate]:
        return [(choice, "") for choice in self.choices]
