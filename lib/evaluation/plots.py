"""Plots of a report, as rectangles and words for an inline SVG: boxes by category, by size and by place.

Real boxes are blue, painted ones orange, everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lib.evaluation.boxes import EDGES, PLACES, BoxFigures

REAL, PAINTED = "#2f6fdf", "#e0662f"
MOST = 30  # categories that have a bar of their own
LONGEST = 26  # characters of a name in a plot; the whole one is in its tip
KEY = [(REAL, "real"), (PAINTED, "painted")]


@dataclass(frozen=True)
class Mark:
    """A rectangle, pixels."""

    x: float
    y: float
    width: float
    height: float
    colour: str
    tip: str
    opacity: float = 1


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    text: str
    anchor: str = "start"
    tip: str = ""


@dataclass
class Plot:
    title: str
    width: int
    height: int
    marks: list[Mark] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


def plots_of(figures: BoxFigures) -> list[Plot]:
    """Of a result's labels."""
    return [_categories(figures), _sizes(figures), _places(figures)]


def _categories(figures: BoxFigures) -> Plot:
    shown = list(figures.categories.items())[:MOST]
    rest = len(figures.categories) - len(shown)
    plot = Plot(f"boxes by category{f', without {rest} rarer ones' if rest else ''}", 520, 26 * len(shown) + 6)
    left, room = 190, 270
    most = max((max(count.before, count.painted) for _, count in shown), default=1) or 1
    for row, (name, count) in enumerate(shown):
        short = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
        plot.texts.append(Text(left - 8, 26 * row + 17, short, "end", name))
        for half, (colour, what, number) in enumerate(
            ((REAL, "real", count.before), (PAINTED, "painted", count.painted))
        ):
            long, top = room * number / most, 26 * row + 3 + 10 * half
            plot.marks.append(Mark(left, top, long, 9, colour, f"{name}: {number} {what}"))
            plot.texts.append(Text(left + long + 4, top + 9, str(number)))
    return plot


def _sizes(figures: BoxFigures) -> Plot:
    plot, step, room = Plot("boxes by size: side as a share of the picture's, up to", 360, 190), 50, 150
    shares = {side: _shares(counts) for side, counts in figures.sizes.items()}
    most = max((max(some, default=0) for some in shares.values()), default=0) or 1
    for i, edge in enumerate(EDGES[1:]):
        for half, (colour, side) in enumerate(((REAL, "real"), (PAINTED, "painted"))):
            tall = room * shares[side][i] / most
            tip = f"{side}: {figures.sizes[side][i]} boxes, {100 * shares[side][i]:.0f} %"
            plot.marks.append(Mark(4 + i * step + 22 * half, room + 10 - tall, 21, tall, colour, tip))
        plot.texts.append(Text(4 + i * step + 22, room + 26, f"{100 * edge:.2g} %" if edge < 1 else "more", "middle"))
    return plot


def _shares(counts: Sequence[int]) -> list[float]:
    total = sum(counts) or 1
    return [count / total for count in counts]


def _places(figures: BoxFigures) -> Plot:
    """Two pictures of where the boxes' centres are, the darker the more."""
    plot, cell = Plot("boxes by place: where their centres are in the picture", 360, 190), 20
    for number, (colour, side) in enumerate(((REAL, "real"), (PAINTED, "painted"))):
        rows, left = figures.places[side], number * (PLACES * cell + 20)
        most = max((max(row, default=0) for row in rows), default=0) or 1
        for y, row in enumerate(rows):
            for x, count in enumerate(row):
                tip = f"{side}: {count} boxes"
                mark = Mark(
                    left + x * cell, y * cell, cell - 1, cell - 1, colour, tip, round(0.06 + 0.94 * count / most, 3)
                )
                plot.marks.append(mark)
        plot.texts.append(Text(left, PLACES * cell + 16, side))
    return plot
