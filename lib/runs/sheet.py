"""Sheet: a grid of grid.py as one picture for a person to look at."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from lib.core.errors import AugmentError
from lib.core.files import atomic_write
from lib.core.geometry import IntBox
from lib.runs.grid import Cell, Grid, close_window
from lib.screening.draw import Drawn, draw_boxes, sheet_jpeg

COLUMNS = 4  # at most
_LEAST = 400  # width of a cell at least, pixels: room for its words beside a narrow picture
_GAP = 12  # pixels, between cells and around them
_GROUND, _INK, _DIM, _WARN = (24, 24, 28), (240, 240, 240), (170, 170, 176), (255, 190, 120)
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}

Line = tuple[str, int, tuple[int, int, int]]  # text, height of its letters in pixels, colour


def draw_grid(grid: Grid, most: tuple[int, int] = (640, 480)) -> Image.Image:
    """The sheet: the source with its boxes first, then a cell a preset: name, triple, picture with its new labels, and
    below it the place that was painted, close and without them; or the reason for no picture.

    most: width and height at most of a picture in it, pixels; smaller ones grow, and every aspect is kept.
    """
    shared = _shared_focus(grid)
    source = _pictures(grid.source, grid.boxes, shared or next((c.focus for c in grid.cells if c.focus), None), most)
    wide = max(_LEAST, source.width)
    cells = [(_text(_source_lines(grid), wide), source)]
    for cell in grid.cells:
        if cell.picture is None:
            body = _text([(cell.reason, 18, _WARN)], wide)
        else:  # the other labels are as in the source
            body = _pictures(cell.picture, [box for box in cell.boxes if box[2]], shared or cell.focus, most)
        cells.append((_text(_lines(cell), wide), body))
    rows = math.ceil(len(cells) / COLUMNS)
    columns = math.ceil(len(cells) / rows)
    stripes = [_stripe(cells[i : i + columns], wide) for i in range(0, len(cells), columns)]
    return ImageOps.expand(_stacked(stripes, 2 * _GAP), _GAP, _GROUND)


def sheet_format(path: Path) -> str:
    """What Pillow calls the format of a file name; raises AugmentError for another than PNG and JPEG."""
    if path.suffix.lower() not in _FORMATS:
        raise AugmentError(f"{path}: a sheet is a PNG or a JPEG, so its name ends in {', '.join(_FORMATS)}")
    return _FORMATS[path.suffix.lower()]


def write_sheet(sheet: Image.Image, path: Path) -> None:
    """By rename, in the format of the name's suffix; raises AugmentError where that is neither PNG nor JPEG."""
    buffer = io.BytesIO()
    if sheet_format(path) == "PNG":
        sheet.save(buffer, "PNG")
    atomic_write(path, buffer.getvalue() or sheet_jpeg(sheet))


def _shared_focus(grid: Grid) -> IntBox | None:
    """One window to look closely at in all cells, so that they can be compared; None where it would not be close."""
    height, width = grid.source.shape[:2]
    near = [cell.focus for cell in grid.cells if cell.focus and cell.focus != (0, 0, width, height)]
    return close_window(near, width, height, 1) if near else None


def _source_lines(grid: Grid) -> list[Line]:
    (height, width), count = grid.source.shape[:2], len(grid.boxes)
    about = f"{width} × {height} pixels, {count} box{'es' * (count != 1)}"
    return [("source", 26, _INK), (grid.name, 18, _INK), (about, 18, _DIM)]


def _lines(cell: Cell) -> list[Line]:
    lines = [(cell.name, 26, _INK), (cell.triple, 18, _INK)]
    lines += [] if cell.reason else [(f"{cell.outcome}; {cell.seconds:.1f} s", 18, _DIM)]
    return lines + ([(f"“{cell.prompt}”", 18, _DIM)] if cell.prompt else [])


def _pictures(picture: np.ndarray, boxes: Sequence[Drawn], focus: IntBox | None, most: tuple[int, int]) -> Image.Image:
    """A picture with its boxes, and below it its close-up."""
    whole = _fitted(picture, most)
    scale = whole.width / picture.shape[1]
    placed: list[Drawn] = [
        (name, (x * scale, y * scale, w * scale, h * scale), new) for name, (x, y, w, h), new in boxes
    ]
    parts = [Image.fromarray(draw_boxes(np.asarray(whole), placed))]
    if focus is not None:
        x0, y0, x1, y1 = focus
        parts.append(_fitted(picture[y0:y1, x0:x1], most))
    return _stacked(parts, _GAP // 2)


def _fitted(pixels: np.ndarray, most: tuple[int, int]) -> Image.Image:
    scale = min(most[0] / pixels.shape[1], most[1] / pixels.shape[0])
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)


def _text(lines: Sequence[Line], width: int) -> Image.Image:
    """Text, each line broken into as many as it needs."""
    parts = []
    for text, size, colour in lines:
        font, step = ImageFont.load_default(size=size), round(size * 1.25)
        broken = wrapped(text.replace("×", "x"), font.getlength, width)  # it has no ×
        part = Image.new("RGB", (width, step * len(broken)), _GROUND)
        for number, line in enumerate(broken):
            ImageDraw.Draw(part).text((0, number * step), line, fill=colour, font=font)
        parts.append(part)
    return _stacked(parts, _GAP // 3)


def wrapped(text: str, length: Callable[[str], float], most: float) -> list[str]:
    """Text in lines of at most a length, broken at spaces, and in words longer than that (a path) anywhere."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if length(longer) <= most:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if lines[-1] and length(lines[-1] + letter) > most:
                lines.append("")
            lines[-1] += letter
    return lines


def _stripe(cells: Sequence[tuple[Image.Image, Image.Image]], wide: int) -> Image.Image:
    """Cells, text and pictures, side by side, all pictures from one height on."""
    head, body = (max(part.height for part in parts) for parts in zip(*cells, strict=True))
    stripe = Image.new("RGB", (len(cells) * (wide + _GAP) - _GAP, head + _GAP // 2 + body), _GROUND)
    for column, (text, pictures) in enumerate(cells):
        stripe.paste(text, (column * (wide + _GAP), 0))
        stripe.paste(pictures, (column * (wide + _GAP), head + _GAP // 2))
    return stripe


def _stacked(parts: Sequence[Image.Image], gap: int) -> Image.Image:
    stack = Image.new("RGB", (max(p.width for p in parts), sum(p.height + gap for p in parts) - gap), _GROUND)
    top = 0
    for part in parts:
        stack.paste(part, (0, top))
        top += part.height + gap
    return stack
