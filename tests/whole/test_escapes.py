"""Escape sequences from a model, a concept or a user have no effect on an emulated terminal."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
import time
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyte
import pytest
from monkey import Desk, Monkey, room
from prompt_toolkit.application import create_app_session
from prompt_toolkit.data_structures import Size
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output.vt100 import Vt100_Output
from rich.console import Console

from steerchat.engine.prompting import Prompter
from steerchat.screen.render import Screen
from steerchat.terminal.repl import run_chat, run_line

WIDTH = 100
EVIL = [
    *("\x1b[2J", "\x1b[32mgreen", "\x1b[42m", "\x1b[1;1H", "\x1b[10A", "\x1b[?25l", "\x1b[?1049h", "\x1bc", "\x1b("),
    *("\x1b]0;owned\x07", "\x1b]2;owned\x1b\\", "\x1b]52;c;b3duZWQ=\x07", "\x1b]8;;http://owned\x07x", "\x1bP+q\x1b\\"),
    *("\x9b32m", "\x9d0;owned\x9c", "\x90q", "\x85", "\x0e", "\x0f", "\r", "\x08\x08", "\x0b", "\x0c", "\x07", "\x00"),
    *("\u202eowned", "\u2066", "\u200b", "\u200d", "\ufeff", "\u2028", "\U000e0041", "\ud83d", "e" + "\u0301" * 400),
    *("[green]x[/green]", "[/foo]", "[link=http://owned]x", "<script>owned()</script>", "a ", "b "),
]
TEXT = "".join(EVIL).replace("\x00", "").replace("\r", "").replace("\ud83d", "")
# What rich and the painter send themselves: styles but green, the cursor's column, up, erase, and its visibility.
ORDERS = re.compile(r"\x1b\[(?:(?:0|1|2|3|4|7|31|33|34|35|36|39)(?:;\d+)*m|\d*[AKG]|0?m|\?25[lh])")


class Ear(io.StringIO):
    """What is written to the terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    """A chat with a terminal, a model that says evil things, and a concept that does."""

    def text(self: Prompter, ids: Sequence[int]) -> str:
        return "".join(EVIL[number % len(EVIL)] for number in ids)

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with room(tmp_path) as model:
        own = tmp_path / "home" / "concepts"
        own.mkdir(parents=True)
        said = json.dumps(TEXT).replace("\\ud83d", "").replace("\x7f", "")
        pair = f"[[examples]]\nprompt = {said}\npositive = {said}\nnegative = 'no'\n"
        (own / "evil.toml").write_text(f"kind = {said}\ndescription = {said}\n{pair}", encoding="utf-8")
        desk = Desk(Monkey(0), model)
        console = Console(file=Ear(), width=WIDTH, height=40, force_terminal=True, color_system="256", highlight=False)
        desk.screen = Screen(console)
        desk.chat.report = desk.screen.show
        desk.chat._ask = None
        desk.chat.settings.max_tokens = 60
        desk.chat.session.engine  # noqa: B018
        monkeypatch.setattr(Prompter, "text", text)
        yield desk
        desk.chat.close()


def take(desk: Desk) -> str:
    heard = desk.screen.console.file
    assert isinstance(heard, Ear)
    desk.screen.console.file = Ear()
    return heard.getvalue()


def harmless(heard: str) -> None:
    """Nothing was sent but text, line ends, and orders that steerchat gives itself."""
    left = ORDERS.sub("", heard)
    bad = {c for c in left if c not in "\r\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert not bad, f"{bad} in {left!r:.2000}"
    assert max((len(run) for run in re.findall("\u0301+", heard)), default=0) <= 8
    screen = pyte.HistoryScreen(WIDTH, 2000)
    pyte.Stream(screen).feed(heard.replace("\n", "\r\n"))
    assert screen.title == ""
    cells = [cell for row in screen.buffer.values() for cell in row.values()]
    assert not [cell for cell in cells if cell.fg == "green" or cell.bg == "green"]


LINES = [
    "/steer happy 2 4.0",
    "Well " + TEXT.replace("\n", " "),
    "And then?",
    "/history",
    "/history 1",
    "/history --search owned",
    "/why",
    "/lens 2 x",
    "/probe happy",
    "Again?",
    "/probe off",
    "/compare x",
    "/layers --tokens 20 x",
    "/strengths --tokens 20 x",
    "/concept",
    "/concept show evil",
    "/steer evil 2 1.0",
    "/session",
    "/session resume 1",
    "/system " + TEXT.replace("\n", " "),
    "/retry",
    "/undo",
    "/continue " + TEXT.replace("\n", " "),
    "/stats",
    "/rate steered " + TEXT.replace("\n", " "),
    "/set",
    "/config",
    "/lesson",
    "/glossary " + TEXT.replace("\n", " "),
    "/help " + TEXT.replace("\n", " "),
    "/steer " + TEXT.replace("\n", " "),
    "/model " + TEXT.replace("\n", " "),
    "/" + TEXT.replace("\n", " "),
    "/set temperature " + TEXT.replace("\n", " "),
    "/report " + TEXT.replace("\n", " ") + ".md",
    "/concept import x " + TEXT.replace("\n", " "),
]


@pytest.mark.slow
def test_nothing_that_is_said_moves_colours_or_names_a_terminal(desk: Desk) -> None:
    heard = ""
    for line in LINES:
        run_line(desk.chat, desk.screen, line)
        said = take(desk)
        harmless(said)
        heard += said
    assert "owned" in heard and "[/foo]" in heard and "steerchat failed" not in heard
    harmless(heard)


@pytest.mark.slow
def test_neither_does_a_blind_review(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    run_line(desk.chat, desk.screen, "/steer happy 2 4.0")
    run_line(desk.chat, desk.screen, "Well?")
    asked: list[str] = []
    answers = iter(["1", "1", "", "1"])
    monkeypatch.setattr(desk.chat, "_ask", lambda question, choices: asked.append(question) or next(answers, "stop"))
    run_line(desk.chat, desk.screen, "/review --limit 1")
    harmless(take(desk))
    assert asked


@pytest.mark.slow
def test_reports_and_exports_hold_text_alone(desk: Desk) -> None:
    for line in LINES[:3]:
        run_line(desk.chat, desk.screen, line)
    take(desk)
    for name in ("r.html", "r.md", "r.json"):
        assert run_line(desk.chat, desk.screen, f"/report {name}"), take(desk)
        text = Path(name).read_text(encoding="utf-8")
        assert not {c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs")}
        assert "<script>owned()" not in text or name == "r.json"
    store = desk.chat.session.journal.store
    assert store is not None
    from steerchat.reports.csv import as_csv, as_markdown
    from steerchat.values.text import to_json

    stored = store.pair(1)
    line = to_json(stored.to_json())
    assert not {c for c in line if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    assert json.loads(line)["normal"]["text"] == stored.pair.normal.text and "\x1b" in stored.pair.normal.text
    for text in (as_csv(store, [1]), as_markdown(store, [1])):
        assert not {c for c in text if c not in "\n\t" and unicodedata.category(c) in ("Cc", "Cs")}
    assert [row["id"] for row in csv.DictReader(io.StringIO(as_csv(store, [1])))] == ["1"]
    assert [path.name for path in Path.cwd().iterdir() if "owned" in path.name] == []


@pytest.mark.slow
def test_the_prompt_its_menus_and_its_toolbar_show_it_as_text(desk: Desk) -> None:
    """As typed and pasted at the real editing prompt, with the menu of conversations, pairs and files open."""
    assert run_line(desk.chat, desk.screen, "Well \x1b[32mgreen\x9b32m\x1b]0;owned\x07\u202e?"), take(desk)
    take(desk)
    Path("z\x1b[32mowned\u202e.csv").write_text("x")
    heard = Ear()
    output = Vt100_Output(heard, lambda: Size(rows=40, columns=WIDTH), term="xterm", enable_cpr=False)  # type: ignore[arg-type]
    keys = [
        "/session resume \t\t",
        "\x03",
        "/history \t\t",
        "\x03",
        "/concept import x z\t\t",
        "\x03",
        "/steer e\t\t",
        "\x03",
    ]
    keys += [f"\x1b[200~{TEXT}\x1b[201~", "\x03", "\x04"]
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=output):

        def press() -> None:
            for key in keys:
                pipe.send_text(key)
                quiet, end = 0, time.monotonic() + 10
                while quiet < 3 and time.monotonic() < end:  # the menu comes when nothing is typed
                    before = heard.tell()
                    time.sleep(0.1)
                    quiet = quiet + 1 if heard.tell() == before else 0

        fingers = threading.Thread(target=press)
        fingers.start()
        run_chat(desk.chat, desk.screen, pipe, output)
        fingers.join()
    text = heard.getvalue()
    assert not {c for c in text if unicodedata.category(c) == "Cf" and c in "\u202e\u2066"}
    for bad in ("\x9b", "\x1b[32m", "\x1b[42m", "\x1b]"):
        at = text.find(bad)
        assert at < 0, text[max(0, at - 200) : at + 200]
    screen = pyte.HistoryScreen(WIDTH, 400)
    pyte.Stream(screen).feed(text)
    assert "Well" in text and "owned" in text and "z\ufffd[32mowned.csv" in text, "no menu was shown"
    assert screen.title == ""
    assert not [cell for row in screen.buffer.values() for cell in row.values() if "green" in (cell.fg, cell.bg)]
