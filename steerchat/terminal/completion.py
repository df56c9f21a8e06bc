"""Completion of slash lines for prompt_toolkit, derived from the registry's declarations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document

from ..slash.arguments import Candidate, Completions
from ..slash.line import Reading, last_word
from ..slash.parameters import Parameter
from ..slash.registry import Command, Registry, is_command
from ..values.errors import SteerchatError
from ..values.text import clean, fit

_FIRST_WORD = re.compile(r"\s*/(\S*)")
_SECOND_WORD = re.compile(r"\s*/(\S+)\s+(\S*)")


class SlashCompleter(Completer):
    """Offers commands, verbs, arguments and options, with their meaning beside them.

    A message gets no completions, and neither does an argument that takes the rest of the line as text.

    `chat`: lists the concepts, layers and settings.
    """

    def __init__(self, registry: Registry, chat: Completions) -> None:
        self._registry = registry
        self._chat = chat

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        line = document.text_before_cursor
        if not is_command(line):
            return
        try:
            yield from self._completions(line)
        except SteerchatError:
            return  # sending the line reports the mistake

    def _completions(self, line: str) -> Iterator[Completion]:
        if first := _FIRST_WORD.fullmatch(line):
            yield from _menu(first[1], len(first[1]), self._registry.nouns())
            return
        if second := _SECOND_WORD.fullmatch(line):
            noun, word = second[1].lower(), second[2]
            verbs = self._registry.verbs(noun)
            if noun in self._registry:
                yield from self._arguments(self._registry.get(noun), line[second.end(1) :], verbs)
            else:
                yield from _menu(word, len(word), verbs)
            return
        yield from self._arguments(*self._registry.split(line))

    def _arguments(self, command: Command, tail: str, verbs: Sequence[Candidate] = ()) -> Iterator[Completion]:
        """The completions of the last word of `tail`, the line after the command's name; `verbs` fit there too."""
        word = last_word(tail)
        reading = command.reading().read(tail[: word.start])
        length = len(tail) - word.start
        if reading.awaiting:
            yield from _menu(word.text, length, self._values(reading.awaiting, reading, word.text))
        elif reading.rest:
            place, start = reading.rest
            yield from _menu(tail[start:], len(tail) - start, self._values(place, reading, tail[start:]))
        elif word.is_option and "=" in word.text and not reading.options_ended:
            label, _, value = word.text.partition("=")
            for option in _options_left(command, reading):
                if option.label == label:
                    yield from _menu(value, length - len(label) - 1, self._values(option, reading, value))
        else:
            candidates = list(verbs)
            if reading.places:
                candidates += self._values(reading.places[0], reading, word.text)
            if not word.text or word.text.startswith("-"):
                candidates += [(option.label, option.meaning) for option in _options_left(command, reading)]
            yield from _menu(word.text, length, candidates)

    def _values(self, parameter: Parameter, reading: Reading, word: str) -> list[Candidate]:
        candidates = parameter.kind.completions(self._chat, word, reading.words)
        quote = str if parameter.kind.takes_rest else _quoted
        return [(quote(value), meaning) for value, meaning in candidates]


def _options_left(command: Command, reading: Reading) -> list[Parameter]:
    if reading.options_ended:
        return []
    return [option for option in command.options if option.name not in reading.given]


def _menu(word: str, length: int, candidates: Iterable[Candidate]) -> Iterator[Completion]:
    """The `candidates` that begin with `word`; when none does, those that have its letters in order.

    Args:
        word: the typed beginning, without quotation marks.
        length: how many characters before the cursor a completion replaces.
        candidates: as they would be inserted.
    """
    known = list(candidates)
    typed = word.lower()
    fitting = [candidate for candidate in known if candidate[0].lstrip('"').lower().startswith(typed)]
    fitting = fitting or [candidate for candidate in known if _has_letters(candidate[0].lower(), typed)]
    for value, meaning in fitting:
        yield Completion(
            value, start_position=-length, display=fit(clean(value), 200), display_meta=fit(clean(meaning), 200)
        )


def _has_letters(value: str, typed: str) -> bool:
    letters = iter(value)
    return all(letter in letters for letter in typed)


def _quoted(value: str) -> str:
    return f'"{value}"' if re.search(r"\s", value) else value
