"""The loop: a line in, what it did on the screen. At a terminal with editing, elsewhere plain lines."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO, cast

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.formatted_text import ANSI, FormattedText, StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.output import Output
from prompt_toolkit.styles import Style

from .._version import __version__
from ..conversation.chat import Chat, Menu, unexpected
from ..models.find import ALIASES
from ..screen.render import Screen
from ..slash.registry import is_command, message_text
from ..system import folders
from ..values.errors import Interrupted, SteerchatError, UsageError
from ..values.text import REPLACEMENT, cell_len, clean, fit
from .completion import SlashCompleter

# Prompts on which steering is known to show; "hi" shows little.
PROMPTS = ("Tell me about the weather", "What should I do this weekend?", "Describe your favourite place")
_MOST_TYPED = 64 << 20  # bytes of lines typed in earlier chats
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
_LONGEST_LINE = 1 << 20  # characters; no model holds as many
# Typing starts a completion menu in the line: quiet colours, readable on light and dark.
_STYLE = Style.from_dict({"bottom-toolbar": "noreverse", "prompt": "bold"})


def run_line(chat: Chat, screen: Screen, line: str) -> bool:
    """Do what one line says and draw it. Errors are shown here and nowhere else.

    Returns:
        whether it worked; stopping an answer is no failure.
    """
    chat.session.stop.clear()
    try:
        if chat.companion is not None:
            line = chat.companion.meant(line)
        with stoppable(chat.session.stop), unechoed():
            if is_command(line):
                show(chat, screen, chat.registry.parse(line).run(chat))
            elif line.strip():
                show(chat, screen, chat.session.say(message_text(line)))
            if chat.companion is not None and line.strip():
                show(chat, screen, chat.companion.after_line(line))
        return True
    except Interrupted as stop:
        screen.notice(f"{stop.message}.")
        return True
    except SteerchatError as error:
        screen.error(error)
        return False
    except BrokenPipeError:  # the reader has gone, and nobody is left to tell
        raise
    except Exception as error:  # a mistake in steerchat must not end a conversation
        screen.error(unexpected(error))
        return False


def show(chat: Chat, screen: Screen, value: object) -> None:
    """Draw what a command gave back: a stream of events, or a value, or several."""
    if isinstance(value, Iterator):
        screen.stream(value, chat.settings.view)
    elif isinstance(value, list) and not all(hasattr(part, "pair") for part in value):
        for part in value:
            screen.show(part)
    else:
        screen.show(value)


@contextmanager
def unechoed() -> Iterator[None]:
    """Meanwhile what is typed ahead waits for the next prompt unseen: an echo would land in the answer."""
    try:
        import termios
    except ImportError:  # Windows echoes nothing while nobody reads
        yield
        return
    if not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    silent = [*before]
    silent[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)


@contextmanager
def stoppable(flag: threading.Event) -> Iterator[None]:
    """Meanwhile Ctrl-C sets a flag, which long work asks for between its steps, and raises nothing."""
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
    chat: Chat,
    screen: Screen,
    input: Input | None = None,
    output: Output | None = None,
    first: Sequence[str] = (),
) -> None:
    """The interactive chat.

    Args:
        chat: started.
        screen: where answers go.
        input, output: prompt_toolkit's, for tests.
        first: lines to run before any is asked for.
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
        style=_STYLE,
        input=input,
        output=output,
    )
    for line in first:
        run_line(chat, screen, line)
    while not chat.leaving:
        start, chat.editing = chat.editing or "", None
        try:
            line = prompt.prompt(FormattedText([("class:prompt", "> ")]), default=start)
        except KeyboardInterrupt:
            continue
        except EOFError:
            break
        if line.strip() or chat.companion is not None:
            run_line(chat, screen, line)


class Visible(Processor):
    """Shows what turns the direction of a pasted text as a sign in its place; prompt_toolkit does so for the rest."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        fragments = transformation_input.fragments
        shown = [(one[0], _TURNING.sub(REPLACEMENT, one[1]), *one[2:]) for one in fragments]
        return Transformation(cast(StyleAndTextTuples, shown))


def asker(screen: Screen) -> Callable[[str, Sequence[str]], str]:
    """Puts a question to whoever sits at the terminal; one without choices takes any text."""

    def ask(question: str, choices: Sequence[str]) -> str:
        session: PromptSession[str] = PromptSession(input_processors=[Visible()])
        asked = clean(question)
        while True:
            try:
                answer = session.prompt(f"  {asked} [{'/'.join(choices)}] " if choices else f"  {asked} ").strip()
            except (KeyboardInterrupt, EOFError):
                raise Interrupted("the question") from None
            if not choices:
                return answer
            found = [choice for choice in choices if answer and choice.startswith(answer.lower())]
            if len(found) == 1:
                return found[0]
            screen.notice("one of: " + ", ".join(choices))

    return ask


def read_lines(stream: TextIO) -> Iterator[str]:
    """Lines of a stream; bytes that are no text become replacement signs instead of an error.

    Raises:
        UsageError: a line goes on and on.
    """
    if isinstance(stream, TextIO) or hasattr(stream, "reconfigure"):
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="replace")  # type: ignore[attr-defined]
    while line := stream.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise UsageError(f"a line of more than {_LONGEST_LINE:,} characters", "lines are messages or commands")
        yield line


def _history(path: Path) -> History:
    """Typed lines across starts; in memory alone where the folder cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and (not path.is_file() or path.stat().st_size > _MOST_TYPED):
            return InMemoryHistory()  # a pipe would be waited for, and all of it is read at the start
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
            event.current_buffer.complete_state = None  # takes what the menu has put into the line
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
    """As far as it is known before the model is there."""
    name = chat.settings.model
    return ALIASES.get(name.lower(), name).rstrip("/").rpartition("/")[2] or name


def _toolbar(chat: Chat, width: int) -> ANSI:
    """One line; on a narrow screen what matters least goes first."""
    session, settings = chat.session, chat.settings
    engine = chat.loader.ready
    if chat.loader.failed:
        model = f"{_model_name(chat)} is not loaded: /model NAME"
    else:
        model = f"{engine.name} {engine.device}" if engine else f"{_model_name(chat)}: {chat.loader.status}"
    carry = "" if settings.carry == "own" else f", context holds {settings.carry}"
    speed = "" if session.last is None else f"{session.last.tokens_per_second:.0f} tok/s"
    journal = session.journal
    logged = "NOT LOGGED" if journal.store is None or journal.failing else f"{journal.logged} logged"
    view, temperature = f"view {settings.view}{carry}", f"temp {settings.temperature:g}"
    parts = [model, str(session.recipe), view, temperature, speed, logged]
    for least in (3, 2, 4):
        if cell_len(" | ".join(parts)) > width:
            parts[least] = ""
    return ANSI(fit(clean(" | ".join(filter(None, parts))), width))


def interactive() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()
