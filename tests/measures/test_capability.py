"""The shipped questions have one right answer each, and a model is asked as its setting says."""

from __future__ import annotations

import itertools
import operator
from collections import Counter

from steerchat.measures.capability import questions

OPERATORS = {"+": operator.add, "-": operator.sub, "x": operator.mul}


def test_every_question_has_one_right_answer_and_three_wrong_ones_of_like_length() -> None:
    asked = questions()
    assert Counter(quiz.category for quiz in asked) == {"facts": 73, "arithmetic": 50, "copying": 50, "grammar": 50}
    assert len({quiz.question for quiz in asked}) == len(asked)
    for quiz in asked:
        right, *wrong = quiz.answers
        assert len(wrong) == len(set(wrong)) == 3 and right not in wrong, quiz
        # An answer that goes on from another one would always be the less likely one.
        assert not any(a.startswith(b) for a, b in itertools.permutations(quiz.answers, 2)), quiz
        assert all(abs(len(right) - len(answer)) <= 5 for answer in wrong), quiz


def test_sums_are_right_and_the_other_answers_wrong() -> None:
    def holds(answer: str) -> bool:
        first, sign, second, _, result = answer.split()
        return OPERATORS[sign](int(first), int(second)) == int(result)

    for quiz in questions():
        if quiz.category == "arithmetic":
            assert [holds(answer) for answer in quiz.answers] == [True, False, False, False], quiz


def test_what_is_to_be_copied_stands_in_the_question_alone() -> None:
    for quiz in questions():
        if quiz.category == "copying":
            right, *wrong = (answer.lower() for answer in quiz.answers)
            said = quiz.question.lower()
            assert right in said, quiz
            exact = quiz.question.startswith(("Repeat", "Say", "Copy"))
            assert not exact or not any(answer in said for answer in wrong), quiz
