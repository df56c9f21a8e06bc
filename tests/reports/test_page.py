"""Reports in headless Chromium: nothing overlaps or is cut, and axe-core finds no serious fault."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from steerchat.reports.html import to_html
from steerchat.reports.report import Chapter, Report
from steerchat.values.chart import Chart, Cloud, Dot, Drawn, Matrix, Points, Series, Tokens
from steerchat.values.page import Table
from steerchat.values.recipe import Recipe, Term
from steerchat.values.results import Answer, Notice, Pair, Strip

pytestmark = [pytest.mark.browser, pytest.mark.slow]

HOSTILE = '</svg><script>document.title="caught"</script> $x$ <img src=x onerror=alert(1)> & "quoted" 日本'
# Texts of a figure that overlap, or that its edge cuts.
TROUBLE = """
[...document.querySelectorAll("figure svg")].flatMap(svg => {
  const edge = svg.getBoundingClientRect();
  const boxes = [...svg.querySelectorAll("text")].filter(text => text.textContent.trim())
    .map(text => ({ said: text.textContent, ...text.getBoundingClientRect().toJSON() }));
  const cut = boxes.filter(box => box.left < edge.left - 2 || box.right > edge.right + 2
    || box.top < edge.top - 2 || box.bottom > edge.bottom + 2).map(box => `cut: ${box.said}`);
  const over = boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => a.left + 1 < b.right && b.left + 1 < a.right
    && a.top + 2 < b.bottom && b.top + 2 < a.bottom).map(b => `${a.said} over ${b.said}`));
  return [...cut, ...over];
})
"""


def charts() -> list[Drawn]:
    layers = [str(layer) for layer in range(30)]
    effect = [0.1 * layer * (-1) ** layer for layer in range(30)]
    bands = [(-0.5, 0.5)] * 30
    sweep = [
        Series("effect", effect, "effect", [0.4] * 30, bands, rest=0.0, meaning="effect: along the vector, in spreads"),
        Series("cost", [1.0 + layer**2 for layer in range(30)], "cost", rest=1.0, scale=(1.0, 2.0)),
        Series("again", [0.0] * 30, "share", rest=0.0, scale=(0.0, 0.3)),
    ]
    strengths = ["-4.0", "-2.0", "0.0", "1.0", "1.5", "2.0", "3.0", "4.0", "6.0"]
    dose = [Series("effect", [float(label) for label in strengths], "effect", rest=0.0, meaning=HOSTILE)]
    controls = [Series("effect", [2.0, 0.1, 0.4], "effect", [0.5] * 3, [(-1.0, 1.0)] * 3, rest=0.0)]
    names = ["happy", "enthusiastic", "shakespeare", *(f"concept-{number}" for number in range(14))]
    rows = [(name, [(row - column) / 3 for column in range(17)]) for row, name in enumerate(names)]
    dots = [Dot((-1) ** n * 0.5 + n / 50, n % 7 / 3, n % 2, n % 5 == 0) for n in range(60)]
    clouds = [Cloud(f"layer {layer}", dots, (-0.5, 0.0, 0.5, 0.0)) for layer in (0, 12, 29)]
    both = [Series(name, [1.0, 6.0, 2.0], panel="happy", rest=0.0) for name in ("happy", "normal")]
    won = [Series("shows it", [0.8, 0.0], "share", intervals=[(0.5, 0.95), (0.0, 0.8)], rest=0.5, scale=(0.0, 1.0))]
    words = [HOSTILE if number == 60 else f" word{number}" for number in range(90)]
    strips = [
        Strip("happy", "normal", words, [(-1.0) ** number for number in range(90)], 1.0),
        Strip("happy", "steered", words, [number / 30 for number in range(90)], 2.0),
    ]
    return [
        Chart("happy x 2.0 at each layer", "layer", layers, sweep, list(map(float, range(30))), useful=(23, 24)),
        Chart(HOSTILE, "strength", strengths, dose, [float(label) for label in strengths], useful=(3, 8)),
        Chart("controls", "", ["steered", "random push", "asked for"], controls),
        Matrix("gains", "concept", names, rows),
        Matrix("tune", "layers", ["1.0"], [("7", [1.0])], texts=[["+1.0 x1.2"]], faint=frozenset({(0, 0)})),
        Chart("turns", "turn", ["1", "2", "3"], both, [1.0, 2.0, 3.0], notes=["Hello", HOSTILE, "x"]),
        Chart("verdicts", "recipe", ["happy 18-26 x 2.0", HOSTILE], won, notes=["8 of 10", "0 of 1"]),
        Tokens("an answer", words, [0.9**number for number in range(90)], strips, [("gate", [1.0] * 90)], 7),
        Points("pairs", ("along the direction", "across it"), ("with happy", "without"), clouds, "held out"),
    ]


@pytest.fixture(scope="module")
def page() -> str:
    recipe = Recipe((Term((("happy", 1.0),), (2,), 4.0),))
    long = " ".join(f"word{number} {HOSTILE if number == 90 else ''}" for number in range(400))
    normal, steered = (Answer(text, 9, "length", perplexity=9.0) for text in (long, long.replace("word7", "joy")))
    pair = Pair(1, HOSTILE, "tiny", recipe, 0, normal, steered, effect=1.0)
    facts = [("model", "tiny"), ("concepts", HOSTILE)]
    parts = [pair, Notice(HOSTILE), HOSTILE, Table(("a", "b"), [(HOSTILE, "1")]), *charts()]
    chapter = Chapter(HOSTILE, facts, parts, [("normal", pair.normal)], f"steerchat compare {HOSTILE}")
    return to_html(Report(HOSTILE, facts, [chapter], {}))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_report_is_whole_readable_and_harmless(browser: Any, page: str, tmp_path: Path, width: int, scheme: str):
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong: list[str] = []
    shown.on("console", lambda message: wrong.append(message.text))
    shown.on("request", lambda request: wrong.append(request.url) if request.url != path.as_uri() else None)
    shown.goto(path.as_uri())
    assert "caught" not in shown.title() or "<script>" in shown.title()
    shown.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert shown.evaluate("document.querySelectorAll('figure svg text').length") > 300
    for slide in range(3):
        shown.evaluate(f"document.querySelectorAll('.slides input')[{slide}].click()")
        seen = shown.evaluate("[...document.querySelectorAll('.slides svg')].map(svg => svg.checkVisibility())")
        assert seen == [number == slide for number in range(3)]
        assert shown.evaluate(TROUBLE) == []
    if folder := os.environ.get("STEERCHAT_SCREENSHOTS"):
        shown.screenshot(path=str(Path(folder) / f"report-{width}-{scheme}.png"), full_page=True)
    if (width, scheme) in ((1280, "dark"), (390, "light")):  # it takes long
        axe = pytest.importorskip("axe_core_python.sync_playwright")
        found = shown.evaluate((Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8") + "\naxe.run()")
        faults = [(rule["id"], rule["nodes"][0]["html"][:300], rule["impact"]) for rule in found["violations"]]
        assert [fault for fault in faults if fault[2] in ("serious", "critical")] == []
    assert wrong == []
    shown.close()
