"""Effect and cost in the JSON equal what a script computes with transformers alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recompute import Recomputed
from tiny import write_concepts

from steerchat.system import folders
from steerchat.terminal import cli


def compare(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict]:
    capsys.readouterr()
    assert cli.main(["--device", "cpu", *arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def check(pairs: list[dict], model: Path, vectors: Path, concept: str) -> None:
    recomputed = Recomputed(model, vectors, concept)
    for pair in pairs:
        assert pair["normal"]["text"] != pair["steered"]["text"]
        assert (pair["effect"], pair["perplexity_ratio"]) == pytest.approx(recomputed.pair(pair), rel=1e-3, abs=1e-3)


@pytest.mark.slow
def test_effect_and_cost_of_a_tiny_model_are_what_transformers_alone_makes_of_the_texts(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path / "home"))
    shipped = write_concepts(tmp_path / "shipped")
    monkeypatch.setattr(folders, "packaged", lambda name: shipped)
    (tmp_path / "prompts.txt").write_text("How are you?\nWhat is rain?\n")
    line = ("compare", "--prompts", f"{tmp_path}/prompts.txt", "--steer", "happy 2 4.0")
    pairs = compare(capsys, "--model", str(tiny_folder), "--max-tokens", "30", *line)
    check(pairs, tiny_folder, shipped, "happy")
