"""Charts with block characters."""

from __future__ import annotations

import pytest
from rich.text import Text

from steerchat.screen.charts import bar
from steerchat.screen.lines import lines_of
from steerchat.values.chart import Chart, Cloud, Dot, Matrix, Points, Series, Tokens
from steerchat.values.results import Strip


def drawn(value: object, width: int = 100) -> list[str]:
    return [line.plain for line in lines_of(value, width)]


def test_a_bar_starts_at_zero_and_shows_the_chance_band():
    assert bar(3.0, (-0.5, 0.5), -1.0, 3.0) == "──░░│███████████"
    assert bar(-1.0, None, -1.0, 3.0) == "████│───────────"
    assert bar(2.0, None, 1.0, 3.0, rest=1.0) == "│████████───────"
    assert bar(None, None, 0.0, 0.0) == ""


def test_a_chart_with_notes_has_a_row_for_each_place():
    effect = Series("effect", [-1.0, 0.0, None], spreads=[0.25, None, None], bands=[(-0.5, 0.5)] * 3, rest=0.0)
    cost = Series("cost", [1.5, 1.0, None], "cost")
    chart = Chart(
        "title", "strength", ["-2.0", "0.0", "2.0"], [effect, cost], notes=["No.", "Well.", "Yes!"], noted="text"
    )
    assert drawn(chart) == [
        "  title",
        "  strength     effect  cost                    text",
        "      -2.0  -1.0 ±0.2  x1.5  ██████████│░░░░░  No.",
        "       0.0       +0.0  x1.0  ─────░░░░░│░░░░░  Well.",
        "       2.0          ?     ?                    Yes!",
    ]


def test_a_chart_without_notes_has_a_column_for_each_place_and_keeps_to_its_scale():
    series = Series("share", [0.0, 0.5, 0.75, 1.0, 2.0], "number", scale=(0.5, 1.0), meaning="share of the pairs")
    lines = drawn(Chart("", "layer", list("01234"), [series], [0.0, 1.0, 2.0, 3.0, 4.0]))
    assert lines == [
        "  share of the pairs; best 2.00 at 4",
        "    1.0 |   ██",
        "        |  ▄██",
        "    0.5 |  ███",
        "  layer  0   4",
    ]
    many = Series("share", [0.7] * 300, "number", scale=(0.5, 1.0))
    layers = list(range(300))
    assert max(map(len, drawn(Chart("", "layer", list(map(str, layers)), [many], layers)))) < 80


def test_an_answer_token_by_token_has_marks_for_concepts_and_for_its_share_of_the_push():
    strips = [
        Strip("happy", "normal", ["a"], [-1.0, 3.0], 0.25),
        Strip("happy", "steered", ["b"], [1.0, 3.0, -1.0], 2.0),
    ]
    tokens = Tokens("title", ["Well", ",", " yes"], [0.5, 0.005, 0.0], strips, [("gate", [0.0, 0.5, 1.0])], 1)
    assert [line.plain for line in lines_of(tokens, 80, plain=True)] == [
        "  title",
        "  Well[,] [yes]",
        "  happy in normal   ▁█  +0.2",
        "  happy in steered  ▅█▁  +2.0",
        "  gate              ▁▅█",
    ]


def test_a_matrix_with_texts_marks_what_breaks_the_fluency_and_the_best():
    cells = [("12-20", [1.0, 2.0]), ("16", [-0.5, None])]
    texts = [["+1.0 x1.1", "+2.0 x4.0"], ["-0.5 x1.0", ""]]
    matrix = Matrix("", "layers", ["1.0", "2.0"], cells, texts=texts, faint=frozenset({(0, 1)}), best=(0, 0))
    lines = lines_of(matrix, 80)
    assert [line.plain for line in lines[1:]] == [
        "  12-20   ██··· +1.0 x1.1 *  ▒▒▒▒▒ +2.0 x4.0",
        "  16      ····· -0.5 x1.0",
    ]
    assert all(isinstance(line, Text) for line in lines)


def test_a_matrix_too_wide_for_the_screen_has_shorter_names_and_numbers():
    names = ["enthusiastic", "calm", "sad"]
    cosines = [[1.0, -0.31, 0.04], [-0.31, 1.0, -0.04], [0.04, -0.04, 1.0]]
    matrix = Matrix("cosines", "concept", names, list(zip(names, cosines, strict=True)), "cosine")
    assert drawn(matrix, 24) == [
        "  cosines",
        "  concept    ent cal sad",
        "  enthusi...  +1 -.3 +.0",
        "  calm       -.3  +1 +.0",
        "  sad        +.0 +.0  +1",
    ]


@pytest.mark.parametrize("value", [Chart("", "", ["a"], [Series("x", [None])]), Matrix("", "", [], [])])
def test_nothing_known_is_no_error(value: object):
    assert isinstance(drawn(value), list)


def test_points_have_a_line_for_each_panel_with_their_places_along_x():
    dots = [Dot(-1.0, 0.0, 1, False), Dot(1.0, 2.0, 0, True), Dot(0.0, 0.0, 1, True), Dot(0.0, 0.0, 0, False)]
    points = Points("title", ("x", "y"), ("with it", "without"), [Cloud("layer 3", dots, (0, 0, 1, 0))], "held out")
    line = drawn(points)[2]
    assert line.split() == ["layer", "3", "o" + "·" * 23 + "*" + "·" * 24 + "X", "100%"]
