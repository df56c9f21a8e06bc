"""/concept evaluate: do the concepts do what their names say, by measures that do not use their vectors?"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from .. import folders
from ..arguments import Concept, Int, Layer, Many, Option, Strength
from ..chat import Chat
from ..errors import Interrupted
from ..lexicons import INDEPENDENT
from ..registry import command
from ..text import Page, Table

if TYPE_CHECKING:
    from ..trials import Evaluation, Trials

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
    layer: Annotated[str | None, Option("in place of each concept's recommended layers", Layer)] = None,
    strength: Annotated[float | None, Option("in place of the recommended strength", Strength)] = None,
) -> Page:
    """Measures concepts by word lists and length, against random directions and against asking.

    Nothing here uses a concept's own vector. Every answer is given under the same seeds, on prompts that no setting
    was chosen on. A gain is steered minus normal, above 0 towards the concept; its interval is a bootstrap over
    prompts. All seventeen take half an hour on a laptop.
    """
    from ..trials import evaluate as judge

    names = [name for name in (concepts or chat.library.names()) if concepts or name in INDEPENDENT]
    for name in names:
        chat.library.get(name)
    trials = _trials(chat, "evaluation", prompts, seeds)
    rows: list[Evaluation] = []
    try:
        for row in judge(trials, chat.library, names, directions, layer, strength):
            rows.append(row)
    except Interrupted:
        if not rows:
            raise
    said = list(_shown(rows))
    if len(rows) < len(names):
        said.append(f"stopped after {len(rows)} of {len(names)} concepts")
    return Page(said, [row.to_json() for row in rows])


@command("chance", examples=["/chance", "/chance --quick"], group="Experiments", shell=True)
def chance(chat: Chat, *, quick: Annotated[bool, Option("fewer directions, a rougher band")] = False) -> Page:
    """Measures which effects pushes without a meaning have on this model, and keeps it.

    Random directions push, and every shipped concept's score is read: 95% of what comes out is the chance band, shown
    beside every effect from then on. The default model's comes along. A quarter of an hour on a laptop.
    """
    from ..trials import measure_chance

    names = [name for name in chat.library.names() if chat.library.ships(name)]
    found = measure_chance(_trials(chat, "tuning", 4 if quick else 6, 2 if quick else 4), names, 4 if quick else 6)
    path = chat.library.keep_chance(found)
    cells = []
    for cell in found.cells:
        (low, high), (low8, high8) = (found.band(cell.strength, cell.tokens, repeats) for repeats in (1, 8))
        cells.append(
            (f"{cell.strength:g}", str(cell.tokens), f"{low:+.1f} .. {high:+.1f}", f"{low8:+.1f} .. {high8:+.1f}")
        )
    table = Table(("strength", "tokens", "one pair", "mean of 8"), cells, right=frozenset((0, 1)))
    return Page([table, f"kept in {path}"], [found.to_json()])


def _trials(chat: Chat, part: str, prompts: int, seeds: int) -> Trials:
    from ..trials import Trials

    text = (folders.packaged("vectors") / "prompts.toml").read_text(encoding="utf-8")
    chosen = tomllib.loads(text)[part][:prompts]
    session = chat.session
    return Trials(session.engine, chat.library, chosen, range(seeds), session.report, session.stop.is_set)


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
