"""Plots of a proof, as lines, dots and words for an inline SVG: differences by seed, AP by arm, learning curves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lib.proof.results import Proof
from lib.proof.statistics import Comparison, failed_checks, p_text

GREEN, RED, GREY, DARK = "#2a8f2a", "#d22222", "#777777", "#222222"
PALETTE = ("#222222", "#2f6fdf", "#e0662f", "#2a8f2a", "#9b3fc4", "#c4a000", "#00a0a0", "#d2225f", "#7a5230", "#6b7a8f")
OUTCOMES = {"shown": GREEN, "harm shown": RED}  # the others are grey

LEFT, RIGHT, ROW, TOP = 350, 180, 44, 26  # pixels: words on both sides, a row, the axis
WIDTH = 1080
LONGEST = 52  # characters of a line of words; the whole is in its tip
CURVE = 60  # points of a learning curve


@dataclass(frozen=True)
class Line:
    """Pixels."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: str
    width: float = 1
    tip: str = ""
    opacity: float = 1


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    colour: str
    tip: str


@dataclass(frozen=True)
class Path:
    points: str  # as SVG writes them
    colour: str
    tip: str


@dataclass(frozen=True)
class Text:
    x: float
    y: float
    text: str
    anchor: str = "start"
    colour: str = DARK
    bold: bool = False
    small: bool = False
    tip: str = ""


@dataclass
class Plot:
    title: str
    height: float
    width: float = WIDTH
    lines: list[Line] = field(default_factory=list)
    dots: list[Dot] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)


@dataclass(frozen=True)
class Row:
    """Values of one line of a plot."""

    label: str
    about: str  # below the label, in small letters
    values: Sequence[tuple[str, float]]  # (tip, value)
    mean: float | None
    interval: tuple[float, float] | None
    colour: str
    outcome: str = ""  # on the right
    more: str = ""  # below it


def differences(proof: Proof) -> list[Plot]:
    """The claims, grey where a check failed, and beneath them the protocol's checks on a scale of their own."""
    titles = {one.arm: one.title for one in proof.arms}
    doubt = bool(failed_checks(proof.comparisons))
    plots = []
    for role, title in (
        ("claim", "Claims: difference in AP points. A dot is a seed, the bar the 95 % interval of their mean"),
        ("check", "The protocol's own checks: both must be shown"),
    ):
        chosen = [one for one in proof.comparisons if (one.role == "claim") == (role == "claim")]
        if chosen:
            plots.append(
                rows_plot(title, [_difference(one, titles, doubt and role == "claim") for one in chosen], zero=True)
            )
    return plots


def _difference(one: Comparison, titles: Mapping[str, str], doubt: bool) -> Row:
    """doubt: a check failed, so the outcome has no colour."""
    arm = (one.rival if one.role == "harm" else one.better).partition("@")[0]
    gain = "" if one.mean is None else f"{number(one.mean, sign=True)} AP, p {p_text(one.p_holm)}"
    return Row(
        label=one.contrast,
        about=f"{arm}: {titles.get(arm, '')}",
        values=[
            (f"seed {seed}: {number(value, sign=True)}", value)
            for seed, value in zip(one.seeds, one.differences, strict=True)
        ],
        mean=one.mean,
        interval=None if one.low is None or one.high is None else (one.low, one.high),
        colour=GREY if doubt else OUTCOMES.get(one.outcome, GREY),
        outcome=one.outcome + ("?" if doubt and one.outcome in OUTCOMES else ""),
        more=gain,
    )


def levels(proof: Proof) -> Plot:
    """AP of each arm, a dot a seed."""
    rows = []
    for i, arm in enumerate(proof.arms):
        values = [(f"seed {one.seed}: {one.value:.1f} AP", one.value) for one in proof.of(arm) if one.value is not None]
        mean = float(np.mean([value for _, value in values])) if values else None
        colour = PALETTE[i % len(PALETTE)]
        rows.append(
            Row(proof.name(arm), arm.title, values, mean, None, colour, "" if mean is None else f"{mean:.1f} AP")
        )
    return rows_plot("AP of each arm on the test pictures. A dot is a seed, the bar their mean", rows, zero=False)


def rows_plot(title: str, rows: Sequence[Row], zero: bool) -> Plot:
    plot = Plot(title, TOP + ROW * len(rows) + 8)
    every = [value for row in rows for _, value in row.values]
    every += [value for row in rows for value in row.interval or ()] + ([0.0] if zero else [])
    every += [row.mean for row in rows if row.mean is not None]
    low, high = (min(every), max(every)) if every else (0.0, 1.0)
    ticks = ticks_of(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    room = WIDTH - LEFT - RIGHT

    def place(value: float) -> float:
        return LEFT + 10 + (room - 20) * (value - low) / (high - low)

    for tick in ticks:
        heavy = zero and abs(tick) < 1e-9
        plot.lines.append(Line(place(tick), TOP - 6, place(tick), plot.height, DARK if heavy else "#e2e2e2", 1 + heavy))
        plot.texts.append(Text(place(tick), TOP - 11, _tick(tick, zero), "middle", GREY, small=True))
    for i, row in enumerate(rows):
        _draw(plot, row, TOP + ROW * i + ROW / 2, place)
    return plot


def _draw(plot: Plot, row: Row, y: float, place: Callable[[float], float]) -> None:
    plot.texts.append(Text(LEFT - 12, y - 1, _short(row.label), "end", bold=True, tip=row.label))
    plot.texts.append(Text(LEFT - 12, y + 14, _short(row.about), "end", GREY, small=True, tip=row.about))
    plot.texts.append(Text(WIDTH - RIGHT + 14, y - 1, row.outcome, colour=row.colour, bold=True))
    plot.texts.append(Text(WIDTH - RIGHT + 14, y + 14, row.more, colour=GREY, small=True))
    if row.interval is not None:
        low, high = row.interval
        tip = f"95 % interval {number(low)} to {number(high)}"
        plot.lines.append(Line(place(low), y, place(high), y, row.colour, 9, tip, opacity=0.3))
    if row.mean is not None:
        plot.lines.append(Line(place(row.mean), y - 11, place(row.mean), y + 11, row.colour, 4, f"mean {row.mean:.2f}"))
    else:
        plot.texts.append(Text(LEFT + 20, y + 4, "no finished training", colour=GREY, small=True))
    for tip, value in row.values:
        plot.dots.append(Dot(place(value), y, row.colour, f"{row.label}, {tip}"))


def curves(proof: Proof) -> Plot | None:
    """Loss by step of each arm at the protocol's ratio, mean over the seeds; None without any."""
    found = {}
    for i, arm in enumerate(proof.arms):
        if arm.ratio in (0.0, proof.protocol.ratio):
            some = curve_of([one.curve for one in proof.of(arm)])
            if some:
                found[proof.name(arm)] = (PALETTE[i % len(PALETTE)], some)
    if not found:
        return None
    plot = Plot(
        "Learning curves: training loss by step, mean over the seeds. Losses of other pictures do not compare", 300
    )
    steps = [step for _, some in found.values() for step, _ in some]
    losses = [math.log10(max(loss, 1e-6)) for _, some in found.values() for _, loss in some]
    low, high = min(losses), max(max(losses), min(losses) + 0.1)
    left, right, top, bottom = 60, WIDTH - 130, 12, 270

    def across(step: float) -> float:
        return left + (right - left) * step / (max(steps) or 1)

    def down(loss: float) -> float:
        return bottom - (bottom - top) * (math.log10(max(loss, 1e-6)) - low) / (high - low)

    for tick in (one for one in _decades(10**low, 10**high)):
        plot.lines.append(Line(left, down(tick), right, down(tick), "#e2e2e2"))
        plot.texts.append(Text(left - 8, down(tick) + 4, f"{tick:g}", "end", GREY, small=True))
    for tick in ticks_of(0, max(steps)):
        if tick <= max(steps):
            plot.texts.append(Text(across(tick), bottom + 18, f"{tick:g}", "middle", GREY, small=True))
    last = sorted(found.items(), key=lambda item: item[1][1][-1][1], reverse=True)
    heights = _apart([down(some[-1][1]) for _, (_, some) in last], 14, bottom)
    for (name, (colour, some)), height in zip(last, heights, strict=True):
        points = " ".join(f"{across(step):.1f},{down(loss):.1f}" for step, loss in some)
        plot.paths.append(Path(points, colour, name))
        plot.texts.append(Text(right + 10, height + 4, f"{name} {some[-1][1]:.3g}", colour=colour))
    return plot


def curve_of(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """(step, mean loss) of several trainings, in at most CURVE spans of steps."""
    points = np.array([point for curve in curves for point in curve], np.float64).reshape(-1, 2)
    if not len(points):
        return []
    steps = np.unique(points[:, 0])
    spans = np.array_split(steps, min(CURVE, len(steps)))
    found = []
    for span in spans:
        inside = (points[:, 0] >= span[0]) & (points[:, 0] <= span[-1])
        found.append((float(span.mean()), float(points[inside, 1].mean())))
    return found


def ticks_of(low: float, high: float, most: int = 9) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    span = max(high - low, 1e-9)
    rough = span / (most - 2)
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * k, 10) for k in range(first, max(last, first + 1) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, … between."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [one * 10.0**power for power in powers for one in (1, 2, 5) if low <= one * 10.0**power <= high]


def _apart(heights: Sequence[float], least: float, bottom: float) -> list[float]:
    """Heights from the top, moved so far that labels do not touch."""
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + least) if found else height)
    over = max(0.0, found[-1] - bottom) if found else 0.0
    return [height - over for height in found]


def _tick(value: float, sign: bool) -> str:
    return number(value, sign, ".3g") if value else "0"


def number(value: float, sign: bool = False, form: str = ".1f") -> str:
    return f"{value:{'+' if sign else ''}z{form}}".replace("-", "−")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
