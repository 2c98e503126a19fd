"""COCO bytes of the final set: the originals' records byte for byte, and new ones with the edit that made them.

Masks stay honest: where no annotation of the source has one, new ones have none either, whatever the plan cut out,
since tools that read masks fail on a mixture. `info.augment` says in one sentence what was done.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from lib.datasets.formats import categories_of
from lib.datasets.ids import Ids
from lib.records.requests import Label, Outcome, Rle
from lib.records.rows import OK, FinalRow

# Rejected annotations that nevertheless stay in the final set: they are the user's data.
_STAYS = ("box_empty", "box_malformed", "box_outside", "category_unknown", "image_rejected")


def final_objects(images: pd.DataFrame, objects: pd.DataFrame) -> pd.DataFrame:
    """The source annotations that the final set holds: those of kept pictures, with a unique id and a category."""
    kept = objects.image_key.isin(images.key[kept_pictures(images)])
    stays = objects.reason.isin(_STAYS)
    # Tools that read COCO trip over a record without a category; few rows have to be looked at.
    bare = [i for i in np.flatnonzero(stays) if b'"category_id"' not in objects.record.iloc[i]]
    stays.iloc[bare] = False
    return objects[kept & ((objects.status == OK) | stays)]


def kept_pictures(images: pd.DataFrame) -> pd.Series:
    """bool per ImageRow: the picture could be read, whether or not it can be edited."""
    return (images.status == OK) | (images.reason == "size_mismatch")


def has_several_splits(images: pd.DataFrame) -> bool:
    return bool(images.split[kept_pictures(images)].nunique() > 1)


@dataclass(frozen=True)
class Sources:
    """The source data set as ingest read it."""

    images: pd.DataFrame  # ImageRow
    objects: pd.DataFrame  # ObjectRow
    envelope: bytes
    root: Path  # folder with the source pictures


class CocoWriter:
    """Builds COCO files: originals' records byte for byte, new ones with their provenance.

    objects: ObjectRows of `final_objects`; names: file name in final/images by image key; several: whether records say
    their split.
    """

    def __init__(
        self, sources: Sources, objects: pd.DataFrame, names: Mapping[str, str], ids: Ids, several: bool
    ) -> None:
        self.envelope = msgspec.json.decode(sources.envelope, type=dict[str, msgspec.Raw])
        self.images = {row.key: row for row in sources.images.itertuples(index=False)}
        self.objects, self.names, self.ids, self.several = objects, names, ids, several
        self.records = dict(zip(objects.key, objects.record, strict=True))
        self.category_ids = categories_of(sources.envelope)
        self.masks = has_masks(objects.record[~objects.crowd.to_numpy(bool)])
        # What an annotation without a mask has in this data set: an empty list, or no such field.
        listed = any(b'"segmentation"' in record for record in objects.record)
        self.no_mask: Any = () if listed else msgspec.UNSET

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """(width, height) in pixels of the source pictures, by image key."""
        return {key: (row.width, row.height) for key, row in self.images.items()}

    def encode(self, originals: pd.DataFrame, synthetic: list[tuple[str, Outcome, FinalRow]]) -> bytes:
        """A COCO file. originals: ImageRows; synthetic: (request key, request, its FinalRow) each."""
        images = [self._original(row) for row in originals.itertuples(index=False)]
        annotations = list(self.objects.record[self.objects.image_key.isin(originals.key)])
        for key, request, row in synthetic:
            images.append(self._image(key, request, row))
            labels = [(i, label) for i, label in enumerate(request.labels) if not label.dropped]
            annotations += [self._annotation(key, request, i, label) for i, label in labels]
        parts = {**self._envelope(synthetic), "images": _list(images), "annotations": _list(annotations)}
        return b"{\n" + b",\n".join(msgspec.json.encode(k) + b": " + bytes(v) for k, v in parts.items()) + b"\n}\n"

    def _envelope(self, synthetic: list[tuple[str, Outcome, FinalRow]]) -> dict[str, Any]:
        """The source's top level, with a sentence in `info` where there are new pictures and room for it."""
        info = _decoded(self.envelope.get("info"), dict[str, msgspec.Raw] | None)
        if not synthetic or info is msgspec.UNSET:
            return self.envelope
        former = _decoded((info or {}).get("augment"), str)  # of a source that is a final set itself
        sentences = filter(None, (former, self._sentence([request for _, request, _ in synthetic])))
        with_sentence = msgspec.json.encode({**(info or {}), "augment": " ".join(sentences)})
        return {"info": b"", **self.envelope} | {"info": with_sentence}

    def _sentence(self, requests: list[Outcome]) -> str:
        """What was done, for a person who has this file alone."""
        painted = sum(label.painted and not label.dropped for request in requests for label in request.labels)
        ways = {(r.edit, r.painter["name"], r.composite["name"]) for r in requests}
        how = ", ".join(f"{edit} × {painter} × {composite}" for edit, painter, composite in sorted(ways))
        masks = "the mask of a painted object whose outline is not known is its box"
        return (
            f"{_count(len(requests), 'synthetic picture')} with {_count(painted, 'painted object')} "
            f"{'was' if len(requests) == 1 else 'were'} made from this data set ({how}); "
            f"{masks if self.masks else 'annotations have boxes alone, as no annotation of the source has a mask'}."
        )

    def _original(self, row: Any) -> bytes:
        name = self.names.get(row.key, row.file_name)
        return bytes(row.record) if name == row.file_name else _patched(row.record, {"file_name": name})

    def _image(self, key: str, request: Outcome, row: FinalRow) -> bytes:
        source = self.images[request.image_key]
        fields = msgspec.json.decode(source.record, type=dict[str, msgspec.Raw])
        record: dict[str, Any] = {
            "id": self.ids.images[key],
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

    def _annotation(self, key: str, request: Outcome, position: int, label: Label) -> bytes:
        changes: dict[str, Any] = {
            "id": self.ids.annotations[f"{key}:{position}"],
            "image_id": self.ids.images[key],
        }
        if label.category is not None:
            changes["category_id"] = msgspec.Raw(self.category_ids[label.category])
        if label.bbox is not None:
            changes["bbox"], changes["area"] = label.bbox, label.area
            if self.masks:
                changes["segmentation"] = label.segmentation or ()
            elif label.source is None:
                changes["segmentation"] = self.no_mask
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
        return _patched(self.records[label.source], changes)


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


def _list(records: list[bytes]) -> bytes:
    return b"[\n" + b",\n".join(records) + b"\n]" if records else b"[]"


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
