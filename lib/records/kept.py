"""What is kept between runs and may have been altered since: every file is read strictly, to a type, or not at all.

    write(root / "ids.json", ids, durable=True)     # JSON for a person, with the SHA-256 of its content inside
    ids = read(root / "ids.json", Ids, remedy)      # None: no file. AugmentError: damaged, with file and remedy
    write_lines(path, records); read_lines(path, Record)    # more records than memory should hold
    note_ref(ref); noted_ref(path)                  # a job's output, and whether it is still what the job left
    typed(store.get("verdict", key), Verdict)       # None for whatever is not exactly that

A workspace may come from somebody else, and anybody can write a digest: it finds damage, and the type keeps out what
was never written by this project. Nothing that is read here can name code.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec

from lib.core.errors import AugmentError
from lib.core.files import atomic_path, atomic_write, to_disk
from lib.core.mirror import here, settle
from lib.core.places import shown

if TYPE_CHECKING:  # it brings pandas, which most readers of kept files need not wait for
    from lib.records.manifest import Ref

T = TypeVar("T")

ANEW = "remove it, and it is made anew"

_SEAL = "sha256"
_RECORD = 1024  # bytes at most of a job's record: it has about 100

FAULTS = (msgspec.MsgspecError, ValueError, RecursionError)  # ValueError: bytes that are not text
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


def write(path: Path, value: Any, durable: bool = False) -> None:
    """Write an object (a mapping, a Struct) by rename: indented JSON, last in it the SHA-256 of its canonical form.

    durable: as `atomic_write`.
    """
    atomic_write(path, _sealed_text(value), durable)


def overwrite(path: Path, value: Any) -> None:
    """`write` into the room that a file has on a full disk. Raises OSError where it has not enough."""
    data = _sealed_text(value)
    with path.open("r+b") as file:
        if len(data) > max(os.fstat(file.fileno()).st_size, os.fstat(file.fileno()).st_blocks * 512):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        file.write(data)
        file.truncate()


def _sealed_text(value: Any) -> bytes:
    content = msgspec.to_builtins(value)
    data = msgspec.json.encode(content | {_SEAL: _digest(content)})
    return msgspec.json.format(data, indent=2) + b"\n"


def read(path: Path, kind: type[T], remedy: str = ANEW) -> T | None:
    """What `write` wrote, or a former version without a digest; None where the file does not exist.

    Raises AugmentError, with the file and the remedy, where it cannot be read, was altered, or is of another type.
    """
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise AugmentError(f"{path} cannot be read ({error.strerror or error}): {remedy}") from None
    try:
        content = msgspec.json.decode(data)
        seal = content.pop(_SEAL, None) if isinstance(content, dict) else None
        value = msgspec.convert(content, kind)
    except FAULTS as error:
        raise AugmentError(f"{path} is damaged ({error}): {remedy}") from None
    if seal is not None and seal != _digest(content):
        raise AugmentError(
            f"{path} is damaged (it was altered since it was written): {remedy}; if that was meant, remove its line "
            f'"{_SEAL}"'
        )
    return value


def write_lines(path: Path, records: Iterable[Any], durable: bool = False) -> None:
    """Write records by rename, a line of JSON each, the last line with the SHA-256 of those before."""
    seal = hashlib.sha256()
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for record in records:
            line = msgspec.json.encode(record) + b"\n"
            seal.update(line)
            file.write(line)
        file.write(msgspec.json.encode({_SEAL: seal.hexdigest()}) + b"\n")
        if durable:
            to_disk(file)


def read_lines(path: Path, kind: type[T], remedy: str = ANEW) -> Iterator[T]:
    """What `write_lines` wrote, a record at a time; none where the file does not exist.

    Raises AugmentError as `read` does; that the file was altered, after the last record.
    """
    decode, seal, last = msgspec.json.Decoder(kind).decode, hashlib.sha256(), b""
    try:
        with path.open("rb") as file:
            for line in file:
                if last:
                    seal.update(last)
                    yield decode(last)
                last = line
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise AugmentError(f"{path} cannot be read ({error.strerror or error}): {remedy}") from None
    except FAULTS as error:
        raise AugmentError(f"{path} is damaged ({error}): {remedy}") from None
    if typed(last, dict[str, str]) != {_SEAL: seal.hexdigest()}:
        raise AugmentError(f"{path} is damaged (it was altered since it was written): {remedy}")


def sealed(path: Path) -> bool:
    """Does a file have its digest inside? Former versions wrote none."""
    try:
        return f'"{_SEAL}"'.encode() in path.read_bytes()
    except OSError:
        return False


def _digest(content: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def typed(data: bytes | None, kind: type[T], fits: Callable[[T], bool] = lambda value: True) -> T | None:
    """JSON of exactly this type, of which `fits` is true; None for anything else."""
    if data is None:
        return None
    try:
        value = msgspec.json.decode(data, type=kind)
    except FAULTS:
        return None
    return value if fits(value) else None


def conforms(value: Any, kind: Any) -> bool:
    """Is a decoded value of this type?"""
    try:
        msgspec.convert(value, kind)
    except FAULTS:
        return False
    return True


class _Record(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Of a job's output. Where it lies follows from the job, so a workspace that was moved stays good."""

    rows: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Sha256
    seconds: Annotated[float, msgspec.Meta(ge=0)] | None = None


def note_ref(ref: Ref, seconds: float | None = None) -> None:
    """Write down beside a file what it must be, and in how many seconds it was made; the file is complete."""
    record = _record(ref.place)
    atomic_write(record, msgspec.json.encode(_Record(ref.rows, ref.sha256, seconds)))
    settle(ref.place, record)


def noted_ref(path: Path) -> Ref | None:
    """A file as its record has it; None where either is missing, or is not what was noted."""
    from lib.records.manifest import Ref

    found = _noted(path)
    if found is None:
        return None
    ref = Ref(path=shown(path), rows=found.rows, sha256=found.sha256)
    return ref if ref.intact() else None


def forget_ref(path: Path) -> None:
    """Remove the record of a file that is to be made anew: who makes it, on whichever machine, writes another."""
    _record(path).unlink(missing_ok=True)


def noted_seconds(path: Path) -> float | None:
    """In how many seconds a file was made, as its record has it."""
    here(_record(path))  # a worker of another machine may have written it
    found = _noted(path)
    return None if found is None else found.seconds


def _noted(path: Path) -> _Record | None:
    try:
        with _record(path).open("rb") as file:
            data = file.read(_RECORD + 1)
    except OSError:
        return None
    return typed(data, _Record) if len(data) <= _RECORD else None


def _record(path: Path) -> Path:
    return path.with_suffix(".json")
