"""Conversations with a tiny model: the context of the next turn, undo, and what the history stores."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from places import SUPPORT
from tiny import ANSWERS, CONTEXT, a_session, finish, notices, rows, tiny_engine

from steerchat.conversation.session import Session
from steerchat.engine.engine import Engine
from steerchat.storage.file import check
from steerchat.storage.store import Store
from steerchat.values.errors import ConceptError, Interrupted, ModelError, StoreError, UnknownName, UsageError
from steerchat.values.recipe import parse_term
from steerchat.values.results import Delta, Notice, PairDone, Progress

HAPPY = "happy 2 4.0"


def steer(session: Session, *terms: str) -> None:
    session.steer([parse_term(term) for term in terms])


def logged(session: Session) -> list[dict[str, Any]]:
    assert session.journal.store is not None
    return rows(session.journal.store.path, ANSWERS)


def context(row: dict[str, Any], column: str) -> list[str]:
    return [message["content"] for message in json.loads(row["messages"])[column]]


# A pair


def test_a_steered_turn_is_one_row_with_all_that_repeats_it(session: Session):
    steer(session, HAPPY)
    pair = finish(session.say("How are you?"))
    [row] = logged(session)
    assert (row["id"], row["prompt"], row["kind"], row["status"]) == (pair.id, "How are you?", "chat", "complete")
    assert (row["model"], row["fingerprint"], row["seed"]) == ("tiny", "tiny-fingerprint", pair.seed)
    assert pair.steered is not None and pair.normal.text != pair.steered.text
    assert (row["normal"], row["steered"]) == (pair.normal.text, pair.steered.text)
    assert json.loads(row["recipe"]) == session.recipe.to_json()
    assert json.loads(row["sampling"])["max-tokens" if "max-tokens" in row["sampling"] else "max_tokens"] == 8
    assert {"steerchat", "torch", "transformers"} <= set(json.loads(row["versions"]))
    assert context(row, "normal") == context(row, "steered") == ["How are you?"]


def test_an_unsteered_turn_is_a_row_with_one_answer(session: Session):
    pair = finish(session.say("How are you?"))
    [row] = logged(session)
    assert pair.steered is None and row["steered"] is None and row["normal"] == pair.normal.text


@pytest.mark.slow
def test_at_strength_0_both_answers_stay_the_same_over_four_turns(session: Session):
    steer(session, "happy 2 0")
    for prompt in ("One?", "Two?", "Three?", "Four?"):
        pair = finish(session.say(prompt))
        assert pair.steered is not None
        assert pair.steered.token_ids == pair.normal.token_ids and pair.diverges_at is None


def test_steering_that_is_off_answers_once_and_resumes_with_the_same_recipe(session: Session):
    steer(session, HAPPY)
    session.switch(False)
    assert finish(session.say("One?")).steered is None
    session.switch(True)
    assert finish(session.say("Two?")).steered is not None


# Contexts


@pytest.mark.slow
@pytest.mark.parametrize("carry", ["own", "steered", "normal"])
def test_the_next_turn_is_told_the_answers_that_carry_names(tmp_path: Path, tiny: Engine, store: Store, carry: str):
    session = a_session(tmp_path, tiny, store, carry=carry)
    steer(session, HAPPY)
    first = finish(session.say("One?"))
    finish(session.say("Two?"))
    assert first.steered is not None
    own = {"normal": first.normal.text, "steered": first.steered.text}
    for column in ("normal", "steered"):
        told = own[column if carry == "own" else carry]
        assert context(logged(session)[1], column) == ["One?", told, "Two?"]


def test_a_turn_without_steering_gives_its_answer_to_both_columns(session: Session):
    plain = finish(session.say("One?"))
    steer(session, HAPPY)
    finish(session.say("Two?"))
    assert context(logged(session)[1], "steered") == ["One?", plain.normal.text, "Two?"]


def test_the_system_message_stands_before_the_conversation(session: Session):
    session.system = "Be brief."
    finish(session.say("One?"))
    [row] = logged(session)
    assert json.loads(row["messages"])["normal"][0] == {"role": "system", "content": "Be brief."}
    assert rows(session.journal.store.path, "SELECT system FROM sessions") == [{"system": "Be brief."}]  # type: ignore[union-attr]


@pytest.mark.slow
def test_a_full_context_loses_its_oldest_turns_and_says_so(session: Session):
    said: list[str] = []
    for number in range(6):
        said += notices(list(session.say(f"{number} " + "x" * 120)))
    last = context(logged(session)[-1], "normal")
    assert "oldest" in said[-1] and "lacks" in said[-1]
    assert last[-1].startswith("5 ") and not last[0].startswith("0 ")
    assert len(session.turns) == 6  # nothing is forgotten by the session itself


@pytest.mark.slow
def test_room_is_made_for_several_turns_at_a_time_so_that_a_prompts_beginning_stays(session: Session):
    said: list[str] = []
    for number in range(24):
        said += notices(list(session.say(f"{number} x")))
    first = [context(row, "normal")[0] for row in logged(session)]
    changes = [number for number in range(1, 24) if first[number] != first[number - 1]]
    assert len(said) == len(changes) >= 2
    assert min(b - a for a, b in pairwise(changes)) >= 3
    last = finish(session.say("Last?"))
    same = finish(session.retry(same=True))
    assert same.normal.token_ids == last.normal.token_ids
    assert context(logged(session)[-1], "normal")[0] == context(logged(session)[-2], "normal")[0]
    while len(session.turns) > 1:
        session.undo()
    finish(session.say("Again?"))
    assert context(logged(session)[-1], "normal")[0] == "0 x"  # what fits again is there again


@pytest.mark.slow
def test_a_message_beyond_the_context_is_refused_without_a_row_and_the_chat_goes_on(session: Session):
    finish(session.say("One?"))
    events: list[Any] = []
    with pytest.raises(ModelError, match=f"100019 tokens and the model holds {CONTEXT}"):
        events.extend(session.say("x" * 100_000))
    assert events == []
    finish(session.say("Two?"))
    assert [row["prompt"] for row in logged(session)] == ["One?", "Two?"]
    assert context(logged(session)[-1], "normal")[0] == "One?"


def test_an_empty_message_is_refused(session: Session):
    with pytest.raises(UsageError, match="empty"):
        list(session.say("  \n"))


# Again and back


@pytest.mark.slow
def test_retry_same_repeats_both_answers_token_for_token_and_retry_gives_fresh_ones(session: Session):
    steer(session, HAPPY)
    finish(session.say("Zero?"))
    first = finish(session.say("One?"))
    same = finish(session.retry(same=True))
    fresh = finish(session.retry())
    assert first.steered and same.steered and fresh.steered
    assert (same.normal.token_ids, same.steered.token_ids) == (first.normal.token_ids, first.steered.token_ids)
    assert fresh.normal.token_ids != first.normal.token_ids and fresh.seed != first.seed
    assert len(session.turns) == 2
    assert [row["undone"] for row in logged(session)] == [0, 1, 1, 0]


def test_retry_same_keeps_the_recipe_of_the_turn_whatever_steers_now(session: Session):
    steer(session, HAPPY)
    first = finish(session.say("One?"))
    steer(session, "sad 1 3.0")
    again = finish(session.retry(same=True))
    assert again.recipe == first.recipe and str(session.recipe).startswith("sad")
    assert again.steered and first.steered and again.steered.token_ids == first.steered.token_ids


def test_undo_takes_a_turn_out_of_the_context_and_leaves_it_marked_in_the_history(session: Session):
    first = finish(session.say("One?"))
    finish(session.say("Two?"))
    assert session.undo().prompt == "Two?"
    finish(session.say("Three?"))
    assert context(logged(session)[2], "normal") == ["One?", first.normal.text, "Three?"]
    assert [row["undone"] for row in logged(session)] == [0, 1, 0]


@pytest.mark.parametrize("verb", ["undo", "retry", "last_prompt"])
def test_what_needs_an_earlier_message_says_so_when_there_is_none(session: Session, verb: str):
    with pytest.raises(UsageError, match="nothing was said yet"):
        getattr(session, verb)()


def test_a_retry_that_is_stopped_before_it_begins_leaves_the_conversation_as_it_was(
    tmp_path: Path, tiny: Engine, store: Store
):
    session = a_session(tmp_path, tiny, store)
    finish(session.say("One?"))
    steer(session, HAPPY)
    session.stop.set()
    with pytest.raises(Interrupted):  # the concept was never read from this model, and reading it was stopped
        list(session.retry())
    session.stop.clear()
    assert [turn.prompt for turn in session.turns] == ["One?"]
    assert [(row["prompt"], row["undone"]) for row in logged(session)] == [("One?", 0)]


def test_a_new_conversation_starts_empty_and_keeps_the_recipe(session: Session):
    steer(session, HAPPY)
    finish(session.say("One?"))
    assert session.new() == 1
    finish(session.say("Two?"))
    assert context(logged(session)[1], "normal") == ["Two?"]
    assert [row["session_id"] for row in logged(session)] == [1, 2]
    assert session.recipe.concepts == ("happy",)


def test_continue_and_compare_stay_outside_the_conversation(session: Session):
    steer(session, HAPPY)
    carried = finish(session.carry_on("The meeting went"))
    compared = finish(session.compare("How so?", repeats=2))
    assert session.turns == []
    assert carried.raw and not compared.raw
    assert [(row["kind"], row["raw"]) for row in logged(session)] == [("continue", 1), ("compare", 0), ("compare", 0)]
    seeds = [row["seed"] for row in logged(session)[1:]]
    assert seeds == [0, 1] and len({row["normal"] for row in logged(session)[1:]}) == 2


# Steering


def test_recipes_grow_shrink_and_refuse_what_is_not_there(session: Session):
    steer(session, "happy 2 2.0")
    session.steer([parse_term("sad 1 -1.5")], keep=True)
    assert str(session.recipe).startswith("happy 2 x 2.0") and "sad 1 x -1.5" in str(session.recipe)
    session.drop("happy")
    assert session.recipe.concepts == ("sad",)
    with pytest.raises(UsageError, match="happy is not in the recipe"):
        session.drop("happy")
    steer(session, "formal 0-3 1.0")
    assert session.recipe.concepts == ("formal",) and session.recipe.terms[0].layers == (0, 1, 2, 3)


def test_a_term_of_an_operation_other_than_adding_takes_the_place_of_the_one_before(session: Session):
    for term in ("happy 2 2.0", "happy 1 1.0", "rotate happy 2 2.0", "aim sad 1 0.5", "aim happy 1", "aim sad 2 1.5"):
        session.steer([parse_term(term)], keep=True)
    session.steer([parse_term("rotate happy 1 3.0")], keep=True)
    assert [str(term) for term in session.recipe.terms] == [
        "happy 2 x 2.0",
        "happy 1 x 1.0",
        "aim happy 1 to 1.0",
        "aim sad 2 to 1.5",
        "rotate happy 1 x 3.0",
    ]


@pytest.mark.parametrize(
    ("term", "error", "message", "hint"),
    [
        ("aim happy:1,sad:1 2 1.0", ConceptError, "aim takes one concept", "own examples"),
        ("hapy 2 2.0", UnknownName, "no concept called 'hapy'", "happy"),
        ("happy 99 2.0", UsageError, "no layer 99: this model has layers 0 to 3", "55%"),
        ("happy:1,happy:-1 2 2.0", UsageError, "cancel out", ""),
    ],
)
def test_a_term_that_does_not_fit_leaves_the_recipe_alone(
    session: Session, term: str, error: type[Exception], message: str, hint: str
):
    steer(session, "sad 1 1.0")
    before = session.recipe
    with pytest.raises(error) as raised:
        steer(session, term)
    assert message in raised.value.message and hint in raised.value.hint  # type: ignore[attr-defined]
    assert session.recipe == before


def test_what_is_left_out_is_recommended_and_a_guess_is_called_one(session: Session):
    said = session.steer([parse_term("happy")])
    assert "no tuned strength for this model: using 2.0; /tune happy finds one" in said[0]
    assert session.recipe.terms[0].layers and session.recipe.terms[0].strength == 2.0


def test_random_steers_too_and_follows_from_the_seed(session: Session):
    steer(session, "random 2 4.0")
    first = finish(session.say("One?"))
    again = finish(session.retry(same=True))
    assert first.steered and again.steered
    assert first.steered.text != first.normal.text and again.steered.text == first.steered.text


def test_random_alone_is_a_control_at_the_place_of_what_was_steered(session: Session):
    assert not any("no tuned strength" in said for said in session.steer([parse_term("random")]))
    steer(session, "happy 1-2 3.5")
    session.steer([parse_term("random")])
    assert str(session.recipe) == "random 1-2 x 3.5"
    steer(session, "random 3 1.0")
    assert str(session.recipe) == "random 3 x 1.0"


# What goes wrong


@pytest.mark.slow
def test_a_stopped_answer_keeps_what_came_and_is_marked_interrupted(tmp_path: Path, tiny: Engine, store: Store):
    session = a_session(tmp_path, tiny, store, max_tokens=300)
    steer(session, HAPPY)
    streamed = {0: "", 1: ""}
    pair = None
    for event in session.say("One?"):
        if isinstance(event, Delta):
            streamed[event.row] += event.text
            if len(streamed[0]) >= 3:
                session.stop.set()
        elif isinstance(event, PairDone):
            pair = event.pair
    assert pair is not None and pair.steered is not None
    assert (pair.normal.finish, pair.steered.finish) == ("interrupted", "interrupted")
    [row] = logged(session)
    assert row["status"] == "interrupted" and (row["normal"], row["steered"]) == (streamed[0], streamed[1])
    session.stop.clear()
    finish(session.say("Two?"))
    assert context(logged(session)[1], "steered") == ["One?", streamed[1], "Two?"]


@pytest.mark.slow
def test_an_exception_inside_the_model_leaves_a_failed_row_no_hook_and_a_chat_that_goes_on(
    tmp_path: Path, store: Store
):
    engine = tiny_engine()
    session = a_session(tmp_path, engine, store, max_tokens=20)
    steer(session, HAPPY)
    before = finish(session.say("One?"))
    broken = []

    def burst(module: Any, args: Any) -> None:
        broken.append(1)
        if len(broken) == 4:
            raise RuntimeError("burst")

    handle = engine.blocks[3].register_forward_pre_hook(burst)
    with pytest.raises(RuntimeError, match="burst"):
        list(session.say("Two?"))
    handle.remove()
    assert all(not block._forward_hooks for block in engine.blocks)
    assert len(session.turns) == 1
    failed = logged(session)[1]
    assert (failed["status"], failed["normal_finish"]) == ("failed", "failed") and failed["normal"]
    again = finish(session.retry(same=True))
    assert again.normal.token_ids == before.normal.token_ids


def test_an_answer_that_nobody_reads_to_its_end_is_not_left_running(session: Session):
    events = session.say("One?")
    while not isinstance(next(events), Delta):
        pass
    events.close()  # type: ignore[attr-defined]
    [row] = logged(session)
    assert (row["status"], row["normal_finish"]) == ("interrupted", "interrupted") and row["normal"]


def test_a_history_that_fails_midway_is_told_once_and_logs_again_when_it_can(tmp_path: Path, tiny: Engine):
    class FullDisk(Store):
        full = False

        def begin_pair(self, *args: Any, **kwargs: Any) -> int:
            self._room()
            return super().begin_pair(*args, **kwargs)

        def finish_pair(self, *args: Any, **kwargs: Any) -> int:
            self._room()
            return super().finish_pair(*args, **kwargs)

        def _room(self) -> None:
            if self.full:
                raise StoreError("the disk is full", "free some space")

    said: list[str] = []

    def report(event: Notice | Progress) -> None:
        if isinstance(event, Notice):
            said.append(event.text)

    with FullDisk.open(tmp_path / "history.db") as store:
        session = a_session(tmp_path, tiny, store, report)
        finish(session.say("One?"))
        events = session.say("Two?")
        while not isinstance(next(events), Delta):
            pass  # until its row is begun
        FullDisk.full = True
        for answered in (finish(events), finish(session.say("Three?"))):
            assert answered.normal.text
        assert session.journal.failing and session.journal.logged == 1
        FullDisk.full = False
        assert finish(session.say("Four?")).id is not None
        assert not session.journal.failing and len(session.turns) == 4
        stored = {row.pair.prompt: (row.status, bool(row.pair.normal.text)) for row in store.pairs()}
        assert session.journal.logged == 3
    assert stored == dict.fromkeys(("One?", "Two?", "Four?"), ("complete", True))
    assert said == [
        "the disk is full; nothing is logged until this is fixed. free some space",
        "the history can be written again; the turns since then are not in it",
    ]


def test_a_session_without_a_history_answers_all_the_same(tmp_path: Path, tiny: Engine):
    session = a_session(tmp_path, tiny, None)
    pair = finish(session.say("One?"))
    assert pair.id is None and pair.normal.text and session.journal.logged == 0
    session.undo()
    assert session.new() is None


_ANSWER_AND_HANG = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tiny import a_session, finish, tiny_engine
from steerchat.values.results import Delta
from steerchat.storage.store import Store
folder = Path(sys.argv[1])
session = a_session(folder, tiny_engine(), Store.open(folder / "history.db"))
finish(session.say("One?"))
for event in session.say("Two?"):
    if isinstance(event, Delta):
        print("answering", flush=True)
        time.sleep(600)
"""


@pytest.mark.subprocess
@pytest.mark.slow
def test_a_kill_in_the_middle_of_an_answer_leaves_an_interrupted_row(tmp_path: Path):
    command = [sys.executable, "-c", _ANSWER_AND_HANG, str(tmp_path), str(SUPPORT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "answering\n"
        process.kill()
    assert process.returncode == (-signal.SIGKILL if sys.platform != "win32" else 1)
    with Store.open(tmp_path / "history.db") as store:
        found = [(row.pair.prompt, row.status) for row in store.pairs()]
        assert found == [("Two?", "interrupted"), ("One?", "complete")]
        assert check(store.path) == []
