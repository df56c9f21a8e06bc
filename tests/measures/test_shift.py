"""The KL of a setting: which distributions, of which tokens."""

from __future__ import annotations

import pytest
import torch

from steerchat.conversation.session import Session
from steerchat.engine.choices import divergences
from steerchat.engine.decoding import Row
from steerchat.experiments.settings import chosen
from steerchat.measures.shift import token_kl
from steerchat.values.recipe import parse_term


def test_the_kl_of_a_setting_is_the_95th_percentile_over_the_tokens_of_its_answers(session: Session):
    session.steer([parse_term("happy 2 4.0")])
    recipe = chosen(session, None)
    rows = [
        Row(tuple(session.engine.prompter.chat([{"role": "user", "content": text}])), edits, scope=recipe.scope)
        for text in ("How are you?", "Why?")
        for edits in (session.reader.edits(recipe, 0), ())
    ]
    texts = ["All is well", "All is well", "Rain", ""]
    settings = [[(rows[0], texts[0]), (rows[2], texts[2])], [(rows[1], texts[1])], [(rows[3], texts[3])]]
    steered, plain, empty = token_kl(session.reader, settings)
    replies = [session.engine.prompter.reply(text) for text in (texts[0], texts[2])]
    every = torch.cat(divergences(session.engine, [rows[0], rows[2]], replies))
    assert steered == pytest.approx(float(every.quantile(0.95)), rel=1e-3) and float(every.quantile(0.95)) > 1e-3
    assert plain == pytest.approx(0.0, abs=1e-5) and empty is None
