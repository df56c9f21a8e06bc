"""Settings: declared once, read from the command line, the environment, a file, and defaults, in that order.

A field of `Settings` is a setting; its name with hyphens is what `/set`, `--options` and config.toml use, and
in capitals after STEERCHAT_ it is the environment variable.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..values.errors import UsageError, shorten, unknown
from ..values.recipe import Scope
from .untrusted import read_toml

Carry = Literal["own", "steered", "normal"]
View = Literal["both", "steered", "normal"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Switch = Literal["off", "on"]

ENVIRONMENT = "STEERCHAT_"
# Variables that are not settings but share the prefix.
_RESERVED = {"STEERCHAT_HOME", "STEERCHAT_MODELS"}


def _setting(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    *,
    in_shell: bool = True,
    at_start: bool = False,
) -> Any:
    metadata = {"help": help, "low": low, "high": high, "in_shell": in_shell, "at_start": at_start}
    return field(default=default, metadata=metadata)


@dataclass
class Settings:
    """Every setting with its value. Build it with `load_settings`; change one with `change`."""

    model: str = _setting("smollm2", "alias (smollm2, mistral, phi3), Hub id, folder or .gguf file")
    device: Device = _setting("auto", "where the model runs", at_start=True)
    dtype: Dtype = _setting(
        "auto", "precision of the weights; auto is the quickest that keeps what the file holds", at_start=True
    )
    memory: str = _setting(
        "auto", "most memory that weights may take on the device, such as 6GB; auto is what is free", at_start=True
    )
    offload: str = _setting(
        "off", "a folder for weights that do not fit into memory: slow, but it answers", at_start=True
    )
    fallback: Switch = _setting(
        "off", "take the next smaller model when one does not fit, without asking", at_start=True
    )
    trust_remote_code: Switch = _setting(
        "off", "run the code that a model brings; without this none is run", at_start=True
    )
    seed: int = _setting(0, "where the random numbers start; every answer's own seed is logged", 0, 2**63 - 1)
    max_tokens: int = _setting(200, "longest answer, in tokens", 1, 100_000)
    temperature: float = _setting(0.7, "randomness of the choice of tokens; 0 is greedy", 0, 5)
    top_p: float = _setting(0.9, "the likeliest tokens that together have this probability", 0.01, 1)
    repetition_penalty: float = _setting(1.1, "above 1 discourages tokens already seen", 0.5, 5)
    scope: Scope = _setting("generated", "which positions are pushed")
    steer_thinking: Switch = _setting("on", "whether a model that thinks first is pushed while it thinks")
    carry: Carry = _setting("own", "which answers the next turn's context holds", in_shell=False)
    view: View = _setting("both", "which answers the screen shows", in_shell=False)
    lessons: str = _setting("shipped", "a folder of lessons of your own, or those that ship")
    sources: dict[str, str] = field(default_factory=dict, metadata={"internal": True})

    def change(self, name: str, text: Any, source: str = "/set") -> Any:
        """Set one setting from what a user typed, and return its value.

        Raises:
            UsageError: for an unknown name (the nearest is suggested) or a value that does not fit.
        """
        value = description(name).parse(text)
        setattr(self, name.replace("-", "_"), value)
        self.sources[name] = source
        return value

    def items(self) -> list[tuple[str, Any, str]]:
        """(name, value, where it comes from) of each."""
        return [
            (name, getattr(self, name.replace("-", "_")), self.sources.get(name, "default")) for name in descriptions()
        ]


@dataclass(frozen=True)
class Description:
    """What a setting is called, takes and means.

    Attributes:
        in_shell: whether it is an option of the shell too.
        at_start: whether it is fixed once a model is loaded.
    """

    name: str
    type: Any
    default: Any
    help: str
    low: float | None
    high: float | None
    in_shell: bool
    at_start: bool

    @property
    def choices(self) -> tuple[str, ...]:
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    def parse(self, text: Any) -> Any:
        """The value that `text` means. Raises UsageError when it means none."""
        word = str(text).strip()
        if self.choices:
            if word.lower() not in self.choices:
                raise unknown(f"value of {self.name}", word, self.choices, "one of " + ", ".join(self.choices))
            return word.lower()
        if self.type is str:
            if not word:
                raise UsageError(f"{self.name} is empty", self.help)
            return word
        try:
            number = int(word) if self.type is int else float(word)
        except ValueError:
            number = math.nan
        low, high = self.low or 0, self.high or math.inf
        if not (low <= number <= high):
            kind = "a whole number" if self.type is int else "a number"
            raise UsageError(f"{self.name} is {kind} from {low} to {high}, not {shorten(word, 20)!r}", self.help)
        return number or self.type(0)  # and never -0.0


def descriptions() -> dict[str, Description]:
    """Every setting by its hyphenated name."""
    types = get_type_hints(Settings)
    return {
        (name := entry.name.replace("_", "-")): Description(
            name,
            types[entry.name],
            entry.default,
            **entry.metadata,
        )
        for entry in fields(Settings)
        if not entry.metadata.get("internal")
    }


def description(name: str) -> Description:
    """The setting of that hyphenated name. Raises UnknownName."""
    known = descriptions()
    if name not in known:
        raise unknown("setting", name, known, "/set lists them")
    return known[name]


def load_settings(
    options: Mapping[str, Any], file: Path | None = None, environment: Mapping[str, str] = os.environ
) -> Settings:
    """Settings from command-line options (None: not given) over the environment over `file` over defaults.

    Raises:
        UsageError: for an unknown name or unfit value, with where it stands.
    """
    settings = Settings()
    layers: list[tuple[str, dict[str, Any]]] = [
        (str(file), _read(file)),
        ("environment", _from_environment(environment)),
        ("command line", {name.replace("_", "-"): value for name, value in options.items() if value is not None}),
    ]
    for source, values in layers:
        for name, value in values.items():
            try:
                settings.change(name, value, source)
            except UsageError as error:
                raise UsageError(f"{source}: {error.message}", error.hint) from None
    return settings


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        variable.removeprefix(ENVIRONMENT).lower().replace("_", "-"): value
        for variable, value in environment.items()
        if variable.startswith(ENVIRONMENT) and variable not in _RESERVED
    }


def _read(file: Path | None) -> dict[str, Any]:
    if file is None or not file.exists():
        return {}
    try:
        return read_toml(file, 64 << 10)
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}", "mend it or move it away") from None
