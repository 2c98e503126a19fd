"""Captioners: what a picture shows, in a sentence. To add one: a file here with a class like `Template`, and a line.

Post-processing rules are data and live in rules.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from lib.core.registry import Family, MemberSettings

if TYPE_CHECKING:
    import numpy as np

CAPTIONERS = Family(
    "captioner",
    {
        "template": "lib.captioning.captioners.template:Template",
        "blip2": "lib.captioning.captioners.blip2:Blip2",
        "blip2-flan-t5-xl": "lib.captioning.captioners.blip2:Blip2FlanT5",
        "vision-language": "lib.captioning.captioners.vision_language:VisionLanguage",
        "given": "lib.captioning.captioners.given:Given",
    },
)


class Captioner(Protocol):
    """The contract; tests/test_captioners.py holds every registered member to it."""

    VERSION: ClassVar[int]  # raised whenever the same picture would get another sentence
    MODEL: ClassVar[str | None]  # published checkpoint id for models: full; None = needs no model
    LICENCE: ClassVar[str]
    # MINI: Mapping[str, Any], where it has a mini model: settings that this was made for, defaults under models: mini
    NEEDS_PICTURES: ClassVar[bool]  # False: does not use the pictures, they may be None
    NEEDS_RECORDS: ClassVar[bool]  # False: does not use the records, they may be left out
    # READS_LABELS: bool, with NEEDS_PICTURES: the labels count as well, where its setting `question` has {labels}
    Settings: ClassVar[type[MemberSettings]]

    def __init__(self, settings: Any, model: Any) -> None:
        """`model`: a lib.core.checkpoints.ModelRef, or None where MODEL is None. Nothing heavy happens here."""
        ...

    def caption(
        self,
        pictures: Sequence[np.ndarray | None],
        labels: Sequence[Sequence[str]],
        records: Sequence[bytes | None] = (),
    ) -> Sequence[str | None]:
        """One raw caption each, None for a picture that has none.

        pictures: uint8 (H, W, 3) RGB of any sizes; labels: category name per box; records: of the data set, one JSON
        object each.
        """
        ...

    @property
    def batch_size(self) -> int: ...


class LabelCaptioner:
    """What the captioners share that need neither a model nor the pixels."""

    MODEL: ClassVar[str | None] = None
    NEEDS_PICTURES: ClassVar[bool] = False
    batch_size = 256

    def __init__(self, settings: Any, model: Any = None) -> None:
        self.settings = settings
