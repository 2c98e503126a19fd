"""The folder of an export: written beside its place and renamed, so that a reader finds all of it or the former one.

with replaced(out) as files:                     # AugmentError where `out` holds what no export wrote
    files.copy(picture, "images/train/a.png")
    files.write("data.yaml", data)
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from lib.core.errors import AugmentError
from lib.core.files import file_digest
from lib.datasets.export.final_set import Picture
from lib.records import kept

NOTE = ".augment-export.json"  # in every export: what it is, and its files
_CACHES = (".cache", ".DS_Store", "Thumbs.db")  # ends of names of what tools and file managers leave in a data set


class Note(msgspec.Struct):
    """What an export says of itself."""

    format: str
    pictures: list[str]  # paths in the folder
    labels: dict[str, str]  # SHA-256 of all other files


class Files:
    """Writes the files of an export. None is a link: what a tool changes in its folder changes no final set."""

    def __init__(self, folder: Path, advance: Callable[[int], object]) -> None:
        self.folder, self.advance = folder, advance
        self.pictures: list[str] = []
        self.labels: dict[str, str] = {}
        self.notes: list[str] = []  # what a person must know of this format's folder
        self._taken: set[str] = set()

    def copy(self, picture: Picture, name: str) -> None:
        """The picture, byte for byte; AugmentError where it is not what the run wrote."""
        path = self._place(name)
        found = sha256()
        try:
            with picture.file.open("rb") as source, path.open("wb") as file:
                while block := source.read(2**20):
                    found.update(block)
                    file.write(block)
        except FileNotFoundError:
            raise AugmentError(f"{picture.file} not found: run again, which writes it anew") from None
        if picture.sha256 is not None and found.hexdigest() != picture.sha256:
            raise AugmentError(f"{picture.file} has other bytes than the run wrote: run again, which writes it anew")
        self.pictures.append(name)
        self.advance(1)

    def write(self, name: str, data: bytes | str | Iterable[bytes]) -> None:
        """Any other file; of a large one its pieces, which are not held."""
        pieces = [data.encode()] if isinstance(data, str) else [data] if isinstance(data, bytes) else data
        found = sha256()
        with self._place(name).open("wb") as file:
            for piece in pieces:
                found.update(piece)
                file.write(piece)
        self.labels[name] = found.hexdigest()

    def note_unread(self, tool: str, suffixes: tuple[str, ...]) -> None:
        """Note how many of the pictures the tool passes over, by their suffixes."""
        found = [name for name in self.pictures if name.lower().endswith(suffixes)]
        if found:
            self.notes.append(f"{tool} passes over {len(found)} pictures of types that it does not know: {found[0]}")

    def _place(self, name: str) -> Path:
        if name.casefold() in self._taken:
            raise AugmentError(f"two files of the export would be {name}: rename one of their pictures in the data set")
        self._taken.add(name.casefold())
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def joined(between: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """`between.join(pieces)`, piece by piece."""
    for place, piece in enumerate(pieces):
        yield between + piece if place else piece


@contextlib.contextmanager
def replaced(out: Path, format: str, advance: Callable[[int], object]) -> Iterator[Files]:
    """Files of a folder beside `out`, which takes its place at the end and is removed on an error."""
    check_free(out)
    temporary = out.with_name(f".tmp-{out.name[:100]}")
    if temporary.is_symlink() or (temporary.exists() and not temporary.is_dir()):
        raise AugmentError(f"{temporary} is in the way of the export: remove it")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(out, error.strerror) from None
    with _held(temporary) as folder:
        try:
            files = Files(folder, advance)
            yield files
            kept.write(folder / NOTE, Note(format, files.pictures, files.labels))
            check_free(out)  # a copy takes its time
            _exchange(folder, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def room_beside(out: Path) -> Path:
    """The folder that is there already of those that hold `out`; AugmentError where nothing can be written to it."""
    folder = next(parent for parent in out.parents if parent.is_dir())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise _unwritable(out, error.strerror) from None
    return folder


def _unwritable(out: Path, why: str | None) -> AugmentError:
    return AugmentError(f"{out} cannot be written ({why}): give another folder as --out")


@contextlib.contextmanager
def _held(temporary: Path) -> Iterator[Path]:
    """An empty folder for this process alone, in the place of what a killed export left."""
    try:
        lock = FileLock(temporary / ".lock", timeout=0.2).acquire()
    except Timeout:
        raise AugmentError(f"{temporary} is being written by another export: wait for it, or set --out") from None
    with lock:
        shutil.rmtree(temporary / "new", ignore_errors=True)
        (temporary / "new").mkdir()
        yield temporary / "new"


def _exchange(folder: Path, out: Path) -> None:
    former = folder.with_name("former")
    shutil.rmtree(former, ignore_errors=True)
    if out.exists():
        out.rename(former)
    try:
        folder.rename(out)
    except OSError:
        if former.exists():
            former.rename(out)
        raise


def check_free(out: Path) -> None:
    """Raise AugmentError where `out` holds anything that no export wrote, or that was changed since."""
    if out.is_symlink():
        raise AugmentError(f"{out} is a link to {out.resolve()}: give that folder itself as --out")
    if not out.exists():
        return
    if not out.is_dir():
        raise AugmentError(f"{out} is a file: give the name of a folder that does not exist yet as --out")
    if not any(out.iterdir()):
        return
    note = kept.read(out / NOTE, Note, "give another folder as --out")
    if note is None:
        raise AugmentError(f"{out} is not empty, and no export wrote it: give another folder as --out")
    ours = {*note.pictures, *note.labels, NOTE}
    for path in out.rglob("*"):
        name = path.relative_to(out).as_posix()
        if path.is_dir() and not path.is_symlink():
            continue
        if name not in ours and not name.endswith(_CACHES):
            raise AugmentError(f"{path} was not written by an export: move it away, or give another folder as --out")
        if name in note.labels and file_digest(path) != note.labels[name]:
            raise AugmentError(
                f"{path} was changed since it was exported, and would be lost: move the folder away, or give another "
                f"one as --out"
            )
