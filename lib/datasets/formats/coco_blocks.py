"""A large COCO file in blocks of whole records, so that no more of it is held than a block.

    blocks = read_blocks(path)
    blocks.top                                  # the document, its images and annotations emptied
    for block in blocks.of("images"): ...       # a JSON list of records

Brackets outside of strings are counted, chunk by chunk: nothing is decoded here, and what a JSON parser would refuse is
found by whoever decodes the top and the blocks. Raises Irregular for a file that is not of this form.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from lib.datasets.formats import Irregular

CHUNK = 1 << 23  # bytes, of the scan and, about, of a block
_LISTS = ("images", "annotations")
_NAME = re.compile(rb'("(?:[^"\\]|\\.)*+")\s*:\s*\Z', re.DOTALL)
_BETWEEN = re.compile(rb"\s*,\s*")
_QUOTE, _BACKSLASH = ord('"'), ord("\\")


@dataclass
class _Span:
    """A list or object of the top level: bytes from its opening bracket to behind its closing one."""

    start: int
    end: int = -1
    cuts: list[int] = field(default_factory=list)  # behind records, one a chunk


@dataclass(frozen=True)
class Blocks:
    path: Path
    top: bytearray
    lists: dict[str, _Span]

    def of(self, name: str) -> Iterator[bytearray]:
        """Blocks of a list's records, each a JSON list itself."""
        span = self.lists[name]
        begin, end = span.start + 1, span.end - 1
        with self.path.open("rb") as file:
            for cut in [*(cut for cut in span.cuts if cut < end), end]:
                file.seek(begin)
                text = file.read(cut - begin)
                if begin > span.start + 1 and text.strip():
                    comma = _BETWEEN.match(text)
                    if comma is None or comma.end() == len(text):
                        raise Irregular
                    text = text[comma.end() :]
                begin = cut
                if text.strip():
                    yield bytearray(b"[" + text + b"]")


def read_blocks(path: Path) -> Blocks:
    """Where the records of a file lie."""
    spans = _scan(path)
    lists: dict[str, _Span] = {}
    top = bytearray()
    with path.open("rb") as file:
        place = 0
        for span in spans:
            top += file.read(span.start - place)
            first, place = file.read(1), span.start
            name = _NAME.search(top[-1000:])
            known = _decoded(name[1]) if name else ""
            if known in _LISTS and first == b"[":
                if known in lists:
                    raise Irregular
                lists[known], place = span, span.end
                top += b"[]"
            file.seek(place)
        top += file.read()
    if len(lists) != len(_LISTS):
        raise Irregular
    return Blocks(path, top, lists)


def _decoded(text: bytes) -> str:
    try:
        return msgspec.json.decode(text, type=str)
    except (msgspec.MsgspecError, ValueError):
        return ""


def _scan(path: Path) -> list[_Span]:
    """The lists and objects of the top level."""
    spans, depth, inside, escaped, offset = list[_Span](), 0, False, False, 0
    with path.open("rb") as file:
        while data := file.read(CHUNK):
            chunk = np.frombuffer(data, np.uint8)
            quotes, escaped = _quotes(chunk, escaped)
            folded = chunk | 0x20  # "[" and "{", and "]" and "}", differ in this bit
            places = np.flatnonzero((folded == ord("{")) | (folded == ord("}")))
            outside = (np.searchsorted(quotes, places) + inside) % 2 == 0
            places = places[outside]
            signs = np.where(folded[places] == ord("{"), 1, -1)
            depths = depth + np.cumsum(signs)
            _note(spans, places + offset, signs, depths)
            depth = int(depths[-1]) if len(depths) else depth
            inside = bool((len(quotes) + inside) % 2)
            offset += len(data)
    if depth or inside or any(span.end < 0 for span in spans):
        raise Irregular
    return spans


def _note(spans: list[_Span], places: np.ndarray, signs: np.ndarray, depths: np.ndarray) -> None:
    """Enter a chunk's brackets of the top level, and behind which record each of its spans can be cut."""
    opened, closed = (signs > 0) & (depths == 2), (signs < 0) & (depths == 1)
    records = places[(signs < 0) & (depths == 2)]
    edges = np.flatnonzero(opened | closed)
    if len(edges) > 10_000:  # no data set has so many keys
        raise Irregular
    last = -1
    for edge in edges.tolist():
        if opened[edge]:
            spans.append(_Span(int(places[edge])))
        elif spans:
            spans[-1].end = int(places[edge]) + 1
        last = int(places[edge])
    if spans and spans[-1].end < 0 and len(records) and records[-1] > last:
        spans[-1].cuts.append(int(records[-1]) + 1)


def _quotes(chunk: np.ndarray, escaped: bool) -> tuple[np.ndarray, bool]:
    """Places of quotes that begin or end a string, and whether the next chunk's first byte is escaped."""
    quotes = np.flatnonzero(chunk == _QUOTE)
    slashes = np.flatnonzero(chunk == _BACKSLASH)
    if not len(slashes) and not escaped:
        return quotes, False
    hidden = set[int]()  # places of escaped bytes
    following = 0 if escaped else -1
    for place in slashes.tolist():
        if place == following:  # itself escaped
            following = -1
        else:
            following = place + 1
            hidden.add(following)
    if escaped:
        hidden.add(0)
    kept = quotes[~np.isin(quotes, np.fromiter(hidden, np.int64, len(hidden)))]
    return kept, len(chunk) in hidden
