"""COCO bytes of the final set: the originals' records byte for byte, and new ones with the edit that made them.

Masks stay honest: where no annotation of the source has one, new ones have none either, whatever the plan cut out,
since tools that read masks fail on a mixture. `info.augment` says in one sentence what was done.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lib.datasets.formats import categories_of
from lib.datasets.ids import Ids
from lib.records.requests import Label, Outcome, Rle
from lib.records.rows import OK, FinalRow

# Rejected annotations that nevertheless stay in the final set: they are the user's data.
_STAYS = ("box_empty", "box_malformed", "box_outside", "category_unknown", "image_rejected")


def _final_objects(pictures: pa.Array, objects: pd.DataFrame) -> pd.DataFrame:
    """Those of some ObjectRows that belong to these pictures, by their keys, and have a unique id and a category."""
    kept = pc.is_in(pa.array(objects.image_key, pa.string()), value_set=pictures).to_numpy(zero_copy_only=False)
    stays = objects.reason.isin(_STAYS)
    # Tools that read COCO trip over a record without a category; few rows have to be looked at.
    bare = [i for i in np.flatnonzero(stays) if b'"category_id"' not in objects.record.iloc[i]]
    stays.iloc[bare] = False
    return objects[kept & ((objects.status == OK) | stays)]


def kept_pictures(images: pd.DataFrame) -> pd.Series:
    """bool per ImageRow: the picture could be read, whether or not it can be edited."""
    return (images.status == OK) | (images.reason == "size_mismatch")


Picture = tuple[Any, Mapping[str, bytes]]  # an ImageRow, and its annotations' records by their keys


class SourceRows(ABC):
    """The source data set as ingest read it, wherever its rows lie."""

    def __init__(self, envelope: bytes, root: Path) -> None:
        self.envelope, self.root = envelope, root  # root: folder with the source pictures

    @abstractmethod
    def image_rows(self, *columns: str) -> Iterator[pd.DataFrame]:
        """ImageRows, some at a time; these columns alone where some are named."""

    @abstractmethod
    def object_rows(self) -> Iterator[pd.DataFrame]:
        """ObjectRows, some at a time."""

    @abstractmethod
    def pictures(self) -> Callable[[str], Picture]:
        """Gives pictures by their keys, which are asked for in the order of the data set."""

    @cached_property
    def kept(self) -> pa.Array:
        """Keys of the pictures that the final set can hold."""
        found = [rows.key[kept_pictures(rows)].to_numpy(object) for rows in self.image_rows("key", "status", "reason")]
        return pa.concat_arrays([pa.array([], pa.string()), *(pa.array(keys, pa.string()) for keys in found)])

    @cached_property
    def splits(self) -> list[str]:
        """Splits of these pictures, sorted."""
        found = (rows.split[kept_pictures(rows)].unique() for rows in self.image_rows("split", "status", "reason"))
        return sorted({split for some in found for split in some})

    def final_objects(self) -> Iterator[pd.DataFrame]:
        """The annotations that the final set holds, some ObjectRows at a time: those of kept pictures, with a unique id
        and a category."""
        return (_final_objects(self.kept, rows) for rows in self.object_rows())


class Sources(SourceRows):
    """A source data set whose rows are at hand. images: ImageRows; objects: ObjectRows."""

    def __init__(self, images: pd.DataFrame, objects: pd.DataFrame, envelope: bytes, root: Path) -> None:
        super().__init__(envelope, root)
        self.images, self.objects = images, objects

    def image_rows(self, *columns: str) -> Iterator[pd.DataFrame]:
        yield self.images[list(columns)] if columns else self.images

    def object_rows(self) -> Iterator[pd.DataFrame]:
        yield self.objects

    def pictures(self) -> Callable[[str], Picture]:
        rows = {row.key: row for row in self.images.itertuples(index=False)}
        places = self.objects.groupby("image_key", sort=False).indices

        def picture(key: str) -> Picture:
            own = self.objects.iloc[places.get(key, [])]
            return rows[key], dict(zip(own.key, own.record, strict=True))

        return picture


class Shapes:
    """Have annotations masks, and what do those have that have none? Found out as the source's are looked at."""

    def __init__(self) -> None:
        self.masks, self.listed = False, False

    def look(self, objects: pd.DataFrame) -> None:
        """ObjectRows of `SourceRows.final_objects`."""
        self.masks = self.masks or has_masks(objects.record[~objects.crowd.to_numpy(bool)])
        self.listed = self.listed or any(b'"segmentation"' in record for record in objects.record)

    @property
    def no_mask(self) -> Any:
        """What an annotation without a mask has in this data set: an empty list, or no such field."""
        return () if self.listed else msgspec.UNSET


def original(row: Any, name: str) -> bytes:
    """The record of an ImageRow, byte for byte but for another name. name: of its file in final/images."""
    return bytes(row.record) if name == row.file_name else _patched(row.record, {"file_name": name})


class CocoWriter:
    """Makes COCO records of what is new, with its provenance.

    several: whether records say their split.
    """

    def __init__(self, envelope: bytes, ids: Ids, shapes: Shapes, several: bool) -> None:
        self.ids, self.shapes, self.several = ids, shapes, several
        self.category_ids = categories_of(envelope)

    def image(self, key: str, request: Outcome, row: FinalRow, source: Any) -> bytes:
        """The record of a synthetic picture. source: the ImageRow of the picture that it was made from."""
        fields = msgspec.json.decode(source.record, type=dict[str, msgspec.Raw])
        record: dict[str, Any] = {
            "id": self.ids.image(key),
            "file_name": row.file_name,
            "width": request.width,
            "height": request.height,
        }
        if "license" in fields:
            record["license"] = fields["license"]
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

    def annotations(self, key: str, request: Outcome, records: Mapping[str, bytes]) -> list[bytes]:
        """The records of a synthetic picture's labels. records: of its source, by their keys."""
        labels = [(i, label) for i, label in enumerate(request.labels) if not label.dropped]
        return [self._annotation(key, i, label, records) for i, label in labels]

    def _annotation(self, key: str, position: int, label: Label, records: Mapping[str, bytes]) -> bytes:
        changes: dict[str, Any] = {"id": self.ids.annotation(key, position), "image_id": self.ids.image(key)}
        if label.category is not None:
            changes["category_id"] = msgspec.Raw(self.category_ids[label.category])
        if label.bbox is not None:
            changes["bbox"], changes["area"] = label.bbox, label.area
            if self.shapes.masks:
                changes["segmentation"] = label.segmentation or ()
            elif label.source is None:
                changes["segmentation"] = self.shapes.no_mask
        if label.visible is not None:
            changes["visible"] = label.visible
        # The source may be a synthetic picture itself: its `painted` is not true of the copy.
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
        return _patched(records[label.source], changes)


class Listing:
    """A COCO file in the making: records lie in files until all are there, since two lists grow at once."""

    def __init__(self, folder: Path) -> None:
        self.lists = {name: _Records(folder) for name in ("images", "annotations")}
        self.pictures, self.painted, self.ways = 0, 0, set[tuple[str, str, str]]()

    def add(self, name: str, records: Iterable[bytes]) -> None:
        """Records of `images` or `annotations`."""
        self.lists[name].add(records)

    def count(self, request: Outcome) -> None:
        """A synthetic picture was added."""
        self.pictures += 1
        self.painted += sum(label.painted and not label.dropped for label in request.labels)
        self.ways.add((request.edit, request.painter["name"], request.composite["name"]))

    def write(self, path: Path, envelope: bytes, masks: bool) -> None:
        """The file. envelope: the source's top level."""
        parts = self._envelope(msgspec.json.decode(envelope, type=dict[str, msgspec.Raw]), masks)
        parts |= dict.fromkeys(self.lists, b"")
        with path.open("wb") as file:
            file.write(b"{\n")
            for number, (name, value) in enumerate(parts.items()):
                file.write((b",\n" if number else b"") + msgspec.json.encode(name) + b": ")
                if name in self.lists:
                    self.lists[name].write(file)
                else:
                    file.write(bytes(value))
            file.write(b"\n}\n")

    def _envelope(self, top: dict[str, Any], masks: bool) -> dict[str, Any]:
        """The source's top level, with a sentence in `info` where there are new pictures and room for it."""
        info = _decoded(top.get("info"), dict[str, msgspec.Raw] | None)
        if not self.pictures or info is msgspec.UNSET:
            return top
        former = _decoded((info or {}).get("augment"), str)  # of a source that is a final set itself
        sentences = filter(None, (former, self._sentence(masks)))
        with_sentence = msgspec.json.encode({**(info or {}), "augment": " ".join(sentences)})
        return {"info": b"", **top} | {"info": with_sentence}

    def _sentence(self, masks: bool) -> str:
        """What was done, for a person who has this file alone."""
        how = ", ".join(f"{edit} × {painter} × {composite}" for edit, painter, composite in sorted(self.ways))
        shapes = "the mask of a painted object whose outline is not known is its box"
        return (
            f"{_count(self.pictures, 'synthetic picture')} with {_count(self.painted, 'painted object')} "
            f"{'was' if self.pictures == 1 else 'were'} made from this data set ({how}); "
            f"{shapes if masks else 'annotations have boxes alone, as no annotation of the source has a mask'}."
        )

    def close(self) -> None:
        """Let go of the files; they have no name that could stay behind."""
        for records in self.lists.values():
            records.file.close()


class _Records:
    """JSON records, of a list that is written later."""

    def __init__(self, folder: Path) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by Listing.close
        self.empty = True

    def add(self, records: Iterable[bytes]) -> None:
        for record in records:
            self.file.write(record if self.empty else b",\n" + record)
            self.empty = False

    def write(self, to: IO[bytes]) -> None:
        """The list, as JSON."""
        if self.empty:
            to.write(b"[]")
            return
        to.write(b"[\n")
        self.file.seek(0)
        shutil.copyfileobj(self.file, to, 1 << 20)
        to.write(b"\n]")


def write_originals(path: Path, sources: SourceRows, names: Mapping[str, str]) -> None:
    """A COCO file of some pictures of a data set as they are. names: of their files, by image key."""
    shapes = Shapes()
    with ExitStack() as stack:
        listing = Listing(path.parent)
        stack.callback(listing.close)
        for rows in sources.image_rows():
            some = rows[rows.key.isin(list(names))]
            listing.add("images", (original(row, names[row.key]) for row in some.itertuples(index=False)))
        for objects in sources.final_objects():
            listing.add("annotations", objects.record[objects.image_key.isin(list(names))])
        listing.write(path, sources.envelope, shapes.masks)


class _Mask(msgspec.Struct):
    segmentation: msgspec.Raw = msgspec.Raw(b"null")


def has_masks(records: Iterable[bytes]) -> bool:
    """Whether any COCO annotation record has a mask: polygons, be they just its box, or RLE."""
    decoder = msgspec.json.Decoder(_Mask)
    named = (record for record in records if b'"segmentation"' in record)
    return any(_NO_MASK.fullmatch(bytes(decoder.decode(record).segmentation)) is None for record in named)


_NO_MASK = re.compile(rb"null|false|0|\"\"|\{\s*\}|\[(\s|\[\s*\]|,)*\]")


def _decoded(value: bytes | msgspec.Raw | None, kind: Any) -> Any:
    """A JSON value as `kind`; None for none, UNSET where it is another."""
    try:
        return None if value is None else msgspec.json.decode(value, type=kind)
    except (msgspec.MsgspecError, RecursionError):
        return msgspec.UNSET


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _patched(record: bytes, changes: Mapping[str, Any]) -> bytes:
    """A JSON object with some fields changed, added or (UNSET) left out, the others byte for byte."""
    stored: dict[str, Any] = msgspec.json.decode(record, type=dict[str, msgspec.Raw])
    return _encoded({**stored, **changes})


def _encoded(fields: Mapping[str, Any]) -> bytes:
    kept = {name: value for name, value in fields.items() if value is not msgspec.UNSET}
    return msgspec.json.encode(kept, enc_hook=_plain)


def _plain(value: Any) -> Any:
    """An RLE mask as COCO writes it."""
    assert isinstance(value, Rle), type(value)
    return {"size": value.size, "counts": value.counts}


def _id(key: str) -> bytes:
    """The source id's JSON text in a row's key."""
    return key.encode()
