"""A class: students join with a code, each gets a key of their own, and the teacher sees all and can pause them.

A student's key is what they send in place of the token. It opens less than the token does: answers, sweeps, lessons,
and what that student asked. Nothing of a class is written to disk; keys end with the server.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
import unicodedata
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .requests import BadRequest, Field, plain_name

MAX_STUDENTS = 100
# Without letters and digits that look alike on a projector.
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
# Wrong codes within a minute, after which nobody from that address, or nobody at all, may try another one.
_WRONG_OF_ADDRESS, _WRONG_OF_ALL, _MINUTE = 20, 100, 60.0
# The names under which the history has those who are not students.
_RESERVED = ("api", "page", "serve", "teacher")
JOIN = {
    "code": Field(("string",), "the class's code, which the teacher shows", 1, 40, required=True),
    "name": Field(("string",), "who joins, for the teacher and the history", 1, 100, required=True),
}
PAUSE = {"paused": Field(("boolean",), "whether students have to wait", required=True)}


@dataclass(frozen=True)
class Client:
    """Who asks: places are shared among clients, and each has a conversation of their own in the history.

    Attributes:
        name: for the history.
        joined: tells apart who joined a class, also under a name that somebody had before; empty for everyone else.
    """

    name: str
    joined: str = ""


@dataclass
class _Student:
    client: Client
    asked: int = 0


class Classroom:
    """Who joined, and whether they have to wait.

    Args:
        clock: seconds; of another clock in tests.

    Attributes:
        code: what students need to join.
        paused: whether they have to wait.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.code = "".join(secrets.choice(_LETTERS) for _ in range(6))
        self.paused = False
        self._clock = clock
        self._students: dict[str, _Student] = {}  # by a digest of their key: how long a look takes tells nothing of it
        self._wrong: deque[tuple[float, str]] = deque(maxlen=_WRONG_OF_ALL)  # when, and from which address

    def join(self, code: str, name: str, address: str) -> tuple[str, str]:
        """The key of a new student, and the name that they have from now on.

        Raises BadRequest when the code is wrong, too many were, the name cannot be had, or the class is full.
        """
        now = self._clock()
        while self._wrong and now - self._wrong[0][0] > _MINUTE:
            self._wrong.popleft()
        if len(self._wrong) == _WRONG_OF_ALL or sum(other == address for _, other in self._wrong) >= _WRONG_OF_ADDRESS:
            raise BadRequest("too many wrong codes: try again in a minute", status=429, code="rate_limit_exceeded")
        if not hmac.compare_digest(code.strip().upper().encode("utf-8", "replace"), self.code.encode()):
            self._wrong.append((now, address))
            raise BadRequest("this is not the class's code", "code", 403, "wrong_code")
        name = plain_name(unicodedata.normalize("NFKC", name))
        if not name or name.casefold() in _RESERVED:
            raise BadRequest("a name has letters or digits, and is not the server's own", "name")
        if any(student.client.name.casefold() == name.casefold() for student in self._students.values()):
            raise BadRequest(f"there is a student {name} already: choose another name", "name", 409)
        if len(self._students) >= MAX_STUDENTS:
            raise BadRequest(f"the class is full: it has {MAX_STUDENTS} students", status=409)
        key = secrets.token_urlsafe(24)
        digest = _digest(key)
        self._students[digest] = _Student(Client(name, digest))
        return key, name

    def find(self, key: str) -> Client | None:
        """The student with this key."""
        student = self._students.get(_digest(key))
        return None if student is None else student.client

    def admit(self, client: Client, method: str, may: bool) -> None:
        """Let a student's request in, or raise BadRequest. `may`: whether a key opens what is asked for."""
        if not may:
            raise BadRequest("this is the teacher's: it needs the token", status=403, code="teacher_only")
        if method == "POST":
            if self.paused:
                raise paused()
            self._students[client.joined].asked += 1

    def remove(self, name: str) -> Client:
        """Take a student out: their key opens nothing from now on. Raises BadRequest where there is none."""
        for digest, student in self._students.items():
            if student.client.name == name:
                del self._students[digest]
                return student.client
        raise BadRequest("there is no such student", "name", 404, "not_found")

    def described(self, client: Client) -> dict[str, Any]:
        """What a client may know of the class."""
        facts: dict[str, Any] = {"object": "class", "paused": self.paused}
        if client.joined:
            return facts | {"role": "student", "name": client.name}
        students = [{"name": each.client.name, "asked": each.asked} for each in self._students.values()]
        return facts | {"role": "teacher", "code": self.code, "students": students}


def paused() -> BadRequest:
    """What a student is told who has to wait."""
    return BadRequest("the teacher has paused the class: wait a moment", status=403, code="paused")


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
