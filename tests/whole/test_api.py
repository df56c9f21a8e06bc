"""The Python interface: the README's lines, and what `import steerchat` loads."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints
from xml.etree import ElementTree

import pytest
import torch
from places import ROOT
from tiny import write_concepts

import steerchat
from steerchat.measures.capability import questions
from steerchat.system import folders
from steerchat.values.results import Delta, PairDone, html
from steerchat.values.text import clean

README = ROOT / "README.md"


@pytest.fixture
def home(tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shipped = write_concepts(tmp_path / "shipped")
    shutil.copy(folders.packaged("vectors") / "texts" / "lexicons.toml", shipped / "texts")
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


def public(thing: object) -> list[tuple[str, Any]]:
    """A public function, or the class and its public methods and properties."""
    found: list[tuple[str, Any]] = [(getattr(thing, "__name__", ""), thing)]
    if inspect.isclass(thing):
        for name, value in vars(thing).items():
            value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if not name.startswith("_") and inspect.isfunction(value):
                found.append((f"{thing.__name__}.{name}", value))
    return found


def test_whatever_is_public_is_typed_and_the_own_ways_in_are_documented():
    assert (Path(steerchat.__file__).parent / "py.typed").is_file()
    things = [getattr(steerchat, name) for name in steerchat.__all__ if name not in ("__version__", "Event")]
    for name, thing in (pair for one in things for pair in public(one)):
        if inspect.isfunction(thing):
            missing = set(inspect.signature(thing).parameters) - {"self", "cls"} - set(thing.__annotations__)
            assert not missing and "return" in thing.__annotations__, name
    for name, thing in (pair for one in (steerchat.Model, steerchat.load, steerchat.history) for pair in public(one)):
        assert thing.__doc__, name
    for one in things:
        assert one.__doc__ and not one.__doc__.startswith(f"{one.__name__}("), one  # as a dataclass writes by itself
    assert get_type_hints(steerchat.load)["return"] is steerchat.Model


def test_what_was_promised_once_stays():
    """Names may join; to take one away or to change what it asks for is a break that the version has to say."""
    promised = {
        *("Answer", "ConceptVector", "Delta", "Event", "Example", "Filters", "Finished", "Model", "Notice", "Outcome"),
        *("Pair", "PairDone", "Progress", "Recipe", "Result", "Setting", "Started", "SteerchatError", "StoredPair"),
        *("Term", "__version__", "history", "load"),
    }
    assert promised <= set(steerchat.__all__)
    signatures = {name: str(inspect.signature(value)) for name, value in public(steerchat.Model)[1:]}
    assert {name.partition(".")[2]: text.partition(" ->")[0] for name, text in signatures.items()} == {
        "name": "(self)",
        "n_layers": "(self)",
        "recipe": "(self)",
        "concepts": "(self)",
        "concept": "(self, name: 'str')",
        "extract": "(self, name: 'str', examples: 'Sequence[Example]', method: 'Extraction' = 'mean')",
        "keep": "(self, vector: 'ConceptVector', name: 'str' = '')",
        "steer": "(self, *terms: 'str')",
        "events": "(self, prompt: 'str', *, seed: 'int | None' = None, raw: 'bool' = False)",
        "pair": "(self, prompt: 'str', *, seed: 'int | None' = None, raw: 'bool' = False)",
        "say": "(self, text: 'str')",
        "layers": "(self, prompt: 'str', concept: 'str | None' = None, strength: 'float | None' = None, *, "
        "repeats: 'int' = 4, tokens: 'int' = 40)",
        "strengths": "(self, prompt: 'str', concept: 'str | None' = None, layer: 'str | int | None' = None, *, "
        "repeats: 'int' = 4, tokens: 'int' = 40, strengths: 'Sequence[float]' = "
        "(-4.0, -2.0, 0.0, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0))",
        "contrast": "(self, name: 'str', layers: 'Sequence[int]')",
        "cosines": "(self, layer: 'int | None' = None)",
        "compare_methods": "(self, *concepts: 'str', cost: 'float' = 1.5, seeds: 'int' = 2, "
        "prompts: 'Sequence[str]' = (), asked: 'Sequence[Quiz]' = (), kl: 'float | None' = None)",
        "at_budget": "(self, concept: 'str | None' = None, layer: 'str | int | None' = None, *, "
        "cost: 'float | None' = None, kl: 'float | None' = None, prompts: 'Sequence[str]' = (), tokens: 'int' = 40)",
        "capability": "(self, asked: 'Sequence[Quiz]' = ())",
        "why": "(self, pair: 'Pair', *concepts: 'str')",
        "close": "(self)",
    }


@pytest.mark.slow
def test_the_lines_of_the_readme_run(home: Path, capsys: pytest.CaptureFixture[str]):
    code = re.search(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.S)
    assert code and sum(map(bool, code[1].splitlines())) == 5
    exec(code[1].replace("happy 16", "happy 2"), {})
    [logged] = steerchat.history()
    assert logged.pair.steered and logged.pair.steered.text.split("\n")[0] in capsys.readouterr().out
    assert logged.pair.seed == 1


@pytest.mark.slow
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


@pytest.mark.slow
def test_concepts_are_values(home: Path):
    with steerchat.load(log=False) as model:
        happy, sad = model.concept("happy"), model.concept("sad")
        own = model.extract("own", [steerchat.Example("Well?", "I love it", "It is a table")])
        (happy - sad).save(str(home / "difference.safetensors"))
        assert "tensor" not in repr(happy) and "happy" in repr(happy) and "tiny" in repr(model)
    loaded = steerchat.ConceptVector.load(str(home / "difference.safetensors"))
    assert torch.allclose(loaded.raw, happy.raw - sad.raw, atol=1e-5)
    assert torch.allclose((2 * happy).cosine(happy), torch.ones(model.n_layers))
    assert own.directions.shape == happy.directions.shape


def test_a_vector_made_in_python_steers_and_stays(home: Path):
    with steerchat.load(log=False, max_tokens=6) as model:
        model.steer("happy 2 4.0", "sad 2 -4.0")
        name = model.keep(model.concept("happy") - model.concept("sad"), "brighter")
        model.steer(f"{name} 2 4.0")
        pair = model.pair("How are you?", seed=3)
        assert pair.steered and pair.steered.text != pair.normal.text and pair.effects.keys() == {"brighter"}
        with pytest.raises(steerchat.SteerchatError, match="word of the commands"):
            model.keep(model.concept("happy"), "random")
        with pytest.raises(steerchat.SteerchatError, match="off is a word of the commands"):
            model.keep(model.concept("happy"), "off")  # /steer off would hide it
        with pytest.raises(steerchat.SteerchatError, match="cannot be a concept's name"):
            model.keep(model.concept("happy") + model.concept("sad"))  # happy+sad
        for factor, message in ((float("nan"), "NaN"), (float("inf"), "NaN"), (0.0, "zero")):
            with pytest.raises(steerchat.SteerchatError, match=message):
                model.keep(model.concept("happy") * factor, "useless")
        assert "useless" not in model.concepts()
        with pytest.raises(steerchat.SteerchatError, match="another model"):
            model.keep(replace(model.concept("happy"), fingerprint="another"), "foreign")
    with steerchat.load(log=False, max_tokens=6) as model:
        assert "brighter" in model.concepts()
        model.steer("brighter 2 4.0")
        assert model.pair("How are you?", seed=3).steered == pair.steered


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.extract("x", [steerchat.Example("Well?", "love", "table")], "PCA"), "no method"),
        (lambda model: model.pair("Hi", seed=-1), "seed is a whole number"),
        (lambda model: model.pair("Hi", seed=2**63), "seed is a whole number"),
        (lambda model: model.pair("Hi", seed=1.5), "seed is a whole number"),
        (lambda model: model.layers("Hi", "sad", 2.0, repeats=0), "nothing to answer"),
        (lambda model: model.layers("Hi", "sad", float("nan")), "finite"),
        (lambda model: model.strengths("Hi", "sad", 1, strengths=[]), "nothing to answer"),
        (lambda model: model.strengths("Hi", "sad", "1", strengths=[float("nan")]), "finite"),
        (lambda model: model.contrast("sad", [99]), "no layer 99"),
        (lambda model: model.contrast("sad", [-1]), "no layer -1"),
    ],
)
def test_arguments_that_do_not_fit_are_an_error_of_ours(home: Path, call: Callable[[steerchat.Model], Any], message):
    with steerchat.load(log=False, max_tokens=4) as model, pytest.raises(steerchat.SteerchatError, match=message):
        call(model)


ASKED = questions()[::40]  # read before a test's home has no questions


def test_pairs_and_vectors_are_drawn(home: Path):
    with steerchat.load(max_tokens=6) as model:
        model.steer("happy 2 4.0")
        pair = model.pair("How are you?", seed=3)
        tokens = model.why(pair)
        assert "".join(tokens.tokens) == (pair.steered and pair.steered.text)
        assert tokens.plot().drawn == tokens and {strip.concept for strip in tokens.strips} == {"happy"}
        assert {strip.concept for strip in model.why(pair, "sad").strips} == {"sad"}
        effect, cost = pair.plot().drawn.series
        assert (list(effect.values), list(cost.values)) == ([pair.effect], [pair.perplexity_ratio])
        happy = model.concept("happy")
        lengths = happy.plot().drawn.series[-1]
        assert list(lengths.values) == pytest.approx(happy.raw_lengths.tolist())
        assert len((happy - model.concept("sad")).plot().axes) == 1
        with pytest.raises(steerchat.SteerchatError, match="only logged pairs"):
            model.why(replace(pair, id=None))


@pytest.mark.slow
def test_methods_and_capability(home: Path):
    with steerchat.load(max_tokens=6, log=False) as model:
        assert set(model.capability(ASKED)) == {"normal"}
        model.steer("happy 2 40.0")
        counted = model.capability(ASKED)
        assert set(counted) == {"normal", "steered"} and len(counted["steered"].all) == len(ASKED)
        assert counted["steered"].all != counted["normal"].all  # so strong a push changes what is answered
        rows = model.compare_methods("happy", cost=1.2, seeds=1, prompts=["How are you?", "Why?"], asked=ASKED)
        assert {"add", "rotate", "aim"} <= {row.method for row in rows} and {row.answers for row in rows} == {2}
        with pytest.raises(steerchat.SteerchatError, match="at least two"):
            model.compare_methods("happy", prompts=["How are you?"])
        found = model.at_budget("happy", "2", kl=0.5, prompts=["How are you?"], tokens=6)
        assert found is not None and found.kl is not None and found.kl <= 0.5
        with pytest.raises(steerchat.SteerchatError, match="no budget"):
            model.at_budget("happy")


@pytest.mark.slow
def test_the_history_is_searched_and_filtered(home: Path):
    with steerchat.load(max_tokens=6) as model:
        model.pair("The weather")
        model.steer("happy 2 4.0")
        model.pair("The sea")
    assert [one.pair.prompt for one in steerchat.history()] == ["The sea", "The weather"]
    assert [one.pair.prompt for one in steerchat.history("weather")] == ["The weather"]
    assert [one.pair.prompt for one in steerchat.history(filters=steerchat.Filters(concept="happy"))] == ["The sea"]
    assert len(steerchat.history(limit=1)) == 1


def test_every_event_is_json_for_another_program(home: Path):
    with steerchat.load(max_tokens=6, log=False) as model:
        model.steer("happy 2 4.0")
        events = [json.loads(json.dumps(event.to_json())) for event in model.events("The weather")]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "started" and kinds[-1] == "pair_done" and {"delta", "finished"} < set(kinds)
    pair = events[-1]["pair"]
    for row, side in enumerate(("normal", "steered")):
        assert (
            "".join(event["text"] for event in events if event["event"] == "delta" and event["row"] == row)
            == (pair[side]["text"])
        )
    assert pair["measures"]["words"] == len(pair["steered"]["text"].split())


# In a notebook


def cell(value: Any) -> tuple[str, ElementTree.Element]:
    """What a notebook shows, and its elements: it is well-formed, so that nothing after it is swallowed."""
    assert steerchat.load  # loads the module that says what notebooks show
    shown = value._repr_html_()
    return shown, ElementTree.fromstring(shown)


@pytest.mark.slow
def test_a_notebook_shows_pairs_and_sweeps_with_their_figures(home: Path):
    with steerchat.load(max_tokens=6) as model:
        model.steer("happy 2 4.0")
        pair = model.pair("How are you?")
        sweep = model.layers("How are you?", repeats=2, tokens=6)
    shown, found = cell(pair)
    assert pair.steered and "steered: happy 2 x 4" in shown and "effect" in shown
    assert "".join(found.itertext()).count("How are you?") == 1
    [logged] = [one for one in steerchat.history(limit=100) if one.kind == "compare"]
    assert pair.steered.text in "".join(cell(logged)[1].itertext())
    shown, found = cell(sweep)
    [table] = found.iter("table")
    told = " ".join(" ".join(table.itertext()).split())
    assert "effect" in told and "prefers-color-scheme" not in shown
    assert len(list(found.iter("svg"))) == 4  # effect, words, cost and repetition
    assert repr(sweep) == f"<layers: {model.n_layers} settings, 2 of 2 seeds, 'How are you?'>"
    assert [one["layer"] for one in sweep.objects()] == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", '</div></style><img src="x" onerror="alert(2)">', "\x1b[31m&"]
)
def test_nothing_that_a_model_said_gets_out_of_its_cell(hostile: str):
    recipe = steerchat.Recipe((steerchat.Term((("happy", 1.0),), (2,), 4.0),))
    normal, steered = (steerchat.Answer(text, 3, "end", perplexity=9.0) for text in (hostile, f"{hostile} steered"))
    pair = steerchat.Pair(1, hostile, hostile, recipe, 0, normal, steered, effect=1.0)
    setting = steerchat.Setting(hostile, recipe)
    sweep = steerchat.Result("layers", hostile, (steerchat.Outcome(setting, (pair,), None),), 1, False)
    for value in (pair, sweep):
        shown, found = cell(value)
        assert {one.tag for one in found.iter()} <= {
            *("div", "style", "section", "h2", "h3", "dl", "dt", "dd", "p", "mark", "details", "summary"),
            *("table", "tr", "th", "td", "figure", "figcaption"),
            *("svg", "g", "defs", "path", "clipPath", "rect", "use", "text", "tspan"),
        }
        assert not {name for one in found.iter() for name in one.attrib if name.startswith("on")}
        assert clean(hostile) in "".join(found.itertext()) and "\x1b" not in shown


def test_a_value_without_a_look_of_its_own_has_none():
    assert html(object()) is None
