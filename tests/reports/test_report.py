"""/report: its contents, that hostile text stays text, and that no file is overwritten unasked."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from chats import STEER, Shell
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tiny import LAYERS

from steerchat.conversation.session import Session
from steerchat.experiments import pages as experiment_pages
from steerchat.experiments.recall import pairs_of, recalled
from steerchat.experiments.run import experiment
from steerchat.experiments.settings import at_layers, at_strengths, chosen, with_controls
from steerchat.experiments.tuning import grid
from steerchat.reports.html import table, to_cell
from steerchat.reports.markdown import literal, quotation
from steerchat.reports.report import Chapter
from steerchat.storage.records import Filters, Origin
from steerchat.storage.store import Store
from steerchat.terminal import repl
from steerchat.values.page import Table
from steerchat.values.recipe import Recipe, Term
from steerchat.values.results import Answer, Pair
from steerchat.values.setting import Setting
from steerchat.values.text import clean

HOSTILE = (
    "<script>alert(1)</script> </div></section></html> <img src=x onerror=alert(2)> &lt;b&gt; {unique_id} {0} DARK "
    '"><svg onload=alert(3)> ]]> --> \x1b]0;title\x07\x1b[31mred \u202egnp.exe `code` ```fence ![i](http://x/y.png) '
    "[link](javascript:alert(4)) <http://x.example> | ~~~ # heading"
)
RECIPE = Recipe((Term((("happy", 1.0),), (2,), 4.0),))


class Seen(HTMLParser):
    """What a browser would make of a page: its elements, what they carry, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, "every element ends where it should"

    def handle_data(self, data: str) -> None:
        self.text += "" if self.open and self.open[-1] == "style" else data


KNOWN = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "nav", "ol", "li", "a"),
    *("h1", "h2", "h3", "dl", "dt", "dd", "section", "div", "p", "pre"),
    *("mark", "table", "tr", "th", "td", "details", "summary", "figure", "figcaption"),
    *("svg", "g", "defs", "path", "clippath", "rect", "use", "text", "tspan"),
}


def checked(page: str) -> Seen:
    """A page that fetches nothing and runs nothing, whatever was said in it."""
    seen = Seen(page)
    assert set(seen.tags) <= KNOWN and not seen.open
    assert not {name for name, _ in seen.attributes if name.startswith("on") or name == "src"}
    links = [value for name, value in seen.attributes if name in ("href", "xlink:href")]
    identities = [value for name, value in seen.attributes if name == "id"]
    assert all(link.removeprefix("#") in identities for link in links) and len(identities) == len(set(identities))
    assert not re.search(r"@import|@font-face|url\((?!#)", "".join(re.findall(r"<style>.*?</style>", page, re.DOTALL)))
    assert not re.search(r"(https?:)?//", "".join(value for name, value in seen.attributes if name != "aria-label"))
    assert ("name", "viewport") in seen.attributes and "prefers-color-scheme: dark" in page
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in seen.attributes
    assert "\x1b" not in page and "\x07" not in page and "\u202e" not in page
    return seen


def write_pair(home: Path, prompt: str, normal: str, steered: str) -> None:
    home.mkdir(parents=True, exist_ok=True)
    with Store.open(home / "history.db") as store:
        number = store.start_session("tiny", "tiny-fingerprint", prompt)
        pair = Pair(None, prompt, "tiny", RECIPE, 0)
        pair_id = store.begin_pair(pair, Origin(fingerprint="tiny-fingerprint", session_id=number))
        answers = (Answer(normal, 3, "end", perplexity=2.0), Answer(steered, 3, "length", perplexity=3.0))
        answered = replace(pair, normal=answers[0], steered=answers[1], effect=1.25, diverges_at=1)
        store.finish_pair(pair_id, answered)
        store.rate(pair_id, "steered", prompt)


# What is in it


@pytest.mark.slow
def test_a_conversation_with_its_experiments_becomes_a_page_of_its_own(shell: Shell, tmp_path: Path):
    page, text, data = (tmp_path / f"chat.{ending}" for ending in ("html", "md", "json"))
    lines = [
        "/steer happy 2 4.0",
        "How are you?",
        "/layers --repeats 2 What is rain?",
        "/compare --repeats 2 --control What is snow?",
        "/undo",
        "Why?",
        *(f"/report {path}" for path in (page, text, data)),
    ]
    out, _ = shell(stdin="\n".join(lines))
    assert "Session 1: How are you?: written to" in " ".join(out.split())
    seen = checked(page.read_text(encoding="utf-8"))
    assert seen.tags.count("table") == 2 == seen.tags.count("figure") and seen.tags.count("section") == 3
    headings = re.findall(r"<h2>(.*?)</h2>", page.read_text(encoding="utf-8"))
    assert re.findall(r'<a href="#c\d">(.*?)</a>', page.read_text(encoding="utf-8")) == headings
    assert headings == ["/layers What is rain?", "/compare What is snow?", "Why?"]  # the turn taken back is left out
    found = json.loads(data.read_text(encoding="utf-8"))
    assert [one["kind"] for one in found["experiments"]] == ["layers", "compare"]
    assert len(found["pairs"]) == 2 * LAYERS + 2 * 3 + 1
    layers = [one for one in found["pairs"] if one["experiment_id"] == 1]
    shown = {line.strip() for line in text.read_text(encoding="utf-8").splitlines()}
    assert {one["layer"] for one in layers} == set(range(LAYERS)) and "# Session 1: How are you?" in shown
    for one in layers:
        if one["seed"] == 0:  # the first seed's answers are whole behind the table
            assert " ".join(one["steered"]["text"].split()) in " ".join(seen.text.split())


@pytest.mark.slow
def test_from_the_shell_it_is_the_newest_conversation_or_what_is_named(shell: Shell, tmp_path: Path):
    shell("compare", "First?", *STEER)
    shell("layers", "Second?", "--concept", "happy", "--repeats", "1")
    newest, first, pair, experiment = (tmp_path / f"{name}.json" for name in ("newest", "first", "pair", "experiment"))
    shell("report", str(newest))
    shell("report", "--session", "1", str(first))
    shell("report", "--pair", "1", str(pair))
    shell("report", "--experiment", "1", str(experiment))
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (newest, first, pair, experiment)]
    assert [found[0]["session"]["id"], found[1]["session"]["id"]] == [2, 1]
    assert found[2]["pair"]["prompt"] == "First?" and found[3]["experiment"]["kind"] == "layers"
    assert len(found[3]["pairs"]) == len(found[0]["pairs"]) == LAYERS
    [logged] = shell.json("history", "--session", "1")
    assert found[2]["pair"] == found[1]["pairs"][0] == logged


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["layers", "strengths", "compare", "tune"])
def test_an_experiment_out_of_the_history_shows_what_it_showed_when_it_ended(session: Session, kind: str):
    recipe = chosen(session, "happy", "2", 8.0)
    settings: dict[str, list[Setting]] = {
        "layers": at_layers(recipe, LAYERS),
        "strengths": at_strengths(recipe, [-4.0, 0.0, 8.0]),
        "compare": with_controls(session, recipe, raw=False),
        "tune": grid(recipe, ["1", "2", "1-2"], [2.0, 8.0], LAYERS),
    }
    result = experiment(session, kind, "How are you?", settings[kind], repeats=2)
    store = session.journal.store
    assert store is not None and result.experiment is not None
    stored = store.experiment(result.experiment)
    again = recalled(session.calibration, stored, pairs_of(store, Filters(experiment=stored.id)))
    assert again == result
    assert experiment_pages.page(again) == experiment_pages.page(result)
    assert len(experiment_pages.page(again).parts) > 2


def test_of_an_experiment_that_lost_pairs_the_others_are_shown(session: Session):
    recipe = chosen(session, "happy", "2", 8.0)
    result = experiment(session, "layers", "How are you?", at_layers(recipe, LAYERS), repeats=1)
    store = session.journal.store
    assert store is not None and result.experiment is not None
    store.delete_pair(2)
    again = recalled(session.calibration, store.experiment(result.experiment), pairs_of(store, Filters()))
    assert [one.setting.label for one in again.outcomes] == ["0", "2", "3"]


def test_a_page_marks_where_answers_part_and_the_words_that_are_counted():
    normal = Answer("The sky is blue and wonderful today. Enjoy", 9, "end")
    steered = Answer("The sky is lovely, and I am glad of it", 9, "end")
    drawn = to_cell(Chapter("", [], [Pair(1, "", "tiny", RECIPE, 0, normal, steered)]))
    assert re.findall(r"<mark( class=\"parting\")?>(.*?)</mark>", drawn) == [
        (' class="parting"', "blue"),
        ("", "wonderful"),
        ("", "Enjoy"),
        (' class="parting"', "lovely,"),
        ("", "glad"),
    ]
    assert "Marked: what the word measure of happy counts." in drawn
    same = to_cell(
        Chapter("", [], [Pair(1, "", "tiny", RECIPE, 0, Answer("A day", 2, "end"), Answer("A day", 2, "end"))])
    )
    assert "<mark" not in same and "where they part" not in same


# Hostile text


def test_nothing_that_was_said_gets_out_of_its_place_on_a_page(shell: Shell, tmp_path: Path):
    write_pair(shell.home, HOSTILE, HOSTILE + " normally", "steered " + HOSTILE)
    page = tmp_path / "chat.html"
    shell("report", str(page))
    seen = checked(page.read_text(encoding="utf-8"))
    assert seen.text.count(clean(HOSTILE)) == 6  # heading, system message, note, both answers and the command
    assert "script" not in seen.tags and seen.tags.count("svg") == 2  # the figures of its verdict


def test_a_table_shows_its_texts_as_they_are_and_its_numbers_on_the_right():
    content = Table(("", "effect"), [[HOSTILE, "+1.0"], ["<b>", "é 日本 😊"]], frozenset({1}), dim=frozenset({1}))
    drawn = ElementTree.fromstring(table(content))
    told = [cell.text or "" for cell in drawn.iter() if cell.tag in ("th", "td")]
    assert told == ["", "effect", clean(HOSTILE), "+1.0", "<b>", "é 日本 😊"]
    assert [cell.get("class") for cell in drawn.iter("td")] == [None, "right"] * 2
    assert [row.get("class") for row in drawn.iter("tr")] == [None, None, "faint"]


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=60) | st.text("\\`*_[]<>#|~&$-+=.1) \n!(:/w", max_size=40))
def test_markdown_shows_any_text_as_it_is(text: str):
    parser = MarkdownIt("commonmark", {"html": True}).enable("table").enable("strikethrough")

    def told(lines: list[str]) -> str:
        page = parser.render("\n".join(lines))
        assert not re.search(r"<(?!/?(blockquote|p|br|h2)\b)", page)
        seen = Seen(re.sub(r"<br\s*/?>", "", page))
        return "".join(seen.text.split())

    plain = "".join(clean(text).split())
    assert told(["before", "", *quotation(text), "", "after"]) == f"before{plain}after"
    assert told([f"## {literal(text)}"]) == plain


def test_the_hostile_pair_in_markdown_and_json(shell: Shell, tmp_path: Path):
    write_pair(shell.home, HOSTILE, HOSTILE, HOSTILE)
    text, data = tmp_path / "pair.md", tmp_path / "pair.json"
    shell("report", "--pair", "1", str(text))
    shell("report", "--pair", "1", str(data))
    page = MarkdownIt("commonmark", {"html": True}).render(text.read_text(encoding="utf-8"))
    assert not re.search(r"<(?!/?(blockquote|p|br|h[123]|ul|li|strong)\b)", page)
    assert json.loads(data.read_text(encoding="utf-8"))["pair"]["normal"]["text"] == HOSTILE


# The file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("chat.pdf",), "end the name in .html, .md or .json"),
        (("chat",), "end the name in"),
        (("--pair", "1", "--session", "1", "chat.html"), "one subject"),
        (("--pair", "99", "chat.html"), "no pair 99"),
        (("--experiment", "99", "chat.html"), "no experiment 99"),
        (("--session", "99", "chat.html"), "no session 99"),
        (("folder.html",), "is a folder"),
    ],
)
def test_what_cannot_be_written_says_why(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], said: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    write_pair(shell.home, "Well?", "yes", "no")
    before = sorted(tmp_path.iterdir())
    _, err = shell("report", *arguments, code=2)
    assert said in " ".join(err.split()) and sorted(tmp_path.iterdir()) == before


def test_an_empty_history_has_nothing_to_report(shell: Shell, tmp_path: Path):
    _, err = shell("report", str(tmp_path / "chat.html"), code=2)
    assert "nothing to report" in err and not (tmp_path / "chat.html").exists()


def test_a_file_that_is_there_stays_unless_it_may_go(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_pair(shell.home, "Well?", "yes", "no")
    page = tmp_path / "chat.html"
    page.write_text("mine", encoding="utf-8")
    _, err = shell("report", str(page), code=2)
    assert "--replace" in err and page.read_text(encoding="utf-8") == "mine"
    answers: list[str] = []
    monkeypatch.setattr(repl, "interactive", lambda: True)
    monkeypatch.setattr(repl, "asker", lambda screen: lambda question, choices: answers.pop())
    answers.append("no")
    shell("report", str(page), code=130)
    assert page.read_text(encoding="utf-8") == "mine"
    answers.append("yes")
    shell("report", str(page))
    assert "Well?" in page.read_text(encoding="utf-8") and answers == []
    shell("report", "--replace", str(page))


def test_a_report_that_breaks_off_leaves_the_old_one_and_nothing_else(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_pair(shell.home, "Well?", "yes", "no")
    page = tmp_path / "reports" / "chat.html"
    page.parent.mkdir()
    page.write_text("mine", encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        _, err = shell("report", "--replace", str(page), code=1)
    assert "No space left" in err and "Traceback" not in err
    assert page.read_text(encoding="utf-8") == "mine" and list(page.parent.iterdir()) == [page]
