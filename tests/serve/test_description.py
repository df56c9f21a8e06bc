"""The server keeps to its own OpenAPI description, whatever schemathesis makes of it."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from serving import Serving

from steerchat.serve.classroom import Classroom

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    unsupported_method,
]  # fmt: skip
EXAMPLES = 12  # of each operation
HEADERS = {"authorization": "Bearer sesame"}


@pytest.mark.slow
@pytest.mark.fuzz
def test_no_request_that_the_description_allows_breaks_the_server(serving: Serving):
    # The model holds 512 tokens, so that no answer is long whatever a request says.
    room = Classroom()
    server = serving(guard={"token": "sesame"}, classroom=room, max_tokens=2, rows=16)
    tried: list[str] = []

    def attempt(operation: Any) -> None:
        turns = itertools.cycle((True, False))

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        )
        @given(operation.as_strategy())
        def answers(case: Any) -> None:
            # No description can say which names are there, or that the last message is the user's. The first request,
            # which is the simplest, and every second one after it are mended so.
            given = {"model": server.service.base, "concept": "happy", "code": room.code}
            given |= {"messages": [{"role": "user", "content": "Hello"}]}
            if next(turns):
                for name in given.keys() & (case.body.keys() if isinstance(case.body, dict) else ()):
                    case.body[name] = given[name]
                if "name" in case.path_parameters:
                    case.path_parameters["name"] = "strength" if "lessons" in operation.path else "happy"
            case.call_and_validate(headers=HEADERS, checks=CHECKS)

        answers()
        tried.append(operation.label)

    operations: Any = schemathesis.openapi.from_url(f"{server.url}/openapi.json").get_all_operations()
    for operation in operations:
        attempt(operation.ok())
    assert len(tried) > 15 and server.is_idle()
    answered = set(re.findall(r'path="(\S+?)",status="20[01]"', server.service.meter.page().decode()))
    assert answered >= {"/v1/chat/completions", "/v1/completions", "/v1/sweeps", "/v1/concepts/{name}", "/v1/pairs"}
