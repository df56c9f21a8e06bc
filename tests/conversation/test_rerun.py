"""Rerun, fork, use and resume: a logged pair gives the same texts in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from places import ROOT, SUPPORT
from tiny import a_session, finish

from steerchat.conversation.rerun import fork, rerun, resume, use
from steerchat.conversation.session import Session
from steerchat.experiments.run import experiment
from steerchat.experiments.settings import at_layers, at_strengths, chosen, with_controls
from steerchat.storage.records import Filters, Origin
from steerchat.storage.store import Store
from steerchat.values.errors import UnknownName, UsageError
from steerchat.values.recipe import Recipe, parse_term
from steerchat.values.results import Notice, Pair, PairDone
from steerchat.values.setting import Setting


def steer(session: Session, *terms: str) -> None:
    session.steer([parse_term(term) for term in terms])


def told(items: Iterable[object]) -> str:
    return " ".join(item.text for item in items if isinstance(item, Notice))


def pair_id(session: Session) -> int:
    assert session.last is not None and session.last.id is not None
    return session.last.id


# Again


def test_every_operation_is_logged_and_repeated_token_for_token(session: Session):
    terms = ("happy 1-2 4.0", "rotate sad 2 6.0", "aim happy 2 3.0", "cap sad 1 -1.0", "ablate formal 3")
    steer(session, *terms)
    before = drawn(session.compare("Well?"))
    session.recipe = Recipe()
    said = told(rerun(session, pair_id(session)))
    assert "token for token" in said
    assert session.last is not None and session.last.recipe == before.recipe
    for dropped in range(len(terms)):  # each of them does something
        steer(session, *terms[:dropped], *terms[dropped + 1 :])
        assert drawn(session.compare("Well?")).steered != before.steered


def test_a_pair_of_a_sweep_is_repeated_with_the_products_of_its_batch(
    session: Session, monkeypatch: pytest.MonkeyPatch
):
    steer(session, "happy 2 4.0")
    experiment(session, "strengths", "Well?", at_strengths(session.recipe, [1.0, 2.0, 4.0]), 2)
    number = session.store.pairs(Filters(), limit=1)[0].id
    assert session.store.pair(number).versions["rows"] == "8"  # two seeds, the normal row and three more
    prepared: list[int] = []
    monkeypatch.setattr(session.engine, "prepare_kernels", prepared.append)
    assert "token for token" in told(rerun(session, number))
    assert prepared == [8]
    assert session.store.pair(pair_id(session)).versions["rows"] == "8"  # and so is the rerun


GATED = ("happy 2 4.0 --when sad>-1000 --first 4", "rotate sad 2 3.0 --after 2 --decay 0.8", "ablate formal 1")


def test_gates_are_logged_with_what_they_let_through_and_repeated_token_for_token(session: Session):
    steer(session, *GATED)
    before = drawn(session.compare("Well?"))
    stored = session.store.pair(pair_id(session)).pair
    assert stored.recipe == before.recipe and [str(term) for term in stored.recipe.terms] == [
        "happy 2 x 4.0 when sad>-1000 first 4",
        "rotate sad 2 x 3.0 after 2 decay 0.8",
        "ablate formal 1",
    ]
    assert stored.steered is not None and stored.steered == before.steered
    # Without a reading before the first token, both are closed there; then the one that lets most through counts.
    assert stored.steered.gate[:3] == ((0, 0.0), (1, 1.0), (4, 0.64))
    session.recipe = Recipe()
    assert "token for token" in told(rerun(session, pair_id(session)))
    assert session.last is not None and session.last.steered is not None
    assert session.last.steered.gate == before.steered.gate if before.steered else False
    assert set(session.store.pair(pair_id(session)).vectors) == {"happy", "sad", "formal"}


@pytest.mark.parametrize(
    "gate", ["--when sad>1000", "--when prompt:sad>1000", "--when prompt:sad<-1000", "--after 500"]
)
def test_a_gate_that_never_opens_gives_the_normal_answer_token_for_token(session: Session, gate: str):
    steer(session, f"happy 2 30.0 {gate}", f"aim sad 1 5.0 {gate}", f"replace sad 3 8.0 {gate}")
    pair = drawn(session.compare("Well?"))
    assert pair.steered is not None and pair.steered.token_ids == pair.normal.token_ids
    assert pair.steered.gate == ((0, 0.0),) and pair.never_pushed
    steer(session, "happy 2 30.0")
    assert drawn(session.compare("Well?")).diverges_at == 0


def test_a_gate_on_the_prompt_opens_by_what_the_user_typed(session: Session):
    reader = session.reader
    low, high = sorted(("I weep, all is lost", "It is a chair here"), key=lambda text: reader.reading("sad", text))
    middle = (reader.reading("sad", low) + reader.reading("sad", high)) / 2
    steer(session, f"happy 2 30.0 --when prompt:sad>{middle}")
    for text, opens in ((low, False), (high, True)):
        pair = drawn(session.say(text))
        assert (pair.diverges_at is not None) == opens


def test_a_dial_is_logged_and_turned_at_the_same_tokens_again(session: Session):
    steer(session, "happy 2 8.0", "rotate sad 1 3.0 --after 1")
    plain = drawn(session.compare("Well?"))
    shares = (1.0, 1.0, 1.5, 1.5, 0.0, 0.0)
    session.dial = lambda token: shares[min(token, 5)]
    turned = drawn(session.compare("Well?"))
    assert plain.steered is not None and turned.steered is not None
    assert turned.normal == plain.normal and turned.normal.dial == ()
    assert turned.steered.token_ids[:2] == plain.steered.token_ids[:2] and turned.steered != plain.steered
    assert turned.steered.dial == ((2, 1.5), (4, 0.0)) and turned.steered.gate == ((0, 0.0), (1, 1.0))
    first = pair_id(session)
    session.dial = lambda token: 4.0  # of a later answer
    assert "token for token" in told(rerun(session, first))
    assert session.last is not None and session.last.steered is not None
    assert session.last.steered.dial == turned.steered.dial
    steer(session, "happy 2 8.0")
    session.dial = lambda token: 0.0
    stopped = drawn(session.compare("Well?"))
    assert stopped.steered is not None and stopped.steered.token_ids == stopped.normal.token_ids


def drawn(events: Iterable[object]) -> Pair:
    return [event.pair for event in events if isinstance(event, PairDone)][-1]


AGAIN = """
import json, sys
from pathlib import Path
import torch
from tiny import a_session, tiny_engine
from steerchat.conversation.rerun import rerun
from steerchat.values.results import Notice
from steerchat.storage.records import Filters
from steerchat.storage.store import Store

torch.set_num_threads(1)
folder = Path(sys.argv[1])
with Store.open(folder / "history.db") as store:
    session = a_session(folder, tiny_engine(), store, temperature=0.1, seed=99, max_tokens=3)
    for pair_id in json.loads(sys.argv[2]):
        said = [event.text for event in rerun(session, pair_id) if isinstance(event, Notice)]
        print(json.dumps([pair_id, session.last.id, said]))
"""


def script(session: Session) -> None:
    """Pairs of every kind: sampled and greedy, in a conversation and outside, alone and in batches."""
    settings = session.settings
    finish(session.say("Hello?"))
    steer(session, "happy 2 4.0")
    finish(session.say("How are you?"))
    finish(session.say("And the weather?"))
    settings.carry = "steered"
    steer(session, "happy:0.7,sad:0.3 1-2 6.0")
    finish(session.say("A mix, then."))
    settings.carry, settings.temperature = "own", 0.0
    finish(session.say("Greedy now."))
    session.undo()
    session.system = "Be brief."
    settings.temperature, settings.scope = 1.0, "all"
    finish(session.say("The prompt is pushed as well."))
    settings.scope = "generated"
    steer(session, "happy 2 4.0", "formal 1 -3.0")
    session.steer([parse_term("random 3 5.0")], keep=True)
    finish(session.compare("Three seeds", repeats=3))
    finish(session.carry_on("The meeting went"))
    recipe = chosen(session, "happy", "2", 6.0)
    experiment(session, "compare", "With controls", with_controls(session, recipe, raw=False), 2)
    experiment(session, "strengths", "A sweep", at_strengths(recipe, [-4.0, 0.0, 4.0]), 2, tokens=5)
    experiment(session, "layers", "Every layer", at_layers(recipe, 4), 1, raw=True)
    experiment(session, "mix", "A mix alone", [Setting("mix", chosen(session, "sad:1,formal:-1", "1", 5.0))], 1)


@pytest.mark.subprocess
@pytest.mark.slow
def test_every_pair_of_a_session_repeats_token_for_token_in_a_new_process(session: Session, store: Store):
    script(session)
    pairs = store.pairs(Filters(undone=True), limit=100)
    assert len(pairs) >= 20 and len({one.kind for one in pairs}) == 6
    process = subprocess.run(
        [sys.executable, "-c", AGAIN, str(store.path.parent), json.dumps([one.id for one in pairs])],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(ROOT)])},
    )
    assert process.returncode == 0, process.stderr
    repeated = [json.loads(line) for line in process.stdout.splitlines()]
    assert [old for old, _, _ in repeated] == [one.id for one in pairs]
    for old, new, said in repeated:
        before, after = store.pair(old).pair, store.pair(new).pair
        assert after.normal.token_ids == before.normal.token_ids and after.normal.text == before.normal.text
        assert (after.steered is None) == (before.steered is None)
        if before.steered is not None and after.steered is not None:
            assert after.steered.token_ids == before.steered.token_ids and after.steered.text == before.steered.text
        assert after.effect == pytest.approx(before.effect, abs=1e-3)
        assert after.recipe == before.recipe and "token for token" in said[-1]


def test_a_rerun_stays_outside_the_conversation_and_leaves_the_settings_alone(session: Session, store: Store):
    steer(session, "happy 2 4.0")
    first = finish(session.say("How are you?"))
    steer(session, "sad 1 1.0")
    before = session.recipe
    assert first.id is not None
    list(rerun(session, first.id))
    assert session.recipe == before and len(session.turns) == 1
    assert store.pair(pair_id(session)).kind == "rerun"


def test_what_is_not_as_it_was_is_named_where_the_texts_part(session: Session, store: Store, tmp_path: Path):
    steer(session, "happy 2 8.0")
    first = finish(session.say("How are you?"))
    assert first.id is not None
    fresh = a_session(tmp_path, session.engine, store)
    shipped = tmp_path / "shipped" / "happy.toml"
    shipped.write_text(shipped.read_text().replace("what joy", "such sorrow").replace("lovely", "terrible"))
    said = told(rerun(fresh, first.id))
    assert f"Not the same as pair {first.id}: the steered answer parts" in said
    assert "Not as it was: happy was made anew or changed." in said and "normal" not in said
    other_versions = '{"torch": "1.0", "processor": "a slide rule", "products": "by hand"}'
    store._db.execute("UPDATE pairs SET versions = ?, threads = 77 WHERE id = ?", [other_versions, first.id])
    said = told(rerun(fresh, first.id))
    unlike = "torch 1.0 then", "processor a slide rule then", "products by hand then, plain now"
    for part in (*unlike, "threads 77 then, 1 now", "happy was made anew"):
        assert part in said


def test_a_stopped_answer_repeats_as_far_as_it_went(session: Session, store: Store):
    steer(session, "happy 2 4.0")
    events = session.say("How are you?")
    for number, _ in enumerate(events):
        if number == 5:
            session.stop.set()
    session.stop.clear()
    stopped = store.pair(pair_id(session))
    assert stopped.status == "interrupted" and 0 < stopped.pair.normal.tokens < 8
    assert "The same texts" in told(rerun(session, stopped.id))
    assert session.last is not None and session.last.normal.text == stopped.pair.normal.text


def test_a_pair_that_broke_off_is_answered_and_called_so(session: Session, store: Store):
    broken = store.begin_pair(*unanswered(session))
    assert f"Pair {broken} broke off" in told(rerun(session, broken))


def unanswered(session: Session) -> tuple[Pair, Origin]:
    engine, messages = session.engine, {"normal": [{"role": "user", "content": "How?"}]}
    pair = Pair(None, "How?", engine.name, session.recipe, 3)
    return pair, Origin(fingerprint=engine.fingerprint, messages=messages, sampling=session.sampling().to_json())


def test_a_pair_of_another_model_is_refused_by_name(session: Session, store: Store):
    pair, origin = unanswered(session)
    number = store.begin_pair(replace(pair, model="gpt-9"), replace(origin, fingerprint="other"))
    with pytest.raises(UsageError, match="gpt-9"):
        list(rerun(session, number))
    with pytest.raises(UnknownName, match="no pair 99"):
        list(rerun(session, 99))


# Use


def test_use_takes_recipe_sampling_and_seed_over_and_says_so(session: Session):
    settings = session.settings
    settings.temperature, settings.seed, settings.scope = 0.3, 40, "all"
    steer(session, "happy:0.5,sad:0.5 2 4.0")
    first = finish(session.say("How are you?"))
    settings.temperature, settings.scope, settings.max_tokens = 1.0, "generated", 4
    steer(session, "formal 1 1.0")
    session.new()
    assert first.id is not None
    said = use(session, first.id)
    assert session.recipe == first.recipe and said[0] == first.recipe
    assert (settings.temperature, settings.scope, settings.max_tokens) == (0.3, "all", 8)
    assert "temperature 0.3 (was 1.0)" in told(said) and "seed 40 for the next answer" in told(said)
    again = finish(session.say("How are you?"))
    assert again.seed == 40 and again.steered == first.steered


def test_use_refuses_a_layer_that_the_model_lacks_and_changes_nothing(session: Session, store: Store):
    steer(session, "happy 2 4.0")
    deep = Recipe((replace(session.recipe.terms[0], layers=(9,)),))
    pair, origin = unanswered(session)
    number = store.begin_pair(replace(pair, recipe=deep), origin)
    before = session.recipe
    with pytest.raises(UsageError, match="layer 9"):
        use(session, number)
    assert session.recipe == before


# Fork and resume


def conversation(session: Session) -> list[int]:
    """Two columns that part, an unsteered turn and one taken back."""
    made = []
    steer(session, "happy 2 6.0")
    for prompt in ("One?", "Two?", "Three?"):
        made.append(finish(session.say(prompt)).id)
    session.undo()
    steer(session, "sad 1 2.0")
    made.append(finish(session.say("Four?")).id)
    session.recipe = Recipe()
    made.append(finish(session.say("Five?")).id)
    return made


def spoken(session: Session) -> list[tuple[str, ...]]:
    return [(turn.prompt, *(answer.text for answer in turn.answers)) for turn in session.turns]


@pytest.mark.slow
def test_a_fork_goes_on_from_there_as_a_new_session(session: Session, store: Store):
    made = conversation(session)
    first, whole = session.journal.session_id, spoken(session)
    said = fork(session, made[1])
    assert spoken(session) == whole[:2] and "2 turns" in told(said)
    assert session.recipe.concepts == ("happy",)
    went = store.pair(finish(session.say("Elsewhere?")).id or 0)
    assert went.session_id not in (None, first) and went.context == made[:2]
    fork(session, made[2])  # taken back since
    assert [turn.prompt for turn in session.turns] == ["One?", "Two?", "Three?"]


@pytest.mark.slow
def test_a_forks_fork_and_its_resumption_hold_the_whole_conversation(session: Session, store: Store, tmp_path: Path):
    made = conversation(session)
    fork(session, made[1])
    finish(session.say("Elsewhere?"))
    whole, forked = spoken(session), session.journal.session_id
    session.new()
    with Store.open(store.path) as other:
        fresh = a_session(tmp_path, session.engine, other)
        resume(fresh)
        assert spoken(fresh) == whole and fresh.journal.session_id == forked
    store.delete_pair(made[0])
    again = a_session(tmp_path, session.engine, store)
    resume(again, forked)
    assert spoken(again) == whole, "what was deleted is still in the messages of what followed it"


@pytest.mark.slow
def test_resuming_is_as_if_nobody_had_left(session: Session, store: Store, tmp_path: Path):
    session.system = "Be brief."
    conversation(session)
    session_id, whole = session.journal.session_id, spoken(session)
    steer(session, "happy 2 6.0")
    last = finish(session.say("Six?"))
    fresh = a_session(tmp_path, session.engine, store)
    resume(fresh)
    assert spoken(fresh)[:-1] == whole and fresh.turns[-1].id == last.id
    assert (fresh.system, fresh.recipe) == ("Be brief.", session.recipe)
    assert session_id is not None and fresh.journal.session_id == session_id
    stayed, came_back = finish(session.say("Seven?")), finish(fresh.say("Seven?"))
    assert came_back.seed == stayed.seed and came_back.normal == stayed.normal and came_back.steered == stayed.steered
    assert store.session(session_id).ended is None


def test_there_must_be_something_to_go_on_with(session: Session):
    with pytest.raises(UsageError, match="no conversation in the history"):
        resume(session)
    with pytest.raises(UnknownName, match="no session 7"):
        resume(session, 7)
    finish(session.carry_on("The meeting went"))
    with pytest.raises(UsageError, match="only carries a text on"):
        fork(session, pair_id(session))
    with pytest.raises(UsageError, match="no conversation in session 1"):
        resume(session, 1)


def test_the_events_of_a_rerun_are_those_of_an_answer(session: Session):
    steer(session, "happy 2 4.0")
    finish(session.say("How are you?"))
    events = list(rerun(session, pair_id(session)))
    assert isinstance(events[-2], PairDone) and isinstance(events[-1], Notice)
