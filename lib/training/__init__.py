"""Training: labelled pictures in, small models out, each of a real class of diffusers or transformers.

Here are the contract of a trainer and the list of all; train.py trains. A trainer names the models it
needs, which must lie in the same folder already. To add one: a file here with a class like `VaeTrainer`, and a line
below.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from lib.core.registry import Family

if TYPE_CHECKING:
    from lib.training.loop import LoopSettings, Objective
    from lib.training.windows import TrainingPicture

TRAINERS = Family(
    "trainer",
    {
        "clip": "lib.training.clip:ClipTrainer",
        "vae": "lib.training.vae:VaeTrainer",
        "blip2": "lib.training.blip2:Blip2Trainer",
        "gligen-inpaint": "lib.training.gligen:GligenInpaintTrainer",
        "gligen": "lib.training.gligen:GligenTrainer",
        "stay": "lib.training.stay:StayTrainer",
        "lora": "lib.training.lora:LoraTrainer",
        "classifier": "lib.training.classifier:ClassifierTrainer",
    },
)

MINI = ("clip", "vae", "blip2", "gligen-inpaint", "gligen")  # of `models: mini`: trained where none is named


class Trainer(Protocol):
    """The contract; tests/test_training.py holds every registered member to it."""

    VERSION: ClassVar[int]
    NEEDS: ClassVar[tuple[str, ...]]  # trainers whose models must exist before
    DETAIL: ClassVar[float]  # shorter side of the pictures that it wants, in multiples of its windows'; 0: all pixels
    ABOUT: ClassVar[str]  # one sentence for the model card
    Settings: ClassVar[type[LoopSettings]]
    # FIXED: tuple[str, ...]: settings that say what the weights are, so that no resume may change them
    # made_from(settings, start) -> Mapping[str, str]: other models that it is made from, and their revisions

    @staticmethod
    def objective(
        settings: Any, pictures: Sequence[TrainingPicture], size: int, models: Path, start: Path | None, work: Path
    ) -> Objective:
        """What to train: windows of size × size pixels; `models` holds NEEDS, `start` an earlier model of this
        name; in `work` goes what can be made again."""
        ...
