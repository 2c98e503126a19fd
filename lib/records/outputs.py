"""What a run may write: folders and files of its workspace, never its inputs, never files of anybody else.

check_workspace(root, inputs_of(settings))           # before the first byte is written
ours = Outputs(root / "final", former)               # files that runs put into a folder
ours.claim(names)                                    # noted before they are written
ours.sweep(wanted)                                   # of these files alone the others are removed
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from pydantic import BaseModel

from lib.core.errors import AugmentError
from lib.core.images import plain_path
from lib.core.mirror import remove
from lib.records import kept
from lib.records.shelf import Shelf

FOLDERS = (
    "final",
    "drawn",
    "report",
    "store",
    "manifests",
    "parts",
    "results",
    "annotated",
    "checkpoints",
    "sheets",
)
FILES = (
    "status.json",
    "settings.json",
    "contact_sheet.jpg",
    "grid.jpg",
    "ids.jsonl",
    "ids.json",
    "places.json",
    "mixes.json",
    "models.lock",
    "decisions.jsonl",
)

# Of these a stranger's would be overwritten; the others are read, and may be brought along from another workspace.
_OVERWRITTEN = (
    *FILES[:4],
    "final/annotations.json",
    "report/index.html",
    "report/metrics.json",
)
_TRACES = (".lock", "manifests/ingest.parquet", "store/picture")  # any of them: runs have been here before
_LINKS = (*FOLDERS, "final/images", "final/labels", ".lock")

_DATA = {"images", "annotations", "path", "start", "real", "generated", "boxes", "advice"}
_MODELS = {"model", "judge", "lora", "controlnet", "base"}
_INPUTS = frozenset(_DATA | _MODELS)
_TEMPORARY = re.compile(r"\.tmp-([0-9a-f]{32}|[a-z0-9_]{8})(\.[A-Za-z0-9]+)?")  # of lib.core.files, of tempfile


# --- before anything is written ----------------------------------------------------------------------------------


def inputs_of(settings: BaseModel) -> dict[str, Path]:
    """Files and folders that settings name as inputs, by the setting's name; of models those that lie on disk."""
    return dict(_inputs(settings.model_dump(), ""))


def _inputs(values: Any, place: str) -> Iterator[tuple[str, Path]]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            where = f"{place}.{name}" if place else str(name)
            if name in _INPUTS and isinstance(value, str | Path) and _exists(Path(value)):
                yield where, Path(value)
            else:
                yield from _inputs(value, where)
    elif isinstance(values, list | tuple):
        for i, value in enumerate(values):
            yield from _inputs(value, f"{place}[{i}]")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name, or with a NUL: no path
        return False


def check_workspace(
    root: Path, inputs: Mapping[str, Path], more: Iterable[Path] = (), readable: Collection[str] = ()
) -> None:
    """Raise AugmentError where a run in the workspace `root` might overwrite what it does not own; writes nothing.

    That is an input that lies in what runs write (by whatever path: links, `..`, other letters where the disk ignores
    case), an output that is a link to elsewhere, and a folder that never was a workspace but has files of our names.
    inputs: by the setting's name; more: other outputs, anywhere; readable: names of FOLDERS that this run only reads.
    """
    written = [root / name for name in (*FOLDERS, *FILES) if name not in readable]
    for name, path in inputs.items():
        for output in [*written, *more]:
            if lies_in(path, output):
                raise AugmentError(
                    f"{name} {path} lies in {output}, which runs of workspace {root} write: set `workspace` to another "
                    f"folder, or copy what is to be read elsewhere"
                )
    for name in _LINKS:
        link = root / name
        if link.is_symlink() and not _resolved(link).is_relative_to(root.resolve()):
            raise AugmentError(
                f"{link} is a link to {_resolved(link)}, and a run writes inside its workspace alone: remove the link, "
                f"or set `workspace` to a folder there"
            )
    if not any((root / name).exists() for name in _TRACES):
        for name in _OVERWRITTEN:
            if os.path.lexists(root / name):
                raise AugmentError(
                    f"{root / name} exists, and no run has used {root} before: move it away, or set `workspace` to "
                    f"another folder"
                )


def lies_in(path: Path, folder: Path) -> bool:
    """Is `path` the file or folder `folder`, or inside it? By identity on disk, so that no spelling deceives."""
    here = _resolved(path)
    if here.is_relative_to(_resolved(folder)):
        return True
    wanted = _identity(folder)
    return wanted is not None and any(_identity(place) == wanted for place in (here, *here.parents))


def _resolved(path: Path) -> Path:
    """Where a path leads; raises AugmentError where it leads in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise AugmentError(f"{path} leads in a circle of links: remove it") from None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        info = path.stat()
    except (OSError, ValueError):
        return None
    return info.st_dev, info.st_ino


def check_sources(root: Path, images: Path, paths: Iterable[str]) -> None:
    """Raise AugmentError where a picture of the data set is one that runs in the workspace `root` wrote.

    images: the folder that the relative `paths` start from. It may hold the workspace, but not what lies in that.
    """
    if not lies_in(root, images):
        return
    top, beside, known = images.resolve(), _identity(root), dict[Path, bool]()
    for path in filter(None, paths):
        place = (top / path).resolve() if (top / path).is_symlink() else top / path
        folder = place.parent
        if folder not in known:
            known[folder] = any(lies_in(folder, root / name) for name in FOLDERS)
        if known[folder] or (place.name.casefold() in FILES and _identity(folder) == beside):
            raise AugmentError(
                f"picture {path} of the data set lies in what runs of workspace {root} write: set `workspace` to a "
                f"folder outside of {images} (this one may be moved there as it is)"
            )


# --- files that are ours -----------------------------------------------------------------------------------------


class _Note(msgspec.Struct, forbid_unknown_fields=True):
    """Of former versions: all names in one JSON file."""

    files: list[str]


class Outputs:
    """Files that runs put into a folder. Only these are ever removed or written over; a stranger's stay.

    Their names, relative and posix, are noted beside the folder before the first is written, so that after a kill, too,
    it is known whose they are. They lie on a shelf: memory does not grow with them.
    """

    def __init__(self, folder: Path, former: Iterable[str] = ()) -> None:
        """former: names from an earlier version's manifest, used where no note exists yet."""
        self.folder, self.note = folder, _note_of(folder)
        self._inside: dict[Path, bool] = {}
        self._ours, self._kept = Shelf[None](folder.parent), Shelf[str](folder.parent)
        try:
            self._ours.put((name, None) for name in noted_files(folder))
            self._noted = self.note.exists() or self.note.with_suffix(".json").exists()
        except AugmentError:  # damaged: manifests and the files' bytes show most of it
            self._ours, self._noted = Shelf[None](folder.parent), False
        if not self._noted:
            self._ours.put((_plain(name), None) for name in former)

    def _write(self) -> None:
        kept.write_lines(self.note, (name for name, _ in self._ours.items()), durable=True)
        self._noted = True
        if (former := self.note.with_suffix(".json")).exists():
            remove(former)

    def claim(self, names: Iterable[str]) -> None:
        """Note names before files are written there; a name where a stranger's file lies does not become ours."""
        before = len(self._ours)
        wanted = (name for name in map(_plain, names) if name not in self._ours)
        self._ours.put((name, None) for name in wanted if not os.path.lexists(self.folder / name))
        if len(self._ours) > before or not self._noted:
            self._write()

    def check(self, name: str, same: Callable[[Path], bool]) -> None:
        """Raise AugmentError where `name` is a stranger's, unless `same` finds that it holds the bytes to be written.

        ValueError where it leads out of the folder, as a manifest from elsewhere may have it.
        """
        path = self.folder / name
        if plain_path(name, keep_backslash=True) is None:
            raise ValueError(f"{name} leads out of {self.folder}")
        if not self._leads_inside(path):
            raise AugmentError(
                f"{path.parent} is a link to elsewhere, and a run writes inside its workspace alone: remove the link"
            )
        if os.path.lexists(path) and _plain(name) not in self._ours and not (path.is_file() and same(path)):
            raise AugmentError(
                f"{path} was not written by a run, and its name is needed: move it away, or set `workspace` to another "
                f"folder"
            )

    def keep(self, names: Iterable[str]) -> None:
        """These files are wanted: `sweep` leaves them."""
        for name in map(_plain, names):
            self._kept.put([(name, "")])
            if (folded := name.casefold()) != name:
                self._kept.put([(_FOLDED + folded, name)])

    def sweep(self, wanted: Iterable[str] = ()) -> None:
        """Remove those of our files that are not wanted, and the folders that this empties; then ours are the wanted
        ones, and those of `keep`."""
        self.keep(wanted)
        unwanted = (name for name, _ in self._ours.items() if name not in self._kept)
        gone = 0
        for name in unwanted:
            gone += 1
            path, twin = self.folder / name, self._twin(name)
            if plain_path(name, keep_backslash=True) != name or not self._leads_inside(path):
                continue
            if twin is not None and _identity(path) == _identity(self.folder / twin):
                continue  # one file, on a disk that ignores case
            if path.is_symlink() or path.is_file():
                remove(path)
                self._remove_empty(path.parent)
        left = Shelf[None](self.folder.parent)
        left.put((name, None) for name, _ in self._kept.items() if not name.startswith(_FOLDED))
        changed = gone or len(left) != len(self._ours) or not self._noted
        self._ours = left
        if changed:
            self._write()

    def _twin(self, name: str) -> str | None:
        """A wanted file that a disk which ignores case takes for the same."""
        folded = name.casefold()
        return self._kept.get(_FOLDED + folded) or (folded if folded in self._kept else None)

    def _remove_empty(self, folder: Path) -> None:
        while folder != self.folder and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent

    def _leads_inside(self, path: Path) -> bool:
        """Does the file's folder lie in the workspace, links followed?"""
        parent = path.parent
        if parent not in self._inside:
            self._inside[parent] = parent.resolve().is_relative_to(self.folder.resolve())
        return self._inside[parent]


_FOLDED = "\0"  # before a name as a disk that ignores case may see it


def _note_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.jsonl")


def noted_files(folder: Path) -> Iterator[str]:
    """Names of the files that runs have put into a folder, relative and posix. Raises AugmentError where their note is
    damaged."""
    note = _note_of(folder)
    former = None if note.exists() else kept.read(note.with_suffix(".json"), _Note)
    yield from former.files if former else kept.read_lines(note, str)


def _plain(name: str) -> str:
    """ "./a.png" is a.png."""
    return str(PurePosixPath(name))


def remove_temporary(root: Path, models: Collection[str]) -> None:
    """Remove what a killed run left half written in its outputs, by the names that it gives such files.

    models: names of trainers, whose folders are written beside their place in models/. Links are not followed.
    """
    folders = [root / name for name in (*FOLDERS, "models") if not (root / name).is_symlink()]
    for folder in folders:
        for parent, _, files in os.walk(folder):
            for name in filter(_TEMPORARY.fullmatch, files):
                (Path(parent) / name).unlink(missing_ok=True)
    for path in root.glob(".tmp-*"):
        if _TEMPORARY.fullmatch(path.name) and not path.is_dir():
            path.unlink(missing_ok=True)
    for name in models:
        for path in (root / "models" / f".tmp-{name}", root / "models" / f".tmp-{name}-old"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
