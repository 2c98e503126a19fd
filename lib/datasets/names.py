"""File names in the final set, such that every file system holds them and no two of them meet."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import numpy as np
import pandas as pd

from lib.core.files import digest
from lib.core.images import plain_path
from lib.records.settings import FinaliseSettings
from lib.records.shelf import Shelf

# Files of the final set beside the pictures, the labels and the annotations of each split.
BESIDE = ("annotations.json", "selected_ann.json", "original_selected_ann.json", "classes.txt")

# Control characters, of which line breaks are some, and the other two that end a line in Unicode.
CONTROL = "\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029"
_ODD = re.compile(rf"[\\{CONTROL}]")  # a name with these is a path, or invalid, on some systems

_LONGEST = 255 - len(".txt")  # bytes of a file's name, so that its label file has one too


class FinalNames:
    """File name of each original in final/images: the source's name, or its path where another picture has the same
    name, or where the name has a backslash or a control character such as a line break. In a path these are
    percent-encoded. Names that are too long for file systems are cut.

    Of all names hashes are held for a moment, and of those that several have.
    """

    def __init__(self, originals: Callable[[], Iterable[pd.DataFrame]], folder: Path, yolo: bool = False) -> None:
        """originals: gives ImageRow columns file_name and path, some rows at a time, however often it is called;
        folder: for what odd names need.

        yolo: labels are found by the name without its suffix, so where two have that in common it gets its suffix's
        name.
        """
        self._same = repeated(_both_folded(rows) for rows in originals())
        self._encoded: Shelf[str] | None = None
        if any(_ODD.search(name) for rows in originals() for name in self._chosen(rows)):
            self._encoded = self._encoded_names(originals, folder)
        self._stems: np.ndarray | None = None
        if yolo:
            self._stems = _shared_stems(self._plain(rows) for rows in originals())

    def of(self, rows: pd.DataFrame) -> list[str]:
        """The names of some of these ImageRows."""
        names = self._plain(rows)
        if self._stems is not None:
            again = np.isin(name_hashes(map(_stem, names)), self._stems)
            names = [_apart(name) if twice else name for name, twice in zip(names, again, strict=True)]
        return [fitting(name) for name in names]

    def _plain(self, rows: pd.DataFrame) -> list[str]:
        names = self._chosen(rows)
        if self._encoded is None:
            return names
        return [self._encoded.get(name) or name if _ODD.search(name) else name for name in names]

    def _chosen(self, rows: pd.DataFrame) -> list[str]:
        """Name or path."""
        several = np.isin(name_hashes(map(_folded, rows.file_name)), self._same)
        pairs = zip(rows.file_name, rows.path, several, strict=True)
        return [path if again or not _safe(name) else name for name, path, again in pairs]

    def _encoded_names(self, originals: Callable[[], Iterable[pd.DataFrame]], folder: Path) -> Shelf[str]:
        """Odd names with these characters percent-encoded; where that is another picture's name, with a hash of the
        old one."""
        taken, found = Shelf[None](folder), Shelf[str](folder)
        plain = (name for rows in originals() for name in self._chosen(rows) if not _ODD.search(name))
        taken.put((_folded(name), None) for name in plain)
        for rows in originals():
            for name in filter(_ODD.search, self._chosen(rows)):
                if name not in found:
                    path = PurePosixPath(_ODD.sub(lambda match: quote(match[0], safe=""), name))
                    apart = path.with_name(f"{path.stem}_{_short_digest(name)}{path.suffix}")
                    encoded = str(apart if _folded(str(path)) in taken else path)
                    found.put([(name, encoded)])
                    taken.put([(_folded(encoded), None)])
        return found


def _short_digest(name: str) -> str:
    return digest(name.encode(errors="surrogateescape"))[:8]


def name_hashes(texts: Iterable[str]) -> np.ndarray:
    """(N,) uint64."""
    return np.array([int.from_bytes(blake2b(_raw(text), digest_size=8).digest()) for text in texts], np.uint64)


def _raw(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def _both_folded(rows: pd.DataFrame) -> np.ndarray:
    """Hashes of the names and of the paths of some ImageRows; once where a picture has one for both."""
    names, paths = name_hashes(map(_folded, rows.file_name)), name_hashes(map(_folded, rows.path))
    return np.concatenate([names, paths[paths != names]])


def repeated(hashes: Iterable[np.ndarray]) -> np.ndarray:
    """Those that are there several times, sorted."""
    found = np.sort(np.concatenate([np.zeros(0, np.uint64), *hashes]))
    return np.unique(found[1:][found[1:] == found[:-1]])


def _shared_stems(names: Iterable[list[str]]) -> np.ndarray:
    """Hashes of the stems that several different names have. names: some at a time."""
    whole, stems = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for some in names:
        whole.append(name_hashes(str(PurePosixPath(name)) for name in some))
        stems.append(name_hashes(map(_stem, some)))
    _, first = np.unique(np.concatenate(whole), return_index=True)
    return repeated([np.concatenate(stems)[first]])


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _folded(name: str) -> str:
    """As a file system may see it: without roundabout parts, case ignored."""
    return (plain_path(name, keep_backslash=True) or name).casefold()


def _apart(name: str) -> str:
    """ "a.png" → "a_png.png"."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}_{path.suffix[1:]}{path.suffix}"))


def _safe(name: str) -> bool:
    return bool(plain_path(name, keep_backslash=True)) and ".." not in name.split("/") and not _ODD.search(name)


def fitting(name: str) -> str:
    """With every part that is too long cut, and a hash added that keeps it unique."""
    if len(name) * 4 <= _LONGEST:
        return name
    return "/".join(_cut(part) if len(os.fsencode(part)) > _LONGEST else part for part in name.split("/"))


def _cut(part: str) -> str:
    whole, suffix = os.fsencode(part), os.fsencode(PurePosixPath(part).suffix)
    kept = whole[: _LONGEST - 20 - len(suffix)].decode(errors="ignore") if len(suffix) <= 20 else "picture"
    return f"{kept}_{digest(whole)[:8]}{os.fsdecode(suffix) if len(suffix) <= 20 else ''}"


def synthetic_name(name: str, settings: FinaliseSettings) -> str:
    """File name of a synthetic picture in final/images. name: as in the plan."""
    return str(Path(name).with_suffix(".jpg")) if settings.format == "jpeg" else name


def split_name(split: str) -> str:
    """File name of the annotations of one split."""
    return f"annotations-{_file_text(split)}.json"


def label_name(name: str) -> str:
    """Path of the YOLO labels of the picture `name`, relative to the final set's folder."""
    return f"labels/{PurePosixPath(name).with_suffix('.txt')}"


def _file_text(text: str) -> str:
    """A text from the source as part of a file name: what would lead to another folder is percent-encoded."""
    return re.sub(rf"[/\\%{CONTROL}]", lambda match: quote(match[0], safe=""), text)
