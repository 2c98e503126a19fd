"""Data sets of a bucket: files that are read, and never written; a copy of each lies here.

bring(place)                            # a file, or all files of a folder
bring_beside(Beside(folder, ("*.txt",)))    # what need not be there
stats(folder, ["a.png"], "today")       # sizes and marks of pictures, from one listing
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from lib.core.bucket import Bucket, Found
from lib.core.copy_notes import ABSENT, make_folder, stat_of
from lib.core.errors import AugmentError
from lib.core.mirror import fetch
from lib.core.places import url_of
from lib.core.working_copy import AT_ONCE


def bring(place: Path | None, lazily: bool = False) -> None:
    """A file, or all files of a folder, of a bucket, brought up to date here. lazily: of a folder the folder alone.

    Raises AugmentError where the bucket has no such file or folder.
    """
    url = url_of(place) if place is not None else None
    if place is None or url is None:
        return
    bucket = Bucket(url, hurry=True)
    try:
        about = bucket.info()
    except FileNotFoundError:
        raise AugmentError(f"{url} not found: check the URL") from None
    if about is not None:
        make_folder(place.parent)
        if stat_of(place) != (about.size, about.mark):
            fetch(place, mark=True)
        return
    make_folder(place)
    if not lazily:
        _update(place, {found.name: found for found in Bucket(url).list()}, _files(place))


class Beside(NamedTuple):
    """Files that a format reads where neither pictures nor annotations are said to lie; there may be none."""

    folder: Path
    names: tuple[str, ...] = ()  # patterns of files directly in the folder; none: all that lies below it

    def touches(self, root: Path) -> bool:
        """Would bringing them change files of a folder?"""
        return self.folder.is_relative_to(root) or (not self.names and root.is_relative_to(self.folder))

    def _matches(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.names)


def bring_beside(place: Beside) -> None:
    """These files brought up to date here, where they lie in a bucket; of what the bucket no longer has, no copy stays.

    Raises AugmentError where it cannot be read.
    """
    url = url_of(place.folder)
    if url is None:
        return
    bucket, folder = Bucket(url, hurry=True), place.folder
    if not place.names:
        _update(folder, {found.name: found for found in bucket.list()}, _files(folder))
        return
    there = {name: found for name, found in bucket.top() if found is not None and place._matches(name)}
    here = [path for path in folder.glob("*") if path.is_file() and place._matches(path.name)]
    _update(folder, there, here)


def names_in(folder: Path) -> list[str]:
    """Names of the files directly in a folder of a bucket, sorted; none of a folder of this machine."""
    url = url_of(folder)
    return sorted(name for name, found in Bucket(url, hurry=True).top() if found is not None) if url else []


def _files(folder: Path) -> Iterator[Path]:
    return (Path(above) / name for above, _, files in os.walk(folder) for name in files)


def _update(folder: Path, there: dict[str, Found], here: Iterable[Path]) -> None:
    """Make the files of a folder those of the bucket. here: those that may go."""
    for path in here:
        found = there.get(path.relative_to(folder).as_posix())
        if found is None or stat_of(path) != (found.size, found.mark):
            path.unlink()
    missing = [folder / name for name in there if _plain(name) and not (folder / name).is_file()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda path: fetch(path, mark=True), missing))


def _plain(name: str) -> bool:
    """A key that a file can have: "a//b" and "../b" are keys as well."""
    return not any(part in ("", ".", "..") for part in name.split("/"))


def stats(root: Path, paths: Iterable[str], when: str) -> Iterator[tuple[int, int]] | None:
    """(size, mark) of pictures below a folder of a bucket, -1 where there is none; None for a folder of this machine.

    when: names a moment; the bucket is listed once for each. A copy that is no longer the bucket's is removed.
    """
    url = url_of(root)
    if url is None:
        return None
    return _stats(root, paths, _listed(url, when))


def _stats(root: Path, paths: Iterable[str], listed: dict[str, tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for path in paths:
        found = listed.get(path, ABSENT)
        here = stat_of(root / path)
        if here not in (ABSENT, found) and _plain(path):
            (root / path).unlink(missing_ok=True)
        yield found


@functools.lru_cache(2)
def _listed(url: str, when: str) -> dict[str, tuple[int, int]]:
    return {found.name: (found.size, found.mark) for found in Bucket(url).list()}
