"""A class: who joins sees their own work alone, the teacher sees all and can pause, and nobody guesses the code."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import openai
import pytest
from serving import Running, Serving

from steerchat.serve.classroom import MAX_STUDENTS, Classroom
from steerchat.serve.requests import BadRequest
from steerchat.serve.web import ENDPOINTS

TOKEN = "the teacher's"


@pytest.fixture
def lesson(serving: Serving) -> Running:
    """A server with a class."""
    return serving(guard={"token": TOKEN}, classroom=Classroom())


def code(server: Running) -> str:
    assert server.service.classroom is not None
    return server.service.classroom.code


def join(server: Running, name: str) -> str:
    """A new student's key."""
    with server.http() as http:
        joined = http.post("/v1/class/join", json={"code": code(server), "name": name})
    assert joined.status_code == 201, joined.text
    return joined.json()["key"]


def as_client(server: Running, key: str) -> httpx.Client:
    return server.http(headers={"authorization": f"Bearer {key}"})


def say(server: Running, key: str, prompt: str, **body: Any) -> httpx.Response:
    with as_client(server, key) as http:
        given = {"model": server.service.base, "messages": [{"role": "user", "content": prompt}], "max_tokens": 3}
        return http.post("/v1/chat/completions", json=given | body)


def listed(server: Running, key: str) -> list[dict[str, Any]]:
    with as_client(server, key) as http:
        return http.get("/v1/pairs?limit=100").json()["data"]


def test_each_student_sees_their_own_pairs_and_the_teacher_all_with_names(lesson: Running):
    anna, ben = join(lesson, "Anna"), join(lesson, "Ben")
    assert listed(lesson, anna) == []
    say(lesson, anna, "Annas secret", steer="happy 2 4.0", user="Ben")  # a name of another does not help
    say(lesson, ben, "Bens secret")
    with as_client(lesson, anna) as http:
        http.post("/v1/sweeps", json={"prompt": "Annas sweep", "concept": "happy", "max_tokens": 2}).raise_for_status()
    assert {pair["prompt"] for pair in listed(lesson, anna)} == {"Annas secret", "Annas sweep"}
    assert [pair["prompt"] for pair in listed(lesson, ben)] == ["Bens secret"]
    everything = listed(lesson, TOKEN)
    assert {(pair["client"], pair["prompt"]) for pair in everything} == {
        ("Anna", "Annas secret"), ("Ben", "Bens secret"), ("Anna", "Annas sweep"),
    }  # fmt: skip
    assert {stored.sampling["client"] for stored in lesson.service.store.pairs()} == {"Anna", "Ben"}


def test_a_name_that_somebody_had_before_opens_nothing_of_theirs(lesson: Running):
    first = join(lesson, "Anna")
    say(lesson, first, "A secret")
    with as_client(lesson, TOKEN) as http:
        left = http.delete("/v1/class/students/Anna").json()
        assert left["students"] == [] and http.delete("/v1/class/students/Anna").status_code == 404
    assert say(lesson, first, "Still there?").status_code == 401
    assert listed(lesson, join(lesson, "Anna")) == []
    say(lesson, TOKEN, "The teacher as Anna", user="Anna")
    assert listed(lesson, join(lesson, "Anna 2")) == []


def test_a_students_key_opens_what_is_theirs_and_no_other_path(lesson: Running):
    key = join(lesson, "Anna")
    new = {"name": "loud", "positive": "HELLO", "negative": "hello"}
    with as_client(lesson, key) as http:
        for method, path, body in (
            ("POST", "/v1/concepts", new),
            ("DELETE", "/v1/concepts/happy", None),
            ("GET", "/metrics", None),
            ("HEAD", "/metrics", None),
            ("POST", "/v1/class/pause", {"paused": True}),
            ("DELETE", "/v1/class/students/Anna", None),
        ):
            refused = http.request(method, path, json=body)
            assert refused.status_code == 403, (method, path)
        assert http.get("/v1/models").status_code == http.get("/v1/concepts/happy").status_code == 200
        assert http.get("/v1/class").json() == {"object": "class", "paused": False, "role": "student", "name": "Anna"}
    # What is new on the server is closed to students until somebody decides otherwise.
    closed = {(m, path) for path, methods in ENDPOINTS.items() for m, each in methods.items() if not each.students}
    assert closed == {
        ("POST", "/v1/concepts"), ("DELETE", "/v1/concepts/{name}"), ("POST", "/v1/class/join"),
        ("POST", "/v1/class/pause"), ("DELETE", "/v1/class/students/{name}"), ("GET", "/health"), ("GET", "/metrics"),
    }  # fmt: skip


def test_nobody_gets_in_without_the_code_the_key_or_the_token(lesson: Running):
    with lesson.http() as http:
        for path in ("/v1/models", "/v1/pairs", "/v1/class", "/metrics"):
            assert http.get(path).status_code == 401
        for wrong in ("", "AAAAAA", code(lesson)[:5], f"{code(lesson)}x", "\ud800"):
            body = json.dumps({"code": wrong, "name": "x"})
            refused = http.post("/v1/class/join", content=body, headers={"content-type": "application/json"})
            assert refused.status_code in (400, 403) and "key" not in refused.text
        assert http.get("/health").json()["access"] == "class"
    assert say(lesson, "x" * 32, "Hello").status_code == 401
    with pytest.raises(openai.AuthenticationError):
        lesson.client(api_key=code(lesson)).models.list()
    assert lesson.client(api_key=join(lesson, "Anna")).models.list().data


@pytest.mark.parametrize("name", ["  ", "<>", "teacher", "Page", "\u202e"])
def test_names_without_a_letter_and_those_of_the_server_cannot_be_had(name: str):
    with pytest.raises(BadRequest, match="a name has letters"):
        (room := Classroom()).join(room.code, name, "here")


def test_names_are_plain_and_each_is_had_once():
    room = Classroom()
    _, name = room.join(room.code.lower(), "<img src=x onerror=alert(1)> Zoë" + "x" * 90, "here")
    assert name == "img srcx onerroralert1 Zoë" + "x" * 14
    room.join(room.code, "Zoë", "here")
    with pytest.raises(BadRequest, match="already") as caught:
        room.join(room.code, "ZOE\u0308", "here")
    assert caught.value.status == 409


def test_codes_can_be_guessed_a_few_times_a_minute_only():
    now = [0.0]
    room = Classroom(lambda: now[0])

    def tries(number: int, address: str) -> list[int]:
        states = []
        for _ in range(number):
            with pytest.raises(BadRequest) as caught:
                room.join("000000", "x", address)
            states.append(caught.value.status)
        return states

    assert tries(22, "one") == [403] * 20 + [429] * 2
    with pytest.raises(BadRequest, match="too many wrong codes"):
        room.join(room.code, "x", "one")  # the right code does not tell itself apart then
    room.join(room.code, "from elsewhere", "two")
    for other in range(4):
        tries(20, f"other {other}")
    assert tries(1, "the hundred and first") == [429]
    now[0] = 61.0
    room.join(room.code, "x", "one")


def test_a_class_has_an_end():
    room = Classroom()
    for number in range(MAX_STUDENTS):
        room.join(room.code, f"student {number}", "here")
    with pytest.raises(BadRequest, match="full"):
        room.join(room.code, "one more", "here")
    room.remove("student 7")
    room.join(room.code, "one more", "here")


def test_a_pause_breaks_off_what_students_ask_and_not_the_teachers(lesson: Running):
    key = join(lesson, "Anna")
    answers: dict[str, httpx.Response] = {}

    def ask(who: str, key: str, tokens: int) -> None:
        answers[who] = say(lesson, key, "A long one", max_tokens=tokens, n=4)  # one may end early

    asking = [threading.Thread(target=ask, args=given) for given in (("student", key, 400), ("teacher", TOKEN, 400))]
    for thread in asking:
        thread.start()
    lesson.wait(lambda: lesson.service.rows.running > 4)
    with as_client(lesson, TOKEN) as http:
        assert http.post("/v1/class/pause", json={"paused": True}).json()["students"] == [{"name": "Anna", "asked": 1}]
    for thread in asking:
        thread.join()
    assert answers["student"].status_code == 403 and answers["student"].json()["error"]["code"] == "paused"
    assert answers["teacher"].status_code == 200 and len(answers["teacher"].json()["choices"]) == 4
    assert say(lesson, key, "Now?").json()["error"]["code"] == "paused"
    with as_client(lesson, key) as http:
        assert http.get("/v1/class").json()["paused"] is True
    with as_client(lesson, TOKEN) as http:
        http.post("/v1/class/pause", json={"paused": False})
    assert say(lesson, key, "Now?").status_code == 200
    server_pairs = {pair["status"] for pair in listed(lesson, key)}
    assert server_pairs == {"interrupted", "complete"}


def test_one_student_does_not_take_the_places_of_all(lesson: Running):
    anna, ben = join(lesson, "Anna"), join(lesson, "Ben")
    first = threading.Thread(target=say, args=(lesson, anna, "Many"), kwargs={"n": 16, "max_tokens": 400})
    first.start()
    lesson.wait(lambda: lesson.service.rows.running > 0)
    refused = say(lesson, anna, "One more")
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    assert say(lesson, ben, "Mine").status_code == 200
    with as_client(lesson, TOKEN) as http:
        http.post("/v1/class/pause", json={"paused": True})
    first.join()


def test_a_server_without_a_class_has_none(serving: Serving):
    server = serving()
    with server.http() as http:
        assert http.get("/v1/class").status_code == 404
        assert http.post("/v1/class/join", json={"code": "x", "name": "y"}).status_code == 404
        assert http.get("/health").json()["access"] == "open"
