"""Places: where objects of each category stand in their pictures, and how large. Edit `insert` draws from them.

They are pinned in the workspace, so that a picture added to the data set leaves the other plans alone; remove the file
to have them taken anew.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from lib.errors import AugmentError
from lib.geometry import clip_xyxy, xywh_to_xyxy
from lib.manifest import atomic_write
from lib.requests import draw
from lib.schemas import OK

MOST = 512  # of each category: enough for its spread, little enough to pin

Places = dict[str, np.ndarray]  # category → (N, 3) float64: bottom, width, height in heights of the picture


def places_of(objects: pd.DataFrame, images: pd.DataFrame, split: str) -> Places:
    """Places of up to MOST objects of each category, those with the smallest hashes; of one split, no crowds.

    objects: ObjectRows that are ok; images: ImageRows.
    """
    pictures = images[(images.status == OK) & (images.split == split)]
    pictures = pictures[["key", "digest", "width", "height"]].rename(columns={"key": "image_key"})
    shown = objects[~objects.crowd].merge(pictures, on="image_key")
    return {str(category): _places(group) for category, group in shown.groupby("category")}


def _places(rows: pd.DataFrame) -> np.ndarray:
    hashes = np.array([draw("place", one + " " + two) for one, two in zip(rows.digest, rows.key, strict=True)])
    rows = rows.iloc[np.argsort(hashes, kind="stable")[:MOST]]
    frame = rows[["width", "height"]].to_numpy(dtype=np.float64)
    corners = xywh_to_xyxy(rows[["x", "y", "w", "h"]].to_numpy())
    x0, y0, x1, y1 = np.stack([clip_xyxy(box, *size) for box, size in zip(corners, frame, strict=True)]).T
    return np.round(np.stack([y1, x1 - x0, y1 - y0], axis=1) / frame[:, 1:], 6)


def write_places(path: Path, places: Places) -> None:
    """By rename."""
    atomic_write(path, msgspec.json.encode({name: rows.tolist() for name, rows in places.items()}), durable=True)


def read_places(path: Path) -> Places:
    """What `write_places` wrote; raises AugmentError for anything else."""
    try:
        told = msgspec.json.decode(path.read_bytes(), type=dict[str, list[tuple[float, float, float]]])
    except msgspec.MsgspecError as error:
        raise AugmentError(f"{path} is damaged ({error}): remove it, and it is made anew") from None
    return {name: np.array(rows, dtype=np.float64).reshape(-1, 3) for name, rows in told.items()}
