"""Masks as run lengths."""

from __future__ import annotations

import numpy as np

from lib.records.requests import Rle


def encode_rle(mask: np.ndarray) -> Rle:
    """bool (H, W) → COCO's compressed run lengths."""
    from pycocotools import mask as coco

    told = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return Rle(size=(int(told["size"][0]), int(told["size"][1])), counts=told["counts"].decode())


def decode_rle(rle: Rle) -> np.ndarray:
    """bool (H, W)."""
    from pycocotools import mask as coco

    told: np.ndarray = coco.decode({"size": list(rle.size), "counts": rle.counts.encode()}).astype(bool)
    return told
