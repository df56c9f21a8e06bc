"""From messages to token ids, by the model's own chat template. What a user typed stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..values.errors import ModelError
from ..values.thinking import CLOSE, OPEN, reply_start

Message = dict[str, str]

# For base models, which have no template of their own.
PLAIN_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ m.content }}\n\n"
    "{% elif m.role == 'user' %}User: {{ m.content }}\n"
    "{% else %}Assistant: {{ m.content }}\n{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


class Prompter:
    """Turns messages and texts into ids, and ids into text.

    Args:
        tokenizer: a transformers tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._template = tokenizer.chat_template or PLAIN_TEMPLATE
        self.has_template = bool(tokenizer.chat_template)
        # A template has the token that begins every text; without one, the tokenizer's own habit gives it.
        self._before: list[int] = [] if self.has_template else list(tokenizer("").input_ids)
        # Such a model's template knows the tags, if only to leave earlier thoughts out.
        self.thinks = CLOSE in self._template
        # Not only those that have a part to play: a model may bring more that no text should be taken for.
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        # The longest first: one may begin with another.
        self._names = sorted(added | set(tokenizer.all_special_tokens), key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, self._names))) if self._names else None
        special = tokenizer.added_tokens_decoder.items() if self.thinks else ()
        self._tags = {id: token.content for id, token in special if token.special and token.content in (OPEN, CLOSE)}
        # Some templates begin the thought themselves.
        head = self._render([{"role": "user", "content": "?"}]) if self.thinks else ""
        self.opens_thought = head.rstrip().endswith(OPEN)
        self._opening = tuple(self._encode(head[head.rindex(OPEN) :])) if self.opens_thought else ()

    def chat(self, messages: Sequence[Message], thought: bool = True) -> list[int]:
        """Ids of a conversation, ready for the model's next answer.

        Args:
            messages: the last one is the user's.
            thought: False closes the thought of a model that thinks first, empty, so that a reply follows at once.

        Raises:
            ModelError: when the model's template refuses the conversation.
        """
        text = self._render([{**m, "content": self._protect(m["content"], m["role"])} for m in messages])
        if self.thinks and not thought:
            text += f"\n{CLOSE}\n\n" if self.opens_thought else f"{OPEN}\n\n{CLOSE}\n\n"
        return [*self._before, *self._encode(text)]

    def raw(self, text: str) -> list[int]:
        """Ids of a text as it stands, outside the template, with whatever the model puts before any text."""
        return self._tokenizer(_whole(text), split_special_tokens=True).input_ids or self.start()

    def reply(self, text: str) -> list[int]:
        """Ids of a text that goes on from a prompt."""
        return self._tokenizer(_whole(text), split_special_tokens=True, add_special_tokens=False).input_ids

    def opened(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt ends inside a thought, which its template opened."""
        return self.opens_thought and tuple(prompt[-len(self._opening) :]) == self._opening

    def answer(self, text: str, opened: bool = False) -> tuple[list[int], list[int]]:
        """Ids of an answer's thought, tags included, and of its reply.

        Args:
            text: the answer.
            opened: whether its prompt ends inside the thought.
        """
        start = reply_start(text, opened) if self.thinks else 0
        thought: list[int] = []
        for piece in _TAGS.split(text[:start]):
            known = self._tokenizer(piece, add_special_tokens=False).input_ids if _TAGS.fullmatch(piece) else None
            thought += self.reply(piece) if known is None else known
        return thought, self.reply(text[start:])

    def text(self, ids: Sequence[int]) -> str:
        """What a person reads: without special tokens, but for those around a thought."""
        if not any(token in self._tags for token in ids):
            return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        place = next(place for place, token in enumerate(ids) if token in self._tags)
        return self.text(ids[:place]) + self._tags[ids[place]] + self.text(ids[place + 1 :])

    def start(self) -> list[int]:
        """Ids that stand before any text: a plain text has no prompt, but needs one token to go on from."""
        start = self._tokenizer.bos_token_id
        return [self._tokenizer.eos_token_id if start is None else start]

    def _render(self, messages: list[Message]) -> str:
        from jinja2.exceptions import TemplateError

        def render(these: list[Message]) -> str:
            return self._tokenizer.apply_chat_template(
                these, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )

        try:
            return render(messages)
        except TemplateError as error:
            # Some templates (Gemma's, Mistral's) refuse a system role: the same words open the first message.
            if len(messages) > 1 and messages[0]["role"] == "system":
                first = {**messages[1], "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}
                return render([first, *messages[2:]])
            raise ModelError(
                f"the model's chat template refuses this conversation: {error}", "/new starts afresh"
            ) from None

    def _protect(self, content: str, role: str) -> str:
        """Put a private-use character in place of every control token that a person typed."""
        content = _PRIVATE.sub("\ufffd", _whole(content))
        if self._controls is None:
            return content
        # The template looks for the tags of a thought, to leave it out.
        kept = (OPEN, CLOSE) if role == "assistant" else ()
        place = lambda match: match[0] if match[0] in kept else chr(_FIRST + self._names.index(match[0]))  # noqa: E731
        return self._controls.sub(place, content)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in _PRIVATE.split(text):
            if _PRIVATE.fullmatch(piece):
                ids += self.reply(self._names[ord(piece) - _FIRST])
            elif piece:
                ids += self._tokenizer(piece, add_special_tokens=False).input_ids
        return ids


# A plane that no script uses; no model has as many control tokens as it has characters.
_FIRST = 0xF0000
_TAGS = re.compile(f"({OPEN}|{CLOSE})")
_PRIVATE = re.compile("([\U000f0000-\U000fffff])")


def _whole(text: str) -> str:
    """`text` without halves of characters, which a terminal may send and no tokenizer takes."""
    return text.encode("utf-8", "replace").decode()


class TextStream:
    """Turns ids into text as they come, whole characters only.

    A token can end inside a UTF-8 character, and a SentencePiece token's leading blank depends on its
    neighbour: decoding a short window twice and taking the difference gets both right.
    """

    def __init__(self, prompter: Prompter) -> None:
        self._prompter = prompter
        self._ids: list[int] = []
        self._start = 0  # where the window begins
        self._told = 0  # up to where text was given out
        self.text = ""

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is unfinished."""
        self._ids.append(token)
        before = self._prompter.text(self._ids[self._start : self._told])
        after = self._prompter.text(self._ids[self._start :])
        # Four bytes make the longest character: beyond that a replacement sign is what the model meant.
        if after.endswith("\ufffd") and len(self._ids) - self._told < 4:
            return ""
        self._start, self._told = self._told, len(self._ids)
        return self._add(after[len(before) :])

    def close(self) -> str:
        """What is left when no token follows: the half of a character that never came is dropped."""
        before = self._prompter.text(self._ids[self._start : self._told])
        after = self._prompter.text(self._ids[self._start :])
        self._told = len(self._ids)
        return self._add(after[len(before) :].rstrip("\ufffd"))

    def _add(self, delta: str) -> str:
        self.text += delta
        return delta
