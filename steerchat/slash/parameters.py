"""A command's parameters, as its handler's signature declares them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from .arguments import Flag, Float, Int, Kind, Many, Option, PathArg, Text


@dataclass(frozen=True)
class Parameter:
    """One argument or option of a command, read from its handler's signature."""

    name: str
    kind: Kind
    option: bool
    required: bool
    default: Any
    meaning: str

    @property
    def flag(self) -> bool:
        return isinstance(self.kind, Flag)

    @property
    def many(self) -> bool:
        return isinstance(self.kind, Many)

    @property
    def metavar(self) -> str:
        """How its value is shown: `CONCEPT`, `N`; empty for a flag."""
        return "" if self.flag else self.kind.metavar or self.name.upper().replace("_", "-")

    @property
    def label(self) -> str:
        """How a message names it: `--repeats`, or `CONCEPT`."""
        return f"--{self.name.replace('_', '-')}" if self.option else self.metavar

    @property
    def shown(self) -> str:
        """How help lists it: `--repeats N`, or `CONCEPT`."""
        return f"{self.label} {self.metavar}".rstrip() if self.option else self.metavar


def parameters_of(handler: Callable[..., Any]) -> tuple[Parameter, ...]:
    """A handler's parameters after the first, which is the chat.

    Raises:
        ValueError: for a signature that no line could be bound to; a mistake in the program.
    """
    declared = list(inspect.signature(handler).parameters.values())[1:]
    found = tuple(_parameter(handler, one) for one in declared)
    places = [one for one in found if not one.option]
    if any(one.kind.takes_rest or one.many for one in places[:-1]):
        raise ValueError(f"{handler.__qualname__}: only the last argument can take the rest of the line")
    return found


def _parameter(handler: Callable[..., Any], declared: inspect.Parameter) -> Parameter:
    where = f"{handler.__qualname__}({declared.name})"
    option = declared.kind is declared.KEYWORD_ONLY
    required = declared.default is declared.empty
    if declared.kind in (declared.VAR_POSITIONAL, declared.VAR_KEYWORD):
        raise ValueError(f"{where}: write Many(KIND) in place of stars")
    if option and required:
        raise ValueError(f"{where}: an option needs a default")
    kind, meaning = _kind(where, handler, declared)
    if isinstance(kind, Flag) and not (option and declared.default is False):
        raise ValueError(f"{where}: a flag is keyword-only and off by default")
    return Parameter(declared.name, kind, option, required, declared.default, meaning or kind.meaning)


def _kind(where: str, handler: Callable[..., Any], declared: inspect.Parameter) -> tuple[Kind, str]:
    annotation = declared.annotation
    if isinstance(annotation, str):
        # One by one, as the chat's own type is often imported for type checkers only.
        annotation = eval(annotation, handler.__globals__)
    plain, *notes = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    kind, meaning = None, ""
    for note in notes:
        if isinstance(note, Option):
            kind, meaning = note.kind or kind, note.meaning
        elif isinstance(note, Kind) or (isinstance(note, type) and issubclass(note, Kind)):
            kind = note
    if kind is None:
        types = [one for one in get_args(plain) or (plain,) if one is not type(None)]
        kind = _KIND_OF_TYPE.get(types[0]) if len(types) == 1 else None
    if kind is None:
        raise ValueError(f"{where}: its annotation names no kind of argument")
    return kind() if isinstance(kind, type) else kind, meaning


_KIND_OF_TYPE: dict[Any, type[Kind]] = {bool: Flag, int: Int, float: Float, str: Text, Path: PathArg}
