"""Files that a person looks at and no stage reads: drawn once for what they show, and again where they were damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lib.manifest import atomic_write, digest, file_digest
from lib.store import Store


def keep_shown(path: Path, store: Store, key: str, draw: Callable[[], bytes]) -> None:
    """Write what `draw` gives to a path, unless it is there already as it was drawn for this key.

    key: SHA-256 of all that it depends on; the store remembers the file's digest by it.
    """
    known = store.get("shown", key)
    if known is not None and path.is_file() and file_digest(path).encode() == known:
        return
    data = draw()
    atomic_write(path, data)
    store.put("shown", key, digest(data).encode())
