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
        (("layers", "--experiment", "9"), "no experiment 9"),
        (("concept",), "no concept is named"),
        (("evaluation",), "no evaluation of this model"),
        (("library", "--layer", "99"), "no layer 99"),
        (("nonsense",), "not one of"),
    ],
)
def test_what_cannot_be_drawn_says_why(shell: Shell, arguments: tuple[str, ...], said: str):
    for code in (2, 1):
        try:
            _, err = shell("plot", *arguments, code=code)
            break
        except AssertionError:
            if code == 1:
                raise
    assert said in " ".join(err.split())


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
    shell("plot", "pairs", str(tmp_path / "pairs.svg"), "--concept", "happy")
    assert "contrast pairs of happy" in (tmp_path / "pairs.svg").read_text(encoding="utf-8")
