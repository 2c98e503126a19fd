"""Painters: which model fills the region. To add one: a file here with a class like `CopyPaste`, and a line below.

A painter is built once per process (its weights loaded on first use), serves one shard at a time, and is a pure
function of its inputs: same pass, same canvas, same paint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from lib.core.registry import Family, MemberSettings

if TYPE_CHECKING:
    import numpy as np

    from lib.records.requests import Pass

PAINTERS = Family(
    "painter",
    {
        "copy-paste": "lib.painting.painters.copy_paste:CopyPaste",
        "gligen": "lib.painting.painters.gligen:Gligen",
        "gligen-inpaint": "lib.painting.painters.gligen:GligenInpaint",
        "sd-inpaint": "lib.painting.painters.inpainting:SdInpaint",
        "sdxl-inpaint": "lib.painting.painters.inpainting:SdxlInpaint",
        "vanilla": "lib.painting.painters.blending:Vanilla",
        "blended-latent": "lib.painting.painters.blending:BlendedLatent",
        "td-paint": "lib.painting.painters.blending:TdPaint",
        "latentpaint": "lib.painting.painters.blending:LatentPaint",
        "stay": "lib.painting.painters.stay:Stay",
        "diffusers-inpaint": "lib.painting.painters.pipelines:DiffusersInpaint",
    },
)

# The edits that a painter serves that paints any mask of a picture and keeps the rest.
INPAINTING = frozenset({"replace", "occlude", "refine", "insert", "background", "mask"})


@dataclass(frozen=True)
class PassInput:
    """One pass with its pixels, all at the painter's shape (H, W) = step.shape."""

    step: Pass
    canvas: np.ndarray  # uint8 (H, W, 3) RGB: the picture under the window, edges repeated beyond the frame
    mask: np.ndarray  # bool (H, W): True = paint here
    donor: np.ndarray | None = None  # uint8 (h, w, 3) RGB: the donor's whole picture; None for a pass without one


class Decoder(Protocol):
    """Latents → pixels."""

    vae: Any  # its torch module, diffusers' AutoencoderKL, frozen: composite `reconstruct` tunes and restores `decoder`

    def __call__(self, latents: Any) -> np.ndarray:
        """(C, h, w) float32 tensor → uint8 (H, W, 3) RGB."""
        ...

    def pixels(self, latents: Any) -> Any:
        """(C, h, w) float32 tensor → (3, H, W) float32 tensor, about -1 to 1, not clipped; gradients as enabled."""
        ...


@dataclass(frozen=True)
class Paint:
    """What a painter gives back for one pass."""

    image: np.ndarray  # uint8 (H, W, 3) RGB at the pass's shape
    latents: Any = None  # (C, h, w) float32 CPU tensor before decoding; None: the painter has no decoder
    decoder: Decoder | None = None  # composite `reconstruct` needs it
    alpha: np.ndarray | None = None  # uint8 (H, W): the paint's share of each pixel, 255 = all; None: all everywhere


class Painter(Protocol):
    """The contract; tests/test_painters.py holds every registered member to it."""

    VERSION: ClassVar[int]  # raised whenever the same request would give other pixels
    EDITS: ClassVar[frozenset[str]]  # edits it serves
    MODEL: ClassVar[
        str | None
    ]  # published checkpoint id for models: full, or lib.core.checkpoints.NOT_PUBLISHED; None = needs no model
    LICENCE: ClassVar[str]  # of that checkpoint
    # MINI: Mapping[str, Any], where it has a mini model: settings that this was made for, defaults under models: mini
    # MINI_MODEL: str, where its mini model is another painter's: that one's name
    MAX_BOXES: ClassVar[int | None]  # boxes one pass can hold; more is a reason, never a cut
    READS_PHRASES: ClassVar[bool]  # True: receives each box with its phrase; False: the prompt has to name everything
    HAS_DECODER: ClassVar[bool]  # True: paints come with their latents, and `decoder` gives what decodes them
    NEEDS_DONOR: ClassVar[bool]  # True: plan gives each pass one, chosen among those that `fits` allows
    Settings: ClassVar[type[MemberSettings]]

    def __init__(self, settings: Any, model: Any) -> None:
        """`model`: a lib.core.checkpoints.ModelRef, or None where MODEL is None. Nothing heavy happens here."""
        ...

    def check(self) -> None:
        """Raises AugmentError where the checkpoint's configuration shows that it cannot be used; reads no weights."""
        ...

    @staticmethod
    def shape(settings: Any, width: int, height: int) -> tuple[int, int]:
        """(height, width) in pixels at which a window of width × height pixels is painted."""
        ...

    def paint(self, batch: Sequence[PassInput]) -> list[Paint]:
        """Paint passes of one shape, each with its own boxes, phrases, prompt, seed. Order kept."""
        ...

    def decoder(self) -> Decoder:
        """What decodes the latents of its paints, for paints that come from the store. Only where HAS_DECODER."""
        ...

    @property
    def batch_size(self) -> int:
        """How many passes `paint` should get at once; a shorter batch is padded inside."""
        ...
