"""The rows that pass between stages, each declared once; Arrow schemas are derived from them.

Every row has `key` (unique within its stage), `status` ("ok" or "rejected"), `reason` (a stable word, empty when ok)
and `detail` (for a person: file, place, value). Boxes are xywh in pixels of the picture's upright frame.
"""

from __future__ import annotations

import types
import typing
from dataclasses import dataclass, field, fields

import pandas as pd
import pyarrow as pa

OK = "ok"
REJECTED = "rejected"

# Reasons that do not lie in the item itself: what was missing may be available the next time, so it is tried again.
MAY_PASS = (
    "image_missing",
    "image_changed",
    "picture_lost",
    "caption_lost",
    "out_of_memory",
    "model_failed",
    "worker_died",  # whichever had the part
)


@dataclass(frozen=True, slots=True)
class Row:
    key: str
    status: str  # "ok" | "rejected"
    reason: str  # "" when ok, else a stable word such as box_too_small
    detail: str  # for a person


@dataclass(frozen=True, slots=True)
class ImageRow(Row):
    """Stage ingest: one picture. key = the source id as JSON text ('12', '"a"'), '#n' appended to colliding ones."""

    file_name: str  # as the source names it
    path: str  # posix, relative to the images folder; "" where none was found
    split: str  # "train", "val", ...
    group: str  # pictures of one group never lie on two sides of a split; "" = alone
    width: int  # pixels, >= 1; as annotated; 0 = not known before the picture is read
    height: int
    frame: str  # "upright": turned by EXIF; "stored": annotated as stored, EXIF ignored; "" = not read yet
    size: int  # bytes, -1 = not read yet
    mtime_ns: int  # -1 = not read yet
    digest: str  # SHA-256 of the file's bytes, hex; "" = not read
    record: bytes  # the source record, a JSON object, byte for byte


@dataclass(frozen=True, slots=True)
class ObjectRow(Row):
    """Stage ingest: one annotation. key = the source id as JSON text. A rejected one stays in the final set as it is
    (unless its picture is gone or its id collides) but is neither edited nor used as donor."""

    image_key: str
    category_id: str  # JSON text
    category: str  # name
    x: float  # left, pixels
    y: float  # top, pixels
    w: float  # > 0, pixels, when ok
    h: float
    crowd: bool
    polygon: bool  # has a segmentation that is more than its box
    record: bytes  # the source record, a JSON object, byte for byte


@dataclass(frozen=True, slots=True)
class SelectRow(Row):
    """Stage select: one picture. key = image key."""

    file_name: str
    digest: str
    frame: str
    split: str
    width: int
    height: int
    objects: list[str]  # keys of the annotations an edit may use
    labels: list[str]  # their category names, one per object


@dataclass(frozen=True, slots=True)
class CaptionRow(Row):
    """Stage caption: one picture. key = image key."""

    raw: str  # as the captioner returned it
    caption: str  # after the rules
    prompt: str  # caption.prompt filled in
    captioner: str  # identity: name, model, revision, version
    reused: bool


@dataclass(frozen=True, slots=True)
class PlanRow(Row):
    """Stage plan: one request. key = SHA-256 of the request's canonical JSON."""

    image_key: str
    variant: int  # 0 .. variants-1
    name: str  # file name of the synthetic picture everywhere a person meets it
    request: bytes  # canonical JSON of lib.records.requests.Request
    barred: list[str]  # "annotation key: reason" of boxes that this request leaves alone, or hides
    scale: float  # painter's pixels per picture's, least of its passes: below 1 the paint is coarser; 0 = no request


@dataclass(frozen=True, slots=True)
class PictureRow(Row):
    """Stage generate: one synthetic picture. key = request key."""

    image_key: str
    picture: str  # picture key in the store
    sha256: str  # of the encoded file
    size: int  # its bytes
    name: str
    width: int
    height: int
    painted: int  # passes painted in the run that wrote this row
    reused: int  # passes found in the store


@dataclass(frozen=True, slots=True)
class ScreenRow(Row):
    """Stage screen: one synthetic picture. key = request key."""

    image_key: str
    picture: str
    sha256: str
    name: str
    mean: float  # 0 .. 255, grey
    std: float  # 0 .. 127.5, grey
    pixels: str  # SHA-256 of the decoded pixels and size
    boxes: list[str] = field(
        default_factory=list
    )  # lib.screening.boxes.BoxVerdict as text, one a painted label; [] = no judge


@dataclass(frozen=True, slots=True)
class DrawRow(Row):
    """Stage draw: one drawn picture in <workspace>/drawn. key = request key."""

    image_key: str
    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class VerifiedRow(Row):
    """A file of the workspace whose bytes were verified or just written. key = its path in the workspace."""

    sha256: str  # expected
    size: int  # bytes
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class ReviewRow(Row):
    """Stage review: one synthetic picture. key = request key."""

    image_key: str
    picture: str
    sha256: str
    name: str
    boxes: list[str] = field(default_factory=list)  # as ScreenRow, and what a person did to boxes
    decision: str = ""  # "keep" | "reject" | "undecided" as a person said last; "" = nobody did
    by: str = ""  # who
    at: str = ""  # when, ISO 8601 in UTC
    note: str = ""


@dataclass(frozen=True, slots=True)
class FinalRow(Row):
    """Stage finalise: one picture of the final set. key = "original:<image key>" or "synthetic:<request key>"."""

    image_id: str  # JSON text
    file_name: str
    sha256: str
    size: int
    mtime_ns: int
    annotations: int  # boxes of a synthetic picture; 0 for originals


# The rows of each stage's manifest, in the order of the journey.
STAGES: dict[str, type[Row]] = {
    "ingest": ImageRow,
    "objects": ObjectRow,
    "select": SelectRow,
    "caption": CaptionRow,
    "plan": PlanRow,
    "generate": PictureRow,
    "screen": ScreenRow,
    "draw": DrawRow,
    "review": ReviewRow,
    "finalise": FinalRow,
}


def lost_rows(source: pd.DataFrame, row_type: type[Row], reason: str, detail: str) -> pd.DataFrame:
    """Rows of a stage, set aside, one for each row that went into it and is ok; what they share is kept, the rest is
    empty. source: rows of the stage before, whose key is the picture's where they have no image_key."""
    rows = source[source.status == OK]
    if "image_key" not in rows:
        rows = rows.assign(image_key=rows.key)
    hints = typing.get_type_hints(row_type)
    empty = {f.name: [hints[f.name]() if isinstance(hints[f.name], type) else []] * len(rows) for f in fields(row_type)}
    shared = {name: rows[name].to_list() for name in empty if name in rows}
    rejected = {"status": [REJECTED] * len(rows), "reason": [reason] * len(rows), "detail": [detail] * len(rows)}
    return pd.DataFrame(empty | shared | rejected)


_ARROW = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.large_binary(),
    list[str]: pa.list_(pa.string()),
}


_schemas: dict[type[Row], pa.Schema] = {}


def arrow_schema(row_type: type[Row]) -> pa.Schema:
    """The Arrow schema of a row type, columns in the order of its fields."""
    if row_type not in _schemas:
        hints = typing.get_type_hints(row_type)
        _schemas[row_type] = pa.schema([_arrow_field(f.name, hints[f.name]) for f in fields(row_type)])
    return _schemas[row_type]


def _arrow_field(name: str, hint: typing.Any) -> pa.Field:
    if isinstance(hint, types.UnionType):
        (inner,) = [a for a in typing.get_args(hint) if a is not type(None)]
        return pa.field(name, _ARROW[inner], nullable=True)
    return pa.field(name, _ARROW[hint], nullable=False)
