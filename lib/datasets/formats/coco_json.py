"""A COCO document's JSON, decoded: the few fields of each record that are needed, and each fault with its JSON path.

The whole list is decoded in one call. Only when that call fails are records decoded one by one, so that a bad one is
made up, and what was wrong with it is known. coco.py makes tables of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Raw

from lib.core.documents import MAX_DEPTH, depth_of
from lib.core.errors import AugmentError

NULL = Raw(b"null")
_EXACT = 2.0**53  # below it a float is one whole number


class Image(msgspec.Struct, gc=False):
    """Of a picture's record, what is needed."""

    id: Raw
    file_name: str
    width: float | None = None
    height: float | None = None


class Annotation(msgspec.Struct, gc=False):
    """Of an annotation's record, what is needed."""

    id: Raw
    image_id: Raw
    category_id: Raw
    bbox: tuple[float, float, float, float] | None = None
    iscrowd: bool | int | float | None = None
    segmentation: Raw = NULL


class _PlainAnnotation(msgspec.Struct, gc=False):
    """Ids that are whole numbers, as in almost every file: decoded twice as fast as bytes."""

    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float] | None = None
    iscrowd: bool | int | float | None = None
    segmentation: Raw = NULL


class _LooseImage(msgspec.Struct, gc=False):
    file_name: Raw = NULL


class _LooseAnnotation(msgspec.Struct, gc=False):
    """What can be saved of an annotation that is not as it should be."""

    id: Raw = NULL
    image_id: Raw = NULL
    category_id: Raw = NULL
    segmentation: Raw = NULL


class _Category(msgspec.Struct, gc=False):
    id: Raw
    name: str


_T = TypeVar("_T")


def top_level(data: bytearray, where: str) -> dict[str, Raw]:
    """The document's top-level keys, the three of COCO among them; a byte order mark is taken out of `data`.

    Raises AugmentError for bytes that are not UTF-8, that are not a JSON object, or where a key is missing.
    """
    if data.startswith(b"\xef\xbb\xbf"):
        del data[:3]
    check_utf8(data, where)
    top = decode_top(data, dict[str, Raw], "$", where)
    for name in ("images", "annotations", "categories"):
        if name not in top:
            found = ", ".join(list(top)[:8]) or "nothing"
            raise AugmentError(f"{where}: $.{name} is missing (found {found}): is this a COCO instances file?")
    return top


def check_utf8(data: bytearray, where: str) -> None:
    """Raises AugmentError where the bytes are not UTF-8. Arrow looks at them in place; Python would make a string."""
    if data.isascii():
        return
    offsets = pa.py_buffer(np.array([0, len(data)], np.int64))
    try:
        pa.LargeStringArray.from_buffers(1, offsets, pa.py_buffer(memoryview(data))).validate(full=True)
    except pa.ArrowInvalid:
        bad = _first_bad_byte(data)
        raise AugmentError(f"{where}: byte {bad} is not UTF-8: save the file as UTF-8 JSON") from None


def _first_bad_byte(data: bytearray) -> int:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.start
    return len(data)


def decode_top(data: bytearray | Raw, kind: type[_T], place: str, where: str) -> _T:
    """A part of the document as a type; raises AugmentError with its JSON path, below `place`, where it is not one."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise AugmentError(f"{where}: {_placed(str(error), place)}: is this a COCO instances file?") from None
    except msgspec.DecodeError as error:
        message = str(error)
        if "truncated" in message:
            message = f"JSON ends too early, at byte {len(data)}: the file is truncated, fetch it again"
        elif offset := re.search(r"\(byte (\d+)\)", message):
            at = int(offset[1])
            if number := re.search(rb"-?(NaN|Infinity)", bytes(data[max(at - 9, 0) : at + 9])):
                message = f"{number.group().decode()} at byte {at} is not a JSON number: make it null, or leave it out"
        raise AugmentError(f"{where}: {message}") from None


def _placed(message: str, place: str) -> str:
    """msgspec's message with its path ("$" = the value given) put below `place`."""
    if "`$" in message:
        return re.sub(r"`\$", lambda _: f"`{place}", message, count=1)
    return f"{message} - at `{place}`"


def category_names(block: Raw, where: str) -> dict[str, str]:
    """Category id, JSON text, to name."""
    names: dict[str, str] = {}
    own: dict[str, str] = {}  # by the plain id, the id as it came first
    for i, category in enumerate(decode_top(block, list[_Category], "$.categories", where)):
        key = bytes(category.id).decode()
        key = own.setdefault(plain_id(key), key)
        if names.setdefault(key, category.name) != category.name:
            raise AugmentError(
                f"{where}: $.categories[{i}].id {key} is both {names[key]!r} and {category.name!r}: they need two ids"
            )
    return names


def envelope_of(top: dict[str, Raw], where: str) -> bytes:
    """The document without its records, JSON; raises AugmentError for what is nested too deep."""
    for name, raw in top.items():
        if name not in ("images", "annotations") and depth_of(raw) > MAX_DEPTH:
            raise AugmentError(f"{where}: $.{name} is nested more than {MAX_DEPTH} levels deep: leave it out")
    values = {name: b"[]" if name in ("images", "annotations") else bytes(raw) for name, raw in top.items()}
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + value for name, value in values.items()) + b"}"


def _decode_records(
    raws: list[Raw],
    block: Raw | bytearray,
    kinds: Sequence[type[_T]],
    mend: Callable[[Raw], _T],
    place: str,
    start: int,
) -> tuple[list[_T], dict[int, str]]:
    """All records as the first kind that fits them all; else one by one as the last, `mend` making up the misfits.

    Returns the records, and by row number what was wrong with those made up.
    """
    for kind in kinds:
        with suppress(msgspec.MsgspecError):
            return msgspec.json.decode(block, type=list[kind]), {}  # type: ignore[valid-type]
    decoder, records, faults = msgspec.json.Decoder(kinds[-1]), list[_T](), dict[int, str]()
    for i, raw in enumerate(raws):
        try:
            records.append(decoder.decode(raw))
        except msgspec.MsgspecError as error:
            faults[i] = _placed(str(error), f"{place}[{start + i}]")
            records.append(mend(raw))
    return records, faults


def decode_images(raws: list[Raw], block: Raw | bytearray, start: int = 0) -> tuple[list[Image], dict[int, str]]:
    """All image records, and by row number what was wrong with those that had to be made up.

    block: the JSON array; start: number of its first record in the file.
    """
    return _decode_records(raws, block, [Image], _mend_image, "$.images", start)


def _mend_image(raw: Raw) -> Image:
    try:
        name = msgspec.json.decode(msgspec.json.decode(raw, type=_LooseImage).file_name, type=str)
    except msgspec.MsgspecError:
        name = ""
    return Image(NULL, name)


def decode_annotations(
    raws: list[Raw], block: Raw | bytearray, start: int = 0
) -> tuple[list[Annotation], dict[int, str]]:
    """Annotation records of `raws`, and {row number: what was wrong} of the malformed. block, start: as
    `decode_images`."""
    # The plain kind has the same fields: all that follows asks an id only for its column or its text.
    kinds: list[type[Annotation]] = [cast("type[Annotation]", _PlainAnnotation), Annotation]
    return _decode_records(raws, block, kinds, _mend_annotation, "$.annotations", start)


def _mend_annotation(raw: Raw) -> Annotation:
    try:
        loose = msgspec.json.decode(raw, type=_LooseAnnotation)
    except msgspec.MsgspecError:
        loose = _LooseAnnotation()
    return Annotation(loose.id, loose.image_id, loose.category_id, segmentation=loose.segmentation)


def plain_ids(ids: pa.Array) -> pa.Array:
    """Ids, JSON texts, such that equal ones are the same text: pandas writes 1.0 for 1, and a letter may be escaped."""
    if pc.all(pc.ascii_is_decimal(ids)).as_py():  # as in almost every file: six times as fast
        return ids
    odd = pc.match_substring_regex(ids, r"^-?\d.*[.eE]|^-0$|\\")
    rows = np.flatnonzero(odd.to_numpy(zero_copy_only=False))
    if not len(rows):
        return ids
    texts = ids.to_pylist()
    for i in rows.tolist():
        texts[i] = plain_id(texts[i])
    return pa.array(texts, pa.string())


def plain_id(text: str | Raw) -> str:
    """An id's JSON text such that equal ids have the same."""
    text = text if isinstance(text, str) else bytes(text).decode()
    if text.isdigit():
        return text
    try:
        value = msgspec.json.decode(text)
    except msgspec.MsgspecError:  # a number beyond all floats, or no JSON: a key with "#2" behind
        return text
    whole = isinstance(value, float) and value.is_integer() and abs(value) < _EXACT
    return msgspec.json.encode(int(value) if whole else value).decode()


def id_text(id: Raw | int) -> str:
    """An id as JSON text."""
    return str(id) if isinstance(id, int) else bytes(id).decode()


def field_names(raw: Raw) -> list[str]:
    """Names of a record's fields; none where it is not an object."""
    try:
        return list(msgspec.json.decode(raw, type=dict[str, Raw]))  # raw: a value may be a number beyond all floats
    except msgspec.DecodeError:
        return []


def field_texts(raws: list[Raw], name: str, readable: np.ndarray) -> list[str]:
    """One field of every readable record: a string as it is, another value as JSON text, "" where missing or null."""
    kind: Any = msgspec.defstruct("Field", [("value", Raw, NULL)], rename={"value": name})
    decoder = msgspec.json.Decoder(kind)
    return [
        _field_text(decoder.decode(raw).value) if good else ""
        for raw, good in zip(raws, readable.tolist(), strict=True)
    ]


def _field_text(value: Raw) -> str:
    text = id_text(value)
    if text.startswith('"'):
        return str(msgspec.json.decode(value))
    return "" if text == "null" else text
