"""Reading the words of a slash line against a command's parameters.

Not click, argparse or shlex: those trip over `-2.0`, exit the program, and fail on "don't". The rules:
blanks part words; "..." at the start of a word makes one word of several; an apostrophe is a letter.
`--words` are options until `--`, or until the argument that takes the rest of the line has begun.
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
    """A word of a line, without its quotation marks, at `start` to `end` with them."""

    text: str
    start: int
    end: int
    quoted: bool = False
    closed: bool = True

    @property
    def is_option(self) -> bool:
        return self.text.startswith("--") and not self.quoted


def next_word(line: str, position: int) -> Word | None:
    """The first word at or after `position`; None when only blanks are left."""
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
    """The word that the end of the line touches; an empty one after a blank."""
    word, position = None, 0
    while following := next_word(line, position):
        word, position = following, following.end
    return word if word and word.end == len(line) else Word("", len(line), len(line))


@dataclass
class Reading:
    """What a line's words were taken for, as text.

    Attributes:
        given: by parameter name; a list for `Many`, an empty text for a flag.
        places: the positional parameters that still wait for a word, in order.
        awaiting: an option that was named and waits for its value.
        rest: the parameter that took the rest of the line, and where that begins.
        options_ended: whether `--` was met.
    """

    places: list[Parameter]
    given: dict[str, Any] = field(default_factory=dict)
    awaiting: Parameter | None = None
    rest: tuple[Parameter, int] | None = None
    options_ended: bool = False

    @property
    def words(self) -> Mapping[str, str]:
        """The single words given, by parameter name."""
        return {name: text for name, text in self.given.items() if isinstance(text, str)}


def read(line: str, parameters: Sequence[Parameter], usage: str) -> Reading:
    """Puts each word of `line` (what follows the command's name) in its place; misses nothing yet.

    Raises:
        UsageError: for an unknown option, a word too many, or a quotation that does not end.
    """
    reading = Reading([one for one in parameters if not one.option])
    options = {one.label: one for one in parameters if one.option}
    position = 0
    while word := next_word(line, position):
        position = word.end
        if word.is_option and not reading.options_ended:
            if word.text == "--":
                _no_option_waits(reading, usage)
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
            raise UsageError(f"the quotation {shorten(word.text, 30)!r} does not end", f'close it with "; {usage}')
        _give(reading, word.text)
    return reading


def bind(line: str, parameters: Sequence[Parameter], usage: str) -> dict[str, Any]:
    """The values in `line` by parameter name; what is not given is left to the handler's defaults.

    Raises:
        UsageError: as `read`, and for a missing argument or a value that does not parse.
    """
    reading = read(line, parameters, usage)
    _no_option_waits(reading, usage)
    return values(reading.given, parameters, usage)


def place_words(words: Iterable[str], parameters: Sequence[Parameter], usage: str) -> dict[str, Any]:
    """Ready-made words (a shell's) in the places where the same words of a slash line would go, as text."""
    reading = Reading([one for one in parameters if not one.option])
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
        UsageError: naming the argument that is missing or does not parse.
    """
    found: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.name not in given:
            if parameter.required:
                raise UsageError(f"{parameter.metavar} is missing", usage)
        elif parameter.flag:
            found[parameter.name] = True
        elif parameter.many:
            found[parameter.name] = tuple(_value(parameter, text, usage) for text in given[parameter.name])
        else:
            found[parameter.name] = _value(parameter, given[parameter.name], usage)
    return found


def _value(parameter: Parameter, text: str, usage: str) -> Any:
    try:
        return parameter.kind.parse(text)
    except UsageError as error:
        raise UsageError(f"{parameter.label}: {error.message}", error.hint or usage) from None


def _read_option(reading: Reading, word: Word, options: Mapping[str, Parameter], usage: str) -> None:
    _no_option_waits(reading, usage)
    label, equals, value = word.text.partition("=")
    label = label.lower().replace("_", "-")
    option = options.get(label)
    if option is None:
        raise unknown("option", label, options, f"{usage}; text that begins with -- goes after a lone --")
    if option.name in reading.given:
        raise UsageError(f"{label} is given twice", usage)
    if option.flag and equals:
        raise UsageError(f"{label} takes no value", usage)
    if not word.closed:
        raise UsageError(f"the quotation after {label} does not end", f'close it with "; {usage}')
    if option.flag or equals:
        reading.given[option.name] = value
    else:
        reading.awaiting = option


def _no_option_waits(reading: Reading, usage: str) -> None:
    if reading.awaiting:
        raise UsageError(f"{reading.awaiting.label} needs a value", usage)


def _place(reading: Reading, text: str, usage: str) -> Parameter:
    """The parameter for the next word; optional ones that it does not fit are left out for one that it does."""
    places = reading.places
    for index, place in enumerate(places):
        if place.kind.fits(text):
            del places[:index]
            break
        if place.required:
            break
    if not places:
        raise UsageError(f"{shorten(text, 30)!r} is one word too many", usage)
    return places[0]


def _give(reading: Reading, text: str) -> None:
    """A word to the option that waits for it, else to the first place."""
    if reading.awaiting:
        reading.given[reading.awaiting.name] = text
        reading.awaiting = None
    elif reading.places[0].many:
        reading.given.setdefault(reading.places[0].name, []).append(text)
    else:
        reading.given[reading.places.pop(0).name] = text
