"""The history: nothing is lost, everything can be found, and errors say what to do."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pairs import answered, asked, log, origin
from places import ROOT, SUPPORT
from sqlite_utils import Database

from steerchat.storage import migrations
from steerchat.storage.file import backup, check, migrate
from steerchat.storage.migrations import APPLICATION_ID, MIGRATIONS
from steerchat.storage.records import Filters, begin_row
from steerchat.storage.store import Store
from steerchat.values.errors import StoreError, UnknownName, UsageError
from steerchat.values.recipe import Recipe, Term


def ids(found: Sequence) -> list[int]:
    return [getattr(item, "stored", item).id for item in found]


def table_size(store: Store, table: str) -> int:
    with contextlib.closing(sqlite3.connect(store.path)) as conn:
        return conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


PREAMBLE = """
import sys
from pairs import asked, log, origin
from steerchat.storage.store import Store
from steerchat.values.errors import StoreError
"""


def run_python(code: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), str(ROOT)])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# What goes in comes out


def test_a_pair_comes_back_as_it_went_in(store: Store) -> None:
    session = store.start_session("smollm2", "abc", "Be brief.")
    how = origin(
        session_id=session,
        messages={"normal": [{"role": "user", "content": "Hé"}], "steered": [{"role": "user", "content": "Hé"}]},
        sampling={"temperature": 0.7, "top-p": 0.9},
        versions={"torch": "2.13"},
        threads=2,
        device="cpu",
        dtype="float32",
    )
    pair = asked(layer=16, strength=2.0, raw=True)
    pair_id = store.begin_pair(pair, how)
    measured = answered(
        pair,
        effect=0.9,
        effects={"happy": 0.9},
        chance=(-0.2, 0.3),
        diverges_at=2,
        seconds=1.5,
        tokens_per_second=27.0,
    )
    store.finish_pair(pair_id, measured, measures={"sentiment": 0.5})

    stored = store.pair(pair_id)
    assert stored.pair == replace(measured, id=pair_id)
    assert (stored.status, stored.kind, stored.undone, stored.session_id) == ("complete", "chat", False, session)
    assert stored.messages == how.messages
    assert (stored.sampling, stored.versions, stored.threads) == (how.sampling, how.versions, 2)
    assert stored.measures == {"sentiment": 0.5}
    assert stored.completed is not None and stored.created <= stored.completed
    data = json.loads(json.dumps(stored.to_json()))
    assert data["steered"]["text"] == "What glorious rain!"
    assert data["perplexity_ratio"] == 1.5
    assert (data["kind"], data["recipe_text"], data["sampling"]) == ("chat", "happy 16 x 2.0", how.sampling)
    assert set(measured.to_json()) <= set(data)


def test_a_pair_is_there_before_it_is_generated(store: Store) -> None:
    pair_id = store.begin_pair(asked(), origin())
    stored = store.pair(pair_id)
    assert stored.status == "running"
    assert stored.completed is None
    assert stored.pair.prompt == "Tell me about the weather"
    assert ids(store.search("weather")) == [pair_id]


def test_an_unsteered_turn_is_a_row_too(store: Store) -> None:
    pair = asked(recipe=Recipe())
    pair_id = store.begin_pair(pair, origin())
    store.finish_pair(pair_id, answered(pair, steered=None))
    assert store.pair(pair_id).pair.steered is None
    assert store.pair(pair_id).pair.perplexity_ratio is None


def test_partial_texts_of_a_stopped_pair_are_kept(store: Store) -> None:
    pair = asked()
    pair_id = store.begin_pair(pair, origin())
    store.finish_pair(pair_id, answered(pair, "It ra", "What glo"), status="interrupted")
    assert store.pair(pair_id).status == "interrupted"
    assert store.pair(pair_id).pair.normal.text == "It ra"


def test_finishing_again_with_measures_replaces_the_answers(store: Store) -> None:
    pair = asked()
    pair_id = store.begin_pair(pair, origin())
    store.finish_pair(pair_id, answered(pair, "first words", "zebra"))
    store.finish_pair(pair_id, answered(pair, "later words", "giraffe", effect=1.0))
    assert store.pair(pair_id).pair.effect == 1.0
    assert table_size(store, "answers") == 2
    assert not store.search("zebra")
    assert ids(store.search("giraffe later")) == [pair_id]
    assert check(store.path) == []


def test_a_broken_paste_is_stored_without_its_lone_surrogates(store: Store) -> None:
    pair_id = log(store, "caf\ud83d \0 \x1b[31m", messages={"normal": [{"role": "user", "content": "\udc00"}]})
    assert store.pair(pair_id).pair.prompt == "caf? \0 \x1b[31m"


def test_what_is_not_there_is_named(store: Store) -> None:
    pair = asked()
    for call in (
        lambda: store.pair(9),
        lambda: store.finish_pair(9, answered(pair)),
        lambda: store.delete_pair(9),
        lambda: store.rate(9, "tie"),
    ):
        with pytest.raises(UnknownName, match="no pair 9"):
            call()
    with pytest.raises(UnknownName, match="no session 9"):
        store.session(9)
    assert table_size(store, "answers") == 0


def test_a_number_beyond_64_bits_is_an_error_in_words(store: Store) -> None:
    with pytest.raises(StoreError, match="too large"):
        store.delete_pair(10**20)
    with pytest.raises(UnknownName):
        store.pair(10**20)


def test_a_pair_of_a_missing_session_is_refused_whole(store: Store) -> None:
    with pytest.raises(StoreError):
        store.begin_pair(asked(), origin(session_id=99))
    assert store.pairs(Filters(undone=True)) == []


# Sessions, sweeps, verdicts


def test_a_session_takes_its_title_from_its_first_message(store: Store) -> None:
    session = store.start_session("smollm2", "abc")
    log(store, "Tell me\nabout  tea", session_id=session)
    log(store, "And coffee?", session_id=session)
    assert store.session(session).title == "Tell me about tea"
    assert store.session(session).pairs == 2
    store.end_session(session)
    newest = store.start_session("smollm2", "abc")
    assert [found.id for found in store.sessions()] == [newest, session]
    assert store.session(session).ended is not None


def test_deleting_a_session_takes_everything_of_it_along(store: Store) -> None:
    session = store.start_session("smollm2", "abc")
    experiment = store.start_experiment(session, "layers", "weather", {"layers": [1, 2]})
    log(store, session_id=session, experiment_id=experiment)
    kept = log(store, "Something else")
    store.delete_session(session)
    assert ids(store.pairs()) == [kept]
    assert table_size(store, "answers") == 2
    assert table_size(store, "experiments") == table_size(store, "sessions") == 0
    assert check(store.path) == []


def sweep(store: Store, layers: Sequence[int]) -> list[int]:
    experiment = store.start_experiment(None, "layers", "weather", {"layers": list(layers)})
    shared, made = None, []
    for layer in layers:
        pair = asked("How is it outside?", at(layer), layer=layer)
        made.append(store.begin_pair(pair, origin(kind="layers", experiment_id=experiment)))
        shared = store.finish_pair(made[-1], answered(pair, "plain drizzle", f"joy{layer}"), shared_normal=shared)
    store.finish_experiment(experiment)
    return made


def at(layer: int, concept: str = "happy", strength: float = 2.0) -> Recipe:
    return Recipe((Term(((concept, 1.0),), (layer,), strength),))


def test_a_sweep_stores_its_normal_answer_once_and_finds_it_once(store: Store) -> None:
    made = sweep(store, [3, 4, 5])
    assert table_size(store, "answers") == 4
    assert {store.pair(pair_id).pair.normal.text for pair_id in made} == {"plain drizzle"}
    assert ids(store.search("drizzle")) == [made[0]]
    assert ids(store.pairs(Filters(experiment=1, layer=4))) == [made[1]]


def test_a_shared_normal_answer_outlives_all_but_its_last_pair(store: Store) -> None:
    first, second, third = sweep(store, [3, 4, 5])
    store.delete_pair(first)
    assert ids(store.search("drizzle")) == [second]
    store.delete_pair(second)
    assert store.pair(third).pair.normal.text == "plain drizzle"
    assert ids(store.search("drizzle joy5")) == [third]
    store.delete_pair(third)
    assert store.search("drizzle") == []
    assert table_size(store, "answers") == 0
    assert check(store.path) == []


def test_a_deleted_pair_is_gone_from_every_table_and_the_search(store: Store) -> None:
    pair = asked()
    pair_id = store.begin_pair(pair, origin())
    store.finish_pair(pair_id, answered(pair), measures={"sentiment": 0.5})
    store.delete_pair(pair_id)
    assert store.search("glorious") == store.pairs() == []
    assert [table_size(store, table) for table in ("answers", "measures", "pair_concepts")] == [0, 0, 0]
    assert log(store) == pair_id + 1, "an id is never used again"


def test_another_program_that_deletes_a_pair_leaves_the_search_right(store: Store) -> None:
    pair_id = log(store)
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as conn:
        conn.execute("PRAGMA foreign_keys = ON")
        conn.execute("DELETE FROM pairs WHERE id = ?", [pair_id])
    assert store.search("weather") == []
    assert check(store.path) == []


def test_check_reports_an_index_that_lost_its_text(store: Store) -> None:
    log(store)
    with contextlib.closing(sqlite3.connect(store.path, isolation_level=None)) as conn:
        conn.execute("UPDATE answers SET text = 'forged'")
    assert check(store.path) == ["the full-text index does not match the texts"]


def test_check_lists_the_damage_of_a_file_that_cannot_be_read_to_its_end(store: Store) -> None:
    for _ in range(50):
        log(store, "weather " * 200)
    store.close()
    with store.path.open("r+b") as file:
        size = store.path.stat().st_size
        for page in range(5 * 4096, size, 2 * 4096):
            file.seek(page)
            file.write(b"\xff" * 200)
    assert check(store.path)


def test_check_says_whose_another_programs_database_is(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as conn:
        conn.execute("CREATE TABLE x (y)")
    with pytest.raises(StoreError, match="another program's"):
        check(tmp_path / "other.db")


def test_a_verdict_is_kept_and_a_later_one_replaces_it(store: Store) -> None:
    pair_id, waiting = log(store), log(store)
    store.rate(pair_id, "tie")
    store.rate(pair_id, "steered", "much warmer", reads_better="normal", shown_first="steered")
    stored = store.pair(pair_id)
    assert (stored.rating, stored.note) == ("steered", "much warmer")
    assert (stored.reads_better, stored.shown_first) == ("normal", "steered")
    assert ids(store.pairs(Filters(rated=True))) == [pair_id]
    assert ids(store.pairs(Filters(rated=False))) == [waiting]
    with pytest.raises(UsageError, match="not a rating"):
        store.rate(pair_id, "maybe")  # type: ignore[arg-type]


# Finding


def test_undone_turns_are_marked_not_erased(store: Store) -> None:
    first, second = log(store), log(store)
    store.mark_undone([second])
    assert ids(store.pairs()) == ids(store.search("weather")) == [first]
    assert (
        ids(store.pairs(Filters(undone=True))) == ids(store.search("weather", Filters(undone=True))) == [second, first]
    )
    assert store.pair(second).undone
    assert (len(store.pairs()), len(store.pairs(Filters(undone=True)))) == (1, 2)


def test_pages_run_from_the_newest_to_the_oldest(store: Store) -> None:
    made = [log(store) for _ in range(7)]
    page = store.pairs(limit=3)
    following = store.pairs(limit=3, before_id=page[-1].id)
    assert ids(page) + ids(following) == made[:0:-1]
    hits = store.search("weather", limit=3, before_id=page[-1].id)
    assert ids(hits) == ids(following)


MIXED = Recipe((Term((("happy", 0.5), ("brief", 0.5)), (3, 7, 12, 13, 14), 3.0), Term((("sad", 1.0),), (20,), -1.0)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(), {"plain", "happy16", "happy20", "mixed", "off", "compared"}),
        (Filters(concept="happy"), {"happy16", "happy20", "mixed"}),
        (Filters(concept="Brief"), {"mixed"}),
        (Filters(concept="happy", layer=20), {"happy20"}),
        (Filters(layer=20), {"happy20", "mixed"}),
        (Filters(layer=13), {"mixed"}),
        (Filters(layer=8), set()),
        (Filters(strength=(1.0, 2.0)), {"happy16", "compared"}),
        (Filters(strength=(-2.0, -0.5)), {"mixed"}),
        (Filters(concept="happy", strength=(-2.0, -0.5)), set()),
        (Filters(min_effect=0.5), {"happy20", "compared"}),
        (Filters(concept="happy", min_effect=0.5), {"happy20"}),
        (Filters(kind="compare"), {"compared"}),
        (Filters(model="other"), set()),
        (Filters(session=1), {"plain", "happy16"}),
        (Filters(session=1, concept="happy", undone=True), {"happy16"}),
        (Filters(since=datetime.now(UTC) - timedelta(days=1), layer=16), {"happy16", "compared"}),
        (Filters(since=datetime.now() + timedelta(days=1)), set()),
    ],
)
def test_filters_combine(store: Store, filters: Filters, expected: set[str]) -> None:
    session = store.start_session("smollm2", "abc")
    log(store, "plain", Recipe(), session_id=session)
    log(store, "happy16", at(16), session_id=session, effect=0.2)
    log(store, "happy20", at(20, strength=4.0), effect=0.9)
    log(store, "mixed", MIXED)
    log(store, "off", replace(at(16), on=False))
    log(store, "compared", at(16, "formal"), kind="compare", effect=0.5)
    found = store.pairs(filters)
    assert {stored.pair.prompt for stored in found} == expected
    assert ids(found) == sorted(ids(found), reverse=True)
    everywhere = {hit.stored.pair.prompt for hit in store.search("rains", filters)}
    assert everywhere == expected


def test_every_word_must_be_in_the_prompt_or_an_answer(store: Store) -> None:
    pair_id = log(store, "Tell me about quantum physics", normal="A café", steered="Lovely weather")
    log(store, "Tell me about quantum fields")
    [hit] = store.search("QUANTUM weather cafe")
    assert hit.stored.id == pair_id
    marked = {excerpt.where: [excerpt.text[a:b] for a, b in excerpt.spans] for excerpt in hit.excerpts}
    assert marked == {"prompt": ["quantum"], "normal": ["café"], "steered": ["weather"]}


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("今天天气怎么样", "天气"),
        ("今日の天気はどうですか", "天気"),
        ("オフィスのデータ", "データ"),
        ("วันนี้อากาศเป็นอย่างไร", "อากาศ"),
        ("오늘 날씨가 어때요", "날씨"),
        ("ມື້ນີ້ອາກາດເປັນແນວໃດ", "ອາກາດ"),
        ("介绍GPT模型的weather预测", "gpt模型"),
        ("100%的_雨", "%的_"),
    ],
)
def test_words_without_blanks_between_them_are_found(store: Store, said: str, word: str) -> None:
    first = log(store, said, normal="plain", recipe=at(1))
    second = log(store, "hello", steered=f"before {said} after", recipe=at(2))
    log(store, "hello there", normal="100x的y雨 天 気 อา 날")
    assert ids(store.search(word)) == [second, first]
    assert ids(store.search(f"{word} hello")) == [second]
    assert ids(store.search(word, Filters(layer=1))) == [first]
    assert ids(store.search(word, Filters(layer=1, concept="happy"))) == [first]
    assert ids(store.search(word, limit=1, before_id=second)) == [first]
    assert store.search(f"{word} zebra") == [] and store.search(f"{word}{word}") == []
    [excerpt] = store.search(word)[1].excerpts
    assert excerpt.where == "prompt" and {excerpt.text[a:b].lower() for a, b in excerpt.spans} == {word}
    [excerpt] = store.search(word)[0].excerpts
    assert excerpt.where == "steered" and {excerpt.text[a:b].lower() for a, b in excerpt.spans} == {word}


def test_an_excerpt_of_a_long_answer_is_short_and_around_the_word(store: Store) -> None:
    log(store, steered="before " * 500 + "needle" + " after" * 500)
    [excerpt] = store.search("needle")[0].excerpts
    [(start, end)] = excerpt.spans
    assert excerpt.text[start:end] == "needle"
    assert len(excerpt.text) < 200


def test_filtered_searches_reach_past_the_newest_pairs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerchat.storage.queries.WINDOW", 5)
    made = [log(store, recipe=at(layer)) for layer in [1, 2] * 10]
    found = store.search("weather", Filters(layer=1), limit=8)
    assert ids(found) == made[-2::-2][:8]
    assert ids(store.search("weather", Filters(layer=1, concept="happy"), before_id=made[4])) == [made[2], made[0]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        '"', '""', "don't", "a OR b", "NOT weather", "weather*", "prompt:weather", "(", "-weather", "weather AND", "^x",
        "NEAR(a b)", "a\0b", "{x}", "\ud800 weather", "it's 100% \"sure\"", "; DROP TABLE pairs; --", "weather + +",
    ],
)  # fmt: skip
def test_punctuation_in_a_search_never_fails(store: Store, words: str) -> None:
    log(store)
    with contextlib.suppress(UsageError):
        store.search(words)
    assert ids(store.search('"weather')) == ids(store.search("weather - ?")) == [1]


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.text(max_size=40))
def test_any_text_can_be_searched_for(store: Store, text: str) -> None:
    with contextlib.suppress(UsageError):
        store.search(text)


@pytest.mark.parametrize("words", ["", "   ", '"?!"', "word " * 65])
def test_a_search_without_a_word_or_with_too_many_says_so(store: Store, words: str) -> None:
    with pytest.raises(UsageError):
        store.search(words)


def test_the_view_has_one_row_a_pair_with_both_texts(store: Store) -> None:
    session = store.start_session("smollm2", "abc")
    pair_id = log(store, recipe=MIXED, session_id=session, effect=0.4)
    store.begin_pair(asked("Not yet answered"), origin())
    rows = list(Database(store.path).query("SELECT * FROM pair_view ORDER BY id"))
    assert len(rows) == 2
    assert rows[0]["id"] == pair_id
    assert (rows[0]["normal"], rows[0]["steered"]) == ("It rains.", "What glorious rain!")
    assert (rows[0]["concepts"], rows[0]["effect"], rows[0]["session"]) == (
        "brief,happy,sad",
        0.4,
        "Tell me about the weather",
    )
    assert rows[1]["status"] == "running" and rows[1]["normal"] is None


def test_every_table_and_column_is_described(store: Store) -> None:
    described = migrations.__doc__ or ""
    for table in Database(store.path).tables:
        if table.name.startswith(("pair_search_", "sqlite_")):
            continue  # SQLite's own
        assert re.search(rf"^{table.name} ", described, re.MULTILINE), table.name
        for column in table.columns_dict:
            assert re.search(rf"\b{column}\b", described), f"{table.name}.{column}"
    assert re.search(r"^pair_view ", described, re.MULTILINE)


@pytest.mark.subprocess
def test_other_programs_read_the_view(store: Store) -> None:
    log(store, effect=0.5)
    log(store, recipe=MIXED, effect=1.5)
    sql = "SELECT concepts, round(avg(effect), 1) AS effect FROM pair_view GROUP BY concepts"
    command = [sys.executable, "-m", "sqlite_utils", "query", str(store.path), sql]
    process = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(process.stdout) == [
        {"concepts": "brief,happy,sad", "effect": 1.5},
        {"concepts": "happy", "effect": 0.5},
    ]


# Several processes, and threads


WRITER = """
with Store.open(sys.argv[1]) as store:
    for n in range(int(sys.argv[2])):
        log(store, f"number {n} of {sys.argv[3]}")
"""


@pytest.mark.subprocess
@pytest.mark.slow
def test_two_processes_write_while_a_third_reads(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with Store.open(path) as store:
        writers = [run_python(WRITER, path, 500, name) for name in ("ann", "bob")]
        while any(writer.poll() is None for writer in writers):
            for stored in store.pairs(limit=50):
                assert stored.status in ("running", "complete")
                assert stored.status == "running" or stored.pair.steered is not None
            store.search("number")
        for writer in writers:
            assert (writer.wait(), writer.communicate()[1]) == (0, "")
        assert len(store.pairs(limit=10_000)) == 1000
        for name in ("ann", "bob"):
            assert len(store.search(f"number {name}", limit=1000)) == 500
        assert {stored.status for stored in store.pairs(limit=1000)} == {"complete"}
        assert check(store.path) == []


@pytest.mark.subprocess
@pytest.mark.slow
def test_three_first_starts_at_once_all_work(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "history.db"
    starters = [run_python(WRITER, path, 1, n) for n in range(3)]
    for starter in starters:
        assert (starter.wait(), starter.communicate()[1]) == (0, "")
    with Store.open(path) as store:
        assert len(store.pairs()) == 3


VICTIM = """
store = Store.open(sys.argv[1])
for n in range(5):
    log(store, f"finished {n}")
store.start_experiment(None, "layers", "x", {})
store.begin_pair(asked("never answered"), origin())
print("ready", flush=True)
sys.stdin.read()
"""


def start_victim(path: Path) -> subprocess.Popen[str]:
    victim = run_python(VICTIM, path)
    assert victim.stdout is not None and victim.stdout.readline() == "ready\n"
    return victim


def kill(victim: subprocess.Popen[str]) -> None:
    victim.kill()
    victim.communicate()


@pytest.mark.subprocess
@pytest.mark.slow
def test_a_killed_process_leaves_an_interrupted_row_and_a_sound_file(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    kill(start_victim(path))
    with Store.open(path) as store:
        assert [stored.status for stored in store.pairs()] == ["interrupted"] + ["complete"] * 5
        assert store.pairs()[0].pair.prompt == "never answered"
        assert check(store.path) == []
        [row] = Database(path)["experiments"].rows
        assert row["status"] == "interrupted"


TELLING_WRITER = """
store = Store.open(sys.argv[1])
while True:
    print(log(store), flush=True)
"""


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_kills_at_any_moment_lose_no_finished_pair(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    for reached in (1, 4, 9, 16, 25):
        writer = run_python(TELLING_WRITER, path)
        assert writer.stdout is not None
        finished = [int(writer.stdout.readline()) for _ in range(reached)]
        os.kill(writer.pid, signal.SIGKILL)
        finished += [int(line) for line in writer.communicate()[0].splitlines(keepends=True) if line.endswith("\n")]
        with Store.open(path) as store:
            assert {store.pair(pair_id).status for pair_id in finished} == {"complete"}
            assert {stored.status for stored in store.pairs(limit=10_000)} <= {"complete", "interrupted"}
            assert check(store.path) == []


@pytest.mark.subprocess
@pytest.mark.slow
def test_a_living_neighbours_unfinished_row_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    victim = start_victim(path)
    try:
        with Store.open(path) as store:
            assert store.pairs()[0].status == "running"
    finally:
        kill(victim)


def test_closing_ends_what_was_running(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with Store.open(path) as other, Store.open(path) as store:
        mine, theirs = store.begin_pair(asked(), origin()), other.begin_pair(asked(), origin())
        store.close()
        assert (other.pair(mine).status, other.pair(theirs).status) == ("interrupted", "running")
        with pytest.raises(StoreError, match="closed"):
            store.pairs()


def test_threads_share_a_store(store: Store) -> None:
    failed: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for n in range(20):
                log(store, f"{name} {n}")
                store.pairs(limit=5)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(store.pairs(limit=10_000)) == 60


# What goes wrong


def test_a_file_that_is_not_sqlite_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.write_text("Dear diary, " * 1000)
    with pytest.raises(StoreError, match="not a SQLite file") as caught:
        Store.open(path)
    assert caught.value.hint
    assert path.read_text() == "Dear diary, " * 1000


def test_another_programs_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    Database(path)["plants"].insert({"name": "fern"}).db.close()  # type: ignore[attr-defined]
    before = path.read_bytes()
    with pytest.raises(StoreError, match="another program's"):
        Store.open(path)
    assert path.read_bytes() == before


def test_a_newer_file_is_refused_and_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with Store.open(path) as store:
        log(store)
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StoreError, match="newer steerchat") as caught:
        Store.open(path)
    assert "upgrade" in caught.value.hint
    with contextlib.closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT count(*) FROM pairs").fetchone() == (1,)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be opened"):
        Store.open(tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be"):
        Store.open(tmp_path / "file" / "history.db")


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder, and for root the rights of nobody, since root may write anywhere."""
    if os.name == "nt":
        pytest.skip("Windows folders have no read-only mode")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        root = os.geteuid() == 0
        if root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield folder
        finally:
            folder.chmod(0o755)
            if root:
                os.seteuid(0)


def test_a_read_only_folder_is_refused_with_what_to_do(unprivileged: Path) -> None:
    unprivileged.chmod(0o555)
    with pytest.raises(StoreError, match="cannot be written") as caught:
        Store.open(unprivileged / "history.db")
    assert "STEERCHAT_HOME" in caught.value.hint


@pytest.mark.parametrize("folder", [0o755, 0o555])
def test_a_file_that_cannot_be_written_is_read_and_every_write_says_what_to_do(unprivileged: Path, folder: int) -> None:
    path = unprivileged / "history.db"
    with Store.open(path) as store:
        log(store)
    path.chmod(0o444)
    unprivileged.chmod(folder)
    with Store.open(path) as store:
        assert store.refused is not None and "written" in store.refused.message
        assert ids(store.pairs()) == ids(store.search("weather")) == [1]
        with pytest.raises(StoreError, match="written") as caught:
            log(store)
        assert "permissions" in caught.value.hint


def test_an_older_file_that_cannot_be_written_is_refused(unprivileged: Path) -> None:
    path = unprivileged / "history.db"
    migrate(Database(path), path, MIGRATIONS[:1])
    path.chmod(0o444)
    with pytest.raises(StoreError, match="written"):
        Store.open(path)


FULL_DISK = """
import resource
store = Store.open(sys.argv[1])
no_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, no_limit[1]))
logged = 0
try:
    while True:
        log(store, "filling " * 2000)
        logged += 1
except StoreError as error:
    assert error.hint and "disk" in error.message, error.message
assert len(store.pairs(limit=10_000)) in (logged, logged + 1)
resource.setrlimit(resource.RLIMIT_FSIZE, no_limit)
log(store, "room again")
store.close()
print(logged)
"""


@pytest.mark.subprocess
@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="a limit on file sizes stands in for a full disk, and Windows has none")
def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    process = run_python(FULL_DISK, path)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    with Store.open(path) as store:
        complete = [stored for stored in store.pairs(limit=1000) if stored.status == "complete"]
        assert len(complete) == int(out) + 1 > 1
        assert complete[0].pair.prompt == "room again"
        assert check(store.path) == []


# Backup and migrations


def test_a_backup_is_whole_and_never_overwrites(store: Store, tmp_path: Path) -> None:
    pair_id = log(store)
    copy = backup(store.path, tmp_path / "copy.db")
    with pytest.raises(StoreError, match="exists already"):
        backup(store.path, copy)
    with pytest.raises(StoreError):
        backup(store.path, tmp_path / "no" / "folder.db")
    with Store.open(copy) as opened:
        assert opened.pair(pair_id).pair == store.pair(pair_id).pair


ADD_MOOD = "ALTER TABLE sessions ADD COLUMN mood TEXT NOT NULL DEFAULT 'calm';"
FAIL = "DROP VIEW pair_view; DROP VIEW pair_view;"


@contextlib.contextmanager
def database(path: Path) -> Iterator[Database]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as conn:
        yield Database(conn)


def test_a_migration_keeps_what_was_there_and_a_backup_of_it(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with Store.open(path) as store:
        store.start_session("smollm2", "abc")
    with database(path) as db:
        migrate(db, path, [*MIGRATIONS, ADD_MOOD])
        assert [row["mood"] for row in db["sessions"].rows] == ["calm"]
        assert db.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)
        migrate(db, path, [*MIGRATIONS, ADD_MOOD])
    [backup] = tmp_path.glob("*.backup")
    assert backup.name == f"history.db.v{len(MIGRATIONS)}.backup"
    with database(backup) as db:
        assert "mood" not in db["sessions"].columns_dict
        assert db["sessions"].count == 1


def test_a_file_of_the_first_version_is_brought_up_to_date_with_its_pairs(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    row = begin_row(asked(), origin()) | {"created": "2026-01-31T12:00:00.000Z", "status": "complete"}
    del row["vectors"], row["context"]
    with database(path) as db:
        migrate(db, path, MIGRATIONS[:1])
        db.execute("PRAGMA journal_mode = WAL")
        db["pairs"].insert(row)  # type: ignore[union-attr]
    with Store.open(path) as store:
        stored = store.pair(1)
        assert (stored.pair.prompt, stored.vectors, stored.context) == (row["prompt"], {}, [])
        assert ids(store.search("weather")) == [1]
    assert (tmp_path / "history.db.v1.backup").exists()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    with Store.open(path) as store:
        log(store)
    with database(path) as db, pytest.raises(sqlite3.OperationalError, match="no such view"):
        migrate(db, path, [*MIGRATIONS, ADD_MOOD, FAIL])
    with Store.open(path) as store:
        assert len(store.pairs()) == 1
        assert "mood" not in Database(path)["sessions"].columns_dict
        assert "pair_view" in Database(path).view_names()


def test_a_fresh_file_needs_no_backup_and_bears_its_mark(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    Store.open(path).close()
    assert not list(tmp_path.glob("*.backup"))
    with database(path) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert db.journal_mode == "wal"
