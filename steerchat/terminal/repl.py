"""The loop of the chat: read a line, run it, draw the result. A terminal gets line editing, a pipe plain lines."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import TextIO, cast

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app, run_in_terminal
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.formatted_text import ANSI, FormattedText, StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.output import Output
from prompt_toolkit.styles import Style

from .._version import __version__
from ..commands.setup import suggested
from ..conversation.chat import Chat, Menu, unexpected
from ..models.catalogue import KNOWN
from ..screen.render import Screen
from ..slash.registry import is_command, message_text
from ..system import folders
from ..system.untrusted import BYTE_ORDER_MARK
from ..values.errors import Interrupted, SteerchatError, UsageError
from ..values.results import Notice
from ..values.text import REPLACEMENT, cell_len, clean, fit
from .completion import SlashCompleter
from .dial import Dial, silent
from .images import Images

# Prompts on which steering is known to show; "hi" shows little.
PROMPTS = ("Tell me about the weather", "What should I do this weekend?", "Describe your favourite place")
# Seconds between two looks at whether the model could be loaded, while the user types.
_LOOK = 0.2
# Conversations in the history after which a word about larger models is worth it.
_CHATS = 3
_MOST_HISTORY = 64 << 20  # bytes of lines typed in earlier chats
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")
_LONGEST_LINE = 1 << 20  # characters, more than any model's context
# Quiet colours, readable on light and dark.
_STYLE = Style.from_dict({"bottom-toolbar": "noreverse", "prompt": "bold"})


def run_line(chat: Chat, screen: Screen, line: str, dial: Dial | None = None) -> bool:
    """Run one line and draw its result. Errors are shown here and nowhere else.

    Args:
        dial: takes the terminal's keys meanwhile; without one, they wait for the next prompt.

    Returns:
        whether it worked; stopping an answer is no failure.
    """
    chat.session.stop.clear()
    try:
        if chat.companion is not None:
            line = chat.companion.meant(line)
        with stoppable(chat.session.stop), unechoed() if dial is None else dial.watching():
            if is_command(line):
                show(chat, screen, chat.registry.parse(line).run(chat))
            elif line.strip():
                show(chat, screen, chat.session.say(message_text(line)))
            if chat.companion is not None and line.strip():
                show(chat, screen, chat.companion.after_line(line))
        return True
    except Interrupted as stop:
        screen.show(Notice(f"{stop.message}."))
        return True
    except SteerchatError as error:
        screen.error(error)
        return False
    except BrokenPipeError:  # nobody reads the output any more
        raise
    except Exception as error:  # a mistake in steerchat must not end a conversation
        screen.error(unexpected(error))
        return False


def show(chat: Chat, screen: Screen, value: object) -> None:
    """Draw a command's result: a stream of events, a value, or several values."""
    if isinstance(value, Iterator):
        screen.stream(value, chat.settings.view)
    else:
        screen.show(value)


def unechoed() -> AbstractContextManager[object]:
    """Hide what the user types ahead until the next prompt: an echo would land in the middle of the answer."""
    return silent(sys.stdin.fileno()) if sys.stdin.isatty() else nullcontext()


@contextmanager
def stoppable(flag: threading.Event) -> Iterator[None]:
    """Ctrl-C sets a flag, which long work checks between its steps, and raises no exception."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda *_: flag.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def run_script(chat: Chat, screen: Screen, lines: Iterable[str]) -> bool:
    """Run lines as if typed, without a prompt. Returns whether all of them worked; Interrupted when one was stopped."""
    worked = True
    for line in lines:
        line = line.rstrip("\r\n")
        if not line.strip():
            continue
        screen.console.print(f"> {clean(line)}", markup=False, highlight=False)
        worked = run_line(chat, screen, line) and worked
        if chat.session.stop.is_set():
            raise Interrupted("the script")  # Ctrl-C means all of it, not this line
        if chat.leaving:
            break
    return worked


def run_chat(
    chat: Chat, screen: Screen, input: Input | None = None, output: Output | None = None, first: Sequence[str] = ()
) -> None:
    """The interactive chat.

    Args:
        input, output: prompt_toolkit's, for tests.
        first: lines to run before the first prompt.
    """
    screen.banner(
        f"steerchat {__version__}",
        [_model_name(chat), "loads while you type" if chat.loader.ready is None else "ready"],
        ["/help", "/lesson 1", "Ctrl-D quits"],
        PROMPTS,
    )
    prompt: PromptSession[str] = PromptSession(
        history=_history(folders.data_dir() / "input-history"),
        completer=SlashCompleter(chat.registry, Menu(chat)),
        complete_while_typing=True,
        auto_suggest=AutoSuggestFromHistory(),
        multiline=True,
        prompt_continuation="  ",
        key_bindings=_keys(),
        input_processors=[Visible()],
        bottom_toolbar=lambda: _toolbar(chat, screen.width),
        refresh_interval=0.5,
        enable_suspend=True,
        style=_STYLE,
        input=input,
        output=output,
    )
    dial = chat.session.dial = Dial(prompt.input, prompt.output)
    screen.images = images(chat, screen, dial.put_back)
    told: list[SteerchatError] = []

    def run(line: str) -> None:
        if not run_line(chat, screen, line, dial) and chat.loader.failed is not None:
            told.append(chat.loader.failed)

    for line in first:
        run(line)
    while not chat.leaving:
        start, chat.editing = chat.editing or "", None
        watch = partial(_tell_failure, chat, screen, told)
        try:
            line = prompt.prompt(FormattedText([("class:prompt", "> ")]), default=start, pre_run=watch)
        except KeyboardInterrupt:
            continue
        except EOFError:
            break
        if line.strip() or chat.companion is not None:
            run(line)
    _suggest(chat, screen)


def _tell_failure(chat: Chat, screen: Screen, told: list[SteerchatError]) -> None:
    """Show above the line that is typed why the model cannot be loaded, as soon as that is known.

    `told`: errors that have been shown; this one joins them.
    """
    loader = chat.loader

    async def watch() -> None:
        while loader.ready is None and loader.failed is None:
            await asyncio.sleep(_LOOK)
        error = loader.failed
        if error is not None and error not in told:
            told.append(error)
            await run_in_terminal(lambda: screen.error(error))

    get_app().create_background_task(watch())


def _suggest(chat: Chat, screen: Screen) -> None:
    """At the end of one of the first chats, and once in all: which larger model would run well on this machine."""
    marker = folders.data_dir() / "suggested"
    with suppress(SteerchatError):
        if chat.loader.ready is None or marker.exists() or len(chat.session.store.sessions(limit=_CHATS)) < _CHATS:
            return
        folders.write_whole(marker, b"")
        if (best := suggested(chat)) is not None:
            screen.show(Notice(f"{best}. /model suggest says it again."))


class Visible(Processor):
    """Shows a replacement sign for characters that change the direction of text; prompt_toolkit shows the others."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        fragments = [
            (style, _DIRECTION.sub(REPLACEMENT, text), *handler)
            for style, text, *handler in transformation_input.fragments
        ]
        return Transformation(cast(StyleAndTextTuples, fragments))


def asker(screen: Screen) -> Callable[[str, Sequence[str]], str]:
    """A function that asks the person at the terminal; a question without choices takes any text."""

    def ask(question: str, choices: Sequence[str]) -> str:
        session: PromptSession[str] = PromptSession(input_processors=[Visible()])
        text = f"  {clean(question)} " + (f"[{'/'.join(choices)}] " if choices else "")
        while True:
            try:
                answer = session.prompt(text).strip()
            except (KeyboardInterrupt, EOFError):
                raise Interrupted("the question") from None
            if not choices:
                return answer
            fitting = [choice for choice in choices if answer and choice.startswith(answer.lower())]
            if len(fitting) == 1:
                return fitting[0]
            screen.show(Notice(f"answer with one of: {', '.join(choices)}; Ctrl-C leaves the question"))

    return ask


def read_lines(stream: TextIO) -> Iterator[str]:
    """Lines of a stream; bytes that are not text become replacement signs instead of an error.

    Raises UsageError when a line is longer than any model could read.
    """
    with suppress(AttributeError, ValueError):
        stream.reconfigure(errors="replace")  # type: ignore[attr-defined]
    first = True
    while line := stream.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise UsageError(f"a line of more than {_LONGEST_LINE:,} characters", "lines are messages or commands")
        yield line.removeprefix(BYTE_ORDER_MARK) if first else line
        first = False


def _history(path: Path) -> History:
    """The lines typed in earlier chats; where the folder cannot be written, only those of this one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and (not path.is_file() or path.stat().st_size > _MOST_HISTORY):
            return InMemoryHistory()  # reading a pipe would wait, and the whole file is read at the start
        with path.open("a"):
            pass
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        state = event.current_buffer.complete_state
        if state is not None and state.current_completion is not None:
            event.current_buffer.complete_state = None  # accepts the menu's entry, which stands in the line already
        else:
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-d")
    def _(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.delete()
        else:
            event.app.exit(exception=EOFError)

    return keys


def _model_name(chat: Chat) -> str:
    """The model's name, as far as it is known before the model is loaded."""
    name = chat.settings.model
    known = KNOWN.get(name.lower())
    return (known.repository if known else name).rstrip("/").rpartition("/")[2] or name


def _toolbar(chat: Chat, width: int) -> ANSI:
    """One line; on a narrow screen the least important parts are left out."""
    session, settings = chat.session, chat.settings
    engine = chat.loader.ready
    if chat.loader.failed:
        model = f"{_model_name(chat)} is not loaded: /model NAME"
    else:
        model = f"{engine.name} {engine.device}" if engine else f"{_model_name(chat)}: {chat.loader.status}"
    carry = "" if settings.carry == "own" else f", context holds {settings.carry}"
    speed = "" if session.shown is None else f"{session.shown.tokens_per_second:.0f} tok/s"
    journal = session.journal
    logged = "NOT LOGGED" if journal.store is None or journal.failing else f"{journal.logged} logged"
    view, temperature = f"view {settings.view}{carry}", f"temp {settings.temperature:g}"
    parts = [model, str(session.recipe), view, temperature, speed, logged]
    for least in (3, 2, 4):
        if cell_len(" | ".join(parts)) > width:
            parts[least] = ""
    return ANSI(fit(clean(" | ".join(filter(None, parts))), width))


def images(chat: Chat, screen: Screen, typed: Callable[[str], None] = lambda text: None) -> Images:
    """What draws a chat's figures on this terminal. `typed`: as of `Images`."""
    return Images(lambda: chat.settings.images == "auto", lambda: (screen.console.width, screen.console.height), typed)


def interactive() -> bool:
    """Whether standard input and output are both a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()
