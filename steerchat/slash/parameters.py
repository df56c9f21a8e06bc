"""Reads a command's parameters from its handler's signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from .arguments import Flag, Float, Int, Kind, Many, PathArg, Text


@dataclass(frozen=True)
class Parameter:
    """One argument or option of a command."""

    name: str
    kind: Kind
    option: bool
    required: bool
    meaning: str

    @property
    def flag(self) -> bool:
        return isinstance(self.kind, Flag)

    @property
    def many(self) -> bool:
        return isinstance(self.kind, Many)

    @property
    def metavar(self) -> str:
        """The placeholder for its value: `CONCEPT`, `N`; empty for a flag."""
        return "" if self.flag else self.kind.metavar or self.name.upper().replace("_", "-")

    @property
    def label(self) -> str:
        """Its name in messages: `--repeats`, or `CONCEPT`."""
        return f"--{self.name.replace('_', '-')}" if self.option else self.metavar

    @property
    def shown(self) -> str:
        """Its form in usage lines: `--repeats N`, or `CONCEPT`."""
        return f"{self.label} {self.metavar}".rstrip() if self.option else self.metavar


def parameters_of(handler: Callable[..., Any]) -> tuple[Parameter, ...]:
    """A handler's parameters after the first, which is the chat.

    Raises ValueError when no line could be parsed for this signature, which is a mistake in the program.
    """
    _, *declared = inspect.signature(handler).parameters.values()
    annotations = get_type_hints(handler, include_extras=True)
    where = handler.__qualname__
    parameters = tuple(_parameter(where, parameter, annotations.get(parameter.name)) for parameter in declared)
    arguments = [parameter for parameter in parameters if not parameter.option]
    if any(argument.kind.takes_rest or argument.many for argument in arguments[:-1]):
        raise ValueError(f"{where}: only the last argument can take the rest of the line")
    return parameters


def _parameter(handler: str, declared: inspect.Parameter, annotation: Any) -> Parameter:
    where = f"{handler}({declared.name})"
    option = declared.kind is declared.KEYWORD_ONLY
    required = declared.default is declared.empty
    if declared.kind in (declared.VAR_POSITIONAL, declared.VAR_KEYWORD):
        raise ValueError(f"{where}: use Many(KIND) instead of * or **")
    if option and required:
        raise ValueError(f"{where}: an option needs a default")
    kind, meaning = _kind(where, annotation)
    if isinstance(kind, Flag) and not (option and declared.default is False):
        raise ValueError(f"{where}: a flag is keyword-only and off by default")
    return Parameter(declared.name, kind, option, required, meaning or kind.meaning)


def _kind(where: str, annotation: Any) -> tuple[Kind, str]:
    """The kind that an annotation names, or that stands for its type; and the meaning beside it."""
    plain, *notes = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    kind, meaning = None, ""
    for note in notes:
        if isinstance(note, str):
            meaning = note
        elif isinstance(note, Kind) or (isinstance(note, type) and issubclass(note, Kind)):
            kind = note
    if kind is None:
        types = [member for member in get_args(plain) or (plain,) if member is not type(None)]
        kind = _KIND_OF_TYPE.get(types[0]) if len(types) == 1 else None
    if kind is None:
        raise ValueError(f"{where}: its annotation names no kind of argument")
    return kind() if isinstance(kind, type) else kind, meaning


_KIND_OF_TYPE: dict[Any, type[Kind]] = {bool: Flag, int: Int, float: Float, str: Text, Path: PathArg}
