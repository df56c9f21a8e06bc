"""Draws the README's first picture from the newest pair, `/compare --control` and `/layers` of the history.

CONTRIBUTING.md has the commands that answer them: one prompt, one concept at its recommended setting, seed 0. It shows
both answers, the effect beside that of random pushes and of asking in the prompt, and the effect of a push at each
layer by itself. Colours follow the reader's light or dark setting.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.sax.saxutils import escape

from steerchat.concepts.library import Library
from steerchat.conversation.app import history_path
from steerchat.experiments.charts import chart_of
from steerchat.experiments.recall import pairs_of, recalled
from steerchat.figures.svg import inline
from steerchat.measures.calibration import Calibration
from steerchat.storage.records import Filters
from steerchat.storage.store import Store
from steerchat.system import folders
from steerchat.values.chart import Chart, in_form
from steerchat.values.results import Answer, Pair
from steerchat.values.text import clean, wrap

# In CSS pixels.
_WIDTH, _MARGIN, _GAP, _LINE = 800, 16, 24, 18
_COLUMN = (_WIDTH - 2 * _MARGIN - _GAP) // 2
_CELLS = int(_COLUMN / 7.4)  # characters of a monospaced line of 12 pixels
_STYLE = """
svg { --steerchat-ink: #1d1d1f; --steerchat-faint: #6b6b70; --steerchat-accent: #a626a4; --steerchat-other: #0a6e78;
  --steerchat-ground: #fff }
@media (prefers-color-scheme: dark) { svg { --steerchat-ink: #d4d6d4; --steerchat-faint: #9a9ba0;
  --steerchat-accent: #e07ade; --steerchat-other: #5fc4cf; --steerchat-ground: #1c1d1f } }
.ground { fill: var(--steerchat-ground, #fff) }
.said { fill: var(--steerchat-ink, #1d1d1f); font: 12px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace }
.head { fill: var(--steerchat-ink, #1d1d1f); font: bold 13px system-ui, "DejaVu Sans", sans-serif }
.faint { fill: var(--steerchat-faint, #6b6b70); font: 12px system-ui, "DejaVu Sans", sans-serif }
.steered { fill: var(--steerchat-accent, #a626a4) }
"""


def main(path: Path) -> None:
    """Reads what the history has of them, and draws it."""
    library = Library(folders.packaged("vectors"), folders.data_dir() / "concepts", folders.cache_dir())
    with Store.open(history_path()) as store:
        newest = store.pairs(Filters(kind="compare"), limit=1000)
        pair = next(stored.pair for stored in newest if stored.experiment_id is None)
        charts, seeds = [], []
        for kind in ("compare", "layers"):
            found = store.pairs(Filters(kind=kind), limit=1000)
            number = next(stored.experiment_id for stored in found if stored.experiment_id is not None)
            pairs = pairs_of(store, Filters(experiment=number))
            result = recalled(Calibration(library), store.experiment(number), pairs)
            charts.append(chart_of(result))
            seeds.append(len(result.outcomes[0].pairs))
    compared, layers = charts
    assert isinstance(compared, Chart) and isinstance(layers, Chart)
    path.write_text(drawn(pair, compared, layers, *seeds), encoding="utf-8")


def drawn(pair: Pair, compared: Chart, layers: Chart, compared_seeds: int, layers_seeds: int) -> str:
    """The picture as SVG; `..._seeds` is how many answers a place in a chart is the mean of."""
    assert pair.steered is not None
    right = _MARGIN + _COLUMN + _GAP
    said = [wrap(clean(_short(answer)), _CELLS) for answer in (pair.normal, pair.steered)]
    height = 3 * _LINE + _LINE * max(map(len, said))
    parts = [_text(_MARGIN, 24, "head", f"> {pair.prompt}")]
    for x, lines, name, look in (
        (_MARGIN, said[0], "normal", "head"),
        (right, said[1], f"steered: {pair.recipe}", "head steered"),
    ):
        parts.append(_text(x, 24 + 1.5 * _LINE, look, name))
        parts += [_text(x, 24 + (2.6 + row) * _LINE, "said", line) for row, line in enumerate(lines)]
    facts = f"cost {in_form('cost', pair.perplexity_ratio)}"
    if pair.effect is not None and pair.chance is not None:
        low, high = (in_form("effect", edge) for edge in pair.chance)
        facts = f"effect {in_form('effect', pair.effect)} (random pushes {low} .. {high})   {facts}"
    parts.append(_text(right, 30 + height, "faint", facts))
    top = height + 46
    for x, chart, caption in (
        (_MARGIN, compared, f"mean of {compared_seeds} seeds, beside controls"),
        (right, layers, f"pushed at each layer by itself, {layers_seeds} seeds"),
    ):
        parts.append(_text(x, top + 12, "head", caption))
        panel = inline(chart, f"p{x}")[0]
        parts.append(panel.replace("<svg ", f'<svg x="{x}" y="{top + 18}" height="{_COLUMN * 0.6:.0f}" ', 1))
    size = f'viewBox="0 0 {_WIDTH} {top + 26 + _COLUMN * 0.6:.0f}" width="{_WIDTH}"'
    title = f"{pair.prompt}: answered normal, and steered with {pair.recipe}"
    words = f"{title}. Normal: {pair.normal.text} Steered: {pair.steered.text} {compared.in_words} {layers.in_words}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>',
            f"<title>{escape(clean(title))}</title><desc>{escape(clean(words))}</desc>",
            f'<style>{_STYLE}</style><rect class="ground" width="100%" height="100%"/>',
            *(part.replace('width="432"', f'width="{_COLUMN}"') for part in parts),
            "</svg>\n",
        ]
    )


def _short(answer: Answer) -> str:
    """The text; dots where it ran into the limit."""
    return answer.text + (" ..." if answer.finish == "length" else "")


def _text(x: float, y: float, look: str, text: str) -> str:
    return f'<text x="{x}" y="{y:.0f}" class="{look}" xml:space="preserve">{escape(text)}</text>'


if __name__ == "__main__":
    main(Path(sys.argv[1]))
