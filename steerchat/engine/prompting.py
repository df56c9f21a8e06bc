"""From messages to token ids, by the model's own chat template. What a user typed stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from ..values.errors import ModelError
from ..values.results import shared_length
from ..values.thinking import marks_of, reply_start

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
    """Turns messages and texts into ids, and ids into text."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        own = tokenizer.chat_template
        if isinstance(own, dict):  # several, by name: for tools, for retrieval
            own = own.get("default") or next(iter(own.values()), None)
        self._template: str = own or PLAIN_TEMPLATE
        self.has_template = bool(own)
        self._formats = _TIME.findall(self._template)
        if self._formats:
            self._template = _TELL_TIME + self._template
        # A template has the token that begins every text; without one, the tokenizer's own habit gives it.
        self._before: list[int] = [] if self.has_template else list(tokenizer("").input_ids)
        self._marks = marks_of(self._template)
        # Not only those that have a part to play: a model may bring more that no text should be taken for.
        added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        # The longest first: one may begin with another.
        self._names = sorted(added | set(tokenizer.all_special_tokens), key=len, reverse=True)
        self._controls = re.compile("|".join(map(re.escape, self._names))) if self._names else None
        tokens = self._marks.tokens if self._marks else ()
        special = tokenizer.added_tokens_decoder.items()
        self._tags = {id: token.content for id, token in special if token.special and token.content in tokens}
        self._parts = re.compile(f"({'|'.join(map(re.escape, tokens))})") if tokens else None
        self._openings: dict[bool | None, tuple[int, ...]] = {}

    @property
    def tells_time(self) -> bool:
        """Whether the template puts in the time."""
        return bool(self._formats)

    @property
    def thinks(self) -> bool:
        """Whether the model thinks before it replies: its template knows how thoughts are marked."""
        return self._marks is not None

    def chat(self, messages: Sequence[Message], thought: bool | None = None, when: datetime | None = None) -> list[int]:
        """Ids of a conversation, ready for the model's next answer.

        Args:
            messages: the last one is the user's.
            thought: whether a model that can think first does so; False closes its thought, empty, so that a reply
                follows at once. None leaves it to the template.
            when: for a template that puts in the time; now when None.

        Raises:
            ModelError: when the model's template refuses the conversation.
        """
        text = self._render([{**m, "content": self._content(m)} for m in messages], thought, when)
        if self._marks and thought is False and not text.rstrip().endswith(self._marks.close):
            if text.rstrip().endswith(self._marks.open):
                text = text.rstrip().removesuffix(self._marks.open)
            text += self._marks.empty
        return [*self._before, *self._encode(text)]

    def raw(self, text: str) -> list[int]:
        """Ids of a text as it stands, outside the template, with whatever the model puts before any text."""
        return self._tokenizer(_whole(text), split_special_tokens=True).input_ids or self.start()

    def reply(self, text: str) -> list[int]:
        """Ids of a text that goes on from a prompt."""
        return self._tokenizer(_whole(text), split_special_tokens=True, add_special_tokens=False).input_ids

    def opens_thought(self, thought: bool | None = None) -> bool:
        """Whether the template begins the thought itself, for a `thought` as in `chat`."""
        return bool(self._opening(thought))

    def opened(self, prompt: Sequence[int]) -> bool:
        """Whether a prompt ends inside a thought, which its template opened."""
        openings = {self._opening(thought) for thought in (None, True)}
        return any(opening and tuple(prompt[-len(opening) :]) == opening for opening in openings)

    @cached_property
    def ends(self) -> frozenset[int]:
        """The control token that the template writes after an answer, whatever the model's files say ends a turn."""
        from jinja2.exceptions import TemplateError

        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SAMPLE}]
        try:
            _, answer, rest = self._apply(messages, add_generation_prompt=False).rpartition(_SAMPLE)
        except TemplateError:
            return frozenset()
        rest = rest.lstrip()
        tokens = {token.content: id for id, token in self._tokenizer.added_tokens_decoder.items()}
        marks = self._marks.tokens if self._marks else ()
        end = max((token for token in tokens if token and rest.startswith(token)), key=len, default="")
        return frozenset([tokens[end]] if answer and end and end not in marks else ())

    @cached_property
    def end_texts(self) -> tuple[str, ...]:
        """The text that the template writes after an answer where no control token ends it: an answer ends before it.

        Where the template writes nothing there, it is how the user's next turn begins, such as `User:`.
        """
        from jinja2.exceptions import TemplateError

        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SAMPLE}]
        try:
            if self.ends:
                return ()
            last = self._apply(messages, add_generation_prompt=False).rpartition(_SAMPLE)[2]
            more = [*messages, {"role": "user", "content": _OTHER}]
            rest = self._apply(more, add_generation_prompt=False).rpartition(_SAMPLE)[2]
        except TemplateError:
            return ()
        after = last[: shared_length(last, rest)]
        if not after.strip():
            after = rest.partition(_OTHER)[0]
        end = after.strip()
        # A word would end answers that happen to have it, and so would a bracket.
        if len(end) < _SHORTEST or end.isalnum() or (self._controls and self._controls.search(end)):
            return ()
        own_line = "\n" in after[: len(after) - len(after.lstrip())]
        return ("\n" + end if own_line else end,)

    def answer(self, text: str, opened: bool = False) -> tuple[list[int], list[int]]:
        """Ids of an answer's thought, tags included, and of its reply.

        `opened`: whether its prompt ends inside the thought.
        """
        start = reply_start(text, opened) if self.thinks else 0
        thought: list[int] = []
        # Every second piece is a mark.
        for number, piece in enumerate(self._parts.split(text[:start]) if self._parts else ()):
            mark = number % 2 == 1
            thought += self._tokenizer(piece, add_special_tokens=False).input_ids if mark else self.reply(piece)
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

    def _render(self, messages: list[Message], thought: bool | None = None, when: datetime | None = None) -> str:
        from jinja2.exceptions import TemplateError

        options: dict[str, Any] = {} if thought is None else {"enable_thinking": thought, "thinking": thought}
        if when is not None:
            options["times"] = {format: when.strftime(format) for format in self._formats}
        if len(messages) > 1 and messages[0]["role"] == "system" and not self._takes_system:
            first = {**messages[1], "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}
            messages = [first, *messages[2:]]
        try:
            return self._apply(messages, add_generation_prompt=True, **options)
        except TemplateError as error:
            raise ModelError(
                f"the model's chat template refuses this conversation: {error}", "/new starts afresh"
            ) from None

    def _apply(self, messages: list[Message], **options: Any) -> str:
        now = datetime.now()
        options.setdefault("times", {format: now.strftime(format) for format in self._formats})
        return self._tokenizer.apply_chat_template(messages, chat_template=self._template, tokenize=False, **options)

    @cached_property
    def _takes_system(self) -> bool:
        """Whether the template writes a system message. Gemma's refuses one, others leave it out: its words then open
        the first message."""
        from jinja2.exceptions import TemplateError

        try:
            return _SAMPLE in self._apply(
                [{"role": "system", "content": _SAMPLE}, {"role": "user", "content": "?"}], add_generation_prompt=True
            )
        except TemplateError:
            return False

    @cached_property
    def preamble(self) -> tuple[int, ...]:
        """What the prompts of all conversations without a system message begin with: many templates bring one."""
        try:
            first, second = (self._encode(self._render([{"role": "user", "content": letter}])) for letter in "ab")
        except ModelError:
            return ()  # plain texts need no template, so one that refuses all conversations stops none of them
        return tuple(first[: shared_length(first, second)])

    def _opening(self, thought: bool | None) -> tuple[int, ...]:
        """The ids at the end of a prompt whose template began a thought; none where it does not."""
        if thought not in self._openings:
            head, mark = "", self._marks.open if self._marks and thought is not False else ""
            if mark:
                head = self._render([{"role": "user", "content": "?"}], thought)
            opens = mark and head.rstrip().endswith(mark)
            self._openings[thought] = tuple(self._encode(head[head.rindex(mark) :])) if opens else ()
        return self._openings[thought]

    def _content(self, message: Message) -> str:
        """A message's text with a private-use character in place of every control token that a person typed.

        An answer's thought is left out: not every template that knows thoughts does so, and some refuse them.
        """
        content = message["content"]
        if self.thinks and message["role"] == "assistant":
            content = content[reply_start(content) :]
        content = _PRIVATE.sub("\ufffd", _whole(content))
        if self._controls is None:
            return content
        return self._controls.sub(lambda match: chr(_FIRST + self._names.index(match[0])), content)

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
# How a template asks for the time, and a macro that answers from a table: what a template is given must be plain data.
_TIME = re.compile(r"""strftime_now\(\s*["']([^"']+)["']\s*\)""")
_TELL_TIME = "{% macro strftime_now(format) %}{{ times[format] }}{% endmacro %}\n"
# A text that no template has.
_SAMPLE, _OTHER = "Qxzj", "Zvkw"
# Characters of the shortest text that ends an answer.
_SHORTEST = 3
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
