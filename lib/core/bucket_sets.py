"""Data sets of a bucket: files that are read, and never written; a copy of each lies here.

bring(place)                            # a file, or all files of a folder
stats(folder, ["a.png"], "today")       # sizes and marks of pictures, from one listing
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lib.core.bucket import Bucket
from lib.core.copy_notes import ABSENT, make_folder, stat_of
from lib.core.errors import AugmentError
from lib.core.mirror import AT_ONCE, fetch
from lib.core.places import url_of


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
    if lazily:
        return
    there = {}
    for found in Bucket(url).list():
        there[found.name] = found
    for folder, _, files in os.walk(place):
        for name in files:
            path = Path(folder) / name
            found_there = there.get(path.relative_to(place).as_posix())
            if found_there is None or stat_of(path) != (found_there.size, found_there.mark):
                path.unlink()
    missing = [place / name for name in there if _plain(name) and not (place / name).is_file()]
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
