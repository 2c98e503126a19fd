"""A report for a person: one HTML file without a network, of one evaluation or of two side by side.

    write_report({"mine": result}, Path("report/index.html"))
    write_report({"before": read_result(Path("old.json")), "after": new}, Path("compared.html"))

First the verdict, in a sentence; then what evaluate.py measured: boxes by category, size and place, the pictures that
the judge likes least and most, every number with its floor, its n, what it does not show and whether it can be trusted,
tables by category and size, how single pictures and boxes spread, and a sheet of what was generated. The metrics
(metrics/) declare their numbers, tables and notes; plots.py draws; the page itself is report.html.jinja beside this.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined, Template
from PIL import Image, ImageDraw

from lib.core.files import atomic_write
from lib.core.images import PictureError, load_rgb
from lib.evaluation.metrics import METRICS, Number, Table, numbers_of
from lib.evaluation.metrics.own_boxes import ContentDetails, JudgedBox
from lib.evaluation.plots import KEY, plots_of
from lib.evaluation.reading import in_frame
from lib.evaluation.results import Box, Evaluation, PairRow, PictureRow, Value, plus_minus, shown
from lib.evaluation.verdict import doubt_of

SHOWN = 4  # best and worst pictures of each number
NAMED = 4  # boxes that a strip's caption names
BOXES = 12  # best and worst boxes
SHEET = 24  # pictures of the contact sheet
THUMB = 360  # pixels, width of a picture in the report
BINS = 20
_COLOURS = ("#2f6fdf", "#e0662f")
_TEMPLATE = Path(__file__).with_name("report.html.jinja")

Results = Mapping[str, Evaluation]
Targets = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Shown:
    """A picture, or the reason why it is missing."""

    data: str = ""  # JPEG, base64
    missing: str = ""


@dataclass(frozen=True)
class Figure:
    images: Sequence[Shown]
    caption: str
    beside: bool = False  # side by side


@dataclass(frozen=True)
class Figures:
    title: str
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Bar:
    x: str  # pixels
    y: str
    width: str
    height: str
    colour: str
    title: str


@dataclass(frozen=True)
class Histogram:
    """Bars over one scale, one colour a run."""

    bars: Sequence[Bar]
    low: str
    high: str
    key: Sequence[tuple[str, str]]  # (colour, run)
    of: str  # what is counted
    width: int = 720  # pixels
    height: int = 150


@dataclass(frozen=True)
class Cell:
    """A number of one run."""

    text: str
    floor: tuple[str, str] | None = None  # at as many pictures, and real against real
    biased: bool = False
    doubt: str = ""  # why it cannot be trusted


@dataclass(frozen=True)
class NumberRow:
    name: str
    hint: str  # direction and unit
    cells: Sequence[Cell]
    counts: str  # of how many pictures or boxes the numbers are made
    about: str


@dataclass(frozen=True)
class Spread:
    """How a number spreads over single pictures."""

    name: str
    flat: str = ""  # in words, where all have the same
    histogram: Histogram | None = None
    ends: Sequence[Figures] = ()


VERSION = 3  # raised whenever the same result would give another page


def write_report(results: Results, path: Path, title: str = "Evaluation") -> None:
    """`report_page` of one or more results by their names, written by rename."""
    atomic_write(path, report_page(results, title))


def report_page(results: Results, title: str = "Evaluation", targets: Targets | None = None) -> bytes:
    """One or more results by their names, as one HTML file; equal results give equal bytes.

    targets: how far runs that had one came, by the same names, as their accounts say.
    """
    text = _template().render(title=title, targets=list((targets or {}).items()), **_view(results)) + "\n"
    return text.encode(errors="backslashreplace")  # file names may not be valid Unicode


@cache
def _template() -> Template:
    """Compiled once: that takes longer than to fill it in."""
    source = "".join(line.strip() for line in _TEMPLATE.read_text("utf-8").splitlines())
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["cell"] = _short
    return environment.from_string(source)


def _view(results: Results) -> dict[str, Any]:
    """The variables of the template, by name."""
    known = numbers_of()
    ranked = [name for name, (_, number) in known.items() if number.ranked]
    single = [name for name in ranked if any(result.singles(name) for result in results.values())]
    return {
        "names": list(results),
        "runs": [_sizes(run, result) for run, result in results.items()],
        "verdicts": [(run, result.verdict) for run, result in results.items()],
        "plots": [(run, plots_of(result.labels)) for run, result in results.items() if result.labels],
        "key": KEY,
        "strips": [strip for run, result in results.items() for strip in _strips(run, result)],
        "numbers": _numbers(results, {name: number for name, (_, number) in known.items()}),
        "tables": [(run, table) for run, result in results.items() for table in _tables(result)],
        "spreads": [_spread(name, known[name][1], results) for name in single],
        "judged": _judged(results),
        "sheets": [sheet for run, result in results.items() if (sheet := _sheet(run, result)).figures],
        "notes": [f"{run}: {text}" for run, result in results.items() for text in _notes(result)],
    }


def _sizes(run: str, result: Evaluation) -> tuple[str, str, str]:
    parts = [result.sizes]
    parts += [f"{result.pairs.count} beside their sources"] if result.pairs else []
    parts += [f"{result.groups.count} groups of variants"] if result.groups else []
    return run, "; ".join(parts), result.features.features if result.features else ""


def _numbers(results: Results, known: Mapping[str, Number]) -> list[NumberRow]:
    """A row for each number: its value and floor in each run, and its explanation; biased ones last."""
    about = {name: text for result in results.values() for name, text in result.about.items()}
    last = any(result.biased for result in results.values())
    names = sorted((name for name in known if name in about), key=lambda name: last and known[name].biased)
    rows = []
    for name in names:
        hint = ", ".join(filter(None, (f"{known[name].better} is better", known[name].unit)))
        counts = "; ".join(dict.fromkeys(filter(None, (_count(result, name) for result in results.values()))))
        cells = [_cell(result, name, known[name]) for result in results.values()]
        rows.append(NumberRow(name, hint, cells, counts, about[name]))
    return rows


def _cell(result: Evaluation, name: str, number: Number) -> Cell:
    value: Value = result.numbers.get(name)
    doubt = doubt_of(result, name)
    if isinstance(value, list):
        return Cell(" to ".join(f"{part:.4g}" for part in value), doubt=doubt)
    if value is None:
        return Cell("–")
    beside = result.floor.beside(name) if result.floor else None
    biased, floor = number.biased and result.biased, None
    if result.floor is not None and beside is not None:
        at_m = f"at {result.floor.m}: {shown(number, beside[0])}"
        floor = (at_m, f"real against real: {plus_minus(beside[1])}")
    return Cell(shown(number, value), floor, biased, doubt)


def _count(result: Evaluation, name: str) -> str:
    """Of how many pictures or boxes a number is made."""
    if name not in result.known:
        return ""
    kind, content, regions = result.kind_of(name), result.details.get("content"), result.details.get("regions")
    if kind == "sets":
        return f"{result.n_generated} new, {result.n_real} real pictures"
    if content is not None and name.startswith("content"):
        return f"{content.n_painted} painted, {content.n_real} real boxes"
    if regions is not None and name.startswith(("regions", "fidelity")):
        return f"{regions.n_generated} painted, {regions.n_real} real boxes"
    singles = len(result.singles(name))
    return f"{singles or result.n_generated} {'groups' if kind == 'groups' else 'pictures'}"


def _strips(run: str, result: Evaluation) -> list[Figures]:
    """The pictures whose painted boxes the judge likes least, and most: source, the judged boxes, result."""
    content: ContentDetails | None = result.details.get("content")
    by_picture: dict[str, list[JudgedBox]] = {}
    for box in content.boxes if content else ():
        by_picture.setdefault(box.picture, []).append(box)
    ranked = sorted(by_picture.values(), key=lambda some: float(np.mean([box.accepted + box.typical for box in some])))
    best = ranked[::-1][: min(SHOWN, len(ranked) - SHOWN)] if len(ranked) > SHOWN else []
    shown = {"worst": ranked[:SHOWN], "best": best}
    return [Figures(f"{run}: {which}", [_strip(boxes) for boxes in some]) for which, some in shown.items() if some]


def _strip(boxes: Sequence[JudgedBox]) -> Figure:
    first = boxes[0]
    images = [_image(Path(first.source))] if first.source else []
    texts = [f"{box.label}: {_why(box)}" for box in boxes[:NAMED]]
    more = [f"and {len(boxes) - NAMED} more"] if len(boxes) > NAMED else []
    images += [_framed(boxes), _image(Path(first.picture))]
    return Figure(images, f"{Path(first.picture).name}. {'; '.join([*texts, *more])}", beside=True)


def _why(box: JudgedBox) -> str:
    if box.accepted:
        return "accepted"
    return f"refused, more like {box.said}" if box.said not in ("", box.label) else "refused, unlike any real box"


def _framed(boxes: Sequence[JudgedBox]) -> Shown:
    """A picture with its judged boxes: green ones were accepted, red ones refused."""
    path, (wide, high) = Path(boxes[0].picture), boxes[0].size
    try:
        image = Image.fromarray(in_frame(path, (wide, high)))
    except PictureError as error:
        return Shown(missing=f"{path.name}: {error.reason}")
    scale = THUMB / image.width
    image = image.resize((THUMB, max(1, round(image.height * scale))))
    pen = ImageDraw.Draw(image)
    for box in sorted(boxes, key=lambda one: not one.accepted):
        corners = [value * scale for value in box.box]
        pen.rectangle(corners, outline=(30, 190, 80) if box.accepted else (235, 40, 40), width=3)
    return _encoded(image)


def _tables(result: Evaluation) -> list[Table]:
    """The tables of the metrics: results by category and by size."""
    return [table for name, details in result.details.items() for table in METRICS[name].tables(details)]


def _short(value: Any, form: str = ".3f") -> str:
    return "–" if value is None else f"{value:{form}}" if isinstance(value, float) else str(value)


def _spread(name: str, number: Number, results: Results) -> Spread:
    values = {run: np.array([row.numbers[name] for row in result.singles(name)]) for run, result in results.items()}
    every = np.concatenate(list(values.values()))
    if every.min() == every.max():
        return Spread(name, f"{every[0]:.4g} for all {len(every)}")
    ends = [part for run, result in results.items() for part in _ends(name, number, run, result)]
    return Spread(name, histogram=_histogram(values, "pictures"), ends=ends)


def _ends(name: str, number: Number, run: str, result: Evaluation) -> list[Figures]:
    """The worst and the best pictures of a number beside their sources."""
    rows = [row for row in result.singles(name) if isinstance(row, PairRow | PictureRow)]
    ranked = sorted(rows, key=lambda row: row.numbers[name] or 0, reverse=number.better == "lower")
    best = ranked[::-1][: min(SHOWN, len(ranked) - SHOWN)] if len(ranked) > SHOWN else []
    shown = {"worst": ranked[:SHOWN], "best": best}
    return [Figures(f"{run}: {which}", [_figure(row, name) for row in some]) for which, some in shown.items() if some]


def _figure(row: PairRow | PictureRow, name: str) -> Figure:
    caption, picture = f"{Path(row.picture).name}: {row.numbers[name]:.4g}", Path(row.picture)
    if isinstance(row, PairRow):
        return Figure([_image(Path(row.source)), _image(picture)], f"{caption}; left its source", beside=True)
    return Figure([_image(picture)], caption, beside=True)


def _judged(results: Results) -> dict[str, Any] | None:
    """How sure the judge was of painted boxes, and the boxes that it was least and most sure of."""
    values = {run: np.array([box.share for box in result.boxes or ()]) for run, result in results.items()}
    if not any(len(shares) for shares in values.values()):
        return None
    ends = []
    for run, result in results.items():
        ranked = sorted(result.boxes or (), key=lambda box: box.share)
        for which, some in (("worst", ranked[:BOXES]), ("best", ranked[BOXES:][-BOXES:][::-1])):
            if some:
                ends.append(Figures(f"{run}: {which} boxes", [_crop(box) for box in some]))
    return {"histogram": _histogram(values, "painted boxes, by the judge's share for their own category"), "ends": ends}


def _crop(box: Box) -> Figure:
    mistaken = "" if box.said == box.label else f", seen as {box.said}"
    return Figure([_cut(box)], f"{box.label}{mistaken}: {box.share:.3f}; {Path(box.picture).name}")


def _cut(box: Box) -> Shown:
    """The box with a frame around it, and what is near it."""
    path, (wide, high) = Path(box.picture), box.size
    try:
        pixels = in_frame(path, (wide, high))
    except PictureError as error:
        return Shown(missing=f"{path.name}: {error.reason}")
    x0, y0, x1, y1 = (round(value) for value in box.box)
    more = max(8, (x1 - x0) // 2, (y1 - y0) // 2)
    left, top = max(0, x0 - more), max(0, y0 - more)
    near = pixels[top : y1 + more, left : x1 + more]
    if not near.size:
        return Shown(missing=f"{path.name}: another picture now, without this box")
    part = Image.fromarray(near)
    scale = 140 / max(part.size)
    part = part.resize((max(1, round(part.width * scale)), max(1, round(part.height * scale))))
    framed = [(value - start) * scale for value, start in zip((x0, y0, x1, y1), (left, top, left, top), strict=True)]
    ImageDraw.Draw(part).rectangle(framed, outline=(255, 0, 255))
    return _encoded(part)


def _sheet(run: str, result: Evaluation) -> Figures:
    """Generated pictures, evenly taken from all."""
    paired = [row.picture for row in result.pairs.pictures] if result.pairs else []
    boxed = [box.picture for box in result.boxes or ()]
    alone = [row.picture for row in result.pictures or () if row.set != "real"]
    paths = list(dict.fromkeys([*paired, *boxed, *alone]))
    some = paths[:: max(1, -(-len(paths) // SHEET))]
    figures = [Figure([_image(Path(path))], Path(path).name) for path in some]
    return Figures(f"{run}: {len(some)} of {len(paths)} generated pictures", figures)


def _histogram(values: Mapping[str, np.ndarray], of: str) -> Histogram:
    """Of each run's values; of: what is counted."""
    every = np.concatenate(list(values.values()))
    low, high = float(every.min()), float(every.max())
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts = {run: np.histogram(some, edges)[0] for run, some in values.items()}
    top, step = max(int(count.max()) for count in counts.values()), Histogram.width / BINS
    share, bars = step / len(counts), []
    for i, (run, count) in enumerate(counts.items()):
        for k, n in enumerate(count.tolist()):
            high_px = n / top * Histogram.height
            x, y = f"{k * step + i * share:.1f}", f"{Histogram.height - high_px:.1f}"
            title = f"{run}: {n} from {edges[k]:.4g} to {edges[k + 1]:.4g}"
            bars.append(Bar(x, y, f"{share - 1:.1f}", f"{high_px:.1f}", _COLOURS[i % len(_COLOURS)], title))
    key = [(_COLOURS[i % len(_COLOURS)], run) for i, run in enumerate(values)]
    return Histogram(bars, f"{low:.4g}", f"{high:.4g}", key, of)


def _image(path: Path) -> Shown:
    try:
        image = Image.fromarray(load_rgb(path))
    except PictureError as error:
        return Shown(missing=f"{path.name}: {error.reason}")
    image.thumbnail((THUMB, 4 * THUMB), Image.Resampling.BOX)
    return _encoded(image)


def _encoded(image: Image.Image) -> Shown:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return Shown(base64.b64encode(buffer.getvalue()).decode())


def _notes(result: Evaluation) -> list[str]:
    """Remarks on the result: biases, what was left out or failed, the metrics' notes, unreadable pictures."""
    remarks = (result.features.note, result.features.floor_reason) if result.features else ()
    lines = [text for text in remarks if text]
    lines += [f"{name} left out: {why}" for name, why in result.left_out.items()]
    lines += _counted([(one.reason, one.picture) for one in result.failed])
    lines += [line for name, details in result.details.items() for line in METRICS[name].notes(details)]
    return lines + _counted(
        [(one.reason, one.picture + (f" ({one.detail})" if one.detail else "")) for one in result.unreadable.pictures]
    )


def _counted(reasons: Sequence[tuple[str, str]]) -> list[str]:
    """A line for each reason: how many pictures it holds for, and the first of them."""
    first = dict(reversed(reasons))
    counts = Counter(reason for reason, _ in reasons)
    return [f"{count} × {reason}, the first: {first[reason]}" for reason, count in counts.items()]
