"""Answers in the form of OpenAI's API."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..measures.chance import verdict
from ..storage.records import StoredPair
from ..values.errors import ModelError, SteerchatError, StoreError, UnknownName
from ..values.results import Answer, Chosen, Finish, Pair
from .requests import Ask, BadRequest

_FINISHES: dict[Finish, str] = {
    "end": "stop",
    "length": "length",
    "interrupted": "stop",
    "failed": "stop",
    "unasked": "stop",
}


class Shape:
    """The objects of one request's answer: whole, or chunk by chunk.

    Args:
        ask: the request; without messages it is a completion.
        prompt_tokens: of its prompt.
    """

    def __init__(self, ask: Ask, prompt_tokens: int) -> None:
        self._chat = bool(ask.messages)
        self._ask = ask
        self._prompt_tokens = prompt_tokens
        kind = "chat.completion" if self._chat else "text_completion"
        self._head = {
            "id": f"{'chatcmpl' if self._chat else 'cmpl'}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": ask.model,
        }
        self._chunk_head = self._head | ({"object": "chat.completion.chunk"} if self._chat else {})

    def chunk(
        self,
        number: int,
        text: str = "",
        finish: Finish | None = None,
        steerchat: dict[str, Any] | None = None,
        chosen: Sequence[Chosen] = (),
    ) -> dict[str, Any]:
        """New text of a choice, or its end."""
        choice: dict[str, Any] = {"index": number, "finish_reason": finish and _FINISHES[finish]}
        choice["logprobs"] = self._logprobs(chosen) if chosen else None
        choice |= {"delta": {"content": text} if text else {}} if self._chat else {"text": text}
        return self._chunk_head | {"choices": [choice]} | ({} if steerchat is None else {"steerchat": steerchat})

    def opening(self, number: int) -> dict[str, Any]:
        """The first chunk of a chat's choice: who speaks."""
        chunk = self.chunk(number)
        chunk["choices"][0]["delta"] = {"role": "assistant", "content": ""}
        return chunk

    def whole(
        self, answers: Sequence[Answer], steerchat: dict[str, Any], chosen: Mapping[int, Sequence[Chosen]]
    ) -> dict[str, Any]:
        choices = []
        for number, answer in enumerate(answers):
            choice: dict[str, Any] = {"index": number, "finish_reason": _FINISHES[answer.finish]}
            choice["logprobs"] = None if self._ask.likeliest is None else self._logprobs(chosen.get(number, ()))
            text = {"message": {"role": "assistant", "content": answer.text, "refusal": None}}
            choices.append(choice | (text if self._chat else {"text": answer.text}))
        return self._head | {"choices": choices, "usage": self.usage(answers), "steerchat": steerchat}

    def _logprobs(self, chosen: Sequence[Chosen]) -> dict[str, Any]:
        """Log-probabilities of tokens, as chats and as completions have them."""
        if self._chat:
            content = [
                _token(token.text, token.logprob) | {"top_logprobs": [_token(*other) for other in token.likeliest]}
                for token in chosen
            ]
            return {"content": content, "refusal": None}
        return {
            "tokens": [token.text for token in chosen],
            "token_logprobs": [token.logprob for token in chosen],
            "top_logprobs": [dict(token.likeliest) for token in chosen] if self._ask.likeliest else None,
            "text_offset": [token.start for token in chosen],
        }

    def usage_chunk(self, answers: Sequence[Answer]) -> dict[str, Any]:
        return self._chunk_head | {"choices": [], "usage": self.usage(answers)}

    def usage(self, answers: Sequence[Answer]) -> dict[str, int]:
        tokens = sum(answer.tokens for answer in answers)
        total = self._prompt_tokens + tokens
        return {"prompt_tokens": self._prompt_tokens, "completion_tokens": tokens, "total_tokens": total}


def _token(text: str, logprob: float) -> dict[str, Any]:
    """A token; those that are parts of a character have a text that does not say which."""
    whole = bool(text) and "\ufffd" not in text
    return {"token": text, "logprob": max(logprob, -9999.0), "bytes": list(text.encode()) if whole else None}


def measured(pairs: Sequence[Pair]) -> dict[str, Any]:
    """What steerchat says of a request's pairs: one for each choice, or one for both choices of a comparison."""
    first = pairs[0]
    facts: dict[str, Any] = {
        "recipe": str(first.recipe),
        "pairs": [pair.id for pair in pairs],
        "seeds": [pair.seed for pair in pairs],
    }
    return facts | (comparison(first) if len(first.answers) == 2 and first.normal.tokens else {})


def comparison(pair: Pair) -> dict[str, Any]:
    """A pair's effect, with the band of random pushes, and its cost."""
    return {
        "effect": pair.effect,
        "effects": pair.effects,
        "chance": None if pair.chance is None else list(pair.chance),
        "cost": pair.perplexity_ratio,
        "verdict": _plain(verdict(pair)),
        "diverges_at": pair.diverges_at,
    }


def summary(stored: StoredPair) -> dict[str, Any]:
    """A pair of the history."""
    pair = stored.pair
    return {
        "id": stored.id,
        "created": stored.created,
        "client": stored.client,
        "status": stored.status,
        "prompt": pair.prompt,
        "recipe": str(pair.recipe),
        "seed": pair.seed,
        "normal": pair.normal.text,
        "steered": None if pair.steered is None else pair.steered.text,
        **comparison(pair),
    }


def failure(error: SteerchatError) -> tuple[int, dict[str, Any]]:
    """(status, body) of an error as OpenAI's clients expect it."""
    message = f"{error.message}. {error.hint}".rstrip(". ") + "."
    param, code = None, None
    if isinstance(error, BadRequest):
        status, param, code = error.status, error.param, error.code
    elif isinstance(error, UnknownName):
        status, code = 404, "not_found"
    else:
        status = 500 if type(error) is SteerchatError or isinstance(error, StoreError) else 400
    if isinstance(error, ModelError) and "the model holds" in error.message:
        code = "context_length_exceeded"
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(status)
    kind = kind or ("invalid_request_error" if status < 500 else "server_error")
    return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def event(data: Any) -> bytes:
    """A server-sent event. JSON has no line ends in it, so text cannot end the event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode()


def _plain(text: str | None) -> str | None:
    """A verdict without the advice behind it, which names the chat's commands."""
    return text and text.partition(" (")[0]
