"""Documents from elsewhere (JSON, YAML, XML, text) as plain values, or one sentence about what is wrong with them.

    config = read_json(Path("config.json"), "a model's configuration")
    names = read_yaml(Path("data.yaml"))

Nothing here takes much longer than the document is long: nesting, size and references are bounded before a parser may
recurse or grow. Each reader checks itself what its documents must hold.
"""

from __future__ import annotations

import re
import stat
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, TypeVar
from xml.parsers import expat

import msgspec
import numpy as np

from lib.core.errors import AugmentError

MAX_DEPTH = 64  # levels of nesting; a polygon in a COCO file is on the sixth
MAX_YAML = 1_000_000  # bytes of YAML, which is for parameters and names: 20,000 classes are half of it
MAX_NODES = 100_000  # values of a YAML document, those that it refers to counted each time
MAX_XML = 4_000_000  # bytes of one picture's XML

_TOO_DEEP = f"nested more than {MAX_DEPTH} levels deep"

# A string to its end, or to the document's where it has none. Possessive: no way back, so linear.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+', re.DOTALL)
_TOKEN = re.compile(_STRING.pattern + rb"|[\[{\]}]", re.DOTALL)
_STEP = np.zeros(256, np.int8)
_STEP[[ord("["), ord("{")]] = 1
_STEP[[ord("]"), ord("}")]] = -1
_CHUNK = 1 << 20

T = TypeVar("T")


# --- files -------------------------------------------------------------------------------------------------------


def read_file(path: Path, remedy: str = "give another file", most: int | None = None) -> bytearray:
    """A file's bytes; raises AugmentError where it cannot be read, or has more than `most`.

    Devices and pipes are refused before they are opened: their size is told as 0, and some never end.
    """
    try:
        about = path.stat()
        if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):  # of a folder the system's own reason
            raise AugmentError(f"{path} is a device, a pipe or a socket: expected a file; {remedy}")
        size = about.st_size
        if most is not None and size > most:
            raise AugmentError(f"{path} has {size:,} bytes: expected {most:,} at most; {remedy}")
        data = bytearray(size)
        with path.open("rb") as file:
            del data[file.readinto(data) :]
            data += file.read()
        return data
    except (OSError, ValueError) as error:  # the latter of a name that no file can have
        raise AugmentError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): {remedy}") from None


def decode_text(data: bytes | bytearray, where: object) -> str:
    """UTF-8 with or without a byte order mark; raises AugmentError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AugmentError(f"{where} is not UTF-8 text (byte {error.start}): save it as UTF-8") from None


# --- JSON --------------------------------------------------------------------------------------------------------


def read_json(path: Path, what: str, kind: Any = dict[str, Any]) -> Any:
    """A JSON file as msgspec decodes `kind`. what: what the file should be, for errors. Raises AugmentError."""
    return decode_json(read_file(path), path, what, kind)


def decode_json(data: bytes | bytearray, where: object, what: str, kind: Any = dict[str, Any]) -> Any:
    """JSON bytes as `read_json` gives a file's. where: the document's name in errors. Raises AugmentError."""
    try:
        if depth_of(data) > MAX_DEPTH:
            raise AugmentError(f"{where} is {_TOO_DEEP}: expected {what}")
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise AugmentError(f"{where}: {error}: expected {what}") from None


def depth_of(data: bytes | bytearray | msgspec.Raw) -> int:
    """Levels of brackets in JSON bytes, at most, outside of strings."""
    steps = _STEP[np.frombuffer(_STRING.sub(b"", data), np.uint8)]
    return int(np.cumsum(steps[steps != 0], dtype=np.int64).max(initial=0))


def shallow(data: bytes | bytearray, most: int) -> bytes:
    """JSON in which each array or object more than `most` levels deep is an empty array on level most + 1.

    So it can be decoded, and records that were too deep can still be distinguished from the others.
    """
    pieces, depth, kept = list[bytes](), 0, 0
    for token in _TOKEN.finditer(data):
        sign = data[token.start()]
        if sign in b"[{":
            depth += 1
            if depth == most + 1:
                pieces += [bytes(data[kept : token.start()]), b"[]"]
        elif sign in b"]}":
            if depth == most + 1:
                kept = token.end()
            depth -= 1
    return b"".join([*pieces, b"" if depth > most else bytes(data[kept:])])


def deep_rows(data: np.ndarray, offsets: np.ndarray) -> list[int]:
    """Which of N JSON texts, uint8 bytes one after another and their N + 1 offsets, are too deep.

    Brackets are counted first, ten times as fast as records are decoded: few have as many as could be nested.
    """
    counts = np.diff(np.searchsorted(_opens(data), offsets))
    suspects = np.flatnonzero(counts > MAX_DEPTH).tolist()
    return [i for i in suspects if depth_of(data[offsets[i] : offsets[i + 1]].tobytes()) > MAX_DEPTH]


def _opens(data: np.ndarray) -> np.ndarray:
    """Places of all opening brackets, those in strings too."""
    places = [
        np.flatnonzero((data[start : start + _CHUNK] | 0x20) == ord("{")) + start  # "[" and "{" differ in this bit
        for start in range(0, len(data), _CHUNK)
    ]
    return np.concatenate(places) if places else np.zeros(0, np.int64)


# --- YAML --------------------------------------------------------------------------------------------------------


def read_yaml(path: Path, remedy: str = "give a YAML file", as_text: bool = False) -> Any:
    """A YAML file as plain values; raises AugmentError. as_text: numbers, dates, yes and no stay as written."""
    data = read_file(path, remedy, MAX_YAML)
    try:
        return decode_yaml(data.decode("utf-8-sig"), path, as_text)
    except UnicodeDecodeError as error:
        raise AugmentError(f"{path} is not valid YAML: byte {error.start} is not UTF-8: {remedy}") from None


def decode_yaml(text: str, where: object, as_text: bool = False) -> Any:
    """YAML text as plain values, as `read_yaml` gives a file's. where: the document's name in errors.

    Raises AugmentError.
    """
    import yaml

    if len(text) > MAX_YAML:
        raise AugmentError(f"{where} has {len(text):,} characters: expected {MAX_YAML:,} at most")
    # libyaml's is a hundred times as fast; neither bounds its recursion, and libyaml's ends the process.
    kind = "BaseLoader" if as_text else "SafeLoader"
    loader: Any = getattr(yaml, f"C{kind}", getattr(yaml, kind))
    try:
        _check_events(yaml.parse(text, loader), where)
        return yaml.load(text, loader)
    except AugmentError:
        raise
    except Exception as error:  # PyYAML lets pass what int(), date() and others raise for a bad value
        message = " ".join(str(error).split())[:300]
        raise AugmentError(f"{where} is not valid YAML: {message}") from None


def _check_events(events: Any, where: object) -> None:
    """Raise AugmentError for what nests too deep, refers to itself, grows by its references, or has endless numbers."""
    import yaml

    sizes: dict[str, int] = {}  # values under an anchor
    open_nodes: list[tuple[str | None, int]] = []  # (anchor, values before it)
    values = 0
    for event in events:
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_nodes.pop()
            if anchor:
                sizes[anchor] = values - before
        elif isinstance(event, yaml.AliasEvent):
            anchor = event.anchor or ""
            if anchor in (name for name, _ in open_nodes):
                raise AugmentError(f"{where}: *{anchor} refers to itself: write its values out")
            values += sizes.get(anchor, 0)
        elif isinstance(event, yaml.NodeEvent):
            if isinstance(event, yaml.ScalarEvent):
                _check_number(event, where)
                if event.anchor:
                    sizes[event.anchor] = 1
            else:
                open_nodes.append((event.anchor, values))
            values += 1
        if len(open_nodes) > MAX_DEPTH:
            raise AugmentError(f"{where} is {_TOO_DEEP}: expected parameters or names")
        if values > MAX_NODES:
            raise AugmentError(f"{where} holds more than {MAX_NODES:,} values: expected parameters or names")


def _check_number(event: Any, where: object) -> None:
    """YAML's sexagesimal numbers, 1:59:59…, take time by the square of their length; no real number is that long."""
    if len(event.value) > 400 and not event.value.strip("+-_.:0123456789abcdefABCDEFx") and not event.style:
        raise AugmentError(f"{where}: a number of {len(event.value):,} characters: expected 400 at most")


# --- XML ---------------------------------------------------------------------------------------------------------


def decode_xml(data: bytes, most: int = MAX_XML) -> ET.Element:
    """The root of an XML document. Raises ValueError for bytes that are not XML, for more than MAX_DEPTH levels,
    and for a document type, which is refused as defusedxml does."""
    if len(data) > most:
        raise ValueError(f"{len(data):,} bytes: expected {most:,} at most")
    first = expat.ParserCreate()
    first.StartDoctypeDeclHandler = _refuse  # before any entity can be named, in whatever encoding
    try:
        first.Parse(data, True)
        tree = ET.fromstring(data)
    except (expat.ExpatError, ET.ParseError, LookupError) as error:  # the last of an encoding that is not known
        raise ValueError(str(error)) from None
    _check_levels(tree)
    return tree


def _refuse(*_: object) -> None:
    raise ValueError("a document type or entities are refused: they can grow without bound")


def _check_levels(tree: ET.Element) -> None:
    level = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for element in level for child in element]
    if level:
        raise ValueError(_TOO_DEEP)
