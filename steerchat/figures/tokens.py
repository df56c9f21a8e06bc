"""Draws an answer token by token: surprise, concepts, and the share of the push."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from ..values.chart import Tokens
from ..values.results import Strip, format_effect
from ..values.text import clean, fit
from .looks import ACCENT, FAINT, INK, OTHER, label, legend

_ROOM = 11.0  # points between two words on the axis
_LONGEST = 14  # characters of a word there


def token_panels(tokens: Tokens) -> list[Callable[[Axes], None]]:
    """A panel for surprise, one for each concept, and one for the push where that changed."""
    drawers = [_surprise(tokens)]
    drawers += [_concept(tokens, name, strips) for name, strips in tokens.concepts.items()]
    return [*drawers, _pushes(tokens)] if tokens.pushes else drawers


def _surprise(tokens: Tokens) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.set_title("surprise of each token, in bits; names: the least likely")
        surprises = tokens.surprises
        axes.bar(range(1, len(surprises) + 1), surprises, width=0.8, color=ACCENT, lw=0)
        for least in (0.1, 0.01, 0.001):  # as the text's shades
            axes.axhline(-math.log2(least), color=FAINT, lw=0.5, ls=":")
        _frame(axes, tokens)
        axes.set_ylim(0, max([*surprises, 10.0]) * 1.05)
        if surprises:
            shown = _apart(axes, surprises)
            axes.set_xticks(
                [index + 1 for index in shown],
                [fit(clean(tokens.tokens[index]).strip() or "\u2423", _LONGEST) for index in shown],
                rotation=90,
                fontsize=7,
            )

    return draw


def _concept(tokens: Tokens, name: str, strips: Sequence[Strip]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        scores = ", ".join(f"{strip.column} {format_effect(strip.score)}" for strip in strips)
        axes.set_title(f"{label(name)} in each token (on the whole: {scores})")
        axes.axhline(0, color=FAINT, lw=0.8)
        for strip in strips:
            steered = strip.column == "steered"
            axes.plot(
                range(1, len(strip.values) + 1),
                strip.values,
                "-" if steered else "--",
                color=ACCENT if steered else OTHER,
                lw=1.4 if steered else 1.0,
                label=strip.column,
            )
        _frame(axes, tokens)
        axes.set_xlabel("token")
        if strips:
            legend(axes)

    return draw


def _pushes(tokens: Tokens) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        axes.set_title("share of the strength")
        for number, (name, shares) in enumerate(tokens.pushes):
            places = [0.5, *(index + 1.5 for index in range(len(shares)))]
            style = "--" if number else "-"
            axes.stairs(shares, places, baseline=None, color=OTHER if number else INK, lw=1.4, ls=style, label=name)
        _frame(axes, tokens)
        axes.set_ylim(-0.05, 1.05 * max([1.0, *(share for _, shares in tokens.pushes for share in shares)]))
        axes.set_xlabel("token")
        legend(axes)

    return draw


def _frame(axes: Axes, tokens: Tokens) -> None:
    """Equal places for equal tokens in every panel, and a line where the answers part."""
    longest = max([len(tokens.tokens), *(len(strip.values) for strip in tokens.strips)])
    axes.set_xlim(0, longest + 1)
    if tokens.parting is not None:
        axes.axvline(tokens.parting + 0.5, color=INK, lw=0.8, ls="--")


def _apart(axes: Axes, surprises: Sequence[float]) -> list[int]:
    """The most surprising tokens whose names fit on the axis side by side."""
    figure = axes.get_figure(root=True)
    width = 0.85 * 72 * (figure.get_figwidth() if figure is not None else 4.5)  # points; the rest has the numbers
    low, high = axes.get_xlim()
    least = _ROOM * (high - low) / width
    shown: list[int] = []
    for index in sorted(range(len(surprises)), key=lambda index: -surprises[index]):
        if all(abs(index - other) >= least for other in shown):
            shown.append(index)
    return sorted(shown)
