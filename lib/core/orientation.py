"""Which way up: pictures that say by a tag of EXIF, TIFF or XMP that they are to be turned for display."""

from __future__ import annotations

import contextlib

import numpy as np
from PIL import Image, TiffImagePlugin

_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 0x0100, 0x0101  # tags of EXIF and TIFF


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where it is missing, invalid or cannot be read."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # EXIF is decoration: nothing in it may cost the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """HWC pixels as displayed; orientation 1 to 8 as in EXIF 2.32, table 6."""
    match orientation:
        case 2:
            return pixels[:, ::-1]
        case 3:
            return pixels[::-1, ::-1]
        case 4:
            return pixels[::-1]
        case 5:
            return pixels.swapaxes(0, 1)
        case 6:
            return np.rot90(pixels, -1)
        case 7:
            return pixels[::-1, ::-1].swapaxes(0, 1)
        case 8:
            return np.rot90(pixels)
    return pixels


def upright_size(image: Image.Image) -> tuple[int, int]:
    stored = stored_size(image)
    return stored[::-1] if orientation(image) >= 5 else stored


def turned_by_decoding(image: Image.Image) -> int:
    """The orientation by which Pillow turns a TIFF that it decodes; 0 for other files."""
    return orientation(image) if image.format == "TIFF" else 0


def stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) of a picture that is not decoded yet; a TIFF's `size` may be upright already."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return int(image.tag_v2[_WIDTH]), int(image.tag_v2[_HEIGHT])
    return image.size
