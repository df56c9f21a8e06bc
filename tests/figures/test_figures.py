"""Figures: what a drawing holds, its files, and that hostile text stays text in them."""

from __future__ import annotations

import re
import sys
from xml.etree import ElementTree

import matplotlib
import pytest

from steerchat import figures
from steerchat.figures.drawing import figure, panels
from steerchat.figures.files import to_file
from steerchat.figures.svg import inline, standing
from steerchat.values.chart import Chart, Cloud, Dot, Drawn, Matrix, Points, Series, Tokens
from steerchat.values.results import Strip
from steerchat.values.text import clean

HOSTILE = '</svg><script>alert(1)</script> $\\frac{1}{0}$ ]]> --> "onload="x" &amp; \x1b[31m {0} #1d1d1f url(#x)'
SVG = "{http://www.w3.org/2000/svg}"


def dose(title: str = "happy") -> Chart:
    effect = Series(
        "effect", [-1.5, 0.0, None, 2.5], "effect", [0.5, 0.0, None, 0.25], [(-0.5, 0.5)] * 4, rest=0.0, meaning=title
    )
    cost = Series("cost", [1.5, 1.0, float("inf"), 40.0], "cost", rest=1.0, scale=(1.0, 2.0))
    labels = ["-2.0", "0.0", "1.0", title]
    return Chart(title, title, labels, [effect, cost], [-2.0, 0.0, 1.0, 4.0], useful=(2, 3))


def settings(title: str = "controls") -> Chart:
    return Chart(title, "", [title, "random push"], [Series("effect", [2.0, 0.1], bands=[(-1.0, 1.0), None], rest=0.0)])


def moved(title: str = "gains") -> Matrix:
    rows = [("happy", [2.0, -0.5]), (title, [None, 1.0])]
    return Matrix(title, "concept", ["happy", title], rows, faint=frozenset({(0, 1)}), best=(0, 0))


def pairs(title: str = "pairs") -> Points:
    dots = [Dot(-0.5, 1.0, 1, True), Dot(0.5, -1.0, 0, True), Dot(0.25, 0.5, 0, False)]
    return Points(title, (title, "across"), (title, "without"), [Cloud(title, dots, (-0.5, 0.0, 0.5, 0.0))], "held out")


def token_by_token(title: str = "an answer") -> Tokens:
    strips = [Strip(title, "normal", ["a"], [0.5, 1.0], 0.1), Strip(title, "steered", ["a"], [-1.0, 3.0, 2.0], 2.0)]
    return Tokens(title, ["The", title, "\n"], [0.5, 0.0, 0.25], strips, [("gate", [1.0, 0.5, 0.0])], 1)


def turns(title: str = "turns") -> Chart:
    both = [Series(title, [1.0, None], panel="x", rest=0.0), Series("normal", [0.5, 2.0], panel="x")]
    share = Series("share", [0.5, None], "share", intervals=[(0.25, 1.0), (0.0, 1.0)])
    return Chart(title, "turn", ["1", "2"], [*both, share], [1.0, 2.0])


EVERY = [dose, settings, moved, pairs, token_by_token, turns]


def drawn_values(panel: figures.drawing.Drawing) -> list[float]:  # pyright: ignore[reportAttributeAccessIssue]
    [axes] = panel.axes
    [container] = axes.containers
    return [float(value) for value in container.lines[0].get_ydata()]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_drawing_holds_the_values_of_its_description():
    effect, cost = panels(dose())
    assert drawn_values(effect)[:2] == [-1.5, 0.0] and drawn_values(effect)[3] == 2.5
    assert drawn_values(cost)[3] == 40.0 and cost.axes[0].get_yscale() == "log"
    [axes] = figure(moved()).axes
    assert [text.get_text() for text in axes.texts][:4] == ["+2.0", "-0.5", "", "+1.0"]


def test_series_of_one_panel_share_a_drawing_and_intervals_reach_from_edge_to_edge():
    both, share = panels(turns())
    assert [list(map(float, container.lines[0].get_ydata()))[-1] for container in both.axes[0].containers][1] == 2.0  # pyright: ignore[reportAttributeAccessIssue]
    assert [text.get_text() for text in both.axes[0].get_legend().get_texts()] == ["turns", "normal"]  # pyright: ignore[reportOptionalMemberAccess]
    [bars] = share.axes[0].containers[0].lines[2]  # pyright: ignore[reportAttributeAccessIssue]
    assert [float(y) for y in bars.get_segments()[0][:, 1]] == [0.25, 1.0]


def test_tokens_have_a_bar_of_their_surprise_a_line_for_each_concept_and_their_share_of_the_push():
    surprise, concept, push = panels(token_by_token())
    heights = [patch.get_height() for patch in surprise.axes[0].patches]  # pyright: ignore[reportAttributeAccessIssue]
    assert heights == [1.0, 50.0, 2.0]  # bits; a probability of 0 is drawn as 2 ** -50
    lines = {line.get_label(): list(line.get_ydata()) for line in concept.axes[0].lines}  # pyright: ignore[reportArgumentType]
    assert lines["normal"] == [0.5, 1.0] and lines["steered"] == [-1.0, 3.0, 2.0]
    assert list(push.axes[0].patches[0].get_data().values) == [1.0, 0.5, 0.0]  # pyright: ignore[reportAttributeAccessIssue]
    for panel in (surprise, concept, push):
        assert any(list(line.get_xdata()) == [1.5, 1.5] for line in panel.axes[0].lines)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("make", EVERY)
def test_what_a_user_wrote_stays_text_in_a_figure_and_its_alternative_text(make):
    drawn: Drawn = make(HOSTILE)
    page = ElementTree.fromstring(standing(figure(drawn)))
    assert [(page.findtext(f"{SVG}title") or ""), page.get("role")] == [clean(HOSTILE), "img"]
    assert page.findtext(f"{SVG}desc") == clean(drawn.in_words)
    pieces = [ElementTree.fromstring(piece) for piece in inline(drawn, "f")]
    for element in (page, *pieces):
        assert {part.tag.rpartition("}")[2] for part in element.iter()}.isdisjoint({"script", "a", "image"})
        assert not [name for part in element.iter() for name in part.attrib if name.startswith("on")]
    assert all(piece.get("aria-label") == clean(drawn.in_words) for piece in pieces)
    words = "".join("".join(part.itertext()) for part in page.iter(f"{SVG}text"))
    assert "$\\frac{1}{0}$" in words.replace("\n", " ")


@pytest.mark.parametrize("make", EVERY)
@pytest.mark.parametrize(("ending", "start"), [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_equal_charts_give_equal_files(make, ending: str, start: bytes):
    (once, lacking), (again, _) = (to_file(make("a $5 日本 \ue123"), ending) for _ in range(2))
    assert once == again and once.startswith(start)
    assert ("\ue123" in lacking) == (ending != ".svg")  # no font has a character for private use
    if ending == ".png":
        assert b"pHYs" + (11811).to_bytes(4, "big") in once  # 300 dots per inch, in metres


def test_pieces_of_a_page_have_ids_of_their_own_and_take_its_colours():
    pieces = [*inline(dose(), "a"), *inline(dose(), "b"), *inline(moved(), "c")]
    found = [name for piece in pieces for name in re.findall(r' id="([^"]+)"', piece)]
    used = [name for piece in pieces for name in re.findall(r'[("]#([\w-]+)', piece)]
    assert len(found) == len(set(found)) and set(used) <= set(found)
    for piece in pieces:
        assert "<style" not in piece and "<metadata" not in piece
        assert not re.search(r"(?<!, )#(?:1d1d1f|6b6b70|a626a4|0a6e78)", piece)


def test_a_users_own_settings_of_the_library_stay():
    with matplotlib.rc_context({"font.size": 17, "text.parse_math": True}):
        figure(dose())
        assert matplotlib.rcParams["font.size"] == 17 and matplotlib.rcParams["text.parse_math"]


def test_without_the_library_there_is_none(monkeypatch: pytest.MonkeyPatch):
    assert figures.available()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert not figures.available()
