"""FiftyOne: a COCODetectionDataset a split, SPLIT/data and SPLIT/labels.json.

Crowds and ignored boxes stay, with the attributes iscrowd and ignored. Records are those of the COCO export.
"""

from __future__ import annotations

from typing import ClassVar

from lib.datasets.export.coco import coco_pieces
from lib.datasets.export.final_set import FinalSet
from lib.datasets.export.folder import Files


class FiftyOne:
    ABOUT: ClassVar[str] = "FiftyOne: a COCODetectionDataset a split, SPLIT/data and SPLIT/labels.json"
    USE: ClassVar[str] = (
        'fiftyone.Dataset.from_dir(dataset_dir="{folder}/train", dataset_type=fiftyone.types.COCODetectionDataset)'
    )
    IGNORED: ClassVar[str] = "iscrowd 1"
    KEEPS_IGNORED: ClassVar[bool] = True
    SPACES: ClassVar[bool] = True
    ROLES: ClassVar[dict[str, str]] = {}

    @staticmethod
    def write(data: FinalSet, files: Files) -> None:
        """Pictures and labels of each split."""
        for split, pictures in data.splits.items():
            for picture in pictures:
                files.copy(picture, f"{split}/data/{picture.name}")
            files.write(f"{split}/labels.json", coco_pieces(data, pictures))
