"""A folder of pictures with annotations as dataset settings: which format is it, and where does what lie?

find_dataset(Path("photos"))        # DatasetSettings(images=…, annotations=…, format="voc")

Files are looked for where the formats' own tools put them; nothing is read but the head of a COCO file's pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

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


class _Named(msgspec.Struct):
    file_name: str


class _Coco(msgspec.Struct):
    images: list[_Named]
    annotations: msgspec.Raw


def _coco(folder: Path) -> DatasetSettings | None:
    places = [folder, *_folders(folder, ("annotations", *_PICTURES))]
    files = {file: names for place in places for file in _listed(place, "*.json") if (names := _names(file))}
    chosen = _chosen(folder, list(files))
    if chosen is None:
        return None
    below = [path for path in sorted(folder.rglob("*")) if path.is_dir() and not is_hidden(path.relative_to(folder))]
    roots = [chosen.parent, folder, *_folders(folder, _PICTURES), *below]
    root = next((one for one in roots if all(_exists(one, name) for name in files[chosen][:3])), None)
    if root is None:
        raise AugmentError(
            f"{chosen} names the picture {files[chosen][0]!r}, which is not in {folder}: give a YAML file with "
            "dataset: {images: …, annotations: …}"
        )
    return DatasetSettings(images=root, annotations=chosen)


def _names(file: Path) -> list[str]:
    """Of the pictures of a COCO file; none of any other file."""
    try:
        return [one.file_name for one in msgspec.json.decode(read_file(file), type=_Coco).images]
    except (ValueError, AugmentError, RecursionError):
        return []


def _chosen(folder: Path, files: list[Path]) -> Path | None:
    """The one file; of several that for training."""
    if len(files) < 2:
        return files[0] if files else None
    train = [file for file in files if "train" in file.stem.lower()]
    if len(train) == 1:
        return train[0]
    raise AugmentError(
        f"{len(files)} COCO files in {folder} ({', '.join(file.name for file in files[:5])}): give a YAML file with "
        "dataset: {images: …, annotations: …} that names one"
    )


def _exists(root: Path, name: str) -> bool:
    path = inside(root, name)
    return path is not None and path.is_file()


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
