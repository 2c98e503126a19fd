"""Thumbnails of painted pictures: made once a picture, by its content, and kept in the store.

data = thumbnail(store, picture, sha256)        # JPEG; None where the store has lost the picture
"""

from __future__ import annotations

import contextlib
import io

from PIL import Image

from lib.core.images import kept_rgb
from lib.core.keys import key_of
from lib.records.store import Store

VERSION = 1
SIDE = 320  # pixels at most
KIND = "thumbnail"


def thumbnail_key(sha256: str) -> str:
    """Key in the store; sha256: of the picture's bytes."""
    return key_of(KIND, VERSION, SIDE, sha256)


def thumbnail(store: Store, picture: str, sha256: str) -> bytes | None:
    """A JPEG of the picture with this key, its longer side SIDE pixels; from the store, else made and kept there.

    A store that cannot be written costs nothing but time.
    """
    key = thumbnail_key(sha256)
    if (known := store.get(KIND, key)) is not None:
        return known
    pixels = kept_rgb(store.get("picture", picture))
    if pixels is None:
        return None
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC, reducing_gap=2.0)
    made = jpeg(image, 80)
    with contextlib.suppress(OSError):
        store.put(KIND, key, made)
    return made


def jpeg(image: Image.Image, quality: int) -> bytes:
    """The bytes of a picture as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
