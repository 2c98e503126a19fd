"""What is compared: a folder of pictures, or labelled ones; of a run's final set the originals, or what was painted.

    real = read_side(Path("final"), "originals")             # or a COCO file, or a folder of pictures without labels
    made = read_side(Path("final"), "synthetic")
    real = read_side(Path("photos"), annotations=Path("boxes.csv"), format="loco")

Nothing is decoded here. What cannot be used is listed with its reason: pictures as `fault`, boxes in `skipped`.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Raw
from numpy.typing import NDArray

from lib.core.documents import MAX_DEPTH, read_file, shallow
from lib.core.errors import AugmentError, unknown
from lib.core.files import files_below
from lib.core.geometry import xywh_to_xyxy
from lib.core.images import SUFFIXES
from lib.datasets.formats import FORMATS, Dataset, Irregular, Pieces, categories_of, read_dataset
from lib.datasets.formats.coco import read_document
from lib.datasets.formats.coco_pieces import read_pieces
from lib.datasets.formats.tables import field_of, marked, text_of
from lib.records.manifest import to_table
from lib.records.roll import listed
from lib.records.rows import OK, ImageRow, ObjectRow, arrow_schema
from lib.records.settings import DatasetSettings
from lib.records.sorting import LaidRows, sorted_rows

_DEEP = MAX_DEPTH + 8  # levels of a file that are read: enough that lib/datasets/formats/coco finds a record too deep

Part = Literal["originals", "synthetic"]


@dataclass(frozen=True)
class Labels:
    """Annotations of a picture: N boxes and a caption."""

    boxes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))  # (N, 4) xyxy pixels
    categories: tuple[str, ...] = ()  # N names
    ignore: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))  # (N,) crowds, or marked `ignore`
    painted: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))  # (N,) new in a synthetic picture
    caption: str = ""
    size: tuple[int, int] = (0, 0)  # width, height that the boxes were drawn in; 0: not known
    added: int = 0  # how many of the painted boxes the source does not have


@dataclass(frozen=True)
class Entry:
    """A picture of a side."""

    path: Path
    name: str  # as the set calls it
    labels: Labels = Labels()
    id: str = ""
    source: tuple[str, str] | None = None  # (id, name) of the picture that it was made from, if recorded
    changed: NDArray[np.float64] | None = None  # (N, 4) xyxy pixels: where it was painted, if recorded
    fault: tuple[str, str] | None = None  # (reason, detail): it cannot be used
    sha256: str = ""  # of its bytes, where its set knows it


@dataclass(frozen=True)
class Side:
    """Pictures in the order of their set."""

    entries: Sequence[Entry]
    file: Path | None = None  # of the labels; None: no labels
    names: tuple[str, ...] = ()  # of the categories
    skipped: Counter[str] = field(default_factory=Counter)  # boxes that cannot be used, by reason
    has_synthetic: bool = False  # some pictures of the whole set are marked as synthetic

    @property
    def labelled(self) -> bool:
        """Does the side have a file of labels?"""
        return self.file is not None

    def boxed(self) -> Side:
        """Its pictures with boxes alone."""
        return replace(self, entries=tuple(entry for entry in self.entries if len(entry.labels.boxes)))

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Side:
        """Pictures without labels."""
        return cls(tuple(Entry(path, path.name) for path in paths))


def read_side(
    path: Path,
    part: Part | None = None,
    annotations: Path | None = None,
    format: str | None = None,
    folder: Path | None = None,
) -> Side:
    """A folder of pictures (with its subfolders, sorted; hidden files are skipped), or a labelled set.

    path: a folder; a COCO file, its pictures beside it or in `images` beside it; or a run's final folder, which holds
    both. annotations, format: labels of a folder's pictures in any of FORMATS; no format: loco for a CSV, else coco.
    part: of a set with synthetic pictures (those with `source_image_id`) these alone, or the others; of others all.
    folder: where the entries of a COCO file lie for a while, which may be more than memory should hold; none: in
    memory.
    Raises AugmentError for a path that is none of these, a folder without pictures, labels that cannot be read, and a
    format that is not known or has no labels to be of.
    """
    if format is not None:
        _check_format(format, annotations)
    if annotations is not None:
        name = format or ("loco" if annotations.suffix.lower() == ".csv" else "coco")
        dataset = read_dataset(DatasetSettings(images=path, annotations=annotations, format=name))
        return _side_of_dataset(dataset, annotations, path, part)
    if path.is_dir() and (path / "annotations.json").is_file() and (path / "images").is_dir():
        path = path / "annotations.json"
    if path.is_dir():
        return Side(tuple(Entry(p, p.relative_to(path).as_posix()) for p in _pictures_in(path)))
    if path.is_file():
        if folder is not None:
            with contextlib.suppress(Irregular):  # small, or to be looked at as a whole
                return _side_of_pieces(read_pieces(_as_dataset(path)), path, part, folder)
        return _side_of_dataset(_read_coco(path), path, path.parent, part, folder)
    raise AugmentError(f"{path} not found: expected a folder of pictures or a COCO file")


def _check_format(format: str, annotations: Path | None) -> None:
    if format not in FORMATS:
        raise unknown(FORMATS.kind, format, FORMATS)
    if annotations is None:
        raise AugmentError(
            f"--format {format} is of the labels that --boxes gives, and there are none: give --boxes ANNOTATIONS, or "
            "leave --format out"
        )


def _pictures_in(folder: Path) -> list[Path]:
    found = [path for path in files_below(folder, *SUFFIXES) if path.is_file()]
    if not found:
        raise AugmentError(f"no pictures in {folder}: expected files ending in {', '.join(sorted(SUFFIXES))}")
    return found


def _read_coco(path: Path) -> Dataset:
    """A COCO file as tables; one of pictures alone, without annotations, categories or ids, will do."""
    data = read_file(path)
    try:
        try:
            data = _completed(data)
        except RecursionError:
            data = _completed(bytearray(shallow(data, _DEEP)))
    except (ValueError, KeyError) as error:
        raise AugmentError(
            f"{path} is not a COCO file ({type(error).__name__}: {error}): expected an object with `images`, each with "
            "`file_name`; or give a folder of pictures"
        ) from None
    return read_document(data, str(path), _as_dataset(path))


def _as_dataset(path: Path) -> DatasetSettings:
    return DatasetSettings(images=path.parent, annotations=path)


def _completed(data: bytearray) -> bytearray:
    """A COCO document with missing ids of pictures and missing lists filled in. Raises ValueError and KeyError."""
    data = data.removeprefix(b"\xef\xbb\xbf")
    document = msgspec.json.decode(data, type=dict[str, Raw])
    images = msgspec.json.decode(document["images"], type=list[Raw])
    objects = [i for i, raw in enumerate(images) if bytes(raw).startswith(b"{")]
    bare = [i for i in objects if not bytes(msgspec.json.decode(images[i], type=_Id).id)]
    if not bare and document.keys() >= {"annotations", "categories"}:
        return data
    for number, i in enumerate(bare):
        record = msgspec.json.decode(images[i], type=dict[str, Raw])
        images[i] = Raw(msgspec.json.encode({**record, "id": f"picture {number}"}))
    return bytearray(msgspec.json.encode({"annotations": [], "categories": [], **document, "images": images}))


class _Id(msgspec.Struct):
    id: Raw = Raw(b"")  # without one


def _side_of_dataset(dataset: Dataset, file: Path, root: Path, part: Part | None, folder: Path | None = None) -> Side:
    names = tuple(categories_of(dataset.envelope))
    return side_of_tables([dataset.images], [dataset.objects], root, part, file, names, folder, len(dataset.objects))


def _side_of_pieces(pieces: Pieces, file: Path, part: Part | None, folder: Path) -> Side:
    names, most = tuple(categories_of(pieces.envelope)), file.stat().st_size // _RECORD
    return side_of_tables(pieces.images, pieces.objects, file.parent, part, file, names, folder, most)


_RECORD = 100  # bytes of an annotation in a file, at least


def side_of(images: pd.DataFrame, objects: pd.DataFrame, root: Path) -> Side:
    """A labelled set from its rows, ImageRow and ObjectRow; root: the folder of its pictures."""
    return side_of_tables([to_table(images, ImageRow)], [to_table(objects, ObjectRow)], root)


PICTURE = ("key", "status", "reason", "detail", "file_name", "path", "width", "height", "digest", "record")
BOX = ("status", "reason", "image_key", "category", *"xywh", "crowd", "record")


def side_of_tables(
    images: Iterable[pa.Table],
    objects: Iterable[pa.Table],
    root: Path,
    part: Part | None = None,
    file: Path | None = None,
    names: tuple[str, ...] = (),
    folder: Path | None = None,
    boxes: int = 0,
) -> Side:
    """A part of a labelled set from columns PICTURE of its ImageRows and BOX of its ObjectRows, some rows at a time.

    root: the folder of its pictures. folder: as `read_side` has it; boxes: how many there are, about. The objects are
    not looked at before the last of the pictures has come.
    """
    keys, marks = [pa.array([], pa.string())], [np.zeros(0, bool)]

    def noted() -> Iterator[pa.Table]:
        for rows in images:
            keys.append(rows["key"].combine_chunks())
            marks.append(np.array([_source(record) is not None for record in rows["record"].to_pylist()], bool))
            yield rows.select(PICTURE)

    skipped = Counter[str]()
    entries = listed(folder)
    again = LaidRows(noted(), folder) if folder else list(noted())
    all_keys, made = pa.concat_arrays(keys), np.concatenate(marks)
    has_synthetic = bool(made.any())
    wanted = made == (part == "synthetic") if has_synthetic and part else np.ones(len(made), bool)
    # A box without a known picture, place -1, is counted with the originals.
    counted = np.append(wanted, not (has_synthetic and part == "synthetic"))
    usable = _usable(objects, all_keys, counted, skipped)
    found = sorted_rows(usable, _places, max(1, len(made)), boxes, folder or Path())
    for start, pictures, places, rows in _beside(again, found):
        own = slice(start, start + len(pictures))
        for entry in _entries(pictures, made[own], wanted[own], places, rows, root):
            entries.append(entry)
    return Side(entries, file, names, skipped, has_synthetic)


_PLACE = "place"  # column: number of a box's picture


def _places(boxes: pa.Table) -> NDArray[np.int64]:
    return np.asarray(boxes[_PLACE].to_numpy(), np.int64)


def _usable(
    objects: Iterable[pa.Table], keys: pa.Array, counted: NDArray[np.bool_], skipped: Counter[str]
) -> Iterator[pa.Table]:
    """The boxes of pictures that count, with their places; the others of these are entered in `skipped`."""
    for rows in objects:
        places = pc.fill_null(pc.index_in(rows["image_key"], value_set=keys), -1)
        rows = rows.select(BOX).append_column(_PLACE, places.cast(pa.int64()))
        rows = rows.filter(pa.array(counted[_places(rows)]))
        good = pc.equal(rows["status"], OK)
        skipped.update(rows["reason"].filter(pc.invert(good)).to_pylist())
        yield rows.filter(pc.and_(good, pc.greater_equal(rows[_PLACE], 0)))


def _beside(
    images: Iterable[pa.Table], found: Iterator[tuple[NDArray[np.int64], pa.Table]]
) -> Iterator[tuple[int, pd.DataFrame, NDArray[np.int64], pd.DataFrame]]:
    """Pictures with the boxes that they have: (number of the first, pictures, places of boxes from it on, boxes).
    found: the boxes, sorted by their places."""
    start = 0
    places, held = np.zeros(0, np.int64), list[pa.Table]()
    for rows in images:
        end = start + len(rows)
        while not len(places) or places[-1] < end:
            more = next(found, None)
            if more is None:
                break
            places, held = np.concatenate([places, more[0]]), [*held, more[1]]
        cut = int(np.searchsorted(places, end))
        boxes = pa.concat_tables(held) if held else _NO_BOXES
        yield start, rows.to_pandas(), places[:cut] - start, boxes.slice(0, cut).to_pandas()
        start, places, held = end, places[cut:], [boxes.slice(cut)]


_NO_BOXES = pa.schema([arrow_schema(ObjectRow).field(name) for name in BOX]).empty_table()


def _entries(
    images: pd.DataFrame,
    made: NDArray[np.bool_],
    wanted: NDArray[np.bool_],
    places: NDArray[np.int64],
    usable: pd.DataFrame,
    root: Path,
) -> Iterator[Entry]:
    """Those of some pictures that are wanted. places: (N,) of the pictures of N boxes, sorted."""
    boxes = xywh_to_xyxy(usable[list("xywh")].to_numpy(np.float64).reshape(-1, 4))
    ignore = usable.crowd.to_numpy(bool) | marked(usable.record, "ignore")
    added = marked(usable.record, "painted", exactly=True)
    painted = added | ~made[places]
    added[added] = [field_of(record, "source_annotation_id") is None for record in usable.record[added]]
    categories = usable.category.to_numpy(object)
    bounds = np.searchsorted(places, np.arange(len(images) + 1)).tolist()
    for i, image in enumerate(images.itertuples(index=False)):
        if not wanted[i]:
            continue
        at = slice(bounds[i], bounds[i + 1])
        size = (int(image.width), int(image.height)) if min(image.width, image.height) > 0 else (0, 0)
        caption, new = text_of(image.record, "caption"), int((added[at] & ~ignore[at]).sum())
        labels = Labels(boxes[at], tuple(categories[at]), ignore[at], painted[at], caption, size, new)
        fault = None if image.status == OK else (image.reason, image.detail)
        path = root / image.path if fault else _place(root, image.path)
        regions, sha256 = _regions(image.record), str(image.digest)
        yield Entry(path, image.file_name, labels, image.key, _source(image.record), regions, fault, sha256)


def _place(root: Path, name: str) -> Path:
    beside = root / name
    return beside if beside.is_file() or not (root / "images" / name).is_file() else root / "images" / name


def _source(record: bytes) -> tuple[str, str] | None:
    """(id as JSON text, name) of the picture that a synthetic one was made from; None for an original."""
    source_id = field_of(record, "source_image_id")
    return None if source_id is None else (msgspec.json.encode(source_id).decode(), text_of(record, "source_file_name"))


def _regions(record: bytes) -> NDArray[np.float64] | None:
    """(N, 4) xyxy pixels of the field `regions`, as finalise writes it; None where it is missing or malformed."""
    value = field_of(record, "regions")
    try:
        regions = np.array(value, np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    usable = regions.ndim == 2 and regions.shape[1] == 4 and np.isfinite(regions).all()  # null is read as NaN
    return xywh_to_xyxy(regions) if usable else None
