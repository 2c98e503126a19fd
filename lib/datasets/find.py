"""A folder of pictures with annotations as dataset settings: which format is it, and where does what lie?

find_dataset(Path("photos"))        # DatasetSettings(images=…, annotations=…, format="voc")

Files are looked for where the formats' own tools put them; nothing is read but the head of a COCO file's pictures.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from lib.core.documents import read_file
from lib.core.errors import AugmentError
from lib.core.files import is_hidden
from lib.core.images import inside
from lib.records.settings import DatasetSettings

_PICTURES = ("images", "jpegimages", "pictures", "imgs", "img")  # folders, in small letters
_XMLS = ("annotations", "annotation", "xmls", "xml", "labels")
_YOLO = ("data.yaml", "data.yml", "obj.data")


def find_dataset(folder: Path) -> DatasetSettings:
    """Settings for the annotations in a folder; raises AugmentError where none are found, or several."""
    for find in _FINDERS:
        found = find(folder)
        if found is not None:
            return found
    raise AugmentError(
        f"no annotations found in {folder}: expected a COCO file (annotations.json), annotations.csv of LOCO, a VoTT "
        "export, data.yaml or classes.txt of YOLO, a folder Annotations of VOC's XML files, or DeepPCB's PCBData; or "
        "give a YAML file with dataset: {images: …, annotations: …, format: …}"
    )


_LOCO_PATH = re.compile(r"/dataset/subset-\d+/")  # of a picture, in LOCO's own JSON
_LOCO_ALL = "loco-all-v1.json"  # of LOCO's files the one with all pictures
_SAMPLE = 5  # pictures of a file that are looked for


class _Named(msgspec.Struct):
    file_name: str
    path: Any = None  # LOCO's; others write there what they like

    @property
    def is_loco(self) -> bool:
        return isinstance(self.path, str) and _LOCO_PATH.match(self.path) is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Under the images folder: those that the format tries."""
        own = ("/".join(PurePosixPath(self.path).parts[2:]),) if self.is_loco else ()
        return (*own, self.file_name)


class _Coco(msgspec.Struct):
    images: list[_Named]
    annotations: msgspec.Raw


def _coco(folder: Path) -> DatasetSettings | None:
    places = [folder, *_folders(folder, ("annotations", *_PICTURES))]
    files = {file: named for place in places for file in _listed(place, "*.json") if (named := _named(file))}
    chosen = _chosen(folder, list(files))
    if chosen is None:
        return None
    below = [path for path in sorted(folder.rglob("*")) if path.is_dir() and not is_hidden(path.relative_to(folder))]
    roots = [chosen.parent, folder, *_folders(folder, _PICTURES), *below]
    some = _spread(files[chosen])
    missing = {root: [one for one in some if not _exists(root, one)] for root in dict.fromkeys(roots)}
    root = min(missing, key=lambda one: len(missing[one]))  # the first of those that have as many
    if missing[root]:
        where = root if len(missing[root]) < len(some) else folder
        raise AugmentError(
            f"{chosen} names the picture {missing[root][0].names[0]!r}, which is not in {where}: give a YAML file with "
            "dataset: {images: …, annotations: …}"
        )
    return DatasetSettings(images=root, annotations=chosen, format="loco" if some[0].is_loco else "coco")


def _spread(named: list[_Named]) -> list[_Named]:
    """The first, the last and some between: pictures of one folder often stand together."""
    last = len(named) - 1
    return [named[i] for i in sorted({last * step // (_SAMPLE - 1) for step in range(_SAMPLE)})]


def _named(file: Path) -> list[_Named]:
    """The pictures of a COCO file; none of any other file."""
    try:
        return msgspec.json.decode(read_file(file), type=_Coco).images
    except (ValueError, AugmentError, RecursionError):
        return []


def _chosen(folder: Path, files: list[Path]) -> Path | None:
    """The one file; of several that of all of LOCO, or that for training."""
    if len(files) < 2:
        return files[0] if files else None
    if loco := [file for file in files if file.name == _LOCO_ALL]:
        return loco[0]
    train = [file for file in files if "train" in file.stem.lower()]
    if len(train) == 1:
        return train[0]
    raise AugmentError(
        f"{len(files)} COCO files in {folder} ({', '.join(file.name for file in files[:5])}): give a YAML file with "
        "dataset: {images: …, annotations: …} that names one"
    )


def _exists(root: Path, one: _Named) -> bool:
    paths = [inside(root, name) for name in one.names]
    return any(path is not None and path.is_file() for path in paths)


def _loco(folder: Path) -> DatasetSettings | None:
    for place in (folder, *_subfolders(folder)):
        if (place / "annotations.csv").is_file():
            return DatasetSettings(images=place, format="loco")
    return None


def _vott(folder: Path) -> DatasetSettings | None:
    places = (folder, *(folder / f"vott-{kind}-export" for kind in ("json", "csv")))
    patterns = ("*-export.json", "*-export.csv", "*-asset.json")
    found = any(_listed(place, pattern) for place in places for pattern in patterns)
    return DatasetSettings(images=folder, format="vott") if found else None


def _yolo(folder: Path) -> DatasetSettings | None:
    for name in _YOLO:
        if (folder / name).is_file():
            return DatasetSettings(images=folder, annotations=folder / name, format="yolo")
    pictures, labels = _pictures(folder), folder / "labels"
    place = labels if labels.is_dir() else pictures
    if any((one / "classes.txt").is_file() for one in (place, place.parent, pictures)) and next(
        place.rglob("*.txt"), None
    ):
        return DatasetSettings(images=pictures, annotations=place, format="yolo")
    return None


def _voc(folder: Path) -> DatasetSettings | None:
    for place in (*_folders(folder, _XMLS), folder):
        if next(place.rglob("*.xml"), None) is not None:
            return DatasetSettings(images=_pictures(folder), annotations=place, format="voc")
    return None


def _deep_pcb(folder: Path) -> DatasetSettings | None:
    first = next(folder.rglob("*_temp.jpg"), None)
    if first is None:
        return None
    root = folder / "PCBData" if (folder / "PCBData").is_dir() else folder
    return DatasetSettings(images=root, format="deep-pcb", group="folder")  # boards repeat within a group


_FINDERS: tuple[Callable[[Path], DatasetSettings | None], ...] = (_vott, _coco, _loco, _yolo, _voc, _deep_pcb)


def _listed(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_file() and not is_hidden(Path(path.name)))


def _subfolders(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.iterdir()) if path.is_dir() and not is_hidden(Path(path.name)))


def _folders(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """Subfolders of these names, in whatever letters."""
    return [path for path in _subfolders(folder) if path.name.lower() in names]


def _pictures(folder: Path) -> Path:
    return next(iter(_folders(folder, _PICTURES)), folder)
