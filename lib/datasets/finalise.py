"""Finalise: where data leaves. One COCO file and one folder of pictures: the originals as they were, and the new ones.

`final/` holds no date, host, path or run id: equal inputs give equal bytes. annotations.json is written last.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import numpy as np
import pandas as pd

from lib.core.errors import AugmentError
from lib.core.files import atomic_path, atomic_write, digest, file_digest
from lib.core.geometry import clip_xyxy, xywh_to_xyxy
from lib.core.images import PictureError, encode_jpeg, load_rgb, plain_path
from lib.core.keys import key_of
from lib.datasets.formats import categories_of
from lib.records import kept
from lib.records.outputs import Outputs
from lib.records.requests import Label, Outcome, Rle
from lib.records.rows import OK, REJECTED, FinalRow
from lib.records.settings import FinaliseSettings
from lib.records.store import Store

Advance = Callable[[int], None]

# Annotations that cannot be edited but are the user's own and stay in the final set.
_STAYS = ("box_empty", "box_malformed", "box_outside", "category_unknown", "image_rejected")


def final_objects(images: pd.DataFrame, objects: pd.DataFrame) -> pd.DataFrame:
    """The source annotations that the final set holds: those of kept pictures, with a unique id and a category."""
    kept = objects.image_key.isin(images.key[kept_pictures(images)])
    stays = objects.reason.isin(_STAYS)
    # Tools that read COCO trip over a record without a category; there are few to look at.
    bare = [i for i in np.flatnonzero(stays) if b'"category_id"' not in objects.record.iloc[i]]
    stays.iloc[bare] = False
    return objects[kept & ((objects.status == OK) | stays)]


def kept_pictures(images: pd.DataFrame) -> pd.Series:
    """bool per ImageRow: could be read, whether or not it can be edited."""
    return (images.status == OK) | (images.reason == "size_mismatch")


_IDS = "restore it, or remove it: all synthetic pictures and boxes then get new ids"

_Numbers = dict[str, Annotated[int, msgspec.Meta(ge=1)]]


class _Ids(msgspec.Struct, forbid_unknown_fields=True):
    images: _Numbers
    annotations: _Numbers


@dataclass(frozen=True)
class Ids:
    """Ids of synthetic pictures and boxes: assigned once above the maximum, and remembered."""

    images: dict[str, int]  # request key → image id
    annotations: dict[str, int]  # "request key:position of the label" → annotation id

    @classmethod
    def read(cls, path: Path) -> Ids:
        """The remembered ids; none where there are none yet. Raises AugmentError for a damaged file."""
        told = kept.read(path, _Ids, _IDS)
        if told is None:
            return cls({}, {})
        for name, known in (("images", told.images), ("annotations", told.annotations)):
            if len(set(known.values())) != len(known):
                twice = next(number for number, count in Counter(known.values()).items() if count > 1)
                raise AugmentError(f"{path} is damaged (id {twice} stands twice among its {name}): {_IDS}")
        return cls(told.images, told.annotations)

    def assign(self, requests: Mapping[str, Outcome], image_ids: Iterable[str], annotation_ids: Iterable[str]) -> Ids:
        """Ids for all these requests, in their order; an id that an original now uses is given anew."""
        labels = [f"{key}:{i}" for key, request in requests.items() for i in range(len(request.labels))]
        return Ids(_assign(self.images, requests, image_ids), _assign(self.annotations, labels, annotation_ids))

    def write(self, path: Path) -> None:
        """By rename."""
        kept.write(path, _Ids(self.images, self.annotations), durable=True)


def _assign(known: Mapping[str, int], keys: Iterable[str], originals: Iterable[str]) -> dict[str, int]:
    taken = {number for i in originals if (number := _number(i)) is not None}
    result = {key: i for key, i in known.items() if i not in taken}
    following = max([0, *taken, *result.values()]) + 1
    for key in keys:
        if key not in result:
            result[key] = following
            following += 1
    return result


def _number(key: str) -> int | None:
    """An id's JSON text as a whole number, rounded up: readers take 7.0 and 7 for the same. None for text."""
    try:
        return int(key)
    except ValueError:
        pass
    try:
        return math.ceil(float(key))
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class Sources:
    """What ingest told, as finalise needs it."""

    images: pd.DataFrame  # ImageRow
    objects: pd.DataFrame  # ObjectRow
    envelope: bytes
    root: Path  # folder with the source pictures


def finalise(
    folder: Path,
    sources: Sources,
    reviewed: pd.DataFrame,
    requests: Mapping[str, Outcome],
    ids: Ids,
    settings: FinaliseSettings,
    store: Store,
    known: pd.DataFrame | None,
    advance: Advance = lambda n: None,
    verify: bool = False,
) -> list[FinalRow]:
    """Write the final set into `folder` and return a FinalRow per picture.

    reviewed: ReviewRows that are ok; requests: by key, of those rows; known: the former FinalRows, whose unchanged
    files are not read again, unless `verify`. Raises AugmentError where a file that no run wrote has a name that is
    needed; other such files stay.
    """
    originals = _originals(sources, requests, settings)
    names = final_names(originals, settings.yolo)
    memo = {} if known is None or verify else {row.file_name: row for row in known.itertuples(index=False)}
    ours = Outputs(folder, _former(known, sources.images))
    made = (_synthetic_name(row.name, settings) for row in reviewed.itertuples(index=False))
    ours.claim([f"images/{name}" for name in (*names.values(), *made)])
    writer = _Writer(ours, memo, advance)
    rows = [_place_original(row, names[row.key], sources, writer) for row in originals.itertuples(index=False)]
    by_key = {row.key: row for row in sources.images.itertuples(index=False)}
    rows += [
        _place_synthetic(row, by_key[row.image_key], requests[row.key], ids, sources.root, settings, store, writer)
        for row in reviewed.itertuples(index=False)
    ]
    written = _write_annotations(ours, sources, originals, names, requests, ids, rows, settings)
    # Only now: until here the former annotations.json was true of what lies there.
    ours.sweep([*written, *(f"images/{row.file_name}" for row in rows if row.status == OK)])
    return rows


def _former(known: pd.DataFrame | None, images: pd.DataFrame) -> list[str]:
    """Files of the final set of a version that noted no names: those of its FinalRows, and what lay beside them."""
    if known is None:
        return []
    names = known.file_name[known.status == OK].tolist()
    splits = [_split_name(split) for split in images.split.unique()]
    labels = [_label_name(name) for name in names]
    return [*(f"images/{name}" for name in names), *labels, *splits, *_BESIDE]


def _originals(sources: Sources, requests: Mapping[str, Outcome], settings: FinaliseSettings) -> pd.DataFrame:
    kept = sources.images[kept_pictures(sources.images)]
    if settings.originals == "none":
        return kept.iloc[:0]
    if settings.originals == "selected":
        return kept[kept.key.isin({request.image_key for request in requests.values()})]
    return kept


def final_names(originals: pd.DataFrame, yolo: bool = False) -> dict[str, str]:
    """File name of each original in final/images: its own; its path where another picture has the same name, or where
    the name has a backslash, a line break or another control character, which in a path are percent-encoded. What no
    file system takes for its length is cut.

    yolo: labels are found by the name without its suffix, so where two have that in common it gets its suffix's name.
    """
    pairs = list(zip(originals.file_name, originals.path, strict=True))
    same = Counter(text for name, path in pairs for text in {_folded(name), _folded(path)})
    names = [name if same[_folded(name)] == 1 and _safe(name) else path for name, path in pairs]
    names = _encoded_names(names)
    if yolo:
        stems = Counter(str(PurePosixPath(name).with_suffix("")) for name in {str(PurePosixPath(n)) for n in names})
        names = [_apart(name) if stems[str(PurePosixPath(name).with_suffix(""))] > 1 else name for name in names]
    return dict(zip(originals.key, map(_fitting, names), strict=True))


def _folded(name: str) -> str:
    """As a file system may see it: without roundabout parts, case ignored."""
    return (plain_path(name, keep_backslash=True) or name).casefold()


def _apart(name: str) -> str:
    """ "a.png" → "a_png.png"."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}_{path.suffix[1:]}{path.suffix}"))


# Control characters, of which line breaks are some, and the other two that end a line in Unicode.
_CONTROL = "\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029"
_ODD = re.compile(rf"[\\{_CONTROL}]")  # what is a name on one system and a path, or none, on another


def _safe(name: str) -> bool:
    return bool(plain_path(name, keep_backslash=True)) and ".." not in name.split("/") and not _ODD.search(name)


def _encoded_names(names: list[str]) -> list[str]:
    """With odd characters percent-encoded; where that is another picture's name, with a hash of the old one."""
    taken = {_folded(name) for name in names if not _ODD.search(name)}
    found: dict[str, str] = {}
    for name in filter(_ODD.search, names):
        path = PurePosixPath(_ODD.sub(lambda match: quote(match[0], safe=""), name))
        if name not in found:
            apart = path.with_name(f"{path.stem}_{digest(name.encode(errors='surrogateescape'))[:8]}{path.suffix}")
            found[name] = str(apart if _folded(str(path)) in taken else path)
            taken.add(_folded(found[name]))
    return [found.get(name, name) for name in names]


_LONGEST = 255 - len(".txt")  # bytes of a file's name, so that its label file has one too


def _fitting(name: str) -> str:
    """With every part that is too long cut, and told apart by a hash."""
    if len(name) * 4 <= _LONGEST:
        return name
    return "/".join(_cut(part) if len(os.fsencode(part)) > _LONGEST else part for part in name.split("/"))


def _cut(part: str) -> str:
    whole, suffix = os.fsencode(part), os.fsencode(PurePosixPath(part).suffix)
    kept = whole[: _LONGEST - 20 - len(suffix)].decode(errors="ignore") if len(suffix) <= 20 else "picture"
    return f"{kept}_{digest(whole)[:8]}{os.fsdecode(suffix) if len(suffix) <= 20 else ''}"


class _Writer:
    """Writes pictures by rename and leaves alone what is already there, by size and time or by digest."""

    def __init__(self, ours: Outputs, memo: Mapping[str, Any], advance: Advance) -> None:
        self.ours, self.memo, self.advance = ours, memo, advance

    def place(self, name: str, sha256: str, make: Callable[[Path], object]) -> tuple[int, int]:
        """(size, mtime_ns) of the file `name` with this digest; `make` writes it where it is not there.

        Raises ValueError where what `make` wrote has another digest.
        """
        path = self.ours.folder / "images" / name
        self.ours.check(f"images/{name}", lambda path: file_digest(path) == sha256)
        if not self._there(path, name, sha256):
            # A manifest of somebody else may say so.
            if not path.parent.resolve().is_relative_to(self.ours.folder.resolve()):
                raise ValueError(f"{name} leads out of {self.ours.folder}")
            with atomic_path(path) as temporary:
                make(temporary)
                if file_digest(temporary) != sha256:
                    raise ValueError(f"{name} is not what it was")
        self.advance(1)
        stat = path.stat()
        return stat.st_size, stat.st_mtime_ns

    def _there(self, path: Path, name: str, sha256: str) -> bool:
        if path.is_symlink() or not path.is_file():
            return False
        row, stat = self.memo.get(name), path.stat()
        if row is not None and (row.sha256, row.size, row.mtime_ns) == (sha256, stat.st_size, stat.st_mtime_ns):
            return True
        return file_digest(path) == sha256


def _place_original(row: Any, name: str, sources: Sources, writer: _Writer) -> FinalRow:
    key = f"original:{row.key}"
    try:
        source = sources.root / row.path
        size, mtime_ns = writer.place(name, row.digest, lambda to: shutil.copyfile(source, to))
    except (ValueError, FileNotFoundError) as error:
        return FinalRow(key, REJECTED, "image_changed", f"{row.path}: {error}", row.key, name, "", 0, 0, 0)
    return FinalRow(key, OK, "", "", row.key, name, row.digest, size, mtime_ns, 0)


def _place_synthetic(
    row: Any,
    source: Any,
    request: Outcome,
    ids: Ids,
    root: Path,
    settings: FinaliseSettings,
    store: Store,
    writer: _Writer,
) -> FinalRow:
    key, image_id = f"synthetic:{row.key}", str(ids.images[row.key])
    kind, item, name = "picture", row.picture, row.name
    if settings.format == "jpeg":
        kind, item, name = "jpeg", jpeg_key(row.picture, source.digest), _synthetic_name(row.name, settings)
    try:
        if kind == "jpeg":
            _keep_jpeg(store, item, row.picture, root / source.path, source.digest)
        sha256 = row.sha256 if kind == "picture" else store.sha256(kind, item)
        if sha256 is None:
            raise ValueError(f"{name} is no longer in the store")
        size, mtime_ns = writer.place(name, sha256, lambda to: to.write_bytes(store.get(kind, item) or b""))
    except PictureError as error:
        return FinalRow(key, REJECTED, error.reason, f"{error.detail}: run again", image_id, name, "", 0, 0, 0)
    except (ValueError, FileNotFoundError) as error:
        return FinalRow(key, REJECTED, "picture_lost", f"{error}: run again", image_id, name, "", 0, 0, 0)
    told = sum(not label.dropped for label in request.labels)
    return FinalRow(key, OK, "", "", image_id, name, sha256, size, mtime_ns, told)


def _synthetic_name(name: str, settings: FinaliseSettings) -> str:
    return str(Path(name).with_suffix(".jpg")) if settings.format == "jpeg" else name


def jpeg_key(picture: str, source: str) -> str:
    """Key in the store of a picture as JPEG. picture: its own key; source: digest of its source."""
    return key_of("jpeg", picture, source)


def _keep_jpeg(store: Store, item: str, picture: str, source: Path, source_digest: str) -> None:
    """The picture as JPEG with its source's tables, in the store; nothing where the picture is lost.

    Raises FileNotFoundError where the source is gone, PictureError where it is another.
    """
    png = None if store.has("jpeg", item) else store.get("picture", picture)
    if png is not None:
        data = source.read_bytes()
        if digest(data) != source_digest:
            raise PictureError("image_changed", f"{source} changed since ingest")
        store.put("jpeg", item, encode_jpeg(load_rgb(png, "stored"), like=data))


_BESIDE = ("annotations.json", "selected_ann.json", "original_selected_ann.json", "classes.txt")


def _split_name(split: str) -> str:
    return f"annotations-{_file_text(split)}.json"


def _label_name(name: str) -> str:
    return f"labels/{PurePosixPath(name).with_suffix('.txt')}"


def _write_annotations(
    ours: Outputs,
    sources: Sources,
    originals: pd.DataFrame,
    names: Mapping[str, str],
    requests: Mapping[str, Outcome],
    ids: Ids,
    rows: list[FinalRow],
    settings: FinaliseSettings,
) -> list[str]:
    """annotations.json, one more file per split where there are several, and what was asked for beside them.

    Returns the names of the files.
    """
    placed = {row.key: row for row in rows if row.status == OK}
    originals = originals[np.array([f"original:{key}" in placed for key in originals.key], dtype=bool)]
    objects = final_objects(sources.images, sources.objects)
    synthetic = [(key, requests[key], placed[f"synthetic:{key}"]) for key in requests if f"synthetic:{key}" in placed]
    maker = _Maker(sources, objects, names, ids, several=_several_splits(sources.images))
    wanted = {"annotations.json": maker.coco(originals, synthetic)}
    if maker.several:
        for split in sorted(originals.split.unique()):
            own = [s for s in synthetic if s[1].split == split]
            wanted[_split_name(split)] = maker.coco(originals[originals.split == split], own)
    if settings.s3_pair:
        gone = {row.key for row in rows if row.status != OK}
        wanted_keys = {request.image_key for _, request, _ in synthetic if f"original:{request.image_key}" not in gone}
        used = sources.images[sources.images.key.isin(wanted_keys)]
        wanted["selected_ann.json"] = maker.coco(used.iloc[:0], synthetic)
        wanted["original_selected_ann.json"] = maker.coco(used, [])
    labels = maker.yolo(wanted["annotations.json"]) if settings.yolo else {}
    files = labels | wanted  # annotations last: they say that the set is complete
    ours.claim(files)
    for name, data in files.items():
        ours.check(name, lambda path, data=data: path.read_bytes() == data)  # type: ignore[misc]
    for name, data in files.items():
        path = ours.folder / name
        if path.is_symlink() or not path.is_file() or path.read_bytes() != data:
            atomic_write(path, data)
    return list(files)


def _several_splits(images: pd.DataFrame) -> bool:
    return bool(images.split[kept_pictures(images)].nunique() > 1)


def _file_text(text: str) -> str:
    """A text from the source as part of a file name: what would lead to another folder is percent-encoded."""
    return re.sub(rf"[/\\%{_CONTROL}]", lambda match: quote(match[0], safe=""), text)


class _Maker:
    """Builds COCO bytes: originals' records byte for byte, new ones with their provenance."""

    def __init__(
        self, sources: Sources, objects: pd.DataFrame, names: Mapping[str, str], ids: Ids, several: bool
    ) -> None:
        self.envelope = msgspec.json.decode(sources.envelope, type=dict[str, msgspec.Raw])
        self.images = {row.key: row for row in sources.images.itertuples(index=False)}
        self.objects, self.names, self.ids, self.several = objects, names, ids, several
        self.records = dict(zip(objects.key, objects.record, strict=True))
        self.category_ids = categories_of(sources.envelope)

    def coco(self, originals: pd.DataFrame, synthetic: list[tuple[str, Outcome, FinalRow]]) -> bytes:
        images = [self._original(row) for row in originals.itertuples(index=False)]
        annotations = list(self.objects.record[self.objects.image_key.isin(originals.key)])
        for key, request, row in synthetic:
            images.append(self._image(key, request, row))
            labels = [(i, label) for i, label in enumerate(request.labels) if not label.dropped]
            annotations += [self._annotation(key, request, i, label) for i, label in labels]
        parts = {**self.envelope, "images": _list(images), "annotations": _list(annotations)}
        return b"{\n" + b",\n".join(msgspec.json.encode(k) + b": " + bytes(v) for k, v in parts.items()) + b"\n}\n"

    def _original(self, row: Any) -> bytes:
        name = self.names.get(row.key, row.file_name)
        return bytes(row.record) if name == row.file_name else _patched(row.record, {"file_name": name})

    def _image(self, key: str, request: Outcome, row: FinalRow) -> bytes:
        source = self.images[request.image_key]
        told = msgspec.json.decode(source.record, type=dict[str, msgspec.Raw])
        record: dict[str, Any] = {
            "id": self.ids.images[key],
            "file_name": row.file_name,
            "width": request.width,
            "height": request.height,
        }
        if "license" in told:
            record["license"] = told["license"]
        if self.several:
            record["split"] = request.split
        record["source_image_id"] = msgspec.Raw(_id(request.image_key))
        record["source_file_name"] = source.file_name
        record["edit"] = request.edit
        record["painter"] = request.painter["name"]
        record["composite"] = request.composite["name"]
        record["variant"] = request.variant
        record["regions"] = [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in request.regions]
        return msgspec.json.encode(record)

    def _annotation(self, key: str, request: Outcome, position: int, label: Label) -> bytes:
        changes: dict[str, Any] = {
            "id": self.ids.annotations[f"{key}:{position}"],
            "image_id": self.ids.images[key],
        }
        if label.category is not None:
            changes["category_id"] = msgspec.Raw(self.category_ids[label.category])
        if label.bbox is not None:
            changes["bbox"], changes["area"] = label.bbox, label.area
            changes["segmentation"] = label.segmentation or ()
        if label.visible is not None:
            changes["visible"] = label.visible
        # What the source says of itself, a synthetic picture's perhaps, is not true of the copy.
        changes["painted"] = True if label.painted else msgspec.UNSET
        if label.painted or label.bbox is not None:
            changes |= dict.fromkeys(("keypoints", "num_keypoints"), msgspec.UNSET)
        if label.painted:
            changes = {**dict.fromkeys(("visible", "ignored", "ignore"), msgspec.UNSET), **changes}
        if label.ignored:
            changes |= {"iscrowd": 1, "ignore": 1, "ignored": label.ignored}
        if label.source is None:
            return _encoded({"iscrowd": 0, **changes})
        changes["source_annotation_id"] = msgspec.Raw(_id(label.source))
        return _patched(self.records[label.source], changes)

    def yolo(self, coco: bytes) -> dict[str, bytes]:
        """YOLO labels of a COCO file: class, centre x, centre y, width, height as shares of the picture."""
        told = msgspec.json.decode(coco, type=_Listing)
        codes = {bytes(category.id): code for code, category in enumerate(told.categories)}
        # Sources may leave the size out; ingest measured it.
        known = {key: (row.width, row.height) for key, row in self.images.items()}
        sizes = {bytes(i.id): known.get(bytes(i.id).decode()) or i.size for i in told.images}
        lines: dict[bytes, list[str]] = {image: [] for image in sizes}
        for note in told.annotations:
            image, category = bytes(note.image_id), bytes(note.category_id)
            if not note.crowd and category in codes:
                lines[image].append(_yolo_line(codes[category], note.box, sizes[image]))
        texts: dict[str, str] = {}
        for i in told.images:
            name = _label_name(i.file_name)
            texts[name] = texts.get(name, "") + "".join(lines[bytes(i.id)])  # one file may be two records
        files = {name: text.encode() for name, text in texts.items()}
        classes = "".join(f"{_one_line(category)}\n" for category in told.categories).encode()
        return {**files, "classes.txt": classes}


class _ListedImage(msgspec.Struct):
    """Of a record what YOLO labels need; ids are told apart by their JSON text, as everywhere."""

    id: msgspec.Raw
    file_name: str
    width: msgspec.Raw = msgspec.Raw(b"0")
    height: msgspec.Raw = msgspec.Raw(b"0")

    @property
    def size(self) -> tuple[int, int]:
        return _decoded(self.width, int, 0), _decoded(self.height, int, 0)


class _ListedNote(msgspec.Struct):
    image_id: msgspec.Raw
    category_id: msgspec.Raw
    bbox: msgspec.Raw = msgspec.Raw(b"null")
    iscrowd: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def crowd(self) -> bool:
        return bool(_decoded(self.iscrowd, Any, True))

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        return _decoded(self.bbox, tuple[float, float, float, float], None)


class _ListedCategory(msgspec.Struct):
    id: msgspec.Raw
    name: str


class _Listing(msgspec.Struct):
    images: list[_ListedImage]
    annotations: list[_ListedNote]
    categories: list[_ListedCategory]


def _decoded(value: msgspec.Raw, kind: Any, otherwise: Any) -> Any:
    """A value of a record that stays as its source wrote it, whatever that is."""
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.MsgspecError, OverflowError):
        return otherwise


def _one_line(category: _ListedCategory) -> str:
    """A category's name as a line: what breaks lines is a blank, and a name of nothing is told by its id."""
    name = re.sub(rf"[{_CONTROL}]+", " ", category.name).strip()
    return name or f"category {_decoded(category.id, Any, 0)}"


def _yolo_line(code: int, bbox: tuple[float, float, float, float] | None, size: tuple[int, int]) -> str:
    """ "" for a box that is none."""
    if bbox is None:
        return ""
    x0, y0, x1, y1 = clip_xyxy(xywh_to_xyxy(np.array(bbox, dtype=np.float64)), *size)
    if x1 <= x0 or y1 <= y0:
        return ""
    values = (x0 + x1) / 2 / size[0], (y0 + y1) / 2 / size[1], (x1 - x0) / size[0], (y1 - y0) / size[1]
    return f"{code} " + " ".join(f"{value:.6f}" for value in values) + "\n"


def _list(records: list[bytes]) -> bytes:
    return b"[\n" + b",\n".join(records) + b"\n]" if records else b"[]"


def _patched(record: bytes, changes: Mapping[str, Any]) -> bytes:
    """A JSON object with some fields changed, added or (UNSET) left out, the others byte for byte."""
    told: dict[str, Any] = msgspec.json.decode(record, type=dict[str, msgspec.Raw])
    return _encoded({**told, **changes})


def _encoded(fields: Mapping[str, Any]) -> bytes:
    kept = {name: value for name, value in fields.items() if value is not msgspec.UNSET}
    return msgspec.json.encode(kept, enc_hook=_plain)


def _plain(value: Any) -> Any:
    """A mask of runs as COCO has it."""
    assert isinstance(value, Rle), type(value)
    return {"size": value.size, "counts": value.counts}


def _id(key: str) -> bytes:
    """The source id's JSON text in a row's key."""
    return key.encode()
