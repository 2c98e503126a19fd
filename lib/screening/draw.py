"""Draw: boxes and labels on pictures for a person to judge, and a contact sheet per run.

A drawn picture keeps its synthetic picture's name (as JPEG): copying it into a folder picks it (review.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from lib.core.files import atomic_write, digest
from lib.core.images import Load, load_rgb
from lib.core.mirror import send
from lib.records.requests import Label, Outcome
from lib.records.rows import OK, REJECTED, DrawRow
from lib.records.store import Store
from lib.screening.thumbnails import jpeg

VERSION = 1
Advance = Callable[[int], None]
Drawn = tuple[str, tuple[float, float, float, float], bool]  # text, box (xywh pixels), whether the edit changed it


def drawn_boxes(outcome: Outcome, objects: Mapping[str, tuple[str, tuple[float, float, float, float]]]) -> list[Drawn]:
    """What to draw on a synthetic picture. objects: annotation key → (category, xywh pixels)."""
    drawn: list[Drawn] = []
    for label in outcome.labels:
        category, bbox = objects[label.source] if label.source is not None else ("", None)
        text = (label.category or category) + _fate(label)
        place = label.bbox or bbox
        assert place is not None  # a new object has a box
        drawn.append((text, place, label.painted or label.bbox is not None))
    return drawn


def _fate(label: Label) -> str:
    """What becomes of a label that detectors do not learn from; "" for the others."""
    if label.dropped:
        return f" ({label.dropped}: dropped)"
    return f" ({label.ignored}: ignored)" if label.ignored else ""


def draw_boxes(picture: np.ndarray, boxes: Sequence[Drawn]) -> np.ndarray:
    """A uint8 (H, W, 3) copy with boxes and labels: edited ones bold in their category's colour, others thin grey."""
    image = Image.fromarray(picture)
    pen = ImageDraw.Draw(image)
    unit = max(1, round(min(image.size) / 240))
    font = ImageFont.load_default(size=10 + 3 * unit)
    for category, (x, y, w, h), edited in sorted(boxes, key=lambda box: box[2]):
        colour = colour_of(category) if edited else (190, 190, 190)
        pen.rectangle((x, y, max(x, x + w - 1), max(y, y + h - 1)), outline=colour, width=2 * unit if edited else unit)
        _tag(pen, (x, y), category, colour, font, image.size)
    return np.asarray(image)


def _tag(
    pen: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, colour: Any, font: Any, size: tuple[int, int]
) -> None:
    """The label's name on its colour, above the box where there is room, and always inside the picture."""
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    x = min(max(corner[0], 0), max(size[0] - width, 0))
    y = corner[1] - height if corner[1] >= height else corner[1]
    y = min(max(y, 0), max(size[1] - height, 0))
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    ink = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 110 else (255, 255, 255)
    pen.text((x + 3 - left, y + 3 - top), text, fill=ink, font=font)


def colour_of(category: str) -> tuple[int, int, int]:
    """A bright colour that a category always has."""
    import colorsys

    hue = int.from_bytes(hashlib.sha256(category.encode()).digest()[:2]) / 65536
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def drawn_name(name: str) -> str:
    """File name of the drawing of a synthetic picture: the same, as JPEG; the request's key in it makes it unique."""
    return Path(name).with_suffix(".jpg").name


def draw_pictures(
    screened: pd.DataFrame,
    outcomes: Mapping[str, Outcome],
    objects: Mapping[str, tuple[str, tuple[float, float, float, float]]],
    store: Store,
    folder: Path,
    advance: Advance = lambda n: None,
) -> list[DrawRow]:
    """Write a drawn JPEG per ScreenRow that is ok into `folder`; files that already have the right bytes stay."""
    rows = []
    for row in screened.itertuples(index=False):
        data = store.get("picture", row.picture)
        name = drawn_name(row.name)
        if data is None:
            rows.append(
                DrawRow(row.key, REJECTED, "picture_lost", "no longer in the store: run again", row.image_key, name, "")
            )
        else:
            drawn = draw_boxes(load_rgb(data, "stored"), drawn_boxes(outcomes[row.key], objects))
            made = jpeg(Image.fromarray(drawn), 88)
            if not (folder / name).is_file() or (folder / name).read_bytes() != made:
                atomic_write(folder / name, made)
            send(folder / name)
            rows.append(DrawRow(row.key, OK, "", "", row.image_key, name, digest(made)))
        advance(1)
    return rows


def spread(rows: pd.DataFrame, count: int = 12) -> pd.DataFrame:
    """Up to `count` rows, evenly spread, for a contact sheet."""
    return rows.iloc[spread_places(len(rows), count)]


def spread_places(total: int, count: int = 12) -> np.ndarray:
    """Numbers of up to `count` rows of so many, evenly spread."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))


def contact_sheet(
    rows: pd.DataFrame,
    outcomes: Mapping[str, Outcome],
    objects: Mapping[str, tuple[str, tuple[float, float, float, float]]],
    load: Load,
    store: Store,
    thumb: int = 420,
) -> Image.Image:
    """Source, boxes, result, side by side.

    rows: ScreenRows that are ok, at least one; thumb: width of one cell, pixels.
    """
    strips = [_strip(row, outcomes[row.key], objects, load, store, thumb) for row in rows.itertuples()]
    gap, head = 8, 34
    columns = 2 if len(strips) > 3 else 1
    stacks = [strips[i::columns] for i in range(columns)]
    width = strips[0].width
    height = head + max(sum(s.height + gap for s in stack) for stack in stacks)
    sheet = Image.new("RGB", (gap + columns * (width + 3 * gap), height), (24, 24, 28))
    for column, stack in enumerate(stacks):
        left, top = gap + column * (width + 3 * gap), head
        _heads(sheet, left, thumb)
        for strip in stack:
            sheet.paste(strip, (left, top))
            top += strip.height + gap
    return sheet


def _heads(sheet: Image.Image, left: int, thumb: int) -> None:
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=17)
    for i, text in enumerate(("source", "boxes: thick = new or changed", "result")):
        pen.text((left + i * (thumb + 6) + 2, 7), text, fill=(235, 235, 235), font=font)


def _strip(row: Any, outcome: Outcome, objects: Any, load: Load, store: Store, thumb: int) -> Image.Image:
    source = load(outcome.source, outcome.frame)
    data = store.get("picture", row.picture)
    result = load_rgb(data, "stored") if data is not None else np.zeros_like(source)
    boxes = drawn_boxes(outcome, objects)
    cells = [Image.fromarray(p) for p in (source, draw_boxes(source, boxes), result)]
    high = round(thumb * source.shape[0] / source.shape[1])
    strip = Image.new("RGB", (3 * thumb + 12, high), (24, 24, 28))
    for i, cell in enumerate(cells):
        strip.paste(cell.resize((thumb, high), Image.Resampling.BOX, reducing_gap=2.0), (i * (thumb + 6), 0))
    return strip


def sheet_jpeg(sheet: Image.Image, most: int | None = None) -> bytes:
    """The sheet as JPEG; with `most`, shrunk until it has at most so many bytes (for a page that embeds it)."""
    quality = 88
    data = jpeg(sheet, quality)
    while most is not None and len(data) > most:
        sheet = sheet.resize((max(1, sheet.width * 3 // 4), max(1, sheet.height * 3 // 4)), Image.Resampling.LANCZOS)
        data = jpeg(sheet, 75)
    return data
