"""Settings: declared once, read from the command line, the environment, a file, and defaults, in that order.

Each field of `Settings` is a setting. `/set`, options and config.toml use its name with hyphens; the environment
variable is its name in capitals after STEERCHAT_.
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
Dtype = Literal["auto", "float32", "float16", "bfloat16", "int8", "int4"]
Switch = Literal["off", "on"]
Images = Literal["auto", "off"]
Thinking = Literal["auto", "off", "on"]

ENVIRONMENT = "STEERCHAT_"
# Variables with the same prefix that are not settings.
_RESERVED = {"STEERCHAT_HOME", "STEERCHAT_MODELS", "STEERCHAT_TOKEN"}


def _setting(default: Any, help: str, low: float | None = None, high: float | None = None, **more: bool) -> Any:
    """A field with the rest of its `Description`."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, **more})


@dataclass
class Settings:
    """The value of every setting. `load_settings` builds it; `change` changes one setting."""

    model: str = _setting("smollm2", "alias (smollm2, mistral, ...: /model lists them), Hub id, folder or .gguf file")
    device: Device = _setting("auto", "where the model runs", at_start=True)
    dtype: Dtype = _setting(
        "auto",
        "precision of the weights; auto is the quickest that keeps what the file holds; int8 and int4 round them",
        at_start=True,
    )
    memory: str = _setting(
        "auto", "most memory for the weights on the device, such as 6GB; auto: all that is free", at_start=True
    )
    offload: str = _setting("off", "a folder for weights that do not fit into memory; slow", at_start=True)
    fallback: Switch = _setting(
        "off", "take the next smaller model when one does not fit, without asking", at_start=True
    )
    trust_remote_code: Switch = _setting("off", "run code from a model's repository; off runs none", at_start=True)
    seed: int = _setting(0, "first seed of the random numbers; the history logs every answer's seed", 0, 2**63 - 1)
    max_tokens: int = _setting(200, "longest answer, in tokens", 1, 100_000)
    temperature: float = _setting(0.7, "randomness of the choice of tokens; 0 is greedy", 0, 5)
    top_p: float = _setting(0.9, "sample from the likeliest tokens with this total probability", 0.01, 1)
    repetition_penalty: float = _setting(1.1, "above 1 discourages tokens already seen", 0.5, 5)
    scope: Scope = _setting("generated", "which positions are steered")
    thinking: Thinking = _setting("auto", "whether a model that can think does so before it replies; auto: as it likes")
    steer_thinking: Switch = _setting("on", "whether to steer a model while it thinks before its reply")
    carry: Carry = _setting("own", "which answers the next turn's context holds", in_shell=False)
    view: View = _setting("both", "which answers the screen shows", in_shell=False)
    images: Images = _setting(
        "auto", "whether /plot shows figures in a terminal that can; auto: where it says so", in_shell=False
    )
    lessons: str = _setting("shipped", "a folder with your own lessons; shipped: the built-in ones")
    sources: dict[str, str] = field(default_factory=dict, metadata={"internal": True})

    def change(self, name: str, text: Any, source: str = "/set") -> Any:
        """Set one setting from a user's text, and return its value.

        Args:
            name: with hyphens.
            source: what `items` gives as the value's origin.

        Raises:
            UsageError: for an unknown name (the hint suggests the nearest) or an invalid value.
        """
        value = description(name).parse(text)
        setattr(self, name.replace("-", "_"), value)
        self.sources[name] = source
        return value

    @property
    def thought(self) -> bool | None:
        """Whether a model that can think does so; None leaves it to its chat template."""
        return {"on": True, "off": False}.get(self.thinking)

    def items(self) -> list[tuple[str, Any, str]]:
        """(name, value, source) of each setting."""
        return [
            (name, getattr(self, name.replace("-", "_")), self.sources.get(name, "default")) for name in descriptions()
        ]


@dataclass(frozen=True)
class Description:
    """A setting's name, type, default, help and range."""

    name: str
    type: Any
    default: Any
    help: str
    low: float | None
    high: float | None
    in_shell: bool = True  # whether it is also an option of the shell
    at_start: bool = False  # whether it is fixed once a model is loaded

    @property
    def choices(self) -> tuple[str, ...]:
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    def parse(self, text: Any) -> Any:
        """The value of `text`. Raises UsageError for an invalid one."""
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
        return number or self.type(0)  # -0.0 becomes 0.0


def descriptions() -> dict[str, Description]:
    """Every setting by its hyphenated name."""
    types = get_type_hints(Settings)
    return {
        (name := entry.name.replace("_", "-")): Description(name, types[entry.name], entry.default, **entry.metadata)
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
    """Settings from command-line options (None: not given), the environment, `file` and defaults, in that order.

    Raises UsageError for an unknown name or an invalid value; the message begins with its source.
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
        raise UsageError(f"{file} cannot be read: {error}", "correct the file or move it away") from None
