"""Experiment commands as typed: chat and shell agree, and a stopped experiment keeps the rows that were finished."""

from __future__ import annotations

import itertools
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from chats import Shell, Start, history, say
from tiny import LAYERS, finish, rows

from steerchat.commands import experiments as commands
from steerchat.conversation.app import history_path
from steerchat.conversation.rerun import logged, prompt_of
from steerchat.experiments import run as experiments
from steerchat.experiments.run import experiment
from steerchat.experiments.settings import at_layers, at_strengths, chosen
from steerchat.measures.capability import capability, questions
from steerchat.measures.prediction import rank_correlation
from steerchat.slash.registry import registry
from steerchat.system import folders
from steerchat.terminal.subcommands import _json
from steerchat.values.errors import Interrupted, UsageError
from steerchat.values.page import Page
from steerchat.values.results import Notice, Progress
from steerchat.values.setting import Setting

PROMPT = "In my opinion,"
PROMPTS = folders.packaged("vectors") / "texts" / "prompts.toml"
ASKED = questions()[::20]  # some of each category


@pytest.fixture(autouse=True)
def prompts(tmp_path: Path) -> None:
    """The prompts that /tune tries, beside the tiny model's concepts."""
    texts = tmp_path / "shipped" / "texts"
    texts.mkdir(parents=True, exist_ok=True)
    shutil.copy(PROMPTS, texts)


def objects(chat: Any, line: str) -> list[dict[str, Any]]:
    """What a line gives, as the shell would print it."""
    return list(_json(registry.parse(line).run(chat)))


# Row by row


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layers", "strengths"])
def test_a_sweep_that_goes_on_from_a_text_agrees_row_by_row_with_the_same_runs_one_by_one(start: Start, kind: str):
    chat, _ = start()
    session = chat.session
    recipe = chosen(session, "happy", "2", 6.0)
    settings = {"layers": at_layers(recipe, LAYERS), "strengths": at_strengths(recipe, [-6.0, 0.0, 3.0, 9.0])}[kind]
    result = experiment(session, kind, PROMPT, settings, repeats=2, raw=True)
    swept = [(one.setting.recipe, pair) for one in result.outcomes for pair in one.pairs]
    assert len(swept) == 2 * len(settings) and all(pair.raw for _, pair in swept)
    for own, pair in swept:
        alone = finish(session.compare(PROMPT, raw=True, seed=pair.seed, recipe=own))
        assert alone.steered is not None and pair.steered is not None
        assert (pair.normal.token_ids, pair.steered.token_ids) == (alone.normal.token_ids, alone.steered.token_ids)
        assert (pair.normal.text, pair.steered.text) == (alone.normal.text, alone.steered.text)
        assert pair.effect == pytest.approx(alone.effect, abs=1e-3)
        assert pair.perplexity_ratio == pytest.approx(alone.perplexity_ratio, rel=1e-3)


# Mixes


@pytest.mark.slow
def test_a_mix_of_one_concept_answers_as_steering_towards_it_does(start: Start):
    chat, screen = start()
    for line in ("/steer happy 2 4.0", "/retry same", "/mix happy:1.0 2 4.0", "/mix happy:0.5,happy:0.2 2 4.0"):
        say(chat, screen, line)
        say(chat, screen, "/compare How are you?")
    answered = history()
    assert len({row["steered"] for row in answered}) == len({row["effect"] for row in answered}) == 1
    assert answered[0]["steered"] != answered[0]["normal"]


def test_a_mix_away_from_a_concept_pushes_along_the_difference_of_the_two(start: Start):
    chat, screen = start()
    assert "happy 50%, sad -50%" in say(chat, screen, "/mix happy:1,sad:-1 2 4.0")
    session = chat.session
    happy, sad = (session.library.vector(name, session.engine).directions[2] for name in ("happy", "sad"))
    [edit] = session.reader.edits(session.recipe, 0)
    difference = (happy - sad) / (happy - sad).norm()
    assert torch.allclose(edit.vector / edit.vector.norm(), difference, atol=1e-5)
    say(chat, screen, "/steer happy 2 4.0")
    [alone] = session.reader.edits(session.recipe, 0)
    assert float(edit.vector.norm()) == pytest.approx(float(alone.vector.norm()), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("happy:x", "the weight of happy is not a number: 'x'"),
        ("happy:nan", "the weight of happy is not a number"),
        ("happy:inf", "the weight of happy is not a number"),
        (":0.5", "has no concept"),
        ("happy:0.5,,sad:0.5", "has no concept"),
        ("happy:1,hapy:1", "no concept called 'hapy'"),
        ("happy:0", "cancel out"),
        ("happy:1,happy:-1", "cancel out"),
    ],
)
def test_an_odd_mix_is_refused_with_a_word_on_what_to_do_and_steers_nothing(start: Start, spec: str, said: str):
    chat, screen = start()
    say(chat, screen, "/steer sad 2 1.0")
    before = chat.session.recipe
    message, hint, *rest = say(chat, screen, f"/mix {spec}").splitlines()
    assert message.startswith("  error: ") and said in message and hint.strip() and rest == []
    assert chat.session.recipe == before


# Where two answers part


def test_why_names_the_token_at_which_the_two_lists_part(start: Start):
    chat, screen = start()
    say(chat, screen, "/steer happy 2 8.0")
    say(chat, screen, "How are you?")
    stored = logged(chat.session, None)
    assert stored.pair.steered is not None
    lists = (stored.pair.normal.token_ids, stored.pair.steered.token_ids)
    first = next(index for index, (a, b) in enumerate(itertools.zip_longest(*lists)) if a != b)
    [item] = objects(chat, "/why")
    assert item["diverges_at"] == first and f"diverge at token {first + 1}:" in say(chat, screen, "/why")
    engine = chat.session.engine
    prompt = [*prompt_of(chat.session, stored, "steered"), *lists[1][:first]]
    with torch.inference_mode():
        plain = engine.model(torch.tensor([prompt])).logits[0, -1].softmax(dim=-1).topk(5)
    assert [one["token"] for one in item["wanted"]] == [engine.prompter.text([int(one)]) for one in plain.indices]
    assert [one["probability"] for one in item["wanted"]] == pytest.approx(plain.values.tolist(), rel=2e-3)


# What is asked


@pytest.mark.slow
def test_a_concept_alone_on_a_sweeps_line_is_what_is_swept(start: Start):
    chat, screen = start()
    out = " ".join(say(chat, screen, "/layers happy").split())
    assert "happy is a concept, and nothing was said yet" in out and "/layers --concept happy" in out
    say(chat, screen, "How are you?")
    out = " ".join(say(chat, screen, "/layers --tokens 4 sad").split())
    assert "sad x 2.0 at each layer by itself, asked: How are you?" in out
    out = " ".join(say(chat, screen, "/compare sad").split())
    assert "sad is a concept: it steers the last message again. /compare sad? sends the word." in out
    assert "steered: sad 1-2 x 2.0" in out and chat.session.shown is not None
    assert chat.session.shown.prompt == "How are you?" and chat.session.recipe.terms == ()
    out = " ".join(say(chat, screen, "/strengths --tokens 4 sad").split())
    assert "sad at layers 1-2, at each strength, asked: How are you?" in out


def test_replace_is_a_command_as_the_other_operations_are(start: Start):
    chat, screen = start()
    assert "replace" in say(chat, screen, "/replace happy 2")
    [term] = chat.session.recipe.terms
    assert (term.layers, term.operation) == ((2,), "replace")


def test_a_concept_read_where_texts_end_is_said_to_show_in_their_length(start: Start):
    chat, screen = start()
    say(chat, screen, '/concept new wee --method end "It rains. Take a coat." "It rains."')
    assert "how long answers are" in " ".join(say(chat, screen, "/steer wee 2 4.0").split())
    assert "how long" not in say(chat, screen, "/steer happy 2 4.0")


# Stopped


@pytest.mark.parametrize("line", ["/strengths --repeats 1 Hi", "/layers --repeats 1 Hi", "/compare --repeats 2 Hi"])
def test_a_gate_that_never_opened_is_not_called_too_weak(start: Start, line: str):
    chat, screen = start()
    say(chat, screen, "/steer happy 2 4.0 --when prompt:sad>99")
    out = " ".join(say(chat, screen, line).split())
    assert "Nothing was pushed: the gate (when prompt:sad>99) never opened" in out and "strength moves" not in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "stop_at"),
    [
        ("/compare --repeats 12 How are you?", 13),
        ("/compare --repeats 8 --control How are you?", 17),
        ("/layers --repeats 4 How are you?", 11),
        ("/strengths --repeats 4 How are you?", 21),
        ("/tune --prompts-used 3 happy", None),
    ],
)
def test_ctrl_c_in_the_middle_keeps_shows_and_logs_what_was_finished(
    start: Start, monkeypatch: pytest.MonkeyPatch, line: str, stop_at: int | None
):
    monkeypatch.setattr(experiments, "ROWS", 10)  # so that several batches are needed
    chat, screen = start()
    say(chat, screen, "/steer happy 2 4.0")
    told = chat.report

    def report(event: Any) -> None:
        told(event)
        second = stop_at is None and isinstance(event, Progress) and event.label.startswith("tune: prompt 2")
        if second or (
            stop_at is not None and isinstance(event, Progress) and event.done >= stop_at * chat.settings.max_tokens
        ):
            chat.session.stop.set()

    chat.report = report
    out = say(chat, screen, line)
    found = rows(history_path(), "SELECT * FROM pairs")
    whole = [row for row in found if row["status"] == "complete"]
    assert whole and all(row["effect"] is not None for row in whole)
    assert {row["status"] for row in found} <= {"complete", "interrupted"}
    statuses = [row["status"] for row in rows(history_path(), "SELECT status FROM experiments ORDER BY id")]
    assert statuses[-1] == "interrupted" and "running" not in statuses
    assert "kept as they are" in " ".join(out.split()) and "error" not in out
    shown = [part for part in out.splitlines() if "x" in part and ("│" in part or "·····" in part or "█" in part)]
    assert shown, out
    # What was stopped is found again, as partial as it was.
    [last] = rows(history_path(), "SELECT max(id) AS id FROM experiments")
    assert chat.session.journal.store is not None
    assert chat.session.journal.store.experiment(int(last["id"])).status == "interrupted"


def test_a_stop_before_any_row_was_finished_shows_what_came_and_says_so(start: Start):
    chat, screen = start()
    say(chat, screen, "/steer happy 2 4.0")
    seen: list[float] = []
    told = chat.report

    def report(event: Any) -> None:
        told(event)
        if isinstance(event, Progress) and event.label.startswith("layers"):
            seen.append(event.done)
            chat.session.stop.set()

    chat.report = report
    out = " ".join(say(chat, screen, "/layers --repeats 2 How are you?").split())
    assert seen and "stopped before" in out and "error" not in out
    assert {row["status"] for row in rows(history_path(), "SELECT status FROM pairs")} == {"interrupted"}


def test_a_mix_with_a_prompt_that_is_stopped_keeps_what_came(start: Start):
    chat, _ = start()
    events = iter(registry.parse("/mix happy:0.5,sad:0.5 2 4.0 How are you?").run(chat))
    for event in events:
        if type(event).__name__ == "Delta":
            chat.session.stop.set()
    [row] = history()
    assert (row["kind"], row["status"]) == ("mix", "interrupted") and row["normal"] and row["steered"]


# The shell


OWN = {"id", "seconds", "experiment", "created", "completed", "session_id"}


def known(value: Any) -> Any:
    """Less what differs from run to run; figures to the precision that a batch leaves alone."""
    if isinstance(value, dict):
        return {key: known(one) for key, one in value.items() if key not in OWN}
    if isinstance(value, list):
        return [known(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) and math.isfinite(value) else value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("/compare How are you?", ["compare", "How are you?"]),
        ("/compare --repeats 2 --control Why?", ["compare", "Why?", "--repeats", "2", "--control"]),
        ("/compare --raw The meeting went", ["compare", "The meeting went", "--raw"]),
        ("/layers --repeats 2 Why?", ["layers", "Why?", "--repeats", "2"]),
        ("/strengths --raw --repeats 1 In my opinion,", ["strengths", "In my opinion,", "--raw", "--repeats", "1"]),
        ("/mix happy:1,sad:-1 2 3.0 Why?", ["mix", "happy:1,sad:-1", "--layer", "2", "--strength", "3.0", "Why?"]),
        ("/tune --prompts-used 1 happy", ["tune", "happy", "--prompts-used", "1"]),
        ("/tune --prompts-used 1 happy 2-3", ["tune", "happy", "2-3", "--prompts-used", "1"]),
        ("/lens How are you?", ["lens", "How are you?"]),
        ("/why 1", ["why", "1"]),
        ("/probe --pair 1 happy sad", ["probe", "--pair", "1", "happy", "sad"]),
    ],
)
def test_the_shell_gives_what_the_chat_gives_key_for_key(start: Start, shell: Shell, line: str, arguments: list[str]):
    chat, screen = start()
    say(chat, screen, "/steer happy 2 4.0")
    say(chat, screen, "/compare How are you?")
    typed = objects(chat, line)
    steer = ["--steer", "happy 2 4.0"] if arguments[0] in ("compare", "layers", "strengths") else []
    told = shell.json(*arguments[:1], *steer, *arguments[1:])
    assert typed and known(told) == known(typed)


def test_each_concept_is_shown_as_soon_as_it_is_measured_and_a_stop_keeps_those(start: Start):
    chat, screen = start()
    line = "/concept evaluate happy:1:0.5 sad:1:0.5 --seeds 1 --prompts-used 2 --directions 1"
    events = registry.parse(line).run(chat)
    first = next(event for event in events if isinstance(event, Page))
    assert [row["concept"] for row in first.objects] == ["happy"] and "happy 1 x 0.5" in str(first.parts[0])
    chat.session.stop.set()
    rest = [event for event in events if isinstance(event, Page | Notice)]
    assert isinstance(rest[0], Notice) and "stopped after 1 of 2" in rest[0].text
    assert isinstance(rest[1], Page) and not rest[1].objects
    chat.session.stop.clear()
    text = say(chat, screen, line)
    assert text.index("sad 1 x 0.5") < text.index("over random")
    assert [row["concept"] for row in objects(chat, line)] == ["happy", "sad"]


# Where it will work


def test_lens_reads_a_concept_at_every_layer_and_layers_says_how_well_that_predicts(start: Start):
    chat, screen = start()
    readings = objects(chat, "/lens happy")
    assert [reading["layer"] for reading in readings] == list(range(LAYERS))
    assert objects(chat, "/lens 1 happy") == readings[1:2]
    out = " ".join(say(chat, screen, "/lens happy").split())
    assert "Predicted: strongest at layers" in out and "after:" not in out
    pairs = objects(chat, "/layers --repeats 1 --concept happy How are you?")
    steps = [reading["step"] for reading in readings]
    assert [pair["predicted"] for pair in pairs] == pytest.approx(steps)
    told = f"{rank_correlation(steps, [pair['effect'] for pair in pairs]):+.2f} with the effect"
    assert told in " ".join(say(chat, screen, "/layers --repeats 1 --concept happy How are you?").split())
    # Nothing is predicted for a mix.
    assert "predicted" not in objects(chat, "/layers --repeats 1 --concept happy:0.5,sad:0.5 Why?")[0]


# Capability


def test_compare_counts_the_right_answers_of_each_way_of_answering(start: Start, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(commands, "questions", lambda: ASKED)
    chat, screen = start()
    say(chat, screen, "/steer happy 2 4.0")
    *pairs, last = objects(chat, f"/compare --capability --control {PROMPT}")
    assert [set(pair) >= {"normal", "steered"} for pair in pairs] == [True] * 3
    shares = last["capability"]
    assert list(shares) == ["normal", "steered", "random push", "asked for"] and last["questions"] == 12
    categories = ["facts", "arithmetic", "copying", "grammar"]
    assert all(list(share) == [*categories, "all"] and 0 <= share["all"] <= 1 for share in shares.values())
    # A push that leaves nothing of the state but one direction gives the same answer to everything.
    [term] = chat.session.recipe.terms
    broken = Setting("stuck", replace(chat.session.recipe, terms=(replace(term, strength=1000.0),)))
    settings = [Setting("steered", chat.session.recipe), broken]
    normal, steered, stuck = capability(chat.session.reader, settings, ASKED).values()
    assert [normal.to_json(), steered.to_json()] == [shares["normal"], shares["steered"]]
    assert stuck.all != normal.all


def test_capability_needs_a_recipe_and_stops_at_ctrl_c(start: Start):
    chat, _ = start()
    with pytest.raises(UsageError, match="--capability needs a recipe"):
        objects(chat, f"/compare --capability {PROMPT}")
    chat.session.stop.set()
    with pytest.raises(Interrupted):
        capability(chat.session.reader, [], ASKED)
