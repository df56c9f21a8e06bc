"""Architectures that no other test names: each chats as its own forward pass says, or is refused in a sentence of ours.

`STEERCHAT_SEED=3 pytest tests/models/test_strangers.py` draws twenty others.
"""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest
from places import ROOT
from shrunk import save_shrunk
from tiny import a_session, finish
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from steerchat.models.find import find
from steerchat.models.load import load
from steerchat.storage.store import Store
from steerchat.values.errors import ModelError
from steerchat.values.recipe import parse_term

COUNT = 20


def unnamed() -> list[str]:
    """Architectures whose configuration no test mentions."""
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    named = set(re.findall(r"transformers\.(\w+)Config", tests))
    models = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items()
    return sorted(kind for kind, model in models if re.sub(r"(For\w+|LMHead\w*)$", "", model) not in named)


def outcome(folder: Path, draw: random.Random) -> str:
    """`chats`, the sentence of a refusal, or what is wrong."""
    try:
        engine = load(find(str(folder), progress=print), "cpu", "float32")
    except ModelError as error:
        ours = r"\w+ (has|is) |steerchat('s numbers for| cannot compute with) \w+, a \w+[:,] "
        known = re.match(ours, error.message) and "\n" not in f"{error.message} {error.hint}"
        return f"refused: {error.message}" if known else f"WRONG: {error.message}"
    with Store.open(folder / "history.db") as store:
        session = a_session(folder, engine, store, max_tokens=6)
        session.steer([parse_term(f"random {draw.randrange(engine.n_layers)} 6.0"), parse_term("happy 1 3.0")])
        for prompt in ("How are you?", "And then?"):
            pair = finish(session.say(prompt, seed=draw.randrange(99)))
            answers = [pair.normal, pair.steered] if pair.steered else []
            # An answer may end at once, and then there is no effect.
            whole = len(answers) == 2 and all(answer.tokens or answer.finish == "end" for answer in answers)
            if not whole or (pair.effect is None and all(answer.tokens for answer in answers)):
                return f"WRONG: {pair}"
    return "chats"


@pytest.mark.slow
def test_a_stranger_chats_or_is_refused_in_a_sentence_of_ours(tmp_path: Path) -> None:
    draw, found = random.Random(os.environ.get("STEERCHAT_SEED", "0")), dict[str, str]()
    for kind in draw.sample(left := unnamed(), len(left)):
        try:
            folder = save_shrunk(kind, tmp_path / kind.replace("-", "_"), draw)
        except Exception as error:  # its own checks find that these sizes do not fit together
            print(f"{kind}: no small one: {error}")
            continue
        found[kind] = outcome(folder, draw)
        print(f"{kind}: {found[kind]}")
        if len(found) == COUNT:
            break
    assert not {kind: said for kind, said in found.items() if said.startswith("WRONG")}
    assert len(found) == COUNT and sum(said == "chats" for said in found.values()) > COUNT // 3
