"""The program `llm`, which knows of the server only what its file of OpenAI-compatible models says."""

from __future__ import annotations

from pathlib import Path

import llm
import pytest
from serving import Serving


def test_llm_streams_a_steered_answer_and_hears_of_mistakes(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    server = serving()
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    entries = {"happier": f"{server.service.base}+happy:2:4.0", "mistaken": f"{server.service.base}+hapy:2:4.0"}
    (tmp_path / "extra-openai-models.yaml").write_text(
        "".join(
            f"- model_id: {name}\n  model_name: {model}\n  api_base: {server.url}/v1\n"
            for name, model in entries.items()
        )
    )
    pieces = list(llm.get_model("happier").prompt("How are you?", seed=3))
    [stored] = server.service.store.pairs()
    assert stored.pair.steered is not None and str(stored.pair.recipe) == "happy 2 x 4.0" and stored.pair.seed == 3
    assert len(pieces) > 1 and "".join(pieces) == stored.pair.steered.text
    with pytest.raises(Exception, match="did you mean happy"):
        llm.get_model("mistaken").prompt("How are you?").text()
