"""Methods side by side at equal cost, on a tiny engine: the arithmetic, not the science."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import a_library

from steerchat.conversation.runner import Runner
from steerchat.engine.engine import Engine
from steerchat.experiments.methods import MethodRow, compare_methods, summaries
from steerchat.experiments.tuning import Budget
from steerchat.measures.calibration import Calibration
from steerchat.measures.capability import questions
from steerchat.measures.reader import Reader
from steerchat.values.errors import ConceptError, Interrupted
from steerchat.values.results import Watch

PROMPTS = ["How are you?", "What is rain?"]
ASKED = questions()[::40]


def runner_of(engine: Engine, folder: Path, stopped: Callable[[], bool] = lambda: False) -> Runner:
    library = a_library(folder)
    return Runner(Reader(engine, library, Calibration(library), Watch(stopped=stopped)), memo={})


def compared(runner: Runner, *concepts: str, budget: Budget = Budget("cost", 1.2)) -> Iterator[list[MethodRow]]:
    return compare_methods(runner, concepts, budget, PROMPTS, [0], ASKED)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [Budget("cost", 1.2), Budget("kl", 0.3)])
def test_every_method_is_judged_by_the_same_answers_and_questions(tiny: Engine, tmp_path: Path, budget: Budget) -> None:
    [happy] = compared(runner_of(tiny, tmp_path), "happy", budget=budget)
    if budget.of == "kl":
        assert all(row.kl is not None and (row.method.startswith("ablate") or 0.1 < row.kl < 0.9) for row in happy)
    names = [row.method for row in happy]
    assert names[0] == "add" and {"add pca", "add last", "rotate", "aim", "ablate the opposite"} < set(names)
    assert happy[0].against_add == (0.0, 0.0, 0.0)
    for row in happy:
        assert row.answers == len(PROMPTS) and 0 <= row.right <= 1
        assert row.against_add[0] == pytest.approx(row.gain[0] - happy[0].gain[0])
        assert row.specificity[1] <= row.specificity[0] <= row.specificity[2]


@pytest.mark.slow
def test_a_stop_keeps_the_concepts_before_it(tiny: Engine, tmp_path: Path) -> None:
    done: list[list[MethodRow]] = []
    runner = runner_of(tiny, tmp_path, lambda: bool(done))
    with pytest.raises(Interrupted):
        done.extend(compared(runner, "happy", "sad"))
    assert [row.concept for row in done[0]] == ["happy"] * len(done[0])


def test_a_concept_that_only_its_own_vector_measures_is_refused(tiny: Engine, tmp_path: Path) -> None:
    with pytest.raises(ConceptError, match="nothing measures random"):
        next(compared(runner_of(tiny, tmp_path), "happy", "random"))


def test_a_summary_is_over_concepts() -> None:
    def row(concept: str, method: str, gain: float, cost: float) -> dict[str, object]:
        figures = [gain, gain - 1.5, gain + 1.5]
        numbers = {"gain": figures, "against_add": figures, "specificity": figures, "kept": figures}
        return {"concept": concept, "method": method, "cost": cost, "repetition": 0.1, **numbers}

    rows = [row("a", "add", 1.0, 1.0), row("b", "add", 3.0, 4.0), row("c", "add", -2.0, 8.0), row("a", "aim", 5.0, 2.0)]
    add, aim = summaries(rows)
    assert (add.method, add.concepts, add.more, add.less) == ("add", 3, 1, 1)
    assert add.gain == pytest.approx(2 / 3) and add.cost == pytest.approx(32 ** (1 / 3))
    assert (aim.concepts, aim.gain, aim.more, aim.less) == (1, 5.0, 1, 0)
