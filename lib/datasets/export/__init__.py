"""Export formats: where a final set goes on to the tool that trains on it. To add one: a file here, and a line below.

    EXPORTERS["yolo"].write(data, files)        # inside lib/datasets/export/export.py, which does the rest

A format is a class: constants that say what it is, and `write`. What is the same for all (which pictures and boxes,
file names, copying, counts, the card README.md, the folder's replacement) is done before and after it, in export.py.

The writers are ours and short: supervision writes YOLO, VOC and COCO, but keeps neither ids, splits nor other fields of
the records. In the tests each is read back by a reader that does not know it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

from lib.core.registry import Family

if TYPE_CHECKING:
    from lib.datasets.export.final_set import FinalSet
    from lib.datasets.export.folder import Files


class Exporter(Protocol):
    """What EXPORTERS holds."""

    ABOUT: ClassVar[str]  # the tool, and what lies in the folder
    USE: ClassVar[str]  # how the tool is started with it; {folder} stands for the folder
    IGNORED: ClassVar[str]  # what becomes of crowds and ignored boxes, in a few words
    KEEPS_IGNORED: ClassVar[bool]  # False: they are left out, and counted
    SPACES: ClassVar[bool]  # may file names have blanks?
    ROLES: ClassVar[dict[str, str]]  # names of splits that the tool has names of its own for

    @staticmethod
    def write(data: FinalSet, files: Files) -> None:
        """Write pictures and labels of the set; raises AugmentError where the format cannot hold it."""


EXPORTERS = Family(
    "export format",
    {
        "coco": "lib.datasets.export.coco:Coco",
        "cvat": "lib.datasets.export.cvat:Cvat",
        "fiftyone": "lib.datasets.export.fiftyone:FiftyOne",
        "hf": "lib.datasets.export.hugging_face:HuggingFace",
        "label-studio": "lib.datasets.export.label_studio:LabelStudio",
        "voc": "lib.datasets.export.voc:Voc",
        "yolo": "lib.datasets.export.yolo:Yolo",
    },
)
