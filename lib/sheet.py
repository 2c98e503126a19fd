"""Sheet: a grid of lib/grid.py as one picture for a person to look at."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lib.draw import Drawn, draw_boxes, sheet_jpeg
from lib.errors import AugmentError
from lib.geometry import IntBox
from lib.grid import Grid
from lib.manifest import atomic_write

_GROUND, _INK, _DIM, _WARN = (24, 24, 28), (240, 240, 240), (165, 165, 172), (255, 190, 120)
_GAP = 12  # pixels, between cells and around them
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}


def draw_grid(grid: Grid, most: tuple[int, int] = (640, 480)) -> Image.Image:
    """The sheet: source and boxes first, then a cell a preset: name, triple, picture with its new labels, close-up.

    most: width and height at most of each picture in it, pixels; the aspect is kept.
    """
    focus = next((cell.focus for cell in grid.cells if cell.focus), None)
    height, width = grid.source.shape[:2]
    about = f"{width} × {height} pixels, {len(grid.boxes)} box{'es' * (len(grid.boxes) != 1)}"
    images = [_drawn_cell("source", [(grid.name, _INK), (about, _DIM)], grid.source, grid.boxes, focus, most)]
    for cell in grid.cells:
        if cell.picture is None:
            lines = [(cell.triple, _INK), (cell.reason, _WARN)]
            images.append(_drawn_cell(cell.name, lines, None, (), None, most))
            continue
        lines = [(cell.triple, _INK), (f"{cell.told}; {cell.seconds:.1f} s", _DIM)]
        lines += [(f"“{cell.prompt}”", _DIM)] if cell.prompt else []
        new = [box for box in cell.boxes if box[2]]  # the others are as in the source
        images.append(_drawn_cell(cell.name, lines, cell.picture, new, cell.focus, most))
    rows = math.ceil(len(images) / 4)
    columns = math.ceil(len(images) / rows)
    stripes = [images[start : start + columns] for start in range(0, len(images), columns)]
    wide, high = max(image.width for image in images), sum(max(i.height for i in row) + _GAP for row in stripes)
    sheet = Image.new("RGB", (_GAP + columns * (wide + _GAP), _GAP + high), _GROUND)
    top = _GAP
    for row in stripes:
        for column, image in enumerate(row):
            sheet.paste(image, (_GAP + column * (wide + _GAP), top))
        top += max(image.height for image in row) + _GAP
    return sheet


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


Line = tuple[str, tuple[int, int, int]]  # text, colour


def _drawn_cell(
    title: str,
    lines: Sequence[Line],
    picture: np.ndarray | None,
    boxes: Sequence[Drawn],
    focus: IntBox | None,
    most: tuple[int, int],
) -> Image.Image:
    """A title, lines of text, the picture with its boxes and below it the close-up without."""
    parts = [_text(title, _INK, 26, most[0])]
    parts += [_text(text, colour, 17, most[0]) for text, colour in lines if text]
    if picture is not None:
        scale = min(most[0] / picture.shape[1], most[1] / picture.shape[0])
        placed = [(text, tuple(v * scale for v in xywh), edited) for text, xywh, edited in boxes]
        parts.append(Image.fromarray(draw_boxes(np.asarray(_fitted(picture, most)), placed)))
        if focus is not None:
            x0, y0, x1, y1 = focus
            parts.append(_fitted(picture[y0:y1, x0:x1], most))
    cell = Image.new("RGB", (most[0], sum(part.height + _GAP // 2 for part in parts)), _GROUND)
    top = 0
    for part in parts:
        cell.paste(part, (0, top))
        top += part.height + _GAP // 2
    return cell


def _fitted(pixels: np.ndarray, most: tuple[int, int]) -> Image.Image:
    scale = min(most[0] / pixels.shape[1], most[1] / pixels.shape[0])
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)


def _text(text: str, colour: tuple[int, int, int], size: int, width: int) -> Image.Image:
    """Text in as many lines as it needs."""
    font = ImageFont.load_default(size=size)
    lines, step = wrapped(text, lambda part: font.getlength(part) <= width), round(size * 1.3)
    image = Image.new("RGB", (width, step * len(lines)), _GROUND)
    pen = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        pen.text((0, number * step), line, fill=colour, font=font)
    return image


def wrapped(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Text broken into lines that fit, at spaces, or anywhere in a word longer than a line (a path): nothing is cut."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if fits(longer):
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for letter in word:
            if lines[-1] and not fits(lines[-1] + letter):
                lines.append("")
            lines[-1] += letter
    return lines
