"""Pictures: the one place where files are opened, checked, decoded and encoded.

    info = inspect(path, max_pixels)          # PictureInfo, or PictureError with a stable reason
    pixels = load_rgb(path, "upright")        # uint8 HWC RGB, whatever the file holds

To accept another file format add its Pillow name to FORMATS and the end of its files' names to SUFFIXES; to accept
another pixel mode add a line to `_to_rgb`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from cachetools import LRUCache, cached
from PIL import Image, ImageCms, JpegImagePlugin, UnidentifiedImageError

from lib.core.errors import PictureError
from lib.core.files import digest
from lib.core.mirror import fetch, here
from lib.core.orientation import orientation, stored_size, turn, turned_by_decoding, upright_size
from lib.core.png import lighter_png

Load = Callable[[str, str], np.ndarray]  # (digest, frame) → uint8 (H, W, 3) RGB; raises PictureError


class Paths(Protocol):
    """A dict, or whatever else knows the file of a digest."""

    def __getitem__(self, digest: str, /) -> str: ...


def source_loader(paths: Paths, folder: Path = Path(), keep: int = 512 * 2**20) -> Load:
    """A loader of pictures by digest, checked against it on reading; `keep` bytes of them stay decoded, read-only.

    paths: digest → file, below `folder` where it is not absolute. The loader raises PictureError `image_missing` or,
    where the file has changed since ingest, `image_changed`; other faults of the storage, which may pass, stay
    OSErrors.
    """

    @cached(LRUCache(keep, getsizeof=lambda pixels: pixels.nbytes), lock=threading.Lock())
    def load(wanted: str, frame: str) -> np.ndarray:
        path = folder / paths[wanted]
        try:
            data = here(path, mark=True).read_bytes()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise PictureError("image_missing", f"{path}: {error.strerror}") from None
        found = digest(data)
        if found != wanted and fetch(path, mark=True):  # the copy of a bucket's former picture
            data = path.read_bytes()
            found = digest(data)
        if found != wanted:
            raise PictureError("image_changed", f"{path} changed since ingest: run again")
        pixels = load_rgb(data, frame)
        pixels.flags.writeable = False
        return pixels

    return load


# Raster formats only: Pillow would start Ghostscript for an EPS file that calls itself .jpg.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "AVIF", "JPEG2000")

# How the names of such files end, in lower case, the usual ones first.
SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif", ".jp2", ".dib", ".mpo", ".pgm", ".ppm",
)  # fmt: skip

_LONGEST = 4096  # characters of a path


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """What a readable picture is."""

    size: int  # bytes
    mtime_ns: int
    digest: str  # SHA-256 of the file's bytes, hex
    upright_width: int  # pixels, as displayed: EXIF orientation applied
    upright_height: int
    stored_width: int  # pixels, as stored: EXIF orientation ignored
    stored_height: int


def inspect(path: Path, max_pixels: int) -> PictureInfo:
    """Read a picture once: digest of its bytes, sizes, and proof that its first frame decodes to the end.

    Raises PictureError: image_missing (no readable regular file), image_empty, image_too_large (by its header, before
    decoding), image_broken (truncated or undecodable).
    """
    return _inspected(path, max_pixels, decode=True)


def glance(path: Path, max_pixels: int) -> PictureInfo:
    """`inspect` without the proof, which takes most of its time: it finds image_broken by a bad header alone."""
    return _inspected(path, max_pixels, decode=False)


def _inspected(path: Path, max_pixels: int, decode: bool) -> PictureInfo:
    data, info = _read(path)
    with _open(data) as image:
        if image.width * image.height > max_pixels:
            raise _too_large(f"{image.width}×{image.height} pixels, the limit is {max_pixels}")
        stored, before = stored_size(image), turned_by_decoding(image)
        if decode:
            with _reasons():
                image.load()
        upright = stored[::-1] if (before or orientation(image)) >= 5 else stored
    return PictureInfo(len(data), info.st_mtime_ns, hashlib.sha256(data).hexdigest(), *upright, *stored)


def header_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright picture from its header alone, pixels; raises PictureError as `inspect` does."""
    _stat(path)
    with contextlib.suppress(PictureError), _quiet(), _reasons(), Image.open(path, formats=_formats()) as image:
        return upright_size(image)
    with _open(_read(path)[0]) as image:  # a PNG without the texts that Pillow does not take, or the fault's reason
        return upright_size(image)


def picture_kind(path: Path) -> tuple[int, str]:
    """(channels, the usual suffix of the file's format); raises PictureError as `inspect` does.

    Channels: 1 grey, 2 grey with alpha, 3 colours (of a palette too), 4 colours with alpha.
    """
    with _open(_read(path)[0]) as image:
        channels = 3 if image.mode == "P" else len(image.getbands())
        return channels, _SUFFIX_OF.get(image.format or "", ".png")


_SUFFIX_OF = {
    "JPEG": ".jpg", "MPO": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "DIB": ".bmp", "GIF": ".gif",
    "PPM": ".ppm", "AVIF": ".avif", "JPEG2000": ".jp2",
}  # fmt: skip


def load_rgb(source: Path | bytes, frame: str = "upright") -> np.ndarray:
    """Decode a file, or a file's bytes, to uint8 HWC RGB; first frame, alpha dropped, deeper pixels scaled to 8 bit.

    `frame` "upright" turns by EXIF orientation as viewers do, "stored" does not. Safe to call from many threads.
    Raises PictureError as `inspect` does; ValueError for another frame.
    """
    if frame not in ("upright", "stored"):
        raise ValueError(f"frame {frame!r}: expected 'upright' or 'stored'")
    data = source if isinstance(source, bytes) else _read(source)[0]
    with _open(data) as image, _reasons():
        turned = turned_by_decoding(image)
        image.load()
        pixels = _to_rgb(image)
        if frame == "stored":
            pixels = turn(pixels, {6: 8, 8: 6}.get(turned, turned))  # back
        elif not turned:
            pixels = turn(pixels, orientation(image))
    return np.ascontiguousarray(pixels)


def kept_rgb(data: bytes | None, shape: tuple[int, ...] | None = None) -> np.ndarray | None:
    """uint8 (H, W, 3) RGB of a picture that a store holds, as it is stored; None for nothing, for what cannot be
    decoded, and for another (height, width) than `shape`: it is made again."""
    if data is None:
        return None
    try:
        pixels = load_rgb(data, "stored")
    except PictureError:
        return None
    return pixels if shape is None or pixels.shape[:2] == tuple(shape) else None


def load_alpha(path: Path) -> np.ndarray | None:
    """uint8 HW, upright: how opaque a picture is, 255 wholly; None where it is so everywhere or cannot say.

    Raises PictureError as `inspect` does.
    """
    with _open(_read(path)[0]) as image, _reasons():
        turned = turned_by_decoding(image)
        image.load()
        if not image.has_transparency_data:
            return None
        alpha = np.asarray(image.convert("RGBA").getchannel("A"))
        alpha = alpha if turned else turn(alpha, orientation(image))
    return None if alpha.min() == 255 else np.ascontiguousarray(alpha)


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 HWC RGB as PNG; equal pixels give equal bytes on one installation."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)
    return file.getvalue()


def encode_jpeg(pixels: np.ndarray, like: bytes | None = None) -> bytes:
    """uint8 HWC RGB as JPEG, with the quantisation tables and chroma subsampling of `like` where that is a JPEG.

    Otherwise quality 95, 4:4:4.
    """
    with contextlib.suppress(PictureError, ValueError, OSError):
        if like is not None and (tables := _jpeg_tables(like)):
            return _jpeg(pixels, **tables)
    return _jpeg(pixels, quality=95, subsampling=0)


def inside(root: Path, relative: str) -> Path | None:
    """The path under `root` that a name from an annotation file means, whether it exists or not.

    None where the name leads out of root: absolute, a drive letter, `..`, a symbolic link to elsewhere, a NUL.
    Backslashes count as separators unless a file has them in its name.
    """
    plain = plain_path(relative)
    if plain is None:
        return None
    path = root / plain
    if len(plain) > _LONGEST:  # no file can have it, and following a million parts takes minutes
        return path
    if "\\" in relative and "\\" not in plain and plain_path(relative, keep_backslash=True):
        literal = root / relative
        path = literal if os.path.lexists(literal) else path
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError):  # a loop of links
        return None
    return path if resolved.is_relative_to(root.resolve()) else None


def plain_path(relative: str, keep_backslash: bool = False) -> str | None:
    """A name as a normal posix path without looking at the disk; None where it would leave its folder.

    The name of the folder itself ("", ".") gives "".
    """
    if not _UNUSUAL.search(relative):
        return relative
    name = relative if keep_backslash else relative.replace("\\", "/")
    if "\0" in name or name.startswith("/") or _DRIVE.match(name):
        return None
    parts: list[str] = []
    for part in name.split("/"):
        if part == ".." and not parts:
            return None
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


# Almost every name is plain, and there may be a hundred thousand: one search decides.
_UNUSUAL = re.compile(r"[\\:\0]|^/|//|/$|(?:^|/)\.\.?(?:/|$)")
_DRIVE = re.compile(r"[A-Za-z]:")


# --- Pillow, made safe -------------------------------------------------------------------------------------------

_quiet_lock = threading.Lock()
_quiet_users = 0
_quiet_undo = contextlib.ExitStack()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Pillow without its warnings and its size limit (max_pixels replaces it), for all threads inside at once.

    Both are state of the process, and `warnings.catch_warnings` alone would leave it wrong when threads overlap: the
    first one in sets it, the last one out restores it.
    """
    global _quiet_users
    with _quiet_lock:
        if _quiet_users == 0:
            _quiet_undo.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            _quiet_undo.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
            Image.MAX_IMAGE_PIXELS = 2**62  # not None: Pillow, in another thread, may be about to multiply it
        _quiet_users += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_users -= 1
            if _quiet_users == 0:
                _quiet_undo.close()


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Whatever Pillow raises on a bad file, as PictureError image_broken."""
    try:
        yield
    except PictureError:
        raise
    except UnidentifiedImageError as error:  # its message holds a memory address
        raise PictureError("image_broken", "not a picture in a known format: " + ", ".join(FORMATS)) from error
    except Exception as error:  # OSError, SyntaxError, struct.error, EOFError, zlib.error, KeyError, ...: any of them
        raise PictureError("image_broken", f"{type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _open(data: bytes) -> Iterator[Image.Image]:
    if not data:
        raise PictureError("image_empty", "0 bytes")
    with _quiet():
        with _reasons():
            image = Image.open(io.BytesIO(lighter_png(data)), formats=_formats())
        with image:
            yield image


def _formats() -> list[str]:
    Image.init()  # once a process; Pillow can be built without some formats
    return [name for name in FORMATS if name in Image.OPEN]


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    info = _stat(path)
    try:
        return path.read_bytes(), info
    except OSError as error:
        raise _missing(path, error) from None


def _stat(path: Path) -> os.stat_result:
    try:
        info = here(path, mark=True).stat()
    except (OSError, ValueError) as error:
        raise _missing(path, error) from None
    if not stat.S_ISREG(info.st_mode):
        raise PictureError("image_missing", f"{path.name} is not a regular file")
    return info


def _missing(path: Path, error: Exception) -> PictureError:
    if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR):
        return PictureError("image_missing", f"{path.name} cannot be read: {error.strerror}")
    return PictureError("image_missing", f"{path.name} not found")


def _too_large(detail: str) -> PictureError:
    return PictureError("image_too_large", detail)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """A loaded picture of any mode as uint8 HWC RGB."""
    image.info.pop("transparency", None)  # dropped as detectors do
    if image.mode.startswith("I") or image.mode == "F":
        grey = _to_8_bit(np.asarray(image), sixteen=image.mode.startswith("I;16"))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "LAB":
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="RGB")
        assert converted is not None  # None only in place
        return np.asarray(converted)
    if image.mode in ("RGBa", "La"):  # premultiplied: the colours come back first
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    return np.asarray(image.convert("RGB"))


def _to_8_bit(values: np.ndarray, sixteen: bool) -> np.ndarray:
    """Deep grey (H, W) as uint8.

    16 bit is divided by 257. 32-bit integers and floats do not state their range: it is taken as [0, 1] (floats),
    [0, 255] (floats), [0, 65535], else as the lowest to the highest value in the picture.
    """
    whole = sixteen or values.dtype.kind in "iu"
    values = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0)
    low, high = float(values.min()), float(values.max())
    top = 65535.0 if whole else next((t for t in (1.0, 255.0) if high <= t), 65535.0)
    if low < 0 or high > top:
        values, top = values - low, max(high - low, 1e-9)
    return np.rint(values * (255 / top)).astype(np.uint8)


def _jpeg_tables(like: bytes) -> dict[str, Any] | None:
    with _open(like) as image:
        if not isinstance(image, JpegImagePlugin.JpegImageFile):
            return None
        sampling = JpegImagePlugin.get_sampling(image)
        return {"qtables": image.quantization, "subsampling": max(sampling, 0)}  # -1: grey or unusual


def _jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    return file.getvalue()
