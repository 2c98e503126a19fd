"""Content-addressed store: the truth of what was made. `<root>/<kind>/<first two hex>/<key>`.

A file is its payload after a header line with its SHA-256, written by rename and checked on reading; a damaged one
counts as absent and is made again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from lib.core import mirror
from lib.core.errors import AugmentError
from lib.core.files import NO_FILE, atomic_path, digest

T = TypeVar("T")

_HEX = re.compile(r"[0-9a-f]{8,64}")


class Store:
    """Bytes by key, of a workspace in a bucket read and written through.

    Keys are hex; kinds (caption, outline, view, paint, picture, verdict, shares, limits, jpeg, metrics, shown,
    thumbnail) are folders.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def path(self, kind: str, key: str) -> Path:
        """Path of an item, whether it exists or not.

        Raises AugmentError for a text that is not a key: a manifest from elsewhere might lead anywhere.
        """
        if not _HEX.fullmatch(key):
            raise AugmentError(
                f"{key!r} is not a key of {self.root}: remove parts/ and manifests/ beside it, and run again"
            )
        return self.root / kind / key[:2] / key

    def _here(self, kind: str, key: str) -> Path:
        return mirror.item(self.path(kind, key))

    def items(self) -> Iterator[tuple[str, str]]:
        """(kind, key) of all items; files of other names are not ours."""
        for kind in sorted(folder for folder in self.root.glob("*") if folder.is_dir()):
            for path in sorted(kind.glob("??/*")):
                if _HEX.fullmatch(path.name) and path.parent.name == path.name[:2]:
                    yield kind.name, path.name

    def has(self, kind: str, key: str) -> bool:
        """Does the file exist? Its digest is checked on reading."""
        path = self.path(kind, key)
        return path.is_file() or mirror.exists(path)

    def size(self, kind: str, key: str) -> int:
        """Bytes of an item, from its file's size; -1 where it is absent."""
        try:
            return self._here(kind, key).stat().st_size - 65  # the header line
        except OSError as error:
            return _absent(error, -1)

    def put(self, kind: str, key: str, data: bytes) -> str:
        """Write an item by rename; returns the SHA-256 of its bytes."""
        sha256 = digest(data)
        with atomic_path(self.path(kind, key)) as temporary, temporary.open("wb") as file:
            file.write(sha256.encode() + b"\n")
            file.write(data)
        mirror.send(self.path(kind, key))
        return sha256

    def get(self, kind: str, key: str) -> bytes | None:
        """An item's bytes; None where it is absent or damaged (a damaged one is removed)."""
        path, fetched = self._here(kind, key), False
        while True:
            try:
                header, _, data = path.read_bytes().partition(b"\n")
            except OSError as error:
                return _absent(error, None)
            if header.decode("ascii", "replace") == digest(data):
                return data
            path.unlink(missing_ok=True)
            if fetched or not (fetched := mirror.fetch(path)):  # a bucket's own may be whole
                return None

    def sha256(self, kind: str, key: str) -> str | None:
        """The digest that an item's header promises, without reading the rest; None where it is absent."""
        try:
            with self._here(kind, key).open("rb") as file:
                return file.read(64).decode("ascii", "replace")
        except OSError as error:
            return _absent(error, None)


def _absent(error: OSError, absent: T) -> T:
    """`absent` where the error means that no file exists (nothing, a folder, a circle of links); raises a fault of the
    storage."""
    if error.errno not in NO_FILE:
        raise error
    return absent


class ReadOnlyStore(Store):
    """A store that keeps nothing new, and removes nothing: for what only looks ahead."""

    def put(self, kind: str, key: str, data: bytes) -> str:
        """The SHA-256 of the bytes, which are not written."""
        return digest(data)

    def get(self, kind: str, key: str) -> bytes | None:
        """As a store's, but a damaged item stays where it is."""
        try:
            header, _, data = self._here(kind, key).read_bytes().partition(b"\n")
        except OSError as error:
            return _absent(error, None)
        return data if header.decode("ascii", "replace") == digest(data) else None
