"""Download LOCO, the logistics data set, into data/raw/loco: resumable, sizes checked, nothing unpacked outside.

augment fetch loco                                 # again after an interruption: it goes on where it was

What cannot be downloaded can be put there by hand under the same names; the same command then checks and unpacks it:

    data/raw/loco/loco-all-v1.json                 annotations, from github.com/tum-fml/loco, folder rgb
    data/raw/loco/dataset.zip                      pictures, from go.mytum.de/239870; removed when unpacked
    data/raw/loco/subset-1 … subset-5              the pictures
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx
import msgspec
from msgspec import Raw

from lib.core.errors import AugmentError

Report = Callable[[int, int], None]  # (done, total) bytes


@dataclass(frozen=True)
class Source:
    """A file on the web, and how to know it."""

    what: str
    url: str
    page: str  # where a person finds it
    size: int | None = None  # bytes, where they are known


ANNOTATIONS = Source(
    "annotations",
    "https://raw.githubusercontent.com/tum-fml/loco/main/rgb/loco-all-v1.json",
    "https://github.com/tum-fml/loco (rgb/loco-all-v1.json)",
)
PICTURES = Source("pictures", "https://go.mytum.de/239870", "https://go.mytum.de/239870", 769_055_500)

MOST_FILES = 100_000  # LOCO's zip has 5,689 members
MOST_BYTES = 4_000_000_000  # unpacked; photographs do not shrink in a zip
FREE = 200_000_000  # bytes that stay free on the disk

_CHUNK = 1 << 20
_TIMEOUT = httpx.Timeout(30.0)


def fetch_loco(root: Path, progress: Report, annotations: Source = ANNOTATIONS, pictures: Source = PICTURES) -> Path:
    """Annotations and pictures of LOCO in the folder `root`; returns it. Existing files are not fetched again.

    progress: called with bytes done and bytes in all, of both files together.
    Raises AugmentError, with what to put where, when a file is not available or has the wrong content.
    """
    notes, archive = root / "loco-all-v1.json", root / "dataset.zip"
    try:
        root.mkdir(parents=True, exist_ok=True)
        # The zip goes when all of it is unpacked, so pictures without it are all of them.
        unpacked = not archive.is_file() and any(root.glob("subset-*/"))
        parts = Parts(progress, {"annotations": 0, "pictures": 0 if unpacked else pictures.size or 0})
        if not notes.is_file():
            download(annotations, notes, parts.report("annotations"))
        check_annotations(annotations, notes)
        if not unpacked:
            if not archive.is_file():
                download(pictures, archive, parts.report("pictures"))
            check_size(pictures, archive)
            unpack(archive, root, pictures)
            archive.unlink()
    except OSError as error:
        raise AugmentError(f"LOCO cannot be written to {root} ({error}): fix that, and run the same command") from None
    return root


class Parts:
    """Sums the progress of several files, of which some sizes are known beforehand."""

    def __init__(self, progress: Report, totals: dict[str, int]) -> None:
        self._progress = progress
        self._totals = totals
        self._done = dict.fromkeys(totals, 0)

    def report(self, name: str) -> Report:
        """A report for one of the files."""

        def report(done: int, total: int) -> None:
            self._done[name], self._totals[name] = done, max(done, total)
            self._progress(sum(self._done.values()), sum(self._totals.values()))

        return report


# Download


def download(source: Source, path: Path, progress: Report) -> None:
    """Fetch a file into path.part, from where an earlier try ended, and rename it when it is whole.

    Raises AugmentError when the server cannot be reached, answers with a page, or the size is wrong.
    """
    part = path.with_name(path.name + ".part")
    before = -1
    while True:
        try:
            _fetch_rest(source, part, progress)
            break
        except httpx.HTTPError as error:
            # A line that breaks is taken up again as long as more bytes came through it.
            if _size(part) <= before or isinstance(error, httpx.HTTPStatusError):
                raise _cannot(source, path, f"{type(error).__name__}: {error}") from None
            before = _size(part)
    if source.size is not None and _size(part) != source.size:
        found = _size(part)
        part.unlink()
        raise _cannot(source, path, f"{found:,} bytes came, expected {source.size:,}")
    part.replace(path)


def _fetch_rest(source: Source, part: Path, progress: Report) -> None:
    """Append what is missing of a file."""
    start = _size(part)
    if source.size is not None and start == source.size:
        return
    headers = {"Range": f"bytes={start}-"} if start else {}
    headers["Accept-Encoding"] = "identity"  # ranges and sizes are of the file's bytes
    with (
        httpx.Client(follow_redirects=True, timeout=_TIMEOUT) as client,
        client.stream("GET", source.url, headers=headers) as answer,
    ):
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()  # longer than the file: from another time
            return _fetch_rest(source, part, progress)
        answer.raise_for_status()
        if "text/html" in answer.headers.get("content-type", ""):
            raise _cannot(source, part.with_suffix(""), f"a web page came from {answer.url.host}, not the file")
        if answer.status_code != httpx.codes.PARTIAL_CONTENT:
            start = 0  # the server has no ranges, and sends everything
        _append(answer, part, start, source, progress)


def _append(answer: httpx.Response, part: Path, start: int, source: Source, progress: Report) -> None:
    total = start + int(answer.headers.get("content-length", 0))
    if source.size is not None and total > start and total != source.size:
        raise _cannot(source, part.with_suffix(""), f"the server offers {total:,} bytes, expected {source.size:,}")
    done = start
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        for chunk in answer.iter_bytes():  # as they come: larger ones would be lost when the line breaks
            file.write(chunk)
            done += len(chunk)
            if source.size is not None and done > source.size:
                break  # its size is refused by the caller
            progress(done, source.size or total)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _cannot(source: Source, path: Path, why: str) -> AugmentError:
    size = f", {source.size:,} bytes" if source.size else ""
    return AugmentError(
        f"LOCO's {source.what} cannot be downloaded from {source.url} ({why}): get them from {source.page}{size}, put "
        f"the file at {path}, and run the same command again; or try again later, it goes on where it was"
    )


# Checks


def check_size(source: Source, path: Path) -> None:
    """Raises AugmentError where a file, which a person may have put in place, has another size than the source's."""
    if source.size is not None and _size(path) != source.size:
        raise AugmentError(
            f"{path} has {_size(path):,} bytes, expected {source.size:,}: remove it, and run the same command again to "
            f"fetch it, or put the whole file of {source.page} there"
        )


class _Coco(msgspec.Struct):
    images: list[Raw]
    annotations: list[Raw]


def check_annotations(source: Source, path: Path) -> None:
    """Raises AugmentError where a file is not a whole COCO document; it is set aside, so that the next try fetches."""
    try:
        msgspec.json.decode(path.read_bytes(), type=_Coco)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        aside = path.with_name(path.name + ".bad")
        path.replace(aside)
        raise AugmentError(
            f"{path} was not a whole COCO file and is now {aside.name}: run the same command again to fetch it, or get "
            f"it from {source.page}"
        ) from None


# Unpack


def unpack(archive: Path, root: Path, source: Source) -> None:
    """Unpack a zip into `root`, without its top folder "dataset"; members' checksums are checked.

    Everything is judged before the first byte is written. Raises AugmentError for a damaged zip, a member that would
    leave the folder, a link, or more than MOST_FILES files or MOST_BYTES bytes.
    """
    with _readable(archive, source) as opened:
        members = [member for member in opened.infolist() if not member.is_dir()]
        targets = [_target(archive, root, member) for member in members]
        _check_room(archive, root, members)
        for member, target in zip(members, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(target.name + ".part")
            with opened.open(member) as data, temporary.open("wb") as file:
                shutil.copyfileobj(data, file, _CHUNK)  # zipfile stops at the size that was declared
            temporary.replace(target)


@contextlib.contextmanager
def _readable(archive: Path, source: Source) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise AugmentError(
            f"{archive} is damaged ({error}): remove it, and run the same command again to fetch it, or put the file "
            f"of {source.page} there"
        ) from None


def _target(archive: Path, root: Path, member: zipfile.ZipInfo) -> Path:
    """Where a member goes. Raises AugmentError where that is outside of `root`, or the member is a link."""
    parts = PurePosixPath(member.filename).parts
    unsafe = not parts or parts[0] == "/" or ".." in parts or "\\" in member.filename or ":" in parts[0]
    if unsafe or stat.S_ISLNK(member.external_attr >> 16):
        raise AugmentError(
            f"{archive} holds {member.filename!r}, which would leave its folder: nothing was unpacked; fetch the zip "
            f"again from its official site"
        )
    target = root.joinpath(*(parts[1:] if parts[0] == "dataset" and len(parts) > 1 else parts))
    if not target.resolve().is_relative_to(root.resolve()):  # through a link that lies in root
        raise AugmentError(f"{target} leads out of {root}: remove the link, and run the same command again")
    return target


def _check_room(archive: Path, root: Path, members: list[zipfile.ZipInfo]) -> None:
    size = sum(member.file_size for member in members)
    if len(members) > MOST_FILES or size > MOST_BYTES:
        raise AugmentError(
            f"{archive} holds {len(members):,} files of {size:,} bytes, expected at most {MOST_FILES:,} and "
            f"{MOST_BYTES:,}: this is not LOCO's"
        )
    free = shutil.disk_usage(root).free
    if free < size + FREE:
        raise AugmentError(f"{root} has {free:,} bytes free, {size + FREE:,} are needed to unpack {archive.name}")
