"""OpenAI's own client against the server: answers, streams, steering, comparisons, errors, hang-ups."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import openai
import pytest
import torch
from openai.types.chat import ChatCompletion
from serving import Running, Serving

from steerchat.storage.records import Filters
from steerchat.values.recipe import parse_term
from steerchat.values.results import Pair, PairDone

PROMPT = "How are you?"
STEERED = {"steer": "happy 2 4.0"}


def ask(server: Running, prompt: str = PROMPT, extra: dict[str, Any] | None = None, **options: Any) -> ChatCompletion:
    given: dict[str, Any] = {"model": server.service.base, "seed": 3, **options}
    return server.client().chat.completions.create(
        messages=[{"role": "user", "content": prompt}], extra_body=extra, **given
    )


def solo(server: Running, recipe: str = "", seed: int = 3, prompt: str = PROMPT, tokens: int = 6) -> Pair:
    """What the chat answers, in its own session on the same model."""
    session = server.chat.conversation()
    session.settings = replace(session.settings, max_tokens=tokens)
    if recipe:
        session.steer([parse_term(recipe)])
    return [event.pair for event in session.compare(prompt, seed=seed) if isinstance(event, PairDone)][-1]


def logged(server: Running) -> list[Any]:
    return server.service.store.pairs(Filters(kind="serve"), 100)


def test_an_answer_is_the_chats_with_its_usage(serving: Serving):
    server = serving()
    done = ask(server)
    pair = solo(server)
    [choice] = done.choices
    assert choice.message.content == pair.normal.text and choice.message.role == "assistant"
    assert done.object == "chat.completion" and done.model == server.service.base
    assert done.usage is not None and done.usage.completion_tokens == pair.normal.tokens == 6
    assert done.usage.total_tokens == done.usage.prompt_tokens + 6


@pytest.mark.parametrize("way", ["name", "field", "list"])
def test_a_recipe_steers_by_the_models_name_or_by_a_field(serving: Serving, way: str):
    server = serving()
    pair = solo(server, "happy 2 4.0")
    assert pair.steered is not None and pair.steered.text != pair.normal.text
    if way == "name":
        done = ask(server, model=f"{server.service.base}+happy:2:4.0")
    else:
        done = ask(server, extra=STEERED if way == "field" else {"steer": ["happy 2 4.0"]})
    assert done.choices[0].message.content == pair.steered.text


def test_several_terms_in_one_name_are_one_recipe(serving: Serving):
    server = serving()
    done = ask(server, model=f"{server.service.base}+happy:2:4.0+sad:1:-1.0")
    assert done.model_extra is not None
    assert done.model_extra["steerchat"]["recipe"] == "happy 2 x 4.0 + sad 1 x -1.0"


def test_a_stream_has_the_same_text_and_ends_with_its_reason_and_usage(serving: Serving):
    server = serving()
    stream = server.client().chat.completions.create(
        model=server.service.base,
        messages=[{"role": "user", "content": PROMPT}],
        seed=3,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == solo(server).normal.text
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 6


def test_a_comparison_streams_both_answers_and_ends_with_effect_band_and_cost(serving: Serving):
    server = serving()
    stream = server.client().chat.completions.create(
        model=server.service.base,
        messages=[{"role": "user", "content": PROMPT}],
        seed=3,
        stream=True,
        extra_body={"compare": True, **STEERED},
    )
    texts, last = ["", ""], None
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
        last = chunk
    pair = solo(server, "happy 2 4.0")
    assert pair.steered is not None and texts == [pair.normal.text, pair.steered.text]
    assert last is not None and last.model_extra is not None
    about = last.model_extra["steerchat"]
    assert about["effect"] == pytest.approx(pair.effect, abs=1e-4)
    assert about["cost"] == pytest.approx(pair.perplexity_ratio, rel=1e-4)
    assert set(about["effects"]) == {"happy"} and "chance" in about
    stored = server.service.store.pair(about["pairs"][0])
    assert stored.pair.normal.text == texts[0] and stored.pair.effect == pytest.approx(about["effect"])


def test_a_completion_goes_on_from_the_text_itself(serving: Serving):
    server = serving()
    done = server.client().completions.create(model=server.service.base, prompt="The meeting went", seed=3)
    events = server.chat.conversation().compare("The meeting went", raw=True, seed=3)
    [pair] = [event.pair for event in events if isinstance(event, PairDone)]
    assert done.choices[0].text == pair.normal.text and done.object == "text_completion"


def test_n_answers_have_the_seeds_that_follow(serving: Serving):
    server = serving()
    done = ask(server, n=3, extra=STEERED)
    texts = [choice.message.content for choice in done.choices]
    steered = [solo(server, "happy 2 4.0", seed).steered for seed in (3, 4, 5)]
    assert texts == [answer.text for answer in steered if answer is not None]
    assert done.usage is not None and done.usage.completion_tokens == 18


def test_an_answer_ends_before_a_stop_however_its_tokens_cut_it(serving: Serving):
    server = serving(max_tokens=30)
    whole = ask(server).choices[0].message.content or ""
    stop = whole[12:15]  # three tokens, each a letter
    cut = ask(server, stop=["never", stop])
    assert cut.choices[0].message.content == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"
    assert cut.usage is not None and cut.usage.completion_tokens == whole.index(stop) + 3
    server.wait(server.is_idle)


def own_scores(server: Running, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log-probabilities of the model itself, (tokens of the answer, vocabulary)."""
    with torch.no_grad():
        logits = server.service.engine.model(torch.tensor([[*prompt, *answer]]), use_cache=False).logits[0]
    return logits.log_softmax(-1)[len(prompt) - 1 : -1]


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_are_the_models_own(serving: Serving, stream: bool):
    server = serving()
    prompter = server.service.engine.prompter
    options: Any = {"logprobs": True, "top_logprobs": 3, "temperature": 0.7}
    if stream:
        events: Any = ask(server, stream=True, **options)
        chunks = [chunk.choices[0] for chunk in events if chunk.choices]
        text = "".join(chunk.delta.content or "" for chunk in chunks)
        content = [token for chunk in chunks if chunk.logprobs for token in chunk.logprobs.content or ()]
    else:
        [choice] = ask(server, **options).choices
        assert choice.logprobs is not None and choice.logprobs.content is not None
        text, content = choice.message.content or "", choice.logprobs.content
    assert "".join(token.token for token in content) == text and len(content) == 6
    prompt, answer = prompter.chat([{"role": "user", "content": PROMPT}]), prompter.reply(text)
    scores = own_scores(server, prompt, answer)
    for place, token in enumerate(content):
        assert token.logprob == pytest.approx(float(scores[place, answer[place]]), abs=1e-4)
        assert token.bytes == list(token.token.encode())
        values, ids = scores[place].topk(3)
        assert [other.logprob for other in token.top_logprobs] == pytest.approx(values.tolist(), abs=1e-4)
        assert [other.token for other in token.top_logprobs] == [prompter.text([number]) for number in ids.tolist()]


def test_log_probabilities_of_a_comparison_are_each_answers_own(serving: Serving):
    server = serving()
    done = ask(server, extra={"compare": True, **STEERED}, logprobs=True)
    logs = [choice.logprobs.content or [] for choice in done.choices if choice.logprobs]
    assert ["".join(token.token for token in tokens) for tokens in logs] == [c.message.content for c in done.choices]
    assert all(token.top_logprobs == [] for tokens in logs for token in tokens)
    assert logs[0][0].logprob != logs[1][0].logprob  # of one prompt: the second is pushed


def test_log_probabilities_end_with_the_answer_where_a_stop_ends_it(serving: Serving):
    server = serving(max_tokens=30)
    whole = ask(server).choices[0].message.content or ""
    [cut] = ask(server, stop=whole[12:15], logprobs=True).choices
    assert cut.logprobs is not None and cut.logprobs.content is not None
    assert "".join(token.token for token in cut.logprobs.content) == cut.message.content
    assert ask(server).choices[0].logprobs is None


def test_log_probabilities_of_a_completion_have_places(serving: Serving):
    server = serving()
    for count in (0, 2):
        [choice] = (
            server.client()
            .completions.create(model=server.service.base, prompt="The meeting went", seed=3, logprobs=count)
            .choices
        )
        logs = choice.logprobs
        assert logs is not None and logs.tokens is not None and logs.token_logprobs is not None
        assert "".join(logs.tokens) == choice.text and logs.text_offset == list(range(6))
        assert (
            logs.top_logprobs is None
            if not count
            else [len(likeliest) for likeliest in logs.top_logprobs or ()] == [2] * 6
        )
        prompter = server.service.engine.prompter
        answer = prompter.reply(choice.text)
        scores = own_scores(server, prompter.raw("The meeting went"), answer)
        own = [float(scores[place, token]) for place, token in enumerate(answer)]
        assert logs.token_logprobs == pytest.approx(own, abs=1e-4)


def test_settings_of_a_request_are_its_own(serving: Serving):
    server = serving()
    first, second = (ask(server, temperature=0, seed=seed, max_tokens=9) for seed in (1, 2))
    assert first.choices[0].message.content == second.choices[0].message.content
    assert first.usage is not None and first.usage.completion_tokens == 9
    assert len(ask(server, max_completion_tokens=2).choices[0].message.content or "") == 2


def test_a_conversation_is_answered_whole_with_its_system_message(serving: Serving):
    server = serving()
    messages: Any = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "One"}]},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
    ]
    done = server.client().chat.completions.create(model=server.service.base, messages=messages, seed=1)
    [stored] = logged(server)
    assert stored.pair.prompt == "Three" and stored.pair.normal.text == done.choices[0].message.content
    plain = [{**message, "content": "One"} if isinstance(message["content"], list) else message for message in messages]
    assert stored.messages["normal"] == plain


def test_every_answer_is_in_the_history_with_the_clients_name(serving: Serving):
    server = serving()
    ask(server, extra=STEERED, user="anna <b>")
    ask(server, user="ben")
    ben, anna = logged(server)
    assert (anna.sampling["client"], ben.sampling["client"]) == ("anna b", "ben")
    assert anna.pair.steered is not None and anna.pair.steered.text and anna.pair.normal.finish == "unasked"
    assert ben.pair.steered is None and ben.pair.normal.text and ben.status == "complete"
    # Only pairs are read once more: an answer alone shows no cost.
    assert anna.pair.steered.perplexity is None and ben.pair.normal.perplexity is None
    assert anna.session_id != ben.session_id


def test_models_are_the_model_alone_and_with_each_concept(serving: Serving):
    server = serving()
    base = server.service.base
    names = [model.id for model in server.client().models.list()]
    assert names[:2] == [base, f"{base}+formal"] and f"{base}+happy" in names
    assert server.client().models.retrieve(f"{base}+happy").id == f"{base}+happy"
    with pytest.raises(openai.NotFoundError, match="no model"):
        server.client().models.retrieve("gpt-4")


@pytest.mark.parametrize(
    ("options", "extra", "said"),
    [
        ({"model": "gpt-4"}, {}, "no model"),
        ({}, {"steer": "hapy 2 4.0"}, "did you mean happy"),
        ({}, {"steer": "happy 99 4.0"}, "no layer 99"),
        ({}, {"steering": "happy"}, "unknown field 'steering'"),
        ({}, {"compare": True}, "nothing to compare"),
        ({}, {"compare": True, "n": 2, **STEERED}, "so n is 1"),
        ({"temperature": 9}, {}, "temperature has from 0 to 5"),
        ({"max_tokens": 0}, {}, "max_tokens"),
        ({"logprobs": 3}, {}, "logprobs is boolean"),
        ({"top_logprobs": 3}, {}, "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, {}, "top_logprobs has from 0 to 20"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, {}, "tools is not supported"),
        ({"stop": ["a"] * 9}, {}, "stop has at most"),
        ({"prompt": "x" * 600}, {}, "the model holds 512"),
        ({"prompt": "   "}, {}, "empty"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused_in_openais_form(
    serving: Serving, options: dict[str, Any], extra: dict[str, Any], said: str
):
    server = serving()
    for stream in (False, True):
        with pytest.raises((openai.BadRequestError, openai.NotFoundError), match=said) as caught:
            ask(server, extra=extra, stream=stream, **options)
        assert caught.value.type == "invalid_request_error"
    assert server.is_idle() and not logged(server)


def test_a_client_that_hangs_up_frees_its_row_and_what_came_is_kept(serving: Serving):
    server = serving(rows=1, max_tokens=400)
    stream = server.client().chat.completions.create(
        model=server.service.base, messages=[{"role": "user", "content": PROMPT}], seed=1, stream=True
    )
    next(iter(stream))
    stream.close()
    server.wait(server.is_idle)
    assert ask(server, max_tokens=3).choices[0].message.content
    server.wait(lambda: all(stored.status != "running" for stored in logged(server)))
    first = logged(server)[-1]
    assert first.status == "interrupted" and 0 < first.pair.normal.tokens < 400


def test_a_client_that_waits_for_a_whole_answer_and_hangs_up_frees_its_row(serving: Serving):
    server = serving(rows=1, max_tokens=400)
    with pytest.raises(openai.APITimeoutError):
        server.client(timeout=0.15).chat.completions.create(
            model=server.service.base, messages=[{"role": "user", "content": PROMPT}], n=8
        )
    server.wait(server.is_idle)


def test_a_client_that_hangs_up_before_its_first_token_does_not_wait_on(serving: Serving):
    server = serving(rows=1, max_tokens=400)
    running = server.client().chat.completions.create(
        model=server.service.base, messages=[{"role": "user", "content": PROMPT}], n=8, stream=True
    )
    before = server.service.rows.waiting
    with pytest.raises(openai.APITimeoutError):
        server.client(timeout=0.2).chat.completions.create(
            model=server.service.base, messages=[{"role": "user", "content": PROMPT}], n=3, stream=True
        )
    server.wait(lambda: server.service.rows.waiting <= before)
    assert server.service.rows.running
    running.close()
    server.wait(server.is_idle)


def test_more_than_may_wait_are_told_when_to_ask_again(serving: Serving):
    server = serving(rows=1, waiting=8, max_tokens=400)
    stream = server.client().chat.completions.create(
        model=server.service.base, messages=[{"role": "user", "content": PROMPT}], n=8, stream=True
    )
    with pytest.raises(openai.RateLimitError) as caught:
        ask(server, n=2)
    assert int(caught.value.response.headers["retry-after"]) >= 1
    stream.close()
    server.wait(server.is_idle)
    assert ask(server, n=2, max_tokens=2).choices


def test_an_answer_that_takes_too_long_is_broken_off(serving: Serving):
    server = serving(deadline=0.1, max_tokens=400)
    with pytest.raises(openai.InternalServerError, match="no answer within"):
        ask(server, n=8)
    server.wait(server.is_idle)


@pytest.mark.slow
def test_many_clients_at_once_each_get_the_answer_that_they_get_alone(serving: Serving):
    server = serving(rows=5, max_tokens=24)
    recipes = [
        "", "happy 2 4.0", "sad 1 3.0", "happy 1-3 2.0", "rotate formal 2 2.0", "ablate sad 1", "sad 3 -2.0",
        "formal 0 1.0", "happy all 3.0", "replace sad 2", "rotate happy 1 -1.0", "formal 3 4.0 --first 3",
        "happy 2 2.0 --after 2", "sad 2 4.0", "ablate happy 0-2", "happy 50% 1.5",
    ]  # fmt: skip
    found: dict[int, str] = {}

    def one(number: int) -> None:
        recipe = recipes[number % len(recipes)]
        extra = {"steer": recipe} if recipe else {}
        done = ask(
            server, f"{PROMPT} {number % 3}", extra, seed=number, max_tokens=3 + number % 21, user=f"c{number % 4}"
        )
        found[number] = done.choices[0].message.content or ""

    threads = [threading.Thread(target=one, args=(number,)) for number in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(32):
        pair = solo(server, recipes[number % len(recipes)], number, f"{PROMPT} {number % 3}", 3 + number % 21)
        assert found[number] == pair.answers[-1].text
    assert len(logged(server)) == 32 and {stored.status for stored in logged(server)} == {"complete"}
