"""What is compared: a folder of pictures, or labelled ones; of a run's final set the originals, or what was painted.

    real = read_side(Path("final"), "originals")             # or a COCO file, or a folder of pictures without labels
    made = read_side(Path("final"), "synthetic")
    real = read_side(Path("photos"), annotations=Path("boxes.csv"), format="loco")
    made_from = sources_of(real, made)                       # {number in made: number in real}

Nothing is decoded here. What cannot be used is listed with its reason: pictures as `fault`, boxes in `skipped`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pandas as pd
from msgspec import Raw
from numpy.typing import NDArray

from lib.core.documents import MAX_DEPTH, read_file, shallow
from lib.core.errors import AugmentError, unknown
from lib.core.files import files_below
from lib.core.geometry import xywh_to_xyxy
from lib.core.images import SUFFIXES
from lib.datasets.formats import FORMATS, Dataset, categories_of, read_dataset
from lib.datasets.formats.coco import read_document
from lib.datasets.formats.tables import field_of, marked, text_of
from lib.records.rows import OK
from lib.records.settings import DatasetSettings

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

    entries: tuple[Entry, ...]
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


def read_side(path: Path, part: Part | None = None, annotations: Path | None = None, format: str | None = None) -> Side:
    """A folder of pictures (with its subfolders, sorted; hidden files are skipped), or a labelled set.

    path: a folder; a COCO file, its pictures beside it or in `images` beside it; or a run's final folder, which holds
    both. annotations, format: labels of a folder's pictures in any of FORMATS; no format: loco for a CSV, else coco.
    part: of a set with synthetic pictures (those with `source_image_id`) these alone, or the others; of others all.
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
        return _side_of_dataset(_read_coco(path), path, path.parent, part)
    raise AugmentError(f"{path} not found: expected a folder of pictures or a COCO file")


def _check_format(format: str, annotations: Path | None) -> None:
    if format not in FORMATS:
        raise unknown(FORMATS.kind, format, FORMATS)
    if annotations is None:
        raise AugmentError(
            f"--format {format} is of the labels that --boxes gives, and there are none: give --boxes ANNOTATIONS, or "
            "leave --format out"
        )


def sources_of(real: Side, made: Side) -> dict[int, int]:
    """Number of each generated picture → number of the real one that it was made from, where that is in `real`.

    By the recorded id of its source where both sides are of one file, else by the recorded name, else by the picture's
    name: its path under the folder, then its stem, where exactly one real picture has that stem and the two are not in
    different folders.
    """
    by_id = {entry.id: i for i, entry in enumerate(real.entries)} if real.file in (made.file, None) else {}
    by_id.pop("", None)
    by_name = {entry.name: i for i, entry in enumerate(real.entries) if entry.name}
    stems = Counter(Path(name).stem for name in by_name)
    by_stem = {Path(name).stem: i for name, i in by_name.items() if stems[Path(name).stem] == 1}
    found = {}
    for number, entry in enumerate(made.entries):
        key, name = entry.source or ("", entry.name)
        source = by_id.get(key, by_name.get(name))
        if source is None:
            source = by_stem.get(Path(name).stem)
            folders = {Path(real.entries[source].name).parent, Path(name).parent} if source is not None else set()
            source = source if len(folders - {Path()}) < 2 else None
        if source is not None:
            found[number] = source
    return found


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
    return read_document(data, str(path), DatasetSettings(images=path.parent, annotations=path))


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


def _side_of_dataset(dataset: Dataset, file: Path, root: Path, part: Part | None) -> Side:
    names = tuple(categories_of(dataset.envelope))
    return side_of(dataset.images.to_pandas(), dataset.objects.to_pandas(), root, part, file, names)


def side_of(
    images: pd.DataFrame,
    objects: pd.DataFrame,
    root: Path,
    part: Part | None = None,
    file: Path | None = None,
    names: tuple[str, ...] = (),
) -> Side:
    """A part of a labelled set from its rows, ImageRow and ObjectRow; root: the folder of its pictures."""
    sources = [_source(record) for record in images.record]
    made = np.array([source is not None for source in sources], bool)
    has_synthetic = bool(made.any())
    wanted = made == (part == "synthetic") if has_synthetic and part else np.ones(len(images), bool)
    # A box without a known picture is counted with the originals.
    of_made = objects.image_key.isin(images.key[made]).to_numpy()
    kept = of_made == (part == "synthetic") if has_synthetic and part else np.ones(len(objects), bool)
    rows_of_part = objects[kept]
    usable = rows_of_part[rows_of_part.status == OK]
    boxes = xywh_to_xyxy(usable[list("xywh")].to_numpy(np.float64).reshape(-1, 4))
    ignore = usable.crowd.to_numpy(bool) | marked(usable.record, "ignore")
    painted = marked(usable.record, "painted", exactly=True) | ~of_made[kept][(rows_of_part.status == OK).to_numpy()]
    added = marked(usable.record, "painted", exactly=True)
    added[added] = [field_of(record, "source_annotation_id") is None for record in usable.record[added]]
    categories = usable.category.to_numpy(object)
    rows = usable.groupby("image_key", sort=False).indices
    entries = []
    for i, image in enumerate(images.itertuples(index=False)):
        if not wanted[i]:
            continue
        at = rows.get(image.key, np.zeros(0, np.int64))
        size = (int(image.width), int(image.height)) if min(image.width, image.height) > 0 else (0, 0)
        caption, new = text_of(image.record, "caption"), int((added[at] & ~ignore[at]).sum())
        labels = Labels(boxes[at], tuple(categories[at]), ignore[at], painted[at], caption, size, new)
        fault = None if image.status == OK else (image.reason, image.detail)
        path = root / image.path if fault else _place(root, image.path)
        regions, sha256 = _regions(image.record), str(image.digest)
        entries.append(Entry(path, image.file_name, labels, image.key, sources[i], regions, fault, sha256))
    skipped = Counter(rows_of_part.reason[rows_of_part.status != OK].tolist())
    return Side(tuple(entries), file, names, skipped, has_synthetic)


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
