"""Masks as RLE, COCO's compressed run lengths."""

from __future__ import annotations

import numpy as np

from lib.records.requests import Rle


def encode_rle(mask: np.ndarray) -> Rle:
    """bool (H, W) → RLE."""
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return Rle(size=(int(encoded["size"][0]), int(encoded["size"][1])), counts=encoded["counts"].decode())


def decode_rle(rle: Rle) -> np.ndarray:
    """RLE → bool (H, W)."""
    from pycocotools import mask as coco

    mask: np.ndarray = coco.decode({"size": list(rle.size), "counts": rle.counts.encode()}).astype(bool)
    return mask
