"""The program `llm`, which knows of the server what its file of models says: the one of tutorials/server.md."""

from __future__ import annotations

from pathlib import Path

import llm
import pytest
from serving import Serving, blocks, here


def test_llm_streams_a_steered_answer_and_hears_of_mistakes(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    server = serving()
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    [entry] = blocks("yaml")
    entry = here(entry, server).replace(":2.0", ":4.0")
    mistaken = entry.replace("happier", "mistaken").replace("+happy", "+hapy")
    (tmp_path / "extra-openai-models.yaml").write_text(entry + mistaken)
    pieces = list(llm.get_model("happier").prompt("How are you?", seed=3))
    [stored] = server.service.store.pairs()
    assert stored.pair.steered is not None and str(stored.pair.recipe) == "happy 2 x 4.0" and stored.pair.seed == 3
    assert len(pieces) > 1 and "".join(pieces) == stored.pair.steered.text
    with pytest.raises(Exception, match="did you mean happy"):
        llm.get_model("mistaken").prompt("How are you?").text()
