"""A model that thinks before it replies: what is shown, pushed, measured and carried on of it.

The model is a tiny one with random weights whose scores are masked by the last token, so that it thinks in small
letters, closes its thought, and replies in capitals. Which letters it takes is its own choice, which a push changes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tiny import TEMPLATE, a_session, finish, notices, tiny_engine, tiny_model, tiny_tokenizer
from torch import Tensor

from steerchat.conversation.rerun import prompt_of, rerun, use
from steerchat.conversation.session import Session
from steerchat.engine.engine import Engine
from steerchat.engine.operations import Edit
from steerchat.engine.prompting import Prompter
from steerchat.experiments.run import experiment
from steerchat.experiments.settings import at_strengths
from steerchat.screen.render import Screen
from steerchat.storage.store import Store
from steerchat.values.recipe import Recipe, parse_term
from steerchat.values.results import Answer, Delta, Finished, Pair, PairDone, Started
from steerchat.values.setting import Setting
from steerchat.values.thinking import reply_start, thinking

# As those of Qwen3, SmolLM3 and DeepSeek: an earlier answer's thought is left out.
REPLY = "(m.content.split('</think>')[-1].lstrip() if m.role == 'assistant' else m.content)"
DROPPING = TEMPLATE.replace("m.content", REPLY)
OPENING = DROPPING.replace("assistant\n{%", "assistant\n<think>\n{%")
TEMPLATES = {"the model opens": DROPPING, "the template opens": OPENING}


class Mask:
    """Which tokens may follow which. Scores of others become very small, here and in the reference alike."""

    def __init__(self, tokenizer: Any) -> None:
        number = tokenizer.convert_tokens_to_ids
        self.open, self.close, self.end = map(number, ("<think>", "</think>", "<|im_end|>"))
        self.small = [number(chr(code)) for code in range(ord("a"), ord("z") + 1)]
        self.capital = [number(chr(code)) for code in range(ord("A"), ord("Z") + 1)]
        self.newline = number("\n")
        self.opens_itself = True

    def __call__(self, last: int, scores: Tensor) -> Tensor:
        """Scores (vocabulary,) after token `last`."""
        if last == self.newline and self.opens_itself:
            allowed = [self.open]
        elif last in (self.open, self.newline, *self.small):
            allowed = [*self.small, self.close]
        else:
            allowed = [*self.capital, self.end]
        masked = torch.full_like(scores, -1e4)
        masked[allowed] = scores[allowed]
        if self.close in allowed:
            masked[self.close] = scores[self.small].topk(4).values[-1]  # among the likeliest, hardly the first
        if last in self.small[:5]:  # some letters end a thought
            masked[self.close] = 1e4
        if last in self.capital[:4]:
            masked[self.end] = 1e4
        return masked


@pytest.fixture(scope="module", params=list(TEMPLATES))
def thinker(request: pytest.FixtureRequest) -> tuple[Engine, Mask]:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])  # no special tokens, as in the models that are about
    tokenizer.chat_template = TEMPLATES[request.param]
    model = tiny_model(tokenizer)
    mask = Mask(tokenizer)
    mask.opens_itself = request.param == "the model opens"

    def masked(module: Any, args: Any, options: Any, output: Any) -> Any:
        if not options["use_cache"]:
            return output  # a reading
        for row, last in enumerate(options["input_ids"][:, -1].tolist()):
            output.logits[row, -1] = mask(last, output.logits[row, -1])
        return output

    model.register_forward_hook(masked, with_kwargs=True)
    return Engine(model, tokenizer, "thinker", "thinker-fingerprint", lambda: 1 << 30), mask


@pytest.fixture
def session(tmp_path: Path, thinker: tuple[Engine, Mask]) -> Iterator[Session]:
    engine, _ = thinker
    engine.forget()
    with Store.open(tmp_path / "history.db") as store:
        yield a_session(tmp_path, engine, store, temperature=0.0, repetition_penalty=1.0, max_tokens=40)


def reference(
    engine: Engine, mask: Mask, prompt: Sequence[int], edits: Sequence[Edit], thought_too: bool
) -> tuple[int, ...]:
    """The likeliest tokens, one whole pass each, with every edit from the last prompt token or the end of the thought
    on. It knows nothing of steerchat's loop."""
    tokens = list(prompt)
    while len(tokens) < len(prompt) + 40:
        closed = tokens.index(mask.close, len(prompt)) if mask.close in tokens[len(prompt) :] else len(tokens)
        start = len(prompt) - 1 if thought_too else closed
        with torch.no_grad():
            handles = [
                engine.model.model.layers[edit.layer].register_forward_hook(
                    lambda m, a, out, e=edit, at=start: torch.cat([out[:, :at], out[:, at:] + e.vector], dim=1)
                )
                for edit in edits
            ]
            scores = engine.model.model(torch.tensor([tokens]), use_cache=False).last_hidden_state[0, -1]
            for handle in handles:
                handle.remove()
            token = int(mask(tokens[-1], engine.model.lm_head(scores)).argmax())
        if token == mask.end:
            break
        tokens.append(token)
    return tuple(tokens[len(prompt) :])


def parts(text: str) -> tuple[str, str]:
    return text[: reply_start(text)], text[reply_start(text) :]


@pytest.mark.slow
@pytest.mark.parametrize("steered", ["on", "off"])
def test_a_push_begins_with_the_thought_or_after_it(
    thinker: tuple[Engine, Mask], session: Session, steered: str
) -> None:
    engine, mask = thinker
    session.settings.change("steer-thinking", steered)
    session.steer([parse_term("random 1 8.0")])
    prompts = ("How are you?", "And now?", "Well, what is it then?")
    replies = 0
    for prompt in prompts:
        pair = finish(session.compare(prompt))
        ids = engine.prompter.chat([{"role": "user", "content": prompt}])
        pushes = session.reader.edits(session.recipe, pair.seed)
        assert pair.steered is not None
        assert pair.normal.token_ids == reference(engine, mask, ids, (), True)
        assert pair.steered.token_ids == reference(engine, mask, ids, pushes, steered == "on")
        normal, pushed = parts(pair.normal.text), parts(pair.steered.text)
        assert "</think>" in normal[0] and normal[1].isupper() and pair.normal.reply == normal[1]
        assert (normal[0] == pushed[0]) == (steered == "off")
        replies += normal[1] != pushed[1]
    assert replies == len(prompts)


@pytest.mark.slow
def test_rows_of_a_sweep_end_their_thoughts_each_by_itself(thinker: tuple[Engine, Mask], session: Session) -> None:
    engine, mask = thinker
    session.settings.change("steer-thinking", "off")
    session.steer([parse_term("random 2 8.0")])
    settings = at_strengths(session.recipe, [-8.0, 0.0, 4.0, 8.0])
    result = experiment(session, "strengths", "Tell me", settings, 2)
    ids = engine.prompter.chat([{"role": "user", "content": "Tell me"}])
    said = set()
    for outcome in result.outcomes:
        for pair in outcome.pairs:
            pushes = session.reader.edits(outcome.setting.recipe, pair.seed)
            assert pair.steered is not None
            assert pair.steered.token_ids == reference(engine, mask, ids, pushes, False)
            said.add(pair.steered.text)
    assert len(said) > 3 and len({parts(text)[0] for text in said}) == 1


@pytest.mark.slow
def test_measures_are_those_of_the_reply_and_the_log_has_it_all(thinker: tuple[Engine, Mask], session: Session) -> None:
    engine, _ = thinker
    session.steer([parse_term("happy 1 8.0")])
    pair = finish(session.say("How are you?", seed=3))
    assert pair.steered is not None and session.journal.store is not None and pair.id is not None
    stored = session.journal.store.pair(pair.id).pair
    assert stored.steered is not None and "</think>" in stored.steered.text
    assert stored.steered.text == pair.steered.text
    # Read by a plain pass over prompt, thought and reply, counting the reply alone.
    ids = engine.prompter.chat([{"role": "user", "content": "How are you?"}])
    thought, reply = map(engine.prompter.reply, parts(pair.steered.text))
    vector, profile = session.library.vector("happy", engine), session.calibration.profile(engine)
    layer, states = int(vector.report["read_layer"]), []
    block = engine.model.model.layers[layer]
    handle = block.register_forward_hook(lambda module, args, output: states.append(output[0]))
    with torch.no_grad():
        out = engine.model.model(torch.tensor([[*ids, *thought, *reply]]))
        logs = engine.model.lm_head(out.last_hidden_state[0]).log_softmax(-1)
    handle.remove()
    start = len(ids) + len(thought)
    mean = torch.stack([logs[start + place - 1, token] for place, token in enumerate(reply)]).mean()
    assert pair.steered.perplexity == pytest.approx(float(mean.neg().exp()), rel=1e-3)
    score = profile.score(vector.directions[layer], layer, states[0][start:].mean(dim=0))
    assert pair.steered.concept_score == pytest.approx(score, rel=1e-3, abs=1e-3)


@pytest.mark.slow
def test_a_template_that_leaves_thoughts_out_reads_the_kept_context_again(
    thinker: tuple[Engine, Mask], session: Session
) -> None:
    engine, _ = thinker
    session.steer([parse_term("random 1 8.0")])

    def talk(forget: bool) -> list[tuple[str, str]]:
        engine.forget()
        session.new()
        said = []
        for prompt in ("How are you?", "And the weather then?", "Why?"):
            if forget:
                engine.forget()
            pair = finish(session.say(prompt, seed=3))
            assert pair.steered is not None
            said.append((pair.normal.text, pair.steered.text))
        return said

    assert talk(forget=False) == talk(forget=True)
    messages = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "<think>abc</think>\nYES"}]
    text = engine.prompter.text(engine.prompter.chat([*messages, {"role": "user", "content": "Why?"}]))
    assert "YES" in text and "abc" not in text


@pytest.mark.slow
def test_a_logged_pair_is_repeated_with_its_thought_as_it_was(session: Session) -> None:
    session.settings.change("steer-thinking", "off")
    session.steer([parse_term("random 1 8.0")])
    pair = finish(session.say("How are you?"))
    session.settings.change("steer-thinking", "on")
    assert pair.id is not None
    assert any("The same texts" in text for text in notices(list(rerun(session, pair.id))))


def test_concepts_are_read_from_replies_not_from_thoughts(thinker: tuple[Engine, Mask]) -> None:
    engine, _ = thinker
    text = engine.prompter.text(engine.prompter.chat([{"role": "user", "content": "Well?"}], thought=False))
    assert text.endswith("<think>\n\n</think>\n\n")


@pytest.mark.slow
def test_a_thought_that_never_ends_is_said_and_measures_nothing(session: Session) -> None:
    session.settings.change("max-tokens", 2)
    session.steer([parse_term("random 1 8.0")])
    events = list(session.say("How are you?"))
    assert any("still thinking" in text for text in notices(events))
    pair = finish(iter(events))
    assert pair.effect is None and pair.normal.perplexity is None and pair.normal.text


@pytest.mark.parametrize("opened", [False, True])
def test_thoughts_are_dim_however_they_arrive(opened: bool) -> None:
    thought, reply = "ab cd </think>", " YES, and NO"
    text = thought + reply if opened else "<think>" + thought + reply
    cut = [text[i : i + 3] for i in range(0, len(text), 3)]
    screen = Screen(Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard", _environ={}))
    answer = Answer(text, 9, "end")
    pair = Pair(None, "?", "m", Recipe(), 0, answer, None)
    screen.stream(
        [Started(("normal",), opened), *(Delta(0, piece) for piece in cut), Finished(0, answer), PairDone(pair)]
    )
    lines = [line for line in screen.console.file.getvalue().splitlines() if "YES, and NO" in line]  # type: ignore[attr-defined]
    dim, plain = re.fullmatch(r".*\x1b\[2m(.*)\x1b\[0m(.*)", lines[-1]).groups()  # type: ignore[union-attr]
    assert dim.rstrip() == text[: reply_start(text, opened)].rstrip() and plain.strip() == "YES, and NO"


@pytest.mark.parametrize(
    ("text", "opened", "start"),
    [
        ("Hello <b>", False, 0),
        ("<think>a</think>\n\nB", False, 18),
        ("<think>a", False, 8),
        ("a</think> B", True, 10),
        ("a", True, 1),
        ("a</think>B", False, 9),
        ("Write <think> and </think> around it", False, 0),
        ("", False, 0),
    ],
)
def test_where_a_reply_begins(text: str, opened: bool, start: int) -> None:
    assert reply_start(text, opened) == start


@pytest.mark.parametrize(
    ("text", "inside"), [("", True), ("<th", True), ("\n<think>a", True), ("Hello", False), ("<think>a</think>", False)]
)
def test_an_answer_may_yet_begin_a_thought(text: str, inside: bool) -> None:
    assert thinking(text) is inside


def test_a_model_that_does_not_think_is_steered_the_same_with_the_setting_off(tmp_path: Path) -> None:
    tiny = tiny_engine()
    session = a_session(tmp_path, tiny, None, temperature=0.0)
    session.steer([parse_term("random 1 8.0")])
    before = finish(session.compare("How are you?"))
    session.settings.change("steer-thinking", "off")
    after = finish(session.compare("How are you?"))
    assert before.steered is not None and after.steered is not None
    assert before.steered.token_ids == after.steered.token_ids and not tiny.prompter.thinks


HARMONY = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if '<|channel|>' in m.content %}{{ raise_exception('channels in the content') }}{% endif %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{% if loop.last %}<|return|>{% else %}<|end|>{% endif %}"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
PLAIN = "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
FAMILIES = {
    "think": (PLAIN + "{# </think> #}", "<think>", "</think>", "<think>\n\n</think>\n\n"),
    "magistral": (PLAIN + "{# [/THINK] #}", "[THINK]", "[/THINK]", "[THINK][/THINK]"),
    "seed": (PLAIN + "{% set end = '</seed:think>' %}", "<seed:think>", "</seed:think>", "<seed:think></seed:think>"),
    "gpt-oss": (
        HARMONY,
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|channel|>final<|message|>",
    ),
}


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_thoughts_in_the_marks_of_each_family_are_told_from_replies(family: str, special: bool) -> None:
    template, before, between, empty = FAMILIES[family]
    tokenizer = tiny_tokenizer()
    marks = re.findall(r"<[^>]+>|\[[^]]+\]", before + between)
    tokenizer.add_tokens(list(dict.fromkeys(marks)), special_tokens=special)
    tokenizer.chat_template = template
    prompter = Prompter(tokenizer)
    assert prompter.thinks and not prompter.opens_thought()
    answer = f"{before}ab{between}YES"
    thought, reply = prompter.answer(answer)
    assert prompter.text([*thought, *reply]) == answer and prompter.text(reply) == "YES"
    # Each mark is the token that the model wrote, and not letters.
    words = re.findall(r"analysis|assistant|final", answer)
    assert len(thought) == len(marks) + len("ab") + sum(map(len, words))
    assert reply_start(answer) == len(answer) - 3 and reply_start(f"{before}ab") == len(before) + 2
    assert thinking(before[:3]) and thinking(f"{before}ab") and not thinking(answer)
    history = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": answer}]
    text = tokenizer.decode(prompter.chat([*history, {"role": "user", "content": f"Why {before}?"}]))
    assert "YES" in text and "ab" not in text and f"Why {before}?" in text
    text = tokenizer.decode(prompter.chat([{"role": "user", "content": "How?"}], thought=False))
    assert text.endswith(empty)


def test_a_message_to_the_last_channel_alone_is_a_reply() -> None:
    assert reply_start("<|channel|>final<|message|>YES") == len("<|channel|>final<|message|>")


def test_the_end_of_a_message_within_a_turn_does_not_end_it() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"], special_tokens=True)
    for template in (HARMONY, HARMONY.replace("<|return|>", "<|end|>")):
        tokenizer.chat_template = template
        assert tokenizer.convert_tokens_to_ids("<|end|>") not in Prompter(tokenizer).ends
    tokenizer.chat_template = HARMONY
    assert Prompter(tokenizer).ends == {tokenizer.convert_tokens_to_ids("<|return|>")}


SWITCHED = DROPPING + (
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)


def last_prompt(engine: Engine) -> list[str]:
    """Gets the text of each prompt as the model reads it."""
    texts: list[str] = []
    chat = engine.prompter.chat

    def noted(*args: Any) -> list[int]:
        ids = chat(*args)
        texts.append(engine.prompter.text(ids))
        return ids

    engine.prompter.chat = noted  # type: ignore[method-assign]
    return texts


@pytest.mark.parametrize("template", [*TEMPLATES.values(), SWITCHED], ids=[*TEMPLATES, "the template is told"])
@pytest.mark.parametrize(("setting", "thinks"), [("auto", True), ("on", True), ("off", False)])
def test_the_setting_decides_whether_a_model_thinks(tmp_path: Path, template: str, setting: str, thinks: bool) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    engine = Engine(tiny_model(tokenizer), tokenizer, "thinker", "thinker-fingerprint", lambda: 1 << 30)
    texts = last_prompt(engine)
    with Store.open(tmp_path / "history.db") as store:
        session = a_session(tmp_path, engine, store)
        session.settings.change("thinking", setting)
        pair = finish(session.say("Well?"))
        asked = texts[-1]
        assert asked.endswith("<think>\n\n</think>\n\n") is not thinks and asked.count("<think>") <= 1
        # A rerun asks as the pair was asked, whatever is set by then, and `use` sets it again.
        session.settings.change("thinking", "on" if setting == "off" else "off")
        assert pair.id is not None
        assert any("The same text" in text for text in notices(list(rerun(session, pair.id))))
        assert texts[-1] == asked
        use(session, pair.id)
        assert session.settings.thinking == setting


def test_a_rerun_asks_with_the_date_of_the_pair(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%d %B %Y') }}\n" + TEMPLATE
    engine = Engine(tiny_model(tokenizer), tokenizer, "tiny", "tiny-fingerprint", lambda: 1 << 30)
    texts = last_prompt(engine)
    with Store.open(tmp_path / "history.db") as store:
        session = a_session(tmp_path, engine, store)
        question, then = session.question("Well?", steered=False), datetime(2020, 2, 29, 12)
        plan = replace(session.plan("compare"), when=then)
        pair = finish(session.answer(question, Setting("", session.recipe), 3, plan))
        assert texts[-1].startswith("29 February 2020\n") and pair.id is not None
        assert any("The same text" in text for text in notices(list(rerun(session, pair.id))))
        assert texts[-1].startswith("29 February 2020\n")
        assert prompt_of(session, store.pair(pair.id), "normal") == engine.prompter.chat(question.normal, None, then)
        finish(session.say("Well?"))
        assert not texts[-1].startswith("29 February 2020\n")


def test_tags_that_are_special_tokens_do_not_get_lost() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<think>", "</think>"], special_tokens=True)
    tokenizer.chat_template = DROPPING
    prompter = Prompter(tokenizer)
    thought, reply = prompter.answer("<think>ab</think>YES")
    assert prompter.text([*thought, *reply]) == "<think>ab</think>YES" and prompter.text(reply) == "YES"
    said = [{"role": "user", "content": "a <think> b"}, {"role": "assistant", "content": "<think>ab</think>YES"}]
    ids = prompter.chat([*said, {"role": "user", "content": "Why?"}])
    assert tokenizer.convert_tokens_to_ids("<think>") not in ids
    assert "ab" not in prompter.text(ids) and "a <think> b" in prompter.text(ids)
