"""A recorded chat as an SVG picture of a terminal, drawn by rich, without fonts to download."""

from __future__ import annotations

import io
import re

from rich.console import Console

from ..values.text import clean

_WIDTH = 100  # cells: two answers fit side by side
_FONTS = 'ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace'


def recorder() -> Console:
    """A console that records its output and shows nothing; a `Screen` draws only final lines on it."""
    return Console(
        file=io.StringIO(),
        record=True,
        width=_WIDTH,
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        highlight=False,
        _environ={},
    )


def picture(recorded: Console, title: str) -> str:
    """The recording as SVG; equal recordings give equal text."""
    drawn = recorded.export_svg(title=clean(title), clear=False, unique_id="steerchat")
    # Removes the fonts that it would download. The chat's text cannot match: rich writes its blanks as no-break ones.
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.S).replace("Fira Code, monospace", _FONTS)
    return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n"


def words(recorded: Console) -> str:
    """The recording as plain text."""
    return "\n".join(line.rstrip() for line in recorded.export_text(clear=False).splitlines()) + "\n"
