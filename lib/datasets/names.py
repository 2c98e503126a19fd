"""File names in the final set, such that every file system holds them and no two of them meet."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import pandas as pd

from lib.core.files import digest
from lib.core.images import plain_path
from lib.records.settings import FinaliseSettings

# Files of the final set beside the pictures, the labels and the annotations of each split.
BESIDE = ("annotations.json", "selected_ann.json", "original_selected_ann.json", "classes.txt")

# Control characters, of which line breaks are some, and the other two that end a line in Unicode.
CONTROL = "\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029"
_ODD = re.compile(rf"[\\{CONTROL}]")  # a name with these is a path, or invalid, on some systems

_LONGEST = 255 - len(".txt")  # bytes of a file's name, so that its label file has one too


def final_names(originals: pd.DataFrame, yolo: bool = False) -> dict[str, str]:
    """File name of each original in final/images, by image key: the source's name, or its path where another picture
    has the same name, or where the name has a backslash or a control character such as a line break. In a path these
    are percent-encoded. Names that are too long for file systems are cut.

    yolo: labels are found by the name without its suffix, so where two have that in common it gets its suffix's name.
    """
    pairs = list(zip(originals.file_name, originals.path, strict=True))
    same = Counter(text for name, path in pairs for text in {_folded(name), _folded(path)})
    names = [name if same[_folded(name)] == 1 and _safe(name) else path for name, path in pairs]
    names = _encoded_names(names)
    if yolo:
        stems = Counter(str(PurePosixPath(name).with_suffix("")) for name in {str(PurePosixPath(n)) for n in names})
        names = [_apart(name) if stems[str(PurePosixPath(name).with_suffix(""))] > 1 else name for name in names]
    return dict(zip(originals.key, map(fitting, names), strict=True))


def _folded(name: str) -> str:
    """As a file system may see it: without roundabout parts, case ignored."""
    return (plain_path(name, keep_backslash=True) or name).casefold()


def _apart(name: str) -> str:
    """ "a.png" → "a_png.png"."""
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.stem}_{path.suffix[1:]}{path.suffix}"))


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
