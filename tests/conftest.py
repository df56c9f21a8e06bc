"""Fixtures that several packages' tests use. What they are made of is in `support/`."""

from __future__ import annotations

import steerchat  # noqa: F401  # isort: skip  # sets how torch's threads wait, before torch is imported
import contextlib
import gc
import io
import os
import shutil
import sys
import threading
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from chats import Shell, Start, prepare_home
from filelock import FileLock
from places import ROOT
from rich.console import Console
from tiny import CONCEPTS, a_session, save_model, tiny_engine, write_concepts
from xdist.scheduler import LoadFileScheduling

from steerchat import commands  # noqa: F401  # declares the commands
from steerchat.conversation.chat import Chat
from steerchat.conversation.session import Session
from steerchat.engine.engine import Engine
from steerchat.models import described
from steerchat.models.find import find
from steerchat.models.load import load
from steerchat.screen.render import Screen
from steerchat.slash.registry import registry
from steerchat.storage.store import Store
from steerchat.system import folders
from steerchat.system.settings import Settings

# pytest and the programs that tests start would each compile every module again: a third of the time of a short one.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
THREADS = max(1, (os.cpu_count() or 1) // WORKERS)
# Roughly what a test with a marker takes; one without takes a tenth.
SECONDS = {"model": 15, "subprocess": 4, "browser": 4, "slow": 1}


def pytest_configure() -> None:
    """Share the cores among the workers of pytest-xdist: more threads than cores would wait for one another."""
    torch.set_num_threads(1)
    if WORKERS > 1:
        os.environ["OMP_NUM_THREADS"] = str(THREADS)  # for the processes that tests start


class ByFile(LoadFileScheduling):
    """A file's tests share a worker and its fixtures, but for lessons on the default model: each of them takes long."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if "test_a_lesson_replays_on_the_default_model" in nodeid else super()._split_scope(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that hypothesis drives, and put long files first: no worker is then left alone with one."""
    for item in items:
        if getattr(getattr(item, "function", None), "is_hypothesis_test", False):
            item.add_marker("fuzz")
    if WORKERS > 1:
        seconds: dict[Path, float] = defaultdict(float)
        for item in items:
            marks = SECONDS.keys() & {mark.name for mark in item.iter_markers()}
            seconds[item.path] += max((SECONDS[mark] for mark in marks), default=0.1)
        items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture(scope="session", autouse=True)
def cheap_collections() -> None:
    """`Engine.forget` collects garbage: going through all of torch each time would be most of these tests' time."""
    gc.freeze()


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """One thread for tiny models, whose threads would mostly wait for one another; more for the default model."""
    torch.set_num_threads(THREADS if request.node.get_closest_marker("model") else 1)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def default_models() -> Path:
    """The folder with the default model, which is fetched if it is not there; STEERCHAT_MODELS can name it."""
    return find("smollm2", progress=lambda event: None).path.parent


@pytest.fixture(scope="session")
def default_home(default_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with what the first start of the default model finds out about this machine, to be copied."""

    def make(home: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STEERCHAT_HOME", str(home))
            patch.setenv("STEERCHAT_MODELS", str(default_models))
            torch.set_num_threads(THREADS)
            load(find("smollm2", progress=lambda event: None), "cpu")

    return made_once(tmp_path_factory, "default_home", make)


@pytest.fixture(scope="session")
def engine(default_home: Path, default_models: Path) -> Engine:
    """The default model in float32; tests that ask for it are marked `model`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEERCHAT_HOME", str(default_home))
        patch.setenv("STEERCHAT_MODELS", str(default_models))
        torch.set_num_threads(THREADS)
        return load(find("smollm2", progress=lambda event: None), "cpu", "float32")


@pytest.fixture(scope="session")
def tiny() -> Engine:
    """An engine on the tiny model."""
    return tiny_engine()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as files. No test changes them."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that the first worker to need it makes for all workers of this run."""
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / f"{name}.lock"):
        if not (shared / name).exists():
            make(shared / f"{name}.part")
            (shared / f"{name}.part").rename(shared / name)
    return shared / name


@pytest.fixture(scope="session")
def tiny_home(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of the tiny model and its three small concepts, to be copied: nothing in it need be measured again."""
    shipped = write_concepts(tmp_path_factory.mktemp("shipped"))

    def make(home: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(folders, "packaged", lambda name: shipped)
            prepare_home(home, tiny_folder, CONCEPTS)

    return made_once(tmp_path_factory, "tiny_home", make)


@pytest.fixture(scope="session")
def shipped_home(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of the tiny model and the concepts that ship which lessons use most, to be copied."""
    concepts = ("happy", "sad", "formal")
    return made_once(tmp_path_factory, "shipped_home", lambda home: prepare_home(home, tiny_folder, concepts))


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of as many layers as the default model, as files; narrow, since so many take long."""
    return save_model(tmp_path_factory.mktemp("models") / "deep", layers=30, heads=2)


@pytest.fixture(scope="session")
def deep_home(deep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of that model with the shipped concept happy, to be copied: so many layers take long to read."""
    return made_once(tmp_path_factory, "deep_home", lambda home: prepare_home(home, deep, ["happy"]))


@pytest.fixture
def described_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """GGUF files are described in this process: the program of its own would import transformers first."""
    from steerchat.models.gguf_describer import describe

    def run(command: Sequence[str], environment: Mapping[str, str], log: Path, tick: Callable[[], None]) -> int:
        tick()
        architecture, folder, *files = command[command.index("steerchat.models.gguf_describer") + 1 :]
        with log.open("w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            try:
                describe(architecture, Path(folder), *map(Path, files))
            except SystemExit as end:
                return int(end.code or 0)
            except Exception:
                traceback.print_exc()
                return 1
        return 0

    # What that program changes for itself.
    monkeypatch.setattr(gguf, "GGUFReader", gguf.GGUFReader)
    monkeypatch.setattr(gguf, "get_tensor_name_map", gguf.get_tensor_name_map)
    monkeypatch.setattr(described, "run", run)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty history."""
    with Store.open(tmp_path / "history.db") as opened:
        yield opened


@pytest.fixture
def session(tmp_path: Path, tiny: Engine, store: Store) -> Session:
    """A conversation with the tiny model, logged in `store`."""
    return a_session(tmp_path, tiny, store)


@pytest.fixture
def start(tmp_path: Path, tiny_folder: Path, tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts chats with the tiny model and three small concepts, in a home of their own."""
    monkeypatch.setenv("STEERCHAT_HOME", str(shutil.copytree(tiny_home, tmp_path / "home", dirs_exist_ok=True)))
    shipped = write_concepts(tmp_path / "shipped")
    shutil.copy(folders.packaged("vectors") / "texts" / "lexicons.toml", shipped / "texts")
    monkeypatch.setattr(folders, "packaged", lambda name: shipped)
    chats: list[Chat] = []

    def begin(ask: Callable[[str, Sequence[str]], str] | None = None, **changes) -> tuple[Chat, Screen]:
        screen = Screen(Console(file=io.StringIO(), width=100, color_system=None))
        settings = Settings(**{"model": str(tiny_folder), "device": "cpu", "max_tokens": 6, **changes})
        chat = Chat(settings, registry, screen.show, ask).start()
        chats.append(chat)
        chat.session.engine  # noqa: B018  # so that no line about loading stands in a transcript
        screen.console.file = io.StringIO()
        return chat, screen

    yield begin
    for chat in chats:
        chat.close()


@pytest.fixture
def shell(
    tmp_path: Path,
    tiny_folder: Path,
    tiny_home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shell]:
    """Runs command lines in this process, with the tiny model and three small concepts, in a home of their own."""
    home = shutil.copytree(tiny_home, tmp_path / "home", dirs_exist_ok=True)
    monkeypatch.setenv("STEERCHAT_HOME", str(home))
    shipped = write_concepts(tmp_path / "shipped")
    shutil.copy(ROOT / "vectors" / "texts" / "lexicons.toml", shipped / "texts")
    (shipped / "texts" / "prompts.toml").write_text(
        'tuning = ["Why?"]\nevaluation = ["How are you?", "Where are you?"]'
    )
    monkeypatch.setattr(folders, "packaged", lambda name: shipped)
    yield Shell(home, tiny_folder, capsys, monkeypatch)
    # A command that ends before the model is loaded leaves its thread, and Python cannot end that at its own end.
    for thread in threading.enumerate():
        if thread.name == "loader":
            thread.join(60)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; a test that asks for it is skipped where there is none.

    Only while a module needs it: its event loop would stand in the way of prompt_toolkit's.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()
