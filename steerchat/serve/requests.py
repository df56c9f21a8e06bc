"""What clients ask for: the bodies of requests, checked field by field, as values.

Each endpoint's fields are one table, from which the checks and the OpenAPI description are made. A field that is not in
the table is refused: a misspelt `steer` must not be answered without steering.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..values.errors import SteerchatError, shorten
from ..values.recipe import TermRequest, parse_term
from ..values.setting import Message

MAX_STOPS, MAX_MESSAGES, MAX_EXAMPLES = 4, 512, 512
_SEEDS = 2**63


class BadRequest(SteerchatError):
    """A request that cannot be answered, in OpenAI's words.

    Args:
        message: one sentence.
        param: the field that it is about.
        status, code: as OpenAI has them.
        headers: of the response.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        status: int = 400,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.param, self.status, self.code, self.headers = param, status, code, headers


@dataclass(frozen=True)
class Field:
    """A field of a body."""

    kinds: tuple[str, ...]  # JSON types that it may have; null is the same as leaving it out
    help: str = ""
    low: float | None = None  # of a number; of a text or a list, its length
    high: float | None = None  # of a number; of a text or a list, its length
    required: bool = False
    # The values that are accepted, where others ask for what this server cannot do; empty where every value is.
    only: tuple[Any, ...] = ()
    items: str | None = None  # what a list has; None for objects
    # The schema of the objects in a list, for the description; whoever uses them checks them.
    object: Mapping[str, Any] | None = None

    def check(self, name: str, value: Any) -> None:
        """Raises BadRequest for a value that it cannot have."""
        if self.only and value not in self.only:
            raise BadRequest(f"{name} is not supported by this server", name, code="unsupported_parameter")
        kind = _kind(value)
        if kind not in self.kinds and not (kind == "integer" and "number" in self.kinds):
            raise BadRequest(f"{name} is {' or '.join(self.kinds)}, not {kind}", name)
        size = value if kind in ("number", "integer") else len(value) if kind in ("string", "array") else 0
        if (self.low is not None and size < self.low) or (self.high is not None and size > self.high):
            unit = {"string": " characters", "array": " items"}.get(kind, "")
            raise BadRequest(f"{name} has from {self.low:g} to {self.high:g}{unit}", name)
        if kind == "array" and self.items and any(_kind(item) != self.items for item in value):
            raise BadRequest(f"{name} is a list of {self.items} values", name)

    def schema(self) -> dict[str, Any]:
        """As OpenAPI has it."""
        types: list[dict[str, Any]] = []
        for kind in self.kinds:
            low, high = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}.get(
                kind, ("minimum", "maximum")
            )
            bounds = {} if kind in ("boolean", "object") else {low: self.low, high: self.high}
            items = {"items": self.object or {"type": self.items or "object"}} if kind == "array" else {}
            types.append({"type": kind} | {k: v for k, v in bounds.items() if v is not None} | items)
        if self.only:
            types = [{"enum": [value for value in self.only if value is not None]}]
        return {"anyOf": types if self.required else [*types, {"type": "null"}], "description": self.help}


_TEXT = {"type": "string"}
_MESSAGE = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {"anyOf": [_TEXT, {"type": "array", "minItems": 1, "items": {
            "type": "object", "required": ["type", "text"], "properties": {"type": {"enum": ["text"]}, "text": _TEXT},
        }}]},
    },
}  # fmt: skip
_EXAMPLE = {
    "type": "object",
    "required": ["positive", "negative"],
    "properties": {"prompt": _TEXT, "positive": _TEXT, "negative": _TEXT, "held_out": {"type": "boolean"}},
}
_STEERED = {
    "model": Field(("string",), "a name of /v1/models; `NAME+happy:16:2.0` steers too", 1, 300, required=True),
    "steer": Field(("string", "array"), "a recipe: `happy 16 2.0`, `rotate sad`, or several", 1, 300, items="string"),
    "compare": Field(("boolean",), "answer twice, as choices 0 (normal) and 1 (steered), with effect and cost"),
    "stream": Field(("boolean",), "send the answer as server-sent events"),
    "stream_options": Field(("object",), "include_usage"),
    "max_tokens": Field(("integer",), "longest answer", 1, 100_000),
    "temperature": Field(("number",), "0 is greedy", 0, 5),
    "top_p": Field(("number",), "nucleus", 0.01, 1),
    "repetition_penalty": Field(("number",), "1 is none", 0.5, 5),
    "seed": Field(("integer",), "the same one gives the same answer; drawn when left out", -_SEEDS, _SEEDS - 1),
    "n": Field(("integer",), "answers with the seeds that follow", 1, 16),
    "stop": Field(("string", "array"), "texts that end the answer", 1, 64, items="string"),
    "user": Field(("string",), "who asks, for the history", 0, 200),
    "safety_identifier": Field(("string",), "as `user`", 0, 200),
    "frequency_penalty": Field(("number",), only=(None, 0)),
    "presence_penalty": Field(("number",), only=(None, 0)),
    "logit_bias": Field(("object",), only=(None, {})),
}
# What OpenAI's clients may send and what changes nothing here.
_IGNORED = (
    "metadata",
    "store",
    "service_tier",
    "prompt_cache_key",
    "parallel_tool_calls",
    "reasoning_effort",
    "verbosity",
)
CHAT = (
    _STEERED
    | {
        "messages": Field(("array",), "the last one is the user's", 1, MAX_MESSAGES, required=True, object=_MESSAGE),
        "max_completion_tokens": Field(("integer",), "as max_tokens", 1, 100_000),
        "logprobs": Field(("boolean",), "tell each token's log-probability, before temperature and penalties"),
        "top_logprobs": Field(("integer",), "and those of so many of the likeliest tokens there", 0, 20),
        "tools": Field(("array",), only=(None, [])),
        "tool_choice": Field(("string",), only=(None, "none", "auto")),
        "response_format": Field(("object",), only=(None, {"type": "text"})),
        "modalities": Field(("array",), only=(None, ["text"])),
    }
    | {name: Field(("boolean", "string", "object"), "ignored") for name in _IGNORED}
)
COMPLETION = _STEERED | {
    "prompt": Field(("string", "array"), "the answer goes on from it", 1, 1 << 20, required=True, items="string"),
    "logprobs": Field(("integer",), "tell each token's log-probability, and those of so many of the likeliest", 0, 5),
    "best_of": Field(("integer",), only=(None, 1)),
    "echo": Field(("boolean",), only=(None, False)),
    "suffix": Field(("string",), only=(None, "")),
}
CONCEPT = {
    "name": Field(("string",), "a letter, then letters, digits, - or _", 1, 40, required=True),
    "positive": Field(("string",), "a text that shows the concept", 1, 10_000),
    "negative": Field(("string",), "a text like it that does not", 1, 10_000),
    "examples": Field(("array",), "contrast pairs", 1, MAX_EXAMPLES, object=_EXAMPLE),
    "description": Field(("string",), "for people", 0, 500),
    "replace": Field(("boolean",), "in place of a concept of yours of that name"),
}
SWEEP = {
    "prompt": Field(("string",), "what is answered at every layer", 1, 10_000, required=True),
    "concept": Field(("string",), "what is steered; a mix is one too", 1, 300, required=True),
    "strength": Field(("number",), "the recommended one when left out", -100, 100),
    "max_tokens": Field(("integer",), "longest answer", 1, 200),
    "seed": _STEERED["seed"],
    "user": _STEERED["user"],
}


@dataclass(frozen=True)
class Ask:
    """A request for answers."""

    model: str  # as asked, with its recipe
    messages: tuple[Message, ...]  # of a chat, a system message first if there is one; empty for a completion
    prompt: str  # the last message, or the text to go on from
    steer: tuple[TermRequest, ...]  # terms of the recipe
    compare: bool
    sampling: Mapping[str, Any]  # settings of the sampling by their names; those not given are the server's
    seeds: tuple[int, ...]
    stops: tuple[str, ...]
    stream: bool
    usage: bool
    likeliest: int | None  # how many of the likeliest tokens are told with each token; None tells no log-probabilities

    @property
    def rows(self) -> int:
        return 2 if self.compare else len(self.seeds)


def parse_body(raw: bytes, fields: Mapping[str, Field]) -> dict[str, Any]:
    """A request's fields, without those that are null. Raises BadRequest."""
    try:
        body = json.loads(raw.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON in UTF-8") from None
    if not isinstance(body, dict):
        raise BadRequest("the body is not a JSON object")
    for name in body:
        if name not in fields:
            raise BadRequest(f"unknown field {shorten(name, 40)!r}", shorten(name, 40), code="unknown_parameter")
    given = {name: value for name, value in body.items() if value is not None}
    for name, field in fields.items():
        if name in given:
            field.check(name, given[name])
        elif field.required:
            raise BadRequest(f"{name} is missing", name, code="missing_required_parameter")
    return given


def read_ask(body: Mapping[str, Any], base: str) -> Ask:
    """The request of a chat's or a completion's body.

    Args:
        body: checked.
        base: the model's name, with which `model` begins; the rest is a recipe.

    Raises:
        BadRequest, UsageError: for what cannot be answered.
    """
    stream_options = body.get("stream_options", {})
    if set(stream_options) - {"include_usage", "include_obfuscation"}:
        raise BadRequest("stream_options has include_usage alone", "stream_options")
    messages = tuple(_message(message) for message in body.get("messages", ()))
    prompt = messages[-1]["content"] if messages else _prompt(body["prompt"])
    if messages and messages[-1]["role"] != "user":
        raise BadRequest("the last message is not the user's", "messages")
    if not prompt.strip():
        raise BadRequest("the prompt is empty", "messages" if messages else "prompt")
    steer = _texts(body.get("steer", ()))
    # A sign before a number is no plus between terms.
    terms = [
        term for text in (body["model"].removeprefix(base), *steer) for term in re.split(r"\s*\+\s*(?=[a-z])", text)
    ]
    stops = _texts(body.get("stop", ()))
    if len(stops) > MAX_STOPS or not all(0 < len(stop) <= 64 for stop in stops):
        raise BadRequest(f"stop has at most {MAX_STOPS} texts of up to 64 characters", "stop")
    compare, n = body.get("compare", False), body.get("n", 1)
    if compare and n > 1:
        raise BadRequest("compare answers once with and once without steering, so n is 1", "n")
    seed = body.get("seed")
    seed = secrets.randbelow(2**31) if seed is None else seed % _SEEDS
    names = ("max_tokens", "temperature", "top_p", "repetition_penalty")
    sampling = {name: body[name] for name in names if name in body}
    if "max_completion_tokens" in body:
        sampling["max_tokens"] = body["max_completion_tokens"]
    return Ask(
        model=body["model"],
        messages=messages,
        prompt=prompt,
        steer=tuple(parse_term(term) for term in terms if term),
        compare=compare,
        sampling=sampling,
        seeds=tuple((seed + number) % _SEEDS for number in range(n)),
        stops=stops,
        stream=body.get("stream", False),
        usage=bool(stream_options.get("include_usage")),
        likeliest=_likeliest(body),
    )


def client_name(body: Mapping[str, Any]) -> str:
    """Who asks, as it may stand in the history: letters, digits and a few signs."""
    return plain_name(body.get("user") or body.get("safety_identifier") or "") or "api"


def plain_name(text: str) -> str:
    """A client's name without signs that anything could take for markup or a command; it may be empty."""
    return re.sub(r"[^\w.@ -]", "", text)[:40].strip()


def _likeliest(body: Mapping[str, Any]) -> int | None:
    """How many of the likeliest tokens a request wants; None for no log-probabilities. A completion's field counts."""
    wanted, most = body.get("logprobs", False), body.get("top_logprobs")
    if wanted is False and most:
        raise BadRequest("top_logprobs needs logprobs: true", "top_logprobs")
    if wanted is False:
        return None
    return (most or 0) if wanted is True else wanted


def _prompt(value: str | list[str]) -> str:
    texts = _texts(value)
    if len(texts) != 1:
        raise BadRequest("one prompt a request", "prompt")
    return texts[0]


def _texts(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _message(message: Any) -> Message:
    """A message of a chat as the model's template takes it."""
    role, content = (message.get(key) if isinstance(message, dict) else None for key in ("role", "content"))
    role = "system" if role == "developer" else role
    if role not in ("system", "user", "assistant"):
        raise BadRequest("a message has the role system, developer, user or assistant", "messages")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if parts and len(texts) == len(parts) else None
    if not isinstance(content, str):
        raise BadRequest("the content of a message is a text, or parts of type text", "messages")
    return {"role": role, "content": content}


def _kind(value: Any) -> str:
    """The JSON type of a value."""
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value), "null")


def _no_constant(text: str) -> None:
    raise ValueError(text)
