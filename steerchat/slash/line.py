"""Parses the words of a slash line as a command's arguments and options.

Not with click, argparse or shlex: they take `-2.0` for an option, exit the program, and fail on "don't". The rules:
blanks separate words; "..." at the start of a word holds blanks; an apostrophe is a letter.
`--words` are options until `--`, or until the argument that takes the rest of the line begins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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


@dataclass
class Reading:
    """The texts of a line by parameter, and what may follow it.

    Attributes:
        given: texts by parameter name; a list for `Many`, an empty text for a flag.
        places: the arguments that have no word yet, in order.
        awaiting: an option that still needs its value.
        rest: the argument that took the rest of the line, and where that text starts.
        options_ended: whether the line has a `--`.
    """

    places: list[Parameter]
    given: dict[str, Any] = field(default_factory=dict)
    awaiting: Parameter | None = None
    rest: tuple[Parameter, int] | None = None
    options_ended: bool = False

    @property
    def words(self) -> Mapping[str, str]:
        """The texts of parameters that take one word, by parameter name."""
        return {name: text for name, text in self.given.items() if isinstance(text, str)}


def read(line: str, parameters: Sequence[Parameter], usage: str) -> Reading:
    """Assigns each word of `line`, the text after the command's name, to a parameter. Arguments may be missing yet.

    Raises:
        UsageError: for an unknown option, an unexpected argument, or a missing closing quotation mark.
    """
    reading = Reading([parameter for parameter in parameters if not parameter.option])
    options = {parameter.label: parameter for parameter in parameters if parameter.option}
    position = 0
    while word := next_word(line, position):
        position = word.end
        if word.is_option and not reading.options_ended:
            if word.text == "--":
                _check_awaiting(reading, usage)
                reading.options_ended = True
            else:
                _read_option(reading, word, options, usage)
            continue
        if reading.awaiting is None:
            place = _place(reading, word.text, usage)
            if place.kind.takes_rest:
                reading.given[place.name] = line[word.start :].strip()
                reading.rest = (place, word.start)
                break
        if not word.closed:
            raise UsageError(f'a closing " is missing after {shorten(word.text, 30)!r}', usage)
        _give(reading, word.text)
    return reading


def bind(line: str, parameters: Sequence[Parameter], usage: str) -> dict[str, Any]:
    """The values in `line` by parameter name, without the parameters that the line omits.

    Raises:
        UsageError: as `read`, and for a missing argument or an invalid value.
    """
    reading = read(line, parameters, usage)
    _check_awaiting(reading, usage)
    return values(reading.given, parameters, usage)


def place_words(words: Iterable[str], parameters: Sequence[Parameter], usage: str) -> dict[str, Any]:
    """The texts by parameter name of words that a shell has split already, assigned as in a slash line."""
    reading = Reading([parameter for parameter in parameters if not parameter.option])
    remaining = list(words)
    while remaining:
        if _place(reading, remaining[0], usage).kind.takes_rest:
            reading.given[reading.places[0].name] = " ".join(remaining)
            break
        _give(reading, remaining.pop(0))
    return reading.given


def values(given: Mapping[str, Any], parameters: Sequence[Parameter], usage: str) -> dict[str, Any]:
    """Parses the texts of `read` or `place_words`.

    Raises:
        UsageError: an argument is missing or invalid; the message names it.
    """
    parsed: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.name not in given:
            if parameter.required:
                raise UsageError(f"{parameter.metavar} is missing", usage)
        elif parameter.flag:
            parsed[parameter.name] = True
        elif parameter.many:
            parsed[parameter.name] = tuple(_value(parameter, text, usage) for text in given[parameter.name])
        else:
            parsed[parameter.name] = _value(parameter, given[parameter.name], usage)
    return parsed


def _value(parameter: Parameter, text: str, usage: str) -> Any:
    try:
        return parameter.kind.parse(text)
    except UsageError as error:
        raise UsageError(f"{parameter.label}: {error.message}", error.hint or usage) from None


def _read_option(reading: Reading, word: Word, options: Mapping[str, Parameter], usage: str) -> None:
    _check_awaiting(reading, usage)
    label, equals, value = word.text.partition("=")
    label = label.lower().replace("_", "-")
    option = options.get(label)
    if option is None:
        raise unknown("option", label, options, f"{usage}; put -- before a text that begins with --")
    if option.name in reading.given:
        raise UsageError(f"{label} is given twice", usage)
    if option.flag and equals:
        raise UsageError(f"{label} takes no value", usage)
    if not word.closed:
        raise UsageError(f'a closing " is missing after {label}', usage)
    if option.flag or equals:
        reading.given[option.name] = value
    else:
        reading.awaiting = option


def _check_awaiting(reading: Reading, usage: str) -> None:
    if reading.awaiting:
        raise UsageError(f"{reading.awaiting.label} needs a value", usage)


def _place(reading: Reading, text: str, usage: str) -> Parameter:
    """The argument for the next word. Optional arguments that it does not fit are skipped for one that it fits."""
    places = reading.places
    for index, place in enumerate(places):
        if place.kind.fits(text):
            del places[:index]
            break
        if place.required:
            break
    if not places:
        raise UsageError(f"unexpected argument {shorten(text, 30)!r}", usage)
    return places[0]


def _give(reading: Reading, text: str) -> None:
    """Assigns a word to the option that needs a value, else to the first argument without a word."""
    if reading.awaiting:
        reading.given[reading.awaiting.name] = text
        reading.awaiting = None
    elif reading.places[0].many:
        reading.given.setdefault(reading.places[0].name, []).append(text)
    else:
        reading.given[reading.places.pop(0).name] = text
