"""From Python: the README's lines, and what `import steerchat` promises."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tiny import tiny_folder, write_concepts  # noqa: F401

import steerchat
from steerchat import folders
from steerchat.results import Delta, PairDone

README = Path(__file__).parent.parent / "README.md"


@pytest.fixture
def home(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    shipped = write_concepts(tmp_path / "shipped")
    monkeypatch.setenv("STEERCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("STEERCHAT_MODEL", str(tiny_folder))
    monkeypatch.setenv("STEERCHAT_DEVICE", "cpu")
    monkeypatch.setattr(folders, "packaged", lambda name: shipped)
    return tmp_path


def test_every_public_name_is_there():
    assert all(getattr(steerchat, name) is not None for name in steerchat.__all__)
    assert set(steerchat.__all__) <= set(dir(steerchat))
    with pytest.raises(AttributeError, match="nonsense"):
        steerchat.nonsense  # noqa: B018


def test_the_lines_of_the_readme_run(home: Path, capsys: pytest.CaptureFixture[str]):
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert code and sum(map(bool, code[1].splitlines())) == 5
    exec(code[1].replace("happy 16", "happy 2"), {})
    [logged] = steerchat.history()
    assert logged.pair.steered and logged.pair.steered.text.split("\n")[0] in capsys.readouterr().out
    assert logged.pair.seed == 1


def test_pairs_events_and_sweeps(home: Path):
    with steerchat.load(log=False, max_tokens=6) as model:
        model.steer("happy 2 4.0")
        pair = model.pair("How are you?", seed=3)
        events = list(model.events("How are you?", seed=3))
        assert any(isinstance(event, Delta) for event in events)
        done = events[-1]
        assert isinstance(done, PairDone) and done.pair.steered == pair.steered != pair.normal
        assert len(model.layers("Hi", repeats=1).outcomes) == model.n_layers
        result = model.strengths("Hi", "sad", "1", repeats=1, strengths=(0.0, 2.0))
        assert [one.setting.strength for one in result.outcomes] == [0.0, 2.0]
    assert steerchat.history() == []


def test_concepts_are_values(home: Path):
    with steerchat.load(log=False) as model:
        happy, sad = model.concept("happy"), model.concept("sad")
        own = model.extract("own", [steerchat.Example("Well?", "I love it", "It is a table")])
        (happy - sad).save(home / "difference.safetensors")
    loaded = steerchat.ConceptVector.load(home / "difference.safetensors")
    assert torch.allclose(loaded.raw, happy.raw - sad.raw, atol=1e-5)
    assert torch.allclose((2 * happy).cosine(happy), torch.ones(model.n_layers))
    assert own.directions.shape == happy.directions.shape
