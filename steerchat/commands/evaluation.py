"""/concept evaluate: do the concepts do what their names say, by measures that do not use their vectors?"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from .. import folders
from ..arguments import Concept, Int, Many, Option
from ..chat import Chat
from ..lexicons import INDEPENDENT
from ..registry import command
from ..text import Page, Table

if TYPE_CHECKING:
    from ..trials import Evaluation

_HEADINGS = ("concept", "setting", "normal", "steered", "random", "asked", "gain (95%)", "over random", "cost")


@command(
    "concept evaluate", examples=["/concept evaluate", "/concept evaluate happy sad"], group="Concepts", shell=True
)
def evaluate(
    chat: Chat,
    concepts: Annotated[tuple[str, ...], Many(Concept, "which; all that can be measured when left out")] = (),
    *,
    seeds: Annotated[int, Option("answers to each prompt", Int(least=1, most=50))] = 3,
    prompts: Annotated[int, Option("how many of the evaluation prompts", Int(least=2, most=24))] = 12,
    directions: Annotated[int, Option("random directions to compare with", Int(least=1, most=50))] = 4,
) -> Page:
    """Measures concepts by word lists and length, against random directions and against asking.

    Nothing here uses a concept's own vector. Every answer is given under the same seeds, on prompts that no setting
    was chosen on. A gain is steered minus normal, above 0 towards the concept; its interval is a bootstrap over
    prompts. All seventeen take half an hour on a laptop.
    """
    from ..trials import Trials
    from ..trials import evaluate as judge

    session = chat.session
    text = (folders.packaged("vectors") / "prompts.toml").read_text(encoding="utf-8")
    chosen = tomllib.loads(text)["evaluation"][:prompts]
    names = [name for name in (concepts or chat.library.names()) if concepts or name in INDEPENDENT]
    for name in names:
        chat.library.get(name)
    trials = Trials(session.engine, chat.library, chosen, range(seeds), session.report, session.stop.is_set)
    rows = list(judge(trials, chat.library, names, directions))
    return Page(list(_shown(rows)), [row.to_json() for row in rows])


def _shown(rows: list[Evaluation]) -> Iterator[object]:
    cells = [
        (
            row.concept,
            f"{row.layers} x {row.strength:g}",
            *(f"{value:.1f}" for value in (row.normal, row.steered, row.random, row.asked)),
            "{:+.1f} ({:+.1f} .. {:+.1f})".format(*row.gain),
            "{:+.1f} ({:+.1f} .. {:+.1f})".format(*row.over_random),
            f"x{row.perplexity_ratio:.1f}",
        )
        for row in rows
    ]
    yield Table(_HEADINGS, cells, right=frozenset(range(2, 6)))
    for row in rows:
        prompt, _, steered = row.samples[0]
        yield f"{row.concept} ({row.unit}): {prompt} -> {steered}"
