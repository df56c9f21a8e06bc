"""Capability: how many short questions with one right answer a steered model still gets right.

Cost and repetition say how an answer reads. They do not say whether it is true: a fluent model may no longer know what
the capital of France is. So each answer is weighed against three wrong ones by its likelihood, which needs no sampling:
a question counts as right when the right answer is likelier than each wrong one. Of guesses, a quarter is right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..system import folders
from ..system.untrusted import read_toml
from ..values.errors import SteerchatError
from ..values.recipe import Recipe
from ..values.setting import Setting
from .reader import Reader

CHANCE = 0.25
"""The share that is right by chance."""


@dataclass(frozen=True)
class Quiz:
    """A question, and the answers that a model chooses from; the first one is right."""

    category: str
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Capability:
    """Which questions a model got right under a setting. `right`: for each question of a category, by the category."""

    right: dict[str, tuple[bool, ...]]

    @property
    def all(self) -> tuple[bool, ...]:
        return tuple(answer for answers in self.right.values() for answer in answers)

    @property
    def share(self) -> float:
        """Of all questions."""
        return sum(self.all) / len(self.all)

    def to_json(self) -> dict[str, float]:
        """The share of each category, and of `all`."""
        shares = {name: sum(answers) / len(answers) for name, answers in self.right.items()}
        return {name: round(share, 4) for name, share in (shares | {"all": self.share}).items()}


def questions(path: Path | None = None) -> tuple[Quiz, ...]:
    """The shipped questions, or those of another file of its form.

    Raises SteerchatError when the file cannot be read.
    """
    file = path or folders.packaged("vectors") / "texts" / "questions.toml"
    try:
        return tuple(
            Quiz(category, question, tuple(answers))
            for category, entries in read_toml(file).items()
            for question, answers in entries.items()
        )
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise SteerchatError(f"the questions in {file} cannot be read", str(error)) from error


def capability(
    reader: Reader, settings: Sequence[Setting], asked: Sequence[Quiz], seed: int = 0, label: str = "asking questions"
) -> dict[str, Capability]:
    """Ask the normal model, and it under each setting, every question by itself, without a system message or a thought.

    Args:
        settings: no two have the same label.
        seed: of the concept `random`.

    Returns:
        for `normal`, and for the label of each setting.

    Raises:
        Interrupted: when the reader is stopped.
    """
    from ..engine.choices import likelihoods
    from ..engine.decoding import Row

    settings = [Setting("normal", Recipe()), *settings]
    prompter = reader.engine.prompter
    rows, choices = [], []
    # Settings side by side: what they ask alike is computed once.
    for quiz in asked:
        texts = [tuple(prompter.reply(answer)) for answer in quiz.answers]
        for setting in settings:
            messages = setting.asked([{"role": "user", "content": quiz.question}])
            recipe = setting.recipe
            edits = reader.edits(recipe, setting.drawn(seed), quiz.question) if recipe.active else ()
            rows.append(Row(tuple(prompter.chat(messages, thought=False)), edits, scope=recipe.scope))
            choices.append(texts)

    scores = likelihoods(reader.engine, rows, choices, lambda done: reader.watch.progress(label, done, len(rows)))
    right = [all(first > other for other in others) for first, *others in scores]
    categories = dict.fromkeys(quiz.category for quiz in asked)
    return {
        setting.label: Capability(
            {
                category: tuple(
                    right[number * len(settings) + place]
                    for number, quiz in enumerate(asked)
                    if quiz.category == category
                )
                for category in categories
            }
        )
        for place, setting in enumerate(settings)
    }
