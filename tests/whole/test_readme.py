"""README.md, the pages that it links and CONTRIBUTING.md: the commands in them work, and the tables are complete."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import first_picture
import pytest
from chats import Shell
from places import ROOT
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from steerchat import commands  # noqa: F401  # commands declares them
from steerchat.conversation import chat
from steerchat.course.lesson import read_course
from steerchat.slash.registry import registry
from steerchat.system.settings import load_settings
from steerchat.terminal import cli
from steerchat.terminal.completion import SlashCompleter
from steerchat.values.chart import Chart, Series
from steerchat.values.page import Definitions
from steerchat.values.recipe import Recipe
from steerchat.values.results import Answer, Pair

README = (ROOT / "README.md").read_text(encoding="utf-8")
LESSONS = {lesson.path.name for lesson in read_course(ROOT / "tutorials").lessons}
# The pages beside the lessons. tutorials/README.md is about lessons: test_lessons.py tries what it says.
PAGES = {
    path.name: path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "tutorials").glob("*.md"))
    if path.name not in LESSONS | {"README.md"}
}
TEXTS = {"README.md": README, **PAGES}
# What a page's lines need a server for, tests/serve/test_examples.py runs.
ALONE = [text for name, text in TEXTS.items() if name != "server.md"]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.S | re.M)


LINES = list(dict.fromkeys(line for text in ALONE for block in blocks(text, "sh") for line in block.splitlines()))


def written(text: str) -> str:
    """A page without what cog generates."""
    return re.sub(r"<!-- \[\[\[cog.*?\[\[\[end\]\]\] -->", "", text, flags=re.S)


@pytest.mark.parametrize("page", TEXTS)
def test_every_block_is_run_or_generated(page: str):
    kinds = "sh|python|yaml" if page == "server.md" else "sh|python"  # tests/serve/test_llm.py uses the one of yaml
    rest = re.sub(rf"^```(?:{kinds})\n.*?^```$", "", written(TEXTS[page]), flags=re.S | re.M)
    assert not re.search(r"^```|^    \S", rest, re.M)  # a block of another kind, or an indented one, would go unseen


def test_the_commands_that_install_are_run_by_ci():
    # The commands that set it up are run as they stand, from scratch, by what has to pass before a change is taken.
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    installing = [line for line in LINES if line.startswith("pip ")]
    assert len(installing) == 2
    for line in installing:
        assert f'step "{line}"' in script and f"pip install -qq {line.split('install ')[1].split(' &&')[0]}\n" in script


def test_the_readme_links_every_page_and_no_page_is_a_lesson():
    assert {path.name for path in (ROOT / "tutorials").glob("[0-9][0-9]-*.md")} == LESSONS
    assert not [name for name in PAGES if f"(tutorials/{name}" not in README]


def anchors(text: str) -> set[str]:
    """What a link can point to: headings in small letters with hyphens."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "tutorials").glob("*.md"))],
    ids=lambda p: p.name,
)
def test_every_link_leads_to_a_file_and_a_heading(path: Path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            found = path.parent / file if file else path
            assert found.exists(), target
            assert not anchor or anchor in anchors(found.read_text(encoding="utf-8")), target


Run = Callable[..., str]


@pytest.fixture
def run(
    tmp_path: Path,
    deep: Path,
    deep_home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs lines of a shell; `steerchat` in them runs in this process, with the tiny model, and has to succeed."""
    monkeypatch.chdir(tmp_path)
    home = shutil.copytree(deep_home, tmp_path / "home")
    environment = {"HOME": str(home), "MODEL": str(deep), "DEVICE": "cpu", "MAX_TOKENS": "4"}
    for name, value in environment.items():
        monkeypatch.setenv(f"STEERCHAT_{name}", value)
    (tmp_path / "prompts.txt").write_text("One?\nTwo?\n", encoding="utf-8")
    (tmp_path / "experiment.steer").write_text("/steer happy 16 2.0\nHow are you?\n/expect pair-cost < 1000\n")

    def bash(line: str, stdin: str = "") -> str:
        done = subprocess.run(["bash", "-c", line], input=stdin, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def call(line: str, stdin: str = "") -> str:
        [name, *arguments] = bash(f"printf '%s\\n' {line}").splitlines()
        assert name == "steerchat"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), encoding="utf-8"))
        capsys.readouterr()
        code = cli.main(arguments)
        out, err = capsys.readouterr()
        assert code == 0, err
        return out

    def run(line: str, stdin: str = "") -> str:
        line = re.sub(r"\$\((steerchat [^)]*)\)", lambda found: call(found[1]).strip(), line)
        feeding, piped, command = line.partition(" | steerchat")
        if piped:
            return call(f"steerchat{command}", bash(feeding))
        if not line.startswith("steerchat "):
            return bash(f"export PATH={Path(sys.executable).parent}:$PATH; {line}")
        command, _, rest = re.split(r"( \| | > )", line, maxsplit=1) if re.search(r" \| | > ", line) else (line, "", "")
        out = call(command, stdin)
        if rest.startswith("jq "):
            return "\n".join(json.dumps(json.loads(one)[rest.removeprefix("jq .")]) for one in out.splitlines())
        if rest:
            (tmp_path / rest).write_text(out, encoding="utf-8")
        return out

    return run


@pytest.mark.slow
def test_the_lines_for_the_shell_run_and_give_what_they_promise(run: Run, tmp_path: Path):
    said = {line: run(line) for line in LINES if not line.startswith("pip ")}

    def of(start: str) -> str:
        [found] = [text for line, text in said.items() if line.startswith(start)]
        return found

    assert "steered: happy 16 x 2.0" in of("printf")
    assert "normal" in of('steerchat compare "Tell') and "effect" in of('steerchat compare "Tell')
    effects = [json.loads(line) for line in of("steerchat compare --prompts").splitlines()]
    assert len(effects) == 2 and all(isinstance(effect, float) for effect in effects)
    assert [json.loads(line)["layer"] for line in of("steerchat layers").splitlines()] == sorted([*range(30)] * 4)
    assert "[weather]" in of("steerchat history --search")
    assert "<!DOCTYPE html>" in (tmp_path / "weather.html").read_text(encoding="utf-8")
    assert (tmp_path / "happy.csv").read_text(encoding="utf-8").startswith("id,")
    assert "happy 16 x 2.0" in of("sqlite-utils") and (tmp_path / "copy.db").is_file()
    assert of("steerchat db check") == "no damage found\n"


@pytest.mark.slow
@pytest.mark.parametrize("code", [code for text in ALONE for code in blocks(text, "python")])
def test_the_lines_for_python_run(code: str, run: Run, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    exec(code, {})
    assert capsys.readouterr().out.strip()


def test_the_first_chat_from_python_takes_five_lines():
    assert sum(map(bool, blocks(README, "python")[0].splitlines())) == 5


@pytest.mark.subprocess
@pytest.mark.slow
def test_a_command_is_added_as_contributing_says(tmp_path: Path):
    source, test, *_ = blocks(CONTRIBUTING, "python")
    for name in ("steerchat", "tests"):
        # With what is compiled, but for what another worker is writing.
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    for name in ("vectors", "tutorials", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "steerchat" / "commands" / "count.py").write_text(source, encoding="utf-8")
    with (tmp_path / "steerchat" / "commands" / "__init__.py").open("a", encoding="utf-8") as file:
        file.write("\nfrom . import count\n")
    (tmp_path / "tests" / "commands" / "test_count.py").write_text(test, encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/commands/test_count.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "1 passed" in run.stdout, run.stdout + run.stderr


# What is listed


@pytest.mark.slow
def test_the_readme_the_help_and_the_completion_have_every_command_of_the_registry():
    assert registry.markdown_table() in PAGES["commands.md"]
    completer = SlashCompleter(registry, chat.Menu(chat.Chat(load_settings({}), registry)))

    def completed(line: str) -> set[str]:
        return {one.text.strip() for one in completer.get_completions(Document(line), CompleteEvent())}

    helped = {entry for part in registry.help().parts if isinstance(part, Definitions) for entry in part.entries}
    for command in registry:
        noun, _, verb = command.name.partition(" ")
        assert (command.short_usage, command.summary) in helped
        assert (verb in completed(f"/{noun} ")) if verb else (noun in completed(f"/{noun[:-1]}")), command.name


def test_the_shell_has_every_experiment_and_its_plural(capsys: pytest.CaptureFixture[str]):
    group = cli.build()
    wanted = "compare layers strengths mix tune why concept history lesson bench model db config report run session"
    assert set(wanted.split()) <= set(group.commands)
    assert {"concepts", "lessons", "models", "sessions"} <= set(group.commands)
    assert {command.name.split()[0] for command in registry if command.shell} <= set(group.commands)


def test_every_slash_line_in_prose_binds():
    prose = re.sub(r"^```.*?^```$", "", "".join(map(written, TEXTS.values())), flags=re.S | re.M)
    lines = [line for line in re.findall(r"`(/[a-z][^`]*)`", prose) if "FILE" not in line]
    assert len(lines) > 20
    for line in lines:
        registry.parse(line)


# The objects


def documented() -> dict[str, set[str]]:
    """The keys of the table in shell.md, by the beginning of its rows."""
    table = PAGES["shell.md"].split("| Object | Keys |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", table, re.M)
    return {name: set(re.findall(r"`(\w+)`", keys)) for name, keys in rows if "---" not in name}


def row(start: str) -> set[str]:
    [found] = [keys for name, keys in documented().items() if name.startswith(start)]
    return found


PAIR, SWEEP, HISTORY, ANSWER = row("a pair"), row("in a sweep"), row("in `history`"), row("an answer")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["compare", "One?", "--steer", "happy:2:4.0"], PAIR),
        (["compare", "One?"], PAIR),
        (["compare", "One?", "--steer", "happy:2:4.0", "--repeats", "2"], PAIR | row("with `compare")),
        (["mix", "happy:1,sad:-1", "One?", "--layer", "2", "--strength", "2"], PAIR),
        (
            ["layers", "One?", "--concept", "happy", "--strength", "2", "--repeats", "1"],
            PAIR | SWEEP | row("with `layers"),
        ),
        (["lens", "happy"], row("`lens`")),
        (["strengths", "One?", "--concept", "happy", "--layer", "2", "--repeats", "1"], PAIR | SWEEP),
        (["tune", "happy", "--prompts-used", "1", "--tokens", "2"], PAIR | SWEEP),
        (["concept", "list"], row("`concept list`")),
        (["concepts"], row("`concept list`")),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_the_objects_are_exactly_those_documented_and_the_same_twice(
    shell: Shell, arguments: list[str], keys: set[str]
):
    shutil.copy(ROOT / "vectors" / "texts" / "prompts.toml", shell.home.parent / "shipped" / "texts")
    once, twice = (shell.json(*arguments, "--seed", "1") for _ in range(2))
    assert once and all(set(one) == keys for one in once)
    for one in once:
        for side in ("normal", "steered"):
            assert one.get(side) is None or set(one[side]) == ANSWER

    def lasting(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {k: v for k, v in one.items() if k not in ("id", "seconds", "experiment", "extracted")} for one in found
        ]

    assert lasting(once) == lasting(twice)


@pytest.mark.slow
def test_the_history_and_lessons_give_what_is_documented(run: Run):
    run("steerchat compare Hi")
    [logged] = [json.loads(line) for line in run("steerchat history --json").splitlines()]
    assert set(logged) == PAIR | HISTORY
    lessons = [json.loads(line) for line in run("steerchat lesson list --json").splitlines()]
    assert len(lessons) >= 13 and all(set(one) == row("`lesson list`") for one in lessons)


@pytest.mark.slow
def test_controls_are_told_apart(shell: Shell):
    found = shell.json("compare", "One?", "--steer", "happy:2:4.0", "--control")
    assert [one.get("control") for one in found] == [None, "random push", "asked for"]
    assert set(found[0]) == PAIR | row("with `compare") and set(found[1]) == PAIR | row("beside it")


@pytest.mark.parametrize("name", ["bench.json", "bench-avx512.json", "bench-avx2.json"])
def test_bench_gives_what_is_documented(name: str):
    """A committed run is one object of it."""
    told = json.loads((ROOT / "vectors" / "measured" / name).read_text(encoding="utf-8"))
    figures = row("figures of `bench`")
    other = {name for name in figures if name.endswith("_llama_cpp")}  # where llama.cpp is installed
    newer = {"pair_beside_another"} if name == "bench-avx2.json" else set()
    assert set(told) | other | newer == figures | row("`bench`") - {"median", "low", "high"}
    assert all(set(told[name]) == {"median", "low", "high"} for name in figures & set(told))


# The picture


def lines_of(svg: str) -> str:
    texts = ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    return " ".join("".join("".join(one.itertext()) for one in texts).replace("\u00a0", " ").split())


def typed(script: Path) -> list[str]:
    return [line for line in script.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]


@pytest.mark.parametrize("name", ["session", "tour"])
def test_a_recording_has_every_line_of_its_script(name: str):
    text = (ROOT / "tutorials" / f"{name}.txt").read_text(encoding="utf-8")
    prompts = [line.removeprefix("> ") for line in text.splitlines() if line.startswith("> ")]
    lines = typed(ROOT / "tutorials" / f"{name}.steer")
    assert [line for line in prompts if line in lines] == lines


def test_the_readme_shows_every_turn_of_the_tour():
    tour = (ROOT / "tutorials" / "tour.txt").read_text(encoding="utf-8")
    for turn in re.split(r"^(?=> )", tour, flags=re.M)[1:]:
        lines = turn.splitlines()
        assert all("\n".join(part) in README for part in (lines[:5], lines[-3:]))


def test_the_picture_shows_the_recorded_session_and_loads_nothing():
    svg = (ROOT / "tutorials" / "session.svg").read_text(encoding="utf-8")
    text = (ROOT / "tutorials" / "session.txt").read_text(encoding="utf-8")
    shown = lines_of(svg)
    for line in text.splitlines():
        assert "".join(line.split()) in shown.replace(" ", ""), line
    assert "http" not in re.sub(r'xmlns="[^"]*"|<!--.*?-->', "", svg)  # no font, no link


@pytest.mark.model
def test_the_recorded_session_is_recorded_again(
    default_home: Path,
    default_models: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    """Its first turn: what it says token by token is another processor's to decide, how it begins and looks is not."""
    monkeypatch.setenv("STEERCHAT_HOME", str(shutil.copytree(default_home, tmp_path / "home")))
    monkeypatch.setenv("STEERCHAT_MODELS", str(default_models))
    text = (ROOT / "tutorials" / "session.txt").read_text(encoding="utf-8")
    lines = typed(ROOT / "tutorials" / "session.steer")
    script = tmp_path / "first.steer"
    script.write_text("\n".join(lines[:2]), encoding="utf-8")
    assert cli.main(["run", str(script), "--max-tokens", "12", "--svg", str(tmp_path / "first.svg")]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[:4] == text.splitlines()[:4]
    words = [line.split()[:2] for line in (said.splitlines()[4], text.splitlines()[4])]
    assert words[0] == words[1] and "(random pushes" in said
    assert lines[1].split()[-1] in lines_of((tmp_path / "first.svg").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_recording_is_the_same_twice_and_leaves_the_history_alone(run: Run, tmp_path: Path):
    said = [run(f"steerchat run experiment.steer --svg {name}.svg") for name in ("one", "two")]
    assert said[0] == said[1] and "> /steer happy 16 2.0" in said[0] and "pair 1" in said[0] and "tok/s" not in said[0]
    one, two = (Path(f"{name}.svg").read_bytes() for name in ("one", "two"))
    assert one == two and b"How" in one
    assert run("steerchat history --json") == ""


@pytest.mark.slow
def test_a_recorded_script_that_fails_says_so(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "wrong.steer").write_text("/nonsense\n")
    assert cli.main(["run", "wrong.steer", "--svg", "wrong.svg"]) == 1
    assert "no command called" in capsys.readouterr().out and (tmp_path / "wrong.svg").is_file()
    assert cli.main(["run", "experiment.steer", "--svg", "prompts.txt/picture.svg"]) == 1  # no folder
    assert "picture.svg cannot be written" in capsys.readouterr().err


def test_the_first_picture_is_small_and_whole_and_follows_the_readers_colours():
    picture = (ROOT / "tutorials" / "steering.svg").read_text(encoding="utf-8")
    assert "](tutorials/steering.svg)" in (ROOT / "README.md").read_text(encoding="utf-8").split("## Install")[0]
    assert len(picture.encode()) < 80_000 and "prefers-color-scheme: dark" in picture
    assert "http" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", picture) and "<script" not in picture
    root = ElementTree.fromstring(picture)
    words = root.findtext("{http://www.w3.org/2000/svg}desc") or ""
    assert "Normal: The weather" in words and "by layer" in words
    lines = lines_of(picture)
    assert "steered: poetic" in lines and "random pushes" in lines and "mean of 5 seeds" in lines


def test_what_was_said_stays_text_in_a_first_picture():
    said = "</text><script>x</script> & " * 9
    pair = Pair(1, said, "tiny", Recipe(), 0, Answer(said, 9, "length"), Answer(said, 9, "end"), effect=1.0)
    chart = Chart(said, "layer", ["0", "1"], [Series("effect", [1.0, 2.0], rest=0.0)], [0.0, 1.0])
    root = ElementTree.fromstring(first_picture.drawn(pair, chart, chart, 5, 2))
    assert not [part for part in root.iter() if part.tag.endswith("script")]
    assert root.findtext("{http://www.w3.org/2000/svg}title", "").startswith(said.strip()[:20])
