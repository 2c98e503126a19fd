"""Annotation formats: where data enters. To add one: a file here with a `read` function, and a line below;
one more in BESIDE where it reads files beside pictures and annotations, so that they come from a bucket too.

A reader turns files into `Dataset` without opening pictures more than their header; then
lib/datasets/ingest.py checks the pictures themselves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import msgspec
import pyarrow as pa

from lib.core.bucket_sets import Beside, bring, bring_beside
from lib.core.places import url_of
from lib.core.registry import Family
from lib.records.settings import DatasetSettings
from lib.records.sorting import LaidRows

FORMATS = Family(
    "format",
    {
        "coco": "lib.datasets.formats.coco:read",
        "coco-stuff": "lib.datasets.formats.coco_stuff:read",
        "deep-pcb": "lib.datasets.formats.deep_pcb:read",
        "deep-pcb-layout": "lib.datasets.formats.deep_pcb:read_layout",
        "loco": "lib.datasets.formats.loco:read",
        "triples": "lib.datasets.formats.triples:read",
        "voc": "lib.datasets.formats.voc:read",
        "vott": "lib.datasets.formats.vott:read",
        "yolo": "lib.datasets.formats.yolo:read",
    },
)


@dataclass(frozen=True)
class Dataset:
    """A labelled data set as its annotations describe it."""

    images: pa.Table  # ImageRow; size, mtime_ns, digest, frame not filled in yet
    objects: pa.Table  # ObjectRow
    envelope: bytes  # JSON object: every top-level key of the source in its order, "images" and "annotations" emptied


class _Category(msgspec.Struct):
    id: msgspec.Raw
    name: str


class _Envelope(msgspec.Struct):
    """Other fields are not decoded, since one may hold a number beyond all floats."""

    categories: list[_Category] = []


def categories_of(envelope: bytes) -> dict[str, bytes]:
    """Names of a data set's categories, each with its id as JSON text; of several with one name the first counts."""
    found: dict[str, bytes] = {}
    for category in msgspec.json.decode(envelope, type=_Envelope).categories:
        found.setdefault(category.name, bytes(category.id))
    return found


# Of formats that read files beside the two places that settings name: which, as those files lie on a disk.
BESIDE = Family(
    "format",
    {
        "coco": "lib.datasets.formats.coco_find:beside",
        "coco-stuff": "lib.datasets.formats.coco_stuff:beside",
        "deep-pcb": "lib.datasets.formats.deep_pcb:beside",
        "deep-pcb-layout": "lib.datasets.formats.deep_pcb:beside",
        "voc": "lib.datasets.formats.voc:beside",
        "vott": "lib.datasets.formats.vott:beside",
        "yolo": "lib.datasets.formats.yolo:beside",
    },
)


def bring_dataset(settings: DatasetSettings) -> None:
    """What lies in a bucket brought here: annotations, what their format reads beside them and, where it finds out by
    looking which there are, pictures. Raises AugmentError where the bucket has no such place, or cannot be used."""
    lazily = settings.format == "coco"
    bring(settings.annotations)
    bring(settings.images, lazily)
    brought = [settings.annotations] if lazily else [settings.annotations, settings.images]
    for place in places_beside(settings):
        if not any(place.folder.is_relative_to(one) for one in brought if one is not None):
            bring_beside(place)


def places_beside(settings: DatasetSettings) -> list[Beside]:
    """What the format reads beside pictures and annotations, in the buckets of these."""
    if settings.format not in BESIDE:
        return []
    beside = cast("Callable[[DatasetSettings], Iterable[Beside]]", BESIDE[settings.format])
    given = (settings.images, settings.annotations)
    buckets = {_bucket_of(place) for place in given if place is not None} - {""}
    return [place for place in dict.fromkeys(beside(settings)) if _bucket_of(place.folder) in buckets]


def _bucket_of(place: Path) -> str:
    """A folder beside a whole bucket would be another bucket, which nobody named."""
    return "/".join((url_of(place) or "").split("/")[:3])


def read_dataset(settings: DatasetSettings) -> Dataset:
    """Read annotations in any registered format. Raises AugmentError that names file and place.

    From a bucket they are brought here first.
    """
    bring_dataset(settings)
    return _read(settings)


def _read(settings: DatasetSettings) -> Dataset:
    read = cast("Callable[[DatasetSettings], Dataset]", FORMATS[settings.format])
    return read(settings)


@dataclass(frozen=True)
class Pieces:
    """A Dataset whose rows come some at a time, the pictures' before the objects'."""

    images: Iterable[pa.Table]
    objects: Iterable[pa.Table]
    envelope: bytes


class Irregular(Exception):
    """Found while pieces are read: the data set is to be read at once. It is damaged, or has what must be compared
    across pieces."""


# Readers of pieces, for formats whose files may be larger than memory.
PIECES = Family("format", {"coco": "lib.datasets.formats.coco_pieces:read_pieces"})

T = TypeVar("T")


def store_dataset(settings: DatasetSettings, write: Callable[[str, Iterable[pa.Table]], T]) -> tuple[T, T, bytes]:
    """What `read_dataset` reads, held as little as the format allows: (images, objects, envelope).

    write: stores the rows of `images` or `objects`, and gives what stands for them; what it wrote before is replaced
    where it is called again. Raises AugmentError that names file and place.
    """
    bring_dataset(settings)
    if settings.format in PIECES:
        with suppress(Irregular):
            read = cast("Callable[[DatasetSettings], Pieces]", PIECES[settings.format])
            pieces = read(settings)
            return write("images", pieces.images), write("objects", pieces.objects), pieces.envelope
    data = _read(settings)
    return write("images", [data.images]), write("objects", [data.objects]), data.envelope


def lay_dataset(settings: DatasetSettings, records: bool = True) -> Pieces:
    """`read_dataset`, its rows in temporary files, to be gone through more than once.

    records: with the column of the source records, which takes most of the room.
    """

    def laid(name: str, tables: Iterable[pa.Table]) -> LaidRows:
        return LaidRows(tables if records else (table.drop_columns("record") for table in tables), ROOM)

    return Pieces(*store_dataset(settings, laid))


ROOM = Path(tempfile.gettempdir())  # for rows that do not belong into a workspace
