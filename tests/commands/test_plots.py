"""/plot and figures in reports."""

from __future__ import annotations

import html
import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from chats import STEER, Shell
from tiny import LAYERS

VECTORS = Path(__file__).parents[2] / "vectors"


@pytest.mark.slow
def test_a_plot_is_drawn_here_or_in_a_file_and_its_data_are_those_of_the_experiment(shell: Shell, tmp_path: Path):
    found = shell.json("strengths", "How are you?", "--concept", "happy", "--repeats", "2")
    [chart] = shell.json("plot", "strengths")
    effects = chart["series"][0]["values"]
    for label, shown in zip(chart["labels"], effects, strict=True):
        pairs = [row for row in found if row["strength"] == float(label)]
        mean = sum(pair["effect"] for pair in pairs) / len(pairs)
        assert shown == pytest.approx(mean if float(label) >= 0 else -mean)
    assert "How are you?" in shell("plot", "strengths")[0]
    for ending, start in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        path = tmp_path / f"dose{ending}"
        shell("plot", "strengths", str(path))
        assert path.read_bytes().startswith(start)
    assert "--replace" in shell("plot", "strengths", str(tmp_path / "dose.svg"), code=2)[1]


@pytest.mark.slow
def test_the_newest_experiment_is_drawn_though_single_pairs_came_after_it(shell: Shell):
    shell("compare", "How are you?", *STEER, "--repeats", "2")
    shell("compare", "Where are you?", *STEER)
    assert "an answer" in shell("plot", "compare")[0]  # a column of its table


def test_plots_of_the_library(shell: Shell):
    [chart] = shell.json("plot", "concept", "--concept", "happy")
    assert len(chart["series"][0]["values"]) == LAYERS
    names = shell.json("plot", "library")[0]["columns"]
    assert {"happy", "sad"} <= set(names)
    [row] = [row for row in shell.json("plot", "library", "--layer", "1")[0]["rows"] if row[0] == "happy"]
    assert row[1][names.index("happy")] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("strengths", "x.gif"), "end the name in .png, .svg or .pdf"),
        (("layers",), "the history has no /layers"),
        (("compare",), "the history has no /compare --repeats 5"),
        (("layers", "--experiment", "9"), "no experiment 9"),
        (("concept",), "no concept is named"),
        (("evaluation",), "no evaluation of this model"),
        (("library", "--layer", "99"), "no layer 99"),
        (("nonsense",), "not one of"),
        (("why",), "there is no answer yet"),
        (("probe",), "the history is empty"),
        (("history",), "no steered pair has a verdict yet"),
        (("methods", "--rows", "nowhere.jsonl"), "has no rows of compare-methods"),
        (("methods", "--concept", "poetic", "--rows", "{rows}"), "no methods were compared for poetic"),
        (("methods", "--rows", "{broken}"), "has no rows of compare-methods"),
    ],
)
def test_what_cannot_be_drawn_says_why(shell: Shell, tmp_path: Path, arguments: tuple[str, ...], said: str):
    for name, text in (("rows", METHODS), ("broken", '{"concept": "happy", "method": "add", "gain": "much"}')):
        (tmp_path / name).write_text(text, encoding="utf-8")
    arguments = tuple(word.format(rows=tmp_path / "rows", broken=tmp_path / "broken") for word in arguments)
    for code in (2, 1):
        try:
            _, err = shell("plot", *arguments, code=code)
            break
        except AssertionError:
            if code == 1:
                raise
    assert said in " ".join(err.split())


METHODS = "".join(
    json.dumps(
        {"concept": concept, "method": method, "gain": [gain, gain - 0.5, gain + 1.0], "specificity": [0.5, 0.0, 1.0]}
        | {"cost": 1.5, "right": 0.75}
    )
    + "\n"
    for concept in ("happy", "sad")
    for method, gain in (("add", 1.0), ("cap the opposite", -2.0))
)


def test_methods_are_drawn_of_all_concepts_or_of_one(shell: Shell, tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(METHODS, encoding="utf-8")
    [every] = shell.json("plot", "methods", "--rows", str(rows))
    assert every["columns"] == ["happy", "sad", "mean"]
    assert every["rows"] == [["add", [1.0, 1.0, 1.0]], ["cap opposite", [-2.0, -2.0, -2.0]]]
    [one] = shell.json("plot", "methods", "--concept", "sad", "--rows", str(rows))
    words = one["series"][0]
    assert (one["labels"], words["values"]) == (["add", "cap opposite"], [1.0, -2.0])
    assert words["intervals"] == [[0.5, 2.0], [-2.5, -1.0]]
    assert "-2.0 (-2.5..-1.0)" in shell("plot", "methods", "--concept", "sad", "--rows", str(rows))[0]
    shipped = [json.loads(line) for line in (VECTORS / "measured" / "methods.jsonl").read_text().splitlines()]
    [drawn] = shell.json("plot", "methods", "--rows", str(VECTORS / "measured" / "methods.jsonl"))
    assert drawn["columns"][:-1] == list(dict.fromkeys(row["concept"] for row in shipped))
    name, values = drawn["rows"][0]
    assert values[0] == next(row["gain"][0] for row in shipped if row["method"] == name)


@pytest.mark.slow
def test_why_is_drawn_token_by_token_and_every_form_of_a_report_has_its_numbers(shell: Shell, tmp_path: Path):
    shell(stdin="/steer happy 2 9.0 --after 2\nHow are <b>you</b>?\n/steer off\nAnd you?\n/rate 1 steered\n")
    [item], [chart] = shell.json("why", "1"), shell.json("plot", "why", "--pair", "1")
    told = [f"{100 * each:.0f}%" if each >= 0.1 else f"{100 * each:.2g}%" for each in chart["probabilities"]]
    assert chart["tokens"] == [each["token"] for each in item["tokens"]] and len(told) > 3
    assert chart["probabilities"] == pytest.approx([each["probability"] for each in item["tokens"]], rel=1e-3)
    assert chart["parting"] == item["diverges_at"] and chart["pushes"][0][1][:3] == [0.0, 0.0, 1.0]
    report = {}
    for ending in (".json", ".html", ".md"):
        shell("report", "--why", str(tmp_path / f"report{ending}"))
        report[ending] = (tmp_path / f"report{ending}").read_text(encoding="utf-8")
    drawn = {each["chart"]: each for each in json.loads(report[".json"])["charts"]}
    assert drawn["tokens"] == chart and drawn["chart"]["labels"] == ["happy 2 x 9.0 after 2"]
    assert re.findall(r'<span class="s\d" title="(.*?)">', report[".html"]) == told
    rows = [line.split() for line in report[".md"].splitlines() if re.match(r" +\d+  \"", line)]
    assert [next(word for word in row if word.endswith("%")) for row in rows] == told
    assert "<b>" not in report[".html"]
    shell("plot", "why", str(tmp_path / "why.png"))
    shell("plot", "why", str(tmp_path / "why.md"))
    assert told[0] in (tmp_path / "why.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_concepts_over_a_conversation_are_the_scores_that_were_logged(shell: Shell):
    shell(stdin="/steer happy 2 9.0\nHow are you?\nAnd you?\n/steer off\nWhy?\n")
    [chart] = shell.json("plot", "probe")
    steered, normal = chart["series"]
    pairs = shell.json("history")[::-1]
    scores = [[(pair[side] or {}).get("concept_score") for pair in pairs] for side in ("steered", "normal")]
    assert steered["values"][:2] == pytest.approx(scores[0][:2], abs=1e-3)
    assert normal["values"][:2] == pytest.approx(scores[1][:2], abs=1e-3)
    assert steered["values"][2] is None and normal["values"][2] is not None  # a turn without steering
    assert [series["name"] for series in shell.json("plot", "probe", "--concept", "sad")[0]["series"]] == [
        "sad",
        "normal",
    ]


@pytest.fixture
def reported(shell: Shell, tmp_path: Path):
    """Reports of one sweep, by their ending."""
    shell("strengths", "How are <b>you</b>?", "--concept", "happy", "--repeats", "2")

    def write(ending: str) -> str:
        path = tmp_path / f"report{ending}"
        shell("report", "--experiment", "1", str(path))
        return path.read_text(encoding="utf-8")

    return write


@pytest.mark.slow
def test_every_form_of_a_report_has_the_numbers_of_its_figures(reported):
    [chart] = json.loads(reported(".json"))["charts"]
    effects = chart["series"][0]
    told = [f"{value:+.1f} ±{spread:.1f}" for value, spread in zip(effects["values"], effects["spreads"], strict=True)]
    told = [text.replace("-0.0 ", "+0.0 ") for text in told]
    page = reported(".html")
    cells = re.findall(r'<td class="right">(.*?)</td>', page)
    width = 1 + len(chart["series"])
    assert cells[0::width] == chart["labels"] and cells[1::width] == told
    rows = [line for line in reported(".md").splitlines() if "±" in line]
    assert [row.split()[0] for row in rows] == chart["labels"]
    assert [" ".join(row.split()[1:3]) for row in rows] == told
    assert page.count("<svg") == len(chart["series"]) and "var(--steerchat-accent, #a626a4)" in page
    assert html.escape("How are <b>you</b>?") in page and "<b>" not in page


@pytest.mark.slow
def test_without_the_library_a_page_has_tables_and_says_how_to_get_figures(
    shell: Shell, reported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out, _ = shell("report", "--experiment", "1", str(tmp_path / "plain.html"))
    assert "pip install 'steerchat[plot]'" in " ".join(out.split())
    page = (tmp_path / "plain.html").read_text(encoding="utf-8")
    assert "<svg" not in page and page.count("<table>") == 1 and "█" in page
    assert "steerchat[plot]" in " ".join(shell("plot", "strengths", str(tmp_path / "x.svg"), code=2)[1].split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", *STEER, "--seed", "3", "--temperature", "0.9", "--", "-5 degrees, isn't it?"),
        ("compare", "Why?", "--steer", "happy 1-2 3.0 --when prompt:sad>-9", "--steer", "ablate sad 1", "--raw"),
        ("layers", "How are you?", "--concept", "happy:1,sad:-1", "--strength", "3", "--repeats", "2", "--tokens", "4"),
        ("strengths", "How are you?", *STEER, "--repeats", "1", "--tokens", "4", "--scope", "all"),
        ("compare", "How are you?", *STEER, "--repeats", "2", "--control", "--seed", "5"),
    ],
)
def test_the_line_that_a_report_gives_to_repeat_it_gives_the_same_answers(
    shell: Shell, tmp_path: Path, arguments: tuple[str, ...]
):
    command, *rest = arguments
    first = [json.loads(line) for line in shell(command, "--json", *rest)[0].splitlines()]
    path = tmp_path / "report.html"
    shell("report", *(["--pair", "1"] if len(first) == 1 else ["--experiment", "1"]), str(path))
    [line] = re.findall(r'<pre class="again">(.*?)</pre>', path.read_text(encoding="utf-8"))
    program, command, *again = shlex.split(html.unescape(line))
    second = [json.loads(line) for line in shell(command, "--json", *again)[0].splitlines()]
    assert program == "steerchat"
    assert [(row["normal"]["text"], row["steered"]["text"]) for row in second] == [
        (row["normal"]["text"], row["steered"]["text"]) for row in first
    ]


@pytest.mark.slow
def test_a_concepts_pairs_in_two_dimensions_are_where_its_direction_puts_them(shell: Shell, tmp_path: Path):
    [points] = shell.json("plot", "pairs", "--concept", "happy", "--layer", "2")
    [cloud] = points["clouds"]
    train = [[dot["x"] for dot in cloud["dots"] if dot["kind"] == kind and not dot["ringed"]] for kind in (0, 1)]
    means = [sum(xs) / len(xs) for xs in train]
    assert means == pytest.approx([0.5, -0.5], abs=1e-4)  # ends of the arrow
    assert len(cloud["dots"]) == 2 * len(shell.json("concept", "show", "happy")[0]["pairs"])
    assert "no layer 99" in shell("plot", "pairs", "--concept", "happy", "--layer", "99", code=2)[1]
    out, _ = shell("plot", "pairs", "--concept", "happy")
    assert "x with happy" in out and f"layer {LAYERS - 1}" in out
    shell("plot", "pairs", str(tmp_path / "pairs.html"), "--concept", "happy")
    slides = re.findall(r'<label for="(.*?)">(.*?)</label>', (tmp_path / "pairs.html").read_text(encoding="utf-8"))
    assert [name for _, name in slides] == [f"layer {number}" for number in range(LAYERS)]
    shell("plot", "pairs", str(tmp_path / "pairs.svg"), "--concept", "happy")
    assert "contrast pairs of happy" in (tmp_path / "pairs.svg").read_text(encoding="utf-8")
