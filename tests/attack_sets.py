"""Data sets with hostile names, categories, texts and pictures, in every format, through a whole run.

What must hold: the run ends completed with every picture accounted for, or in a sentence with the file; sources and
whatever lies around stay as they are; the final set can be read again; no page runs what a name says.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from random import Random
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from attack_mutations import HOSTILE_TEXTS
from attack_samples import NAMES, write_sample
from attack_workspaces import Ground, check_account_state, forget
from attacks import Attack, Fault, check_error, difference, files_of, fresh, prefect_server
from PIL import Image, PngImagePlugin

from lib.datasets.formats import FORMATS, read_dataset
from lib.datasets.ingest import check_pictures
from lib.painting.painters import PAINTERS
from lib.records.manifest import read_manifest
from lib.records.rows import OK, FinalRow, ImageRow
from lib.records.settings import DatasetSettings

PICTURES = (".png", ".jpg")

# --- pictures --------------------------------------------------------------------------------------------------------


def _noise(mode: str = "RGB", size: tuple[int, int] = (96, 72), seed: int = 0) -> Image.Image:
    channels = {"RGB": 3, "RGBA": 4, "CMYK": 4, "LA": 2, "L": 1, "1": 1, "P": 1}[mode]
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    first = Image.fromarray(
        pixels[:, :, 0] if channels == 1 else pixels[:, :, : min(channels, 3)] if mode != "LA" else pixels[:, :, 0]
    )
    return first.convert(mode)


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def _png_of(width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    """A PNG whose header says what it likes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return len(body).to_bytes(4, "big") + name + body + zlib.crc32(name + body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, colour, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def _large_text(random: Random) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 3_000_000, zip=random.random() < 0.5)
    return _saved(_noise(), "PNG", pnginfo=info)


def _odd_exif(random: Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = random.choice([0, 3, 6, 9, 65535])
    exif[0x010E] = "<script>alert('attack')</script>\0" * random.choice([1, 500])
    return _saved(_noise(), "JPEG", exif=exif)


BAD_PICTURES: list[Callable[[Random], bytes]] = [
    lambda random: b"",
    lambda random: _saved(_noise(), "PNG")[: random.randrange(1, 15_000)],
    lambda random: _saved(_noise(), "JPEG")[: random.randrange(1, 3_000)],
    lambda random: random.randbytes(500),
    lambda random: _png_of(60_000, 60_000),
    lambda random: _png_of(2**31 - 1, 2**31 - 1),
    lambda random: _png_of(6_000, 6_000, bytes(6_000 * 18_001)),
    lambda random: _png_of(0, 10),
    lambda random: _png_of(96, 72, b"short"),
    lambda random: _png_of(96, 72, bytes(72 * (96 * 6 + 1)), depth=16),
    lambda random: _png_of(96, 72, bytes(72 * 97), colour=3),  # without its palette
    lambda random: _saved(Image.fromarray(np.full((72, 96), 40_000, np.uint16)), "PNG"),
    lambda random: _saved(Image.fromarray(np.full((72, 96), np.nan, np.float32)), "TIFF"),
    lambda random: _saved(_noise("CMYK"), "JPEG"),
    lambda random: _saved(_noise("RGBA"), "PNG"),
    lambda random: _saved(_noise("LA"), "PNG"),
    lambda random: _saved(_noise("1"), "PNG"),
    lambda random: _saved(_noise("P"), "GIF", save_all=True, append_images=[_noise("P", seed=i) for i in range(4)]),
    lambda random: _saved(_noise(), "WEBP"),
    lambda random: _saved(_noise(), "BMP"),
    lambda random: _saved(_noise(), "PDF"),
    lambda random: _saved(_noise(size=(1, 1)), "PNG"),
    lambda random: _saved(_noise(size=(1, 4_000)), "PNG"),
    _large_text,
    _odd_exif,
    lambda random: b"<svg xmlns='http://www.w3.org/2000/svg' onload=\"alert('attack')\"/>",
    lambda random: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 72\n(canary) (w) file\n",
    lambda random: b"<html><script>alert('attack')</script></html>",
    lambda random: b"II*\0\x08\0\0\0\x01\0\0\x01\x04\0\x01\0\0\0\0\0\0\0\x08\0\0\0",  # a TIFF whose directory is itself
]

# --- changes ---------------------------------------------------------------------------------------------------------

Change = Callable[[Path, Ground, Random], None]


def _documents(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in PICTURES)


def _said_as(path: Path, text: str) -> str:
    """A text as a document of this kind would write it."""
    if path.suffix == ".json":
        return json.dumps(text)[1:-1]
    return escape(text) if path.suffix == ".xml" else text


def _rewrite(folder: Path, old: str, new: str, random: Random) -> None:
    """A name in all documents; now and then not as the format would write it."""
    for path in _documents(folder):
        text = path.read_text("utf-8", "surrogateescape")
        for form in (old, json.dumps(old)[1:-1]):
            text = text.replace(form, _said_as(path, new) if random.random() < 0.9 else new)
        with contextlib.suppress(UnicodeEncodeError):
            path.write_bytes(text.encode("utf-8", "surrogateescape"))


def _hostile_name(random: Random) -> str:
    return random.choice(
        [*HOSTILE_TEXTS, "\udcff\udcfe", "a\udc80b", "p1", "P1", "p0.png.png", "nul\\..\\x", "x;y,z", "a:b"]
    )


def _renamed(folder: Path, ground: Ground, random: Random) -> None:
    """A file by a hostile name, on the disk where that is possible, and in the documents."""
    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    chosen = random.choice([p for p in files if p.suffix in PICTURES] if random.random() < 0.7 else files)
    suffix = chosen.suffix if random.random() < 0.8 else ""
    new = _hostile_name(random) + suffix
    if random.random() < 0.85:
        _rewrite(folder, chosen.name, new, random)
    with contextlib.suppress(OSError, ValueError):
        target = chosen.with_name(new)
        if target.parent == chosen.parent and not os.path.lexists(target):
            chosen.rename(target)


def _category(folder: Path, ground: Ground, random: Random) -> None:
    old = random.choice(NAMES)
    _rewrite(folder, old, random.choice([_hostile_name(random), NAMES[0], NAMES[1].upper()]), random)


def _picture(folder: Path, ground: Ground, random: Random) -> None:
    pictures = [p for p in sorted(folder.rglob("*")) if p.suffix in PICTURES and p.is_file()]
    random.choice(pictures).write_bytes(random.choice(BAD_PICTURES)(random))


def _no_picture(folder: Path, ground: Ground, random: Random) -> None:
    """A picture that is a folder, a link to elsewhere, to itself or to nothing, or gone."""
    pictures = [p for p in sorted(folder.rglob("*")) if p.suffix in PICTURES and p.is_file()]
    path = random.choice(pictures)
    path.unlink()
    kind = random.randrange(6)
    if kind == 0:
        path.mkdir()
    elif kind < 5:
        path.symlink_to([ground.victim, path, ground.folder / "nowhere", "../../victim/secret.png"][kind - 1])


def _text(folder: Path, ground: Ground, random: Random) -> None:
    """Any word of a document."""
    for old in random.sample(["a note", "a red cup", "a sample", "thing", "Left", "#123456", "r00", "train", "1"], 3):
        _rewrite(folder, old, _hostile_name(random), random)


CHANGES: list[Change] = [_renamed, _renamed, _category, _picture, _picture, _no_picture, _text]

# --- attacks ---------------------------------------------------------------------------------------------------------


@contextmanager
def attacking(folder: Path) -> Iterator[Attack]:
    """Attack n: a data set with a few changes, run in a fresh workspace."""

    def attack(number: int) -> str:
        forget()
        random = Random(f"sets {number}")
        ground = Ground(fresh(folder / "ground"))
        ground.victim.parent.mkdir()
        ground.victim.write_text("a stranger's file\n")
        (ground.victim.parent / "secret.png").write_bytes(_saved(_noise(seed=9), "PNG"))
        given = write_sample(random.choice(sorted(FORMATS)), random.randrange(3), ground.folder / "data")
        for _ in range(random.randrange(1, 5)):
            random.choice(CHANGES)(ground.folder / "data", ground, random)
        return run_on(given, ground, random)

    with prefect_server():
        yield attack


def run_on(given: dict[str, Any], ground: Ground, random: Random) -> str:
    """How a run of it ended; raises Fault."""
    from flows.augment import augment

    ws = ground.folder / "ws"
    ws.mkdir()
    before = ground.outside()
    values = {
        "edit": random.choice(sorted(PAINTERS["copy-paste"].EDITS)),
        "finalise": {
            "originals": random.choice(["all", "all", "selected", "none"]),
            "format": random.choice(["png", "jpeg"]),
            "yolo": random.random() < 0.7,
            "s3_pair": random.random() < 0.5,
        },
        "select": {"split": "train"},
        "screen": {"black": 0, "blank": 0},
    }
    state = augment(dataset=given, workspace=ws, **values, return_state=True)
    if ground.canary.exists():
        raise Fault("it ran code")
    if changed := difference(before, ground.outside()):
        raise Fault(f"outside, {changed}")
    for page in ws.rglob("*.html"):
        check_page(page)
    if not state.is_completed():
        if "encountered an exception" in state.message:
            raise Fault(f"{state.message[:1000]}")
        check_error(Exception(state.message), str(ground.folder), "dataset.", "edit ")
        return "refused"
    check_account_state(ws, completed=True)
    return check_final(ws, DatasetSettings(**given))


def check_final(ws: Path, dataset: DatasetSettings) -> str:
    """Raises Fault where a picture is not accounted for, or where the final set is not what its rows say."""
    parsed = read_dataset(dataset).images.num_rows
    images = read_manifest(ws / "manifests" / "ingest.parquet", ImageRow)
    if len(images) != parsed or images.reason[images.status != OK].eq("").any():
        raise Fault(f"{parsed} pictures in, {len(images)} rows out, or one without a reason")
    rows = read_manifest(ws / "manifests" / "finalise.parquet", FinalRow)
    placed = rows[rows.status == OK]
    final = ws / "final"
    coco = json.loads((final / "annotations.json").read_bytes())
    if len(coco["images"]) != len(placed):
        raise Fault(f"{len(placed)} pictures in final, {len(coco['images'])} are listed")
    files = {name for name, data in files_of(final / "images").items() if data != b"/"}
    if placed.empty:
        return "no picture left"
    back = read_dataset(DatasetSettings(images=final / "images", annotations=final / "annotations.json"))
    rows_back = check_pictures(back.images.to_pandas(), final / "images", 10**9)
    bad = rows_back[~rows_back.reason.isin(["", "size_mismatch"])]
    if len(bad):
        raise Fault(f"the final set, read again: {bad.iloc[0].file_name!r} {bad.iloc[0].reason} {bad.iloc[0].detail}")
    if len(files) != rows_back.path.nunique():
        raise Fault(
            f"{rows_back.path.nunique()} files are listed, {len(files)} are in final/images: {sorted(files)[:9]}"
        )
    if (final / "classes.txt").is_file():
        check_yolo(final, len(coco["categories"]))
    return "completed, rows set aside" if (images.status != OK).any() else "completed"


def check_yolo(final: Path, categories: int) -> None:
    """Raises Fault where the YOLO files do not say the same."""
    lines = (final / "classes.txt").read_text("utf-8").splitlines()
    if len(lines) != categories:
        raise Fault(f"classes.txt has {len(lines)} lines for {categories} categories: {lines}")
    strays = [p for p in (final / "labels").rglob("*") if p.is_file() and p.suffix != ".txt"]
    if strays:
        raise Fault(f"a label file that is none: {strays[0].name!r}")


class _Scripts(HTMLParser):
    """What of a hostile text would run in a browser."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._script = tag == "script"
        for name, value in attrs:
            runs = name.startswith("on") or (
                name in ("href", "src", "action") and (value or "").strip().startswith("javascript:")
            )
            if runs and "attack" in (value or ""):
                self.found.append(f"<{tag} {name}={value!r}>")

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if self._script and "alert('attack')" in data:
            self.found.append(f"<script>{data[:80]}")


def check_page(page: Path) -> None:
    """Raises Fault where a page would run a hostile text."""
    parser = _Scripts()
    parser.feed(page.read_text("utf-8"))
    if parser.found:
        raise Fault(f"{page.name} runs {parser.found[0]}")
