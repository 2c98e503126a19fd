"""Painters: which model fills the region. To add one: a file here with a class like `CopyPaste`, and a line below.

A painter is built once per process (its weights loaded on first use), serves one shard at a time, and is a pure
function of its inputs: same pass, same canvas, same paint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from lib.errors import AugmentError
from lib.registry import Family, MemberSettings
from lib.requests import Pass

PAINTERS = Family(
    "painter",
    {
        "copy-paste": "lib.painters.copy_paste:CopyPaste",
        "gligen": "lib.painters.gligen:Gligen",
        "gligen-inpaint": "lib.painters.gligen:GligenInpaint",
    },
)


def check_served(edit: str, painter: str) -> None:
    """Raises AugmentError that lists what is allowed, where a painter does not serve an edit."""
    served = sorted(PAINTERS[painter].EDITS)
    if edit not in served:
        able = ", ".join(name for name in PAINTERS if edit in PAINTERS[name].EDITS)
        hint = f"{edit!r} can be painted by {able}" if able else f"no painter serves {edit!r}"
        raise AugmentError(f"painter {painter!r} does not serve edit {edit!r}: it serves {', '.join(served)}; {hint}")


@dataclass(frozen=True)
class PassInput:
    """One pass with its pixels, all at the painter's shape (H, W) = spec.shape."""

    spec: Pass
    canvas: np.ndarray  # uint8 (H, W, 3) RGB: the picture under the window, edges repeated beyond the frame
    mask: np.ndarray  # bool (H, W): True = paint here
    donor: np.ndarray | None = None  # uint8 (h, w, 3) RGB: the donor's crop at its own size, where the pass has one


@dataclass(frozen=True)
class Paint:
    """What a painter gives back for one pass."""

    image: np.ndarray  # uint8 (H, W, 3) RGB at the pass's shape
    latents: Any = None  # (C, h, w) float32 CPU tensor before decoding, where there is one
    decoder: Any = None  # callable latents -> image, where there is one (composite `reconstruct` needs it)


class Painter(Protocol):
    """The contract; tests/test_painters.py holds every registered member to it."""

    VERSION: ClassVar[int]  # raised whenever the same request would give other pixels
    EDITS: ClassVar[frozenset[str]]  # edits it serves
    MODEL: ClassVar[str | None]  # published checkpoint id for models: full; None = needs no model
    LICENCE: ClassVar[str]  # of that checkpoint
    # MINI: Mapping[str, Any], where it has a mini model: settings that this was made for, defaults under models: mini
    MAX_BOXES: ClassVar[int | None]  # boxes one pass can hold; more is a reason, never a cut
    NEEDS_DONOR: ClassVar[bool]  # True: plan gives each pass one, chosen among those that `fits` allows
    Settings: ClassVar[type[MemberSettings]]

    def __init__(self, settings: Any, model: Any) -> None:
        """`model`: a lib.models.ModelRef, or None where MODEL is None. Nothing heavy happens here."""
        ...

    @staticmethod
    def shape(settings: Any, width: int, height: int) -> tuple[int, int]:
        """(height, width) in pixels at which a window of width × height pixels is painted."""
        ...

    def paint(self, batch: Sequence[PassInput]) -> list[Paint]:
        """Paint passes of one shape, each with its own boxes, phrases, prompt, seed. Order kept."""
        ...

    @property
    def batch_size(self) -> int:
        """How many passes `paint` should get at once; a shorter batch is padded inside."""
        ...
