"""/concept evaluate, /compare-methods and /chance: concepts, methods and random directions over many prompts."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

from .._version import __version__
from ..conversation.chat import Chat
from ..conversation.runner import Runner
from ..experiments.charts import gains
from ..experiments.tuning import DEFAULT_BUDGET, budget_of
from ..measures.capability import questions as capability_questions
from ..measures.words import INDEPENDENT
from ..slash.arguments import Concept, Float, Int, Many, PathArg, TermWord
from ..slash.registry import command
from ..system import folders
from ..values.chart import in_form
from ..values.errors import Interrupted, UsageError
from ..values.page import Page, Table
from ..values.recipe import TermRequest, format_strength, parse_term
from ..values.results import Event, Notice

if TYPE_CHECKING:
    from ..experiments.evaluation import Evaluation
    from ..experiments.methods import MethodRow, Summary

    _Row = TypeVar("_Row", Evaluation, MethodRow)

_HEADINGS = ("concept", "setting", "normal", "steered", "random", "asked", "gain (95%)", "over random", "cost")


@command(
    "concept evaluate",
    examples=["/concept evaluate", "/concept evaluate happy:16:2.0 sad", "/concept evaluate --prompts mine.txt happy"],
    group="Concepts",
    shell=True,
    parallel=True,
)
def evaluate(
    chat: Chat,
    concepts: Annotated[tuple[TermRequest, ...], Many(TermWord, "concepts with or without a setting, or all")] = (),
    *,
    seeds: Annotated[int, Int("the number of answers to each prompt", least=1, most=50)] = 3,
    prompts: Annotated[Path | None, PathArg("a file with a prompt a line, for other prompts")] = None,
    prompts_used: Annotated[int, Int("the number of prompts", least=2, most=100)] = 12,
    directions: Annotated[int, Int("the number of random directions to compare with", least=1, most=50)] = 2,
) -> Iterator[Event]:
    """Measures concepts by word lists and length, against random directions and against asking in the prompt.

    No measure here uses a concept's own vector. All answers use the same seeds, on prompts that were not used for
    tuning; `happy:16:2.0` tries a setting in place of the recommended one. A gain is steered minus normal, above 0
    towards the concept; its interval is a bootstrap over prompts. The map shows what else moved: there each gain is
    divided by its measure's spread over the normal answers, so that gains compare. A concept takes about a minute on
    a laptop with two cores.
    """
    from ..experiments.evaluation import evaluate as evaluate_each

    named = concepts or tuple(parse_term(name) for name in chat.library.names() if name in INDEPENDENT)
    chosen = folders.read_prompts(prompts) if prompts else folders.shipped_prompts("evaluation")
    if len(chosen) < 2:
        raise UsageError(f"{prompts} holds one prompt", "an interval over prompts needs at least two")
    options = f"--seeds {seeds} --prompts-used {prompts_used} --directions {directions}"
    options += f" --prompts {prompts.name}" if prompts else ""
    rows = evaluate_each(_runner(chat), chosen[:prompts_used], range(seeds), named, directions)

    def command_line(row: Evaluation) -> str:
        return f"concept evaluate {row.concept}:{row.layers}:{format_strength(row.strength)} {options}"

    def lines(rows: Sequence[Evaluation]) -> list[object]:
        return [_line(row) for row in rows] if len(named) > 1 else []

    return _by_concept(([row] for row in rows), len(named), command_line, lines, _side_by_side)


def _by_concept(
    run: Iterable[Sequence[_Row]],
    total: int,
    command_line: Callable[[_Row], str],
    lines: Callable[[Sequence[_Row]], list[object]],
    summary: Callable[[Sequence[_Row]], list[object]],
) -> Iterator[Event]:
    """The rows of each concept as they are measured, then all of them; what a stop leaves is shown."""
    measured: list[Sequence[_Row]] = []
    version = _version()  # now: the checkout may be at another commit at the end
    try:
        for rows in run:
            measured.append(rows)
            about = {"command": f"steerchat {command_line(rows[0])} --json", "version": version}
            yield Page(lines(rows), [row.to_json() | about for row in rows])
    except Interrupted:
        if not measured:
            raise
        yield Notice(f"stopped after {len(measured)} of {total} concepts")
    yield Page(summary([row for rows in measured for row in rows]))


@command(
    "compare-methods",
    examples=[
        "/compare-methods happy",
        "/compare-methods --cost 2 happy formal pirate",
        "/compare-methods --kl 1 happy",
    ],
    group="Experiments",
    shell=True,
)
def compare_methods(
    chat: Chat,
    concepts: Annotated[tuple[str, ...], Many(Concept, "the concepts; all that have a word measure by default")] = (),
    *,
    cost: Annotated[float | None, Float("what every method may cost; 1.5 by default", least=1.05, most=50)] = None,
    kl: Annotated[float | None, Float("the KL that every method may have instead", least=0.01, most=20)] = None,
    seeds: Annotated[int, Int("the number of answers to each prompt", least=1, most=50)] = 2,
    prompts_used: Annotated[int, Int("the number of prompts", least=2, most=24)] = 12,
) -> Iterator[Event]:
    """Compares operations and ways of extraction at equal cost, or at equal KL.

    For each concept: adding its vector, adding vectors of the other ways of extraction, turning, aiming, and taking
    away or bounding its opposite where it has one. The strength of each is the one at which its answers
    cost so much, or have the KL that /help tune explains; where there is no strength, as for ablation, both are what
    they are. Gains are by word measures, which use no vector, in spreads of the normal answers. A few minutes a concept
    on a laptop; Ctrl-C keeps what is done.
    """
    from ..experiments.methods import compare_methods as compare_each
    from ..experiments.methods import summaries

    budget = budget_of(cost, kl) or DEFAULT_BUDGET
    named = concepts or tuple(name for name in chat.library.names() if name in INDEPENDENT)
    options = f"--{budget.of} {budget.most:g} --seeds {seeds} --prompts-used {prompts_used}"
    judged = folders.shipped_prompts("evaluation")[:prompts_used]
    run = compare_each(_runner(chat), named, budget, judged, range(seeds), capability_questions()[::4])

    def summary(rows: Sequence[MethodRow]) -> list[object]:
        several = len({row.concept for row in rows}) > 1
        return _overall(summaries([row.to_json() for row in rows])) if several else []

    return _by_concept(run, len(named), lambda row: f"compare-methods {row.concept} {options}", _methods, summary)


def _methods(rows: Sequence[MethodRow]) -> list[object]:
    """A concept's methods."""
    headings = ["method", "at", "words (95%)", "specific", "effect", "cost", "again", "right"]
    cells = [
        [
            row.method.replace("the ", ""),
            row.typed.partition(" x ")[2],
            "{:+.1f} ({:.1f}..{:.1f})".format(*row.gain),
            f"{row.specificity[0]:+.1f}",
            f"{row.effect:+.1f}",
            f"x{row.cost:.1f}",
            f"{row.repetition:.0%}",
            f"{row.right:.0%}",
        ]
        for row in rows
    ]
    if rows[0].kl is not None:
        headings.append("KL")
        for cell, row in zip(cells, rows, strict=True):
            cell.append(in_form("number", row.kl))
    where = rows[0].typed.partition(" x ")[0]
    return [f"{rows[0].concept} at layers {where}:", Table(headings, cells, right=frozenset((1, *range(3, 9))))]


def _overall(compared: Sequence[Summary]) -> list[object]:
    """The methods over all concepts."""
    headings = ("method", "words", "more", "less", "specific", "cost", "again", "right")
    cells = [
        (
            each.method.replace("the ", ""),
            f"{each.gain:+.1f}",
            f"{each.more} of {each.concepts}",
            f"{each.less} of {each.concepts}",
            f"{each.specificity:+.1f}",
            f"x{each.cost:.1f}",
            f"{each.repetition:.0%}",
            f"{100 * each.kept:+.0f}%",
        )
        for each in compared
    ]
    legend = "More, less: for how many concepts a method clearly gains more or less than adding. Right: against normal."
    return ["All concepts:", Table(headings, cells, right=frozenset(range(1, 8))), Notice(legend)]


def _interval(mean_low_high: tuple[float, float, float]) -> str:
    return "{:+.1f} ({:+.1f} .. {:+.1f})".format(*mean_low_high)


@command("chance", examples=["/chance", "/chance --quick"], group="Experiments", shell=True, parallel=True)
def chance(chat: Chat, *, quick: Annotated[bool, "use fewer directions, for a rougher band"] = False) -> Page:
    """Measures the chance band of this model: the effects of random directions. Keeps it.

    The model is steered with random directions, and every shipped concept is scored: the middle 95% of the effects is
    the chance band, which is shown beside every effect. The default model's band ships. A quarter of an hour on a
    laptop.
    """
    from ..experiments.chance import measure_chance

    names = [name for name in chat.library.names() if chat.library.ships(name)]
    prompts, seeds, directions = (4, 2, 4) if quick else (6, 4, 6)
    measured = measure_chance(
        _runner(chat), folders.shipped_prompts("tuning")[:prompts], range(seeds), names, directions
    )
    path = chat.session.calibration.keep_chance(measured)
    cells = []
    for cell in measured.cells:
        (low, high), (low8, high8) = (measured.band(cell.strength, cell.tokens, repeats) for repeats in (1, 8))
        cells.append(
            (f"{cell.strength:g}", str(cell.tokens), f"{low:+.1f} .. {high:+.1f}", f"{low8:+.1f} .. {high8:+.1f}")
        )
    table = Table(("strength", "tokens", "one pair", "mean of 8"), cells, right=frozenset((0, 1)))
    return Page([table, f"kept in {path}"], [measured.to_json()])


def _version() -> str:
    """steerchat's version; in a checkout with the commit."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", __file__], check=True, capture_output=True)
        commit = subprocess.run([*git, "describe", "--always", "--dirty"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__}+{commit.stdout.strip()}"


def _runner(chat: Chat) -> Runner:
    """Answers outside the conversation, which are not logged; it remembers them."""
    return Runner(chat.session.reader, memo={})


def _line(row: Evaluation) -> str:
    """A concept's figures in a line."""
    first = max(row.gains, key=lambda name: row.gains[name])
    most = "moves its own measure most" if first == row.concept else f"moves {first} most"
    setting, cost = f"{row.layers} x {format_strength(row.strength)}", f"cost x{row.perplexity_ratio:.1f}"
    return f"{row.concept} {setting}: {row.normal:.1f} -> {row.steered:.1f} {row.unit}, {cost}; {most}"


def _side_by_side(rows: Sequence[Evaluation]) -> list[object]:
    cells = [
        (
            row.concept,
            f"{row.layers} x {row.strength:g}",
            *(f"{value:.1f}" for value in (row.normal, row.steered, row.random, row.asked)),
            _interval(row.gain),
            _interval(row.over_random),
            f"x{row.perplexity_ratio:.1f}",
        )
        for row in rows
    ]
    special = [(row.concept, _interval(row.specificity), f"{row.other} {row.gains[row.other]:+.1f}") for row in rows]
    samples = [(row, *row.samples[0]) for row in rows]
    return [
        Table(_HEADINGS, cells, right=frozenset(range(2, 6))),
        gains([(row.concept, row.gains) for row in rows]),
        Table(("concept", "own gain less the largest other (95%)", "largest other"), special),
        *(f"{row.concept} ({row.unit}): {prompt} -> {steered}" for row, prompt, _, steered in samples),
    ]
