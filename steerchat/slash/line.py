"""Parses the words of a slash line as a command's arguments and options.

Not with click, argparse or shlex: they take `-2.0` for an option, exit the program, and fail on "don't". The rules:
blanks separate words; "..." at the start of a word holds blanks; an apostrophe is a letter.
`--words` are options until `--`, or until the argument that takes the rest of the line begins. An option of the
command in that rest is an error unless `--` stands before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ..values.errors import UsageError, shorten, unknown
from .parameters import Parameter

_BLANKS = re.compile(r"\s*")
_QUOTED = re.compile(r'(--[^\s="]+=)?"([^"]*)(?:"(?!\S)|\Z)')
_BARE = re.compile(r"\S+")


@dataclass(frozen=True)
class Word:
    """A word of a line: its text without quotation marks, and its place (`start` to `end`) with them."""

    text: str
    start: int
    end: int
    quoted: bool = False
    closed: bool = True

    @property
    def is_option(self) -> bool:
        return self.text.startswith("--") and not self.quoted


def next_word(line: str, position: int) -> Word | None:
    """The first word at or after `position`; None when only blanks follow."""
    blanks = _BLANKS.match(line, position)
    start = blanks.end() if blanks else position
    quoted = _QUOTED.match(line, start)
    if quoted:
        prefix, inner = quoted[1] or "", quoted[2]
        closed = quoted.end(2) < quoted.end()
        return Word(prefix + inner, start, quoted.end(), quoted=not prefix, closed=closed)
    bare = _BARE.match(line, start)
    return Word(bare[0], start, bare.end()) if bare else None


def last_word(line: str) -> Word:
    """The word at the very end of the line; an empty one after a blank."""
    word, position = None, 0
    while following := next_word(line, position):
        word, position = following, following.end
    return word if word and word.end == len(line) else Word("", len(line), len(line))


class Reading:
    """Assigns the words of a line to the parameters of a command.

    Args:
        usage: of the command; the hint of every error.

    Attributes:
        given: texts by parameter name; a list for `Many`, an empty text for a flag.
        places: the arguments that have no word yet, in order.
        awaiting: an option that still needs its value.
        rest: the argument that took the rest of the line, and where that text starts.
        options_ended: whether the line has a `--`.
    """

    def __init__(self, parameters: Sequence[Parameter], usage: str) -> None:
        self._parameters = parameters
        self._usage = usage
        self._options = {parameter.label: parameter for parameter in parameters if parameter.option}
        self.given: dict[str, Any] = {}
        self.places = [parameter for parameter in parameters if not parameter.option]
        self.awaiting: Parameter | None = None
        self.rest: tuple[Parameter, int] | None = None
        self.options_ended = False

    @property
    def words(self) -> Mapping[str, str]:
        """The texts of parameters that take one word, by parameter name."""
        return {name: text for name, text in self.given.items() if isinstance(text, str)}

    def read(self, line: str) -> Self:
        """Reads the text after the command's name. Arguments may be missing yet.

        Raises UsageError for an unknown option, an unexpected argument, or a missing closing quotation mark.
        """
        position = 0
        while word := next_word(line, position):
            position = word.end
            if word.is_option and not self.options_ended:
                self._check_awaiting()
                if word.text == "--":
                    self.options_ended = True
                else:
                    self._read_option(word)
                continue
            if self.awaiting is None:
                place = self._place(word.text)
                if place.kind.takes_rest:
                    self.given[place.name] = self._rest(line[word.start :].strip(), place)
                    self.rest = (place, word.start)
                    break
            if not word.closed:
                raise UsageError(f'a closing " is missing after {shorten(word.text, 30)!r}', self._usage)
            self._give(word.text)
        return self

    def _rest(self, text: str, place: Parameter) -> str:
        """The rest of a line; an option in it is more likely meant as one than as a part of the text."""
        late = next((word for word in text.split() if word.partition("=")[0].lower() in self._options), None)
        if late and not self.options_ended:
            hint = f"{self._usage}; put -- before a text that contains it"
            raise UsageError(f"{late} comes before {place.metavar}, not after it", hint)
        return text

    def read_words(self, words: Sequence[str], options: Mapping[str, Any]) -> Self:
        """Reads arguments that a shell has split already, and options by parameter name."""
        for index, word in enumerate(words):
            place = self._place(word)
            if place.kind.takes_rest:
                self.given[place.name] = " ".join(words[index:])
                break
            self._give(word)
        self.given |= options
        return self

    def values(self) -> dict[str, Any]:
        """The values by parameter name, without the parameters that the line omits.

        Raises UsageError when an argument is missing or invalid; the message names it.
        """
        self._check_awaiting()
        values: dict[str, Any] = {}
        for parameter in self._parameters:
            text = self.given.get(parameter.name)
            if text is None:
                if parameter.required:
                    raise UsageError(f"{parameter.metavar} is missing", self._usage)
            elif parameter.flag:
                values[parameter.name] = True
            elif parameter.many:
                values[parameter.name] = tuple(self._value(parameter, word) for word in text)
            else:
                values[parameter.name] = self._value(parameter, text)
        return values

    def _value(self, parameter: Parameter, text: str) -> Any:
        try:
            return parameter.kind.parse(text)
        except UsageError as error:
            raise UsageError(f"{parameter.label}: {error.message}", error.hint or self._usage) from None

    def _read_option(self, word: Word) -> None:
        label, equals, value = word.text.partition("=")
        label = label.lower().replace("_", "-")
        option = self._options.get(label)
        if option is None:
            hint = f"{self._usage}; put -- before a text that begins with --"
            raise unknown("option", label, self._options, hint)
        if option.name in self.given:
            raise UsageError(f"{label} is given twice", self._usage)
        if option.flag and equals:
            raise UsageError(f"{label} takes no value", self._usage)
        if not word.closed:
            raise UsageError(f'a closing " is missing after {label}', self._usage)
        if option.flag or equals:
            self.given[option.name] = value
        else:
            self.awaiting = option

    def _check_awaiting(self) -> None:
        if self.awaiting:
            raise UsageError(f"{self.awaiting.label} needs a value", self._usage)

    def _place(self, text: str) -> Parameter:
        """The argument for the next word. Optional arguments that it does not fit are skipped for one that it fits."""
        for index, place in enumerate(self.places):
            if place.kind.fits(text):
                del self.places[:index]
                break
            if place.required:
                break
        if not self.places:
            raise UsageError(f"unexpected argument {shorten(text, 30)!r}", self._usage)
        return self.places[0]

    def _give(self, text: str) -> None:
        """Assigns a word to the option that needs a value, else to the first argument without a word."""
        if self.awaiting:
            self.given[self.awaiting.name] = text
            self.awaiting = None
        elif self.places[0].many:
            self.given.setdefault(self.places[0].name, []).append(text)
        else:
            self.given[self.places.pop(0).name] = text
