"""Where a COCO file lies that the settings do not name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lib.core.bucket_sets import Beside, names_in
from lib.core.errors import AugmentError
from lib.core.files import is_hidden
from lib.records.settings import DatasetSettings

_PATTERN = "*.json"


def beside(settings: DatasetSettings) -> Iterator[Beside]:
    """In a bucket, where `find_json` will look. Raises AugmentError for several files before any, each of which may be
    large, is brought."""
    for folder in _folders(settings.images) if settings.annotations is None else ():
        found = _one(folder, names_in(folder))
        yield Beside(folder, (_PATTERN,))
        if found:
            return


def find_json(root: Path) -> Path:
    """The one JSON file in the images folder, or else in `annotations` beside it; raises AugmentError otherwise."""
    for folder in _folders(root):
        if found := _one(folder, sorted(path.name for path in folder.glob(_PATTERN))):
            return folder / found
    raise AugmentError(
        f"no *.json in {root} or {root.parent / 'annotations'}: set dataset.annotations to the COCO file"
    )


def _folders(root: Path) -> tuple[Path, Path]:
    return root, root.parent / "annotations"


def _one(folder: Path, names: list[str]) -> str:
    """The JSON file among the names in a folder, "" where there is none; raises AugmentError for several."""
    found = [name for name in names if name.endswith(".json") and not is_hidden(Path(name))]
    if len(found) > 1:
        some = ", ".join(found[:5])
        raise AugmentError(f"{len(found)} JSON files in {folder} ({some}): set dataset.annotations to one of them")
    return found[0] if found else ""
