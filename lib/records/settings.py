"""A run's parameters, as small typed values; each default is written once.

Each model is one parameter of the flow. A family choice (painter, edit, composite, captioner, extractor) is a name, or
a name with that member's settings: `painter: copy-paste` or `painter: {name: copy-paste, blend: 4}`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from lib.core.geometry import CONTEXT, MIN_SIDE
from lib.core.values import Place, Storable, check_value


class Settings(Storable):
    """Unknown names are refused, with the known ones in the error."""

    model_config = ConfigDict(extra="forbid")


def _check_extra(value: Any) -> Any:
    return check_value(value)


class Choice(Storable):
    """A member of a family by name, with values for that member's settings beside it."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[Annotated[str, AfterValidator(_check_extra)], Annotated[Any, AfterValidator(_check_extra)]]
    name: str = Field("", description="the member's name (`augment presets` lists them); none: the preset's member")

    @property
    def values(self) -> dict[str, Any]:
        """The member's settings as given."""
        return dict(self.model_extra or {})


def training_split(name: str, who: str) -> str:
    """The name of a split; raises ValueError where the name marks a split for validation or testing."""
    if name.lower().startswith(("val", "test", "dev")):
        raise ValueError(f"{who} from the training split only: name that one")
    return name


class DatasetSettings(Settings):
    images: Place = Field(description="folder with the pictures, or its URL (s3://BUCKET/FOLDER; docs/scale.md)")
    annotations: Place | None = Field(
        None,
        description="annotation file, or folder of files (voc, yolo, triples, vott, coco-stuff, deep-pcb); none: "
        "beside the pictures, as the format has it",
    )
    format: str = Field(
        "coco", description="coco, coco-stuff, deep-pcb, deep-pcb-layout, loco, triples, voc, vott or yolo"
    )
    split: str | None = Field(
        None,
        description="name of the split that all pictures are in ('train', 'val'); 'official': as the data set itself "
        "says; none: the format's default (official where the files say it, else train)",
    )
    group: str | None = Field(
        None,
        description="what must stay on one side of a split: a field of the picture's record (video_id, say), or "
        "'folder' for the folder that the picture lies in",
    )
    max_pixels: int = Field(100_000_000, ge=1, description="a larger picture is set aside, pixels")
    terms: str = Field(
        "",
        max_length=500,
        description="the pictures' terms of use, for the cards of models and sets made from them; begin with 'research "
        "only' where that is so; none: those known of the format's data set",
    )


class SelectSettings(Settings):
    """Nothing is limiting by default. Each rule sets aside with its own reason."""

    split: str = Field("train", description="the training split: its pictures alone are used, and stay in it")
    categories: list[str] | None = Field(None, description="pictures must hold one of these, and only these are edited")
    max_objects: int | None = Field(None, ge=0, description="pictures with more boxes are set aside")
    max_categories: int | None = Field(None, ge=0, description="pictures with more distinct categories are set aside")
    exempt: list[str] = Field([], description="categories that do not count in max_objects and max_categories")
    min_box: float = Field(0, ge=0, description="boxes with a shorter side, pixels, are not edited")
    min_box_area: float = Field(0, ge=0, le=1, description="boxes that cover less of the picture are not edited")
    max_box_area: float = Field(1, ge=0, le=1, description="boxes that cover more of the picture are not edited")
    min_picture: int = Field(0, ge=0, description="pictures with a shorter side, pixels, are set aside")
    max_per_category: int | None = Field(
        None, ge=1, description="at most so many pictures of each category; those with rare ones come first"
    )
    require_objects: bool = Field(False, description="set aside pictures without a usable box")

    @field_validator("split")
    @classmethod
    def _train_only(cls, value: str) -> str:
        return training_split(value, "synthetic pictures come")


class CaptionSettings(Settings):
    captioner: str | Choice = Field("template", description="template, blip2, given, or a name with its settings")
    rules: str | dict[str, Any] | None = Field(
        None, description="post-processing: a preset's name (s3), or rules as data (see lib/captioning/rules.py)"
    )
    prompt: str = Field("{caption}", description="painter's prompt; {caption} {label} {width} {height} are filled in")


class BoxScreenSettings(Settings):
    """How lib/screening/verdicts.py decides by a judge's shares; all limits come from real boxes of the data set."""

    judge: str | None = Field(
        None,
        description="a CLIP or a trained classifier that scores which category every painted box shows: "
        "mini:clip, a folder or a hub id; none: off",
    )
    others: list[str] = Field(
        ["background"],
        description="what else a box may show, beside the data set's categories: an empty one is not taken for the "
        "likeliest of them",
    )
    keep: float = Field(
        5, ge=0, le=100, description="a box is kept that scores as this percentile of its category's real boxes; 0: all"
    )
    drop: float = Field(
        1,
        ge=0,
        le=100,
        description="below this percentile, and where another category fits better, its label is dropped; between the "
        "two it is ignored",
    )
    # A 5th percentile of fewer boxes is their minimum.
    least: int = Field(
        20,
        ge=1,
        description="real boxes that a category needs for separate limits, and all categories together for any",
    )
    most: float = Field(
        1, ge=0, le=1, description="no limit is above this share: 1 asks for what real boxes reach, .5 for a majority"
    )
    min_side: float = Field(MIN_SIDE, ge=0, description="boxes with a shorter visible side, pixels, are kept unjudged")
    context: float = Field(CONTEXT, ge=0, description="share of a box's longer side that is shown around it")
    filled: float = Field(
        0,
        ge=0,
        le=50,
        description="a box is ignored whose halves show its category less than those of this percentile of its "
        "category's real boxes, as it is larger than its object; 0: not asked; 2 is a good value, and the judge looks "
        "at five times as many crops",
    )

    @model_validator(mode="after")
    def _ordered(self) -> BoxScreenSettings:
        if self.drop > self.keep:
            raise ValueError(f"drop is {self.drop:g}, keep {self.keep:g}: expected drop to be no more than keep")
        return self


class UnlabelledSettings(Settings):
    """Objects that no label names, which teach a detector that they are background: what another detector finds in what
    was painted, and lies on no label."""

    detector: str | Choice | None = Field(
        None,
        description="transformers, torchvision, zero-shot, or a name with its settings: {name: torchvision, model: "
        "FOLDER}; none: off",
    )
    do: Literal["reject", "propose"] = Field(
        "reject",
        description="reject: the picture is set aside; propose: it stays, and the object gets a label that detectors "
        "ignore (`ignored: proposed`), for review",
    )
    score: float = Field(0.5, ge=0, le=1, description="the detector's score above which an object counts")
    overlap: float = Field(
        0.5,
        ge=0,
        le=1,
        description="an object is labelled where its IoU with a label is more than this, or where more than this share "
        "of it lies in a label that is ignored",
    )
    inside: float = Field(0.5, ge=0, le=1, description="share of the object, at least, that was painted")
    categories: list[str] | None = Field(
        None, min_length=1, description="what is looked for; none: the data set's categories"
    )


class ScreenSettings(Settings):
    black: float = Field(8, ge=0, le=255, description="mean grey at or under which a picture is black")
    blank: float = Field(4, ge=0, description="grey standard deviation at or under which a picture is blank")
    duplicates: bool = Field(True, description="set aside pictures equal to an earlier one or to their source")
    boxes: BoxScreenSettings | None = Field(
        None, description="whether each painted box shows what its label says (`screen.boxes`, below); none: not judged"
    )
    unlabelled: UnlabelledSettings | None = Field(
        None, description="objects that no label names (`screen.unlabelled`, below); none: not looked for"
    )

    @property
    def judge(self) -> str | None:
        """The model that judges boxes; None: boxes are not judged."""
        return self.boxes.judge if self.boxes else None

    @property
    def detector(self) -> Choice | None:
        """What looks for objects that no label names; None: nothing does."""
        chosen = self.unlabelled.detector if self.unlabelled else None
        return Choice(name=chosen) if isinstance(chosen, str) else chosen


class TargetSettings(Settings):
    """What painting goes on for, in rounds. One of `per_category`, `balance`, `advice` and `limit`; `target: balance`,
    `target: limit` and `target: advice.json` are short for these. A box counts where its picture passed screening and
    its label, of an object painted anew, is neither ignored nor dropped; real boxes do not count."""

    per_category: dict[str, Annotated[int, Field(ge=1, le=10_000_000)]] | None = Field(
        None, min_length=1, description="accepted painted boxes to add, by category: {forklift: 500}"
    )
    balance: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the real boxes of the most frequent category that each other one is to reach, its real "
        "and accepted painted boxes together; `target: balance` is 1",
    )
    ratio: float = Field(4, gt=0, description="balance: no category gets more painted boxes than so many per real one")
    advice: Path | None = Field(
        None, description='JSON file, as `augment advise` writes it: {"target": {"per_category": {"forklift": 500}}}'
    )
    limit: bool = Field(
        False, description="as many pictures come out as `limit` says: others replace those that screening set aside"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        """`balance`, `limit` or a file's name, alone or as `name` beside other values."""
        if not isinstance(value, str | dict) or (isinstance(value, dict) and "name" not in value):
            return value
        name, more = (value, {}) if isinstance(value, str) else (value["name"], {**value})
        more.pop("name", None)
        if name in ("balance", "limit"):
            return {name: 1.0 if name == "balance" else True, **more}
        if str(name).lower().endswith(".json"):
            return {"advice": name, **more}
        raise ValueError("balance, limit, the name of a .json file, or per_category: {forklift: 500} was expected")

    @model_validator(mode="after")
    def _one(self) -> TargetSettings:
        given = (self.per_category and not self.advice, self.balance, self.advice, self.limit)
        if sum(map(bool, given)) != 1:
            raise ValueError("expected one of per_category, balance, advice and limit")
        return self


class BudgetSettings(Settings):
    """When painting towards a target ends, reached or not. None: when draws no longer bring accepted boxes."""

    pictures: int | None = Field(None, ge=1, description="pictures painted at most, refused ones included")
    seconds: float | None = Field(
        None,
        gt=0,
        description="seconds of painting and screening, measured between rounds, so that the last round may end a "
        "little later",
    )


class ReviewSettings(Settings):
    pick: Literal["all", "auto", "wait", "sample", "folder", "list"] = Field(
        "all",
        description="who decides on the pictures that screening passed. all: they stay, less what a person rejected "
        "on the page of `augment review`; auto: screening alone, no decision of a person takes part; wait: as all, but "
        "the run waits for a reviewer; sample: as all, and the share of accepted pictures among `sample` random ones "
        "is reported; folder, list: the picked files alone stay",
    )
    path: Path | None = Field(
        None, description="folder: picked files (copies of drawn or plain pictures, names kept); list: a text file"
    )
    undecided: Literal["keep", "reject"] | None = Field(
        None,
        description="all, wait, sample: pictures that nobody has decided on; none: as the last reviewer chose when "
        "submitting, else keep",
    )
    sample: int = Field(100, ge=1, le=1_000_000, description="sample: pictures that a person is to check")
    seconds: float = Field(
        86_400, gt=0, le=31_536_000, description="wait: so long at most; then the run goes on with the decisions so far"
    )

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        """`review: all`, `auto`, `wait` or `sample`, or just the path of a folder or list."""
        if not isinstance(value, str):
            return value
        if value in ("all", "auto", "wait", "sample"):
            return {"pick": value}
        return {"pick": "list" if Path(value).suffix else "folder", "path": value}


class FinaliseSettings(Settings):
    originals: Literal["all", "selected", "none"] = Field("all", description="which source pictures join the final set")
    format: Literal["png", "jpeg"] = Field("png", description="synthetic pictures; jpeg uses the source's own tables")
    yolo: bool = Field(False, description="also write YOLO labels (labels/, classes.txt)")
    s3_pair: bool = Field(False, description="also write selected_ann.json and original_selected_ann.json")


SETS = ("fid", "kid", "overlap", "twins")  # metrics of whole sets
MEASURED = (*SETS, "content")  # the metrics that are measured by default
Sampled = Annotated[
    int,
    Field(ge=2, description="pictures of a side that are measured, at most: of more a random sample, always the same"),
]
SAMPLE = 20_000  # pictures of a side that are measured by default, at most: the larger ones take hours and gigabytes


class EvaluateSettings(Settings):
    extractor: str | None = Field("pixels", description="features for FID and KID: pixels, mini, inception; none: skip")
    metrics: list[str | Choice] = Field(
        [*MEASURED, "background"],
        description="what to measure: names, or names with their settings",
    )
    limit: Sampled = SAMPLE


class CompareSettings(Settings):
    """Every parameter of the flow `evaluate`."""

    real: Path = Field(description="real pictures: a folder, a COCO file beside them, or a run's final folder")
    generated: Path = Field(description="generated pictures, in the same ways; both may be one final folder")
    metrics: list[str | Choice] = Field(
        list(MEASURED), description="what to measure: names, or names with their settings"
    )
    extractor: str = Field("inception", description="features for metrics of sets: inception, mini, pixels")
    boxes: Path | None = Field(None, description="labels of the real pictures, where `real` is a folder of them")
    format: str | None = Field(None, description="of those annotations; none: loco for a CSV, else coco")
    seed: int = Field(0, ge=0, description="of the floor's halvings and KID's subsets")
    limit: Sampled = SAMPLE
    workspace: Place | None = None


class TrainSettings(Settings):
    """Every parameter of the flow `train`."""

    dataset: DatasetSettings
    models: list[str] | None = Field(None, description="trainers in their order; none: those of `models: mini`")
    size: int = Field(128, ge=64, multiple_of=32, description="side of the square windows that models see, pixels")
    detail: float | None = Field(
        None,
        ge=0,
        description="shorter side to which pictures are shrunk, in multiples of size; 0: they keep all pixels; "
        "none: 2, and 0 where `stay` or `classifier` is trained",
    )
    split: str = Field("train", description="the training split: its pictures alone are used")
    settings: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="of each trainer: {vae: {steps: 8000, batch: 32}}"
    )
    start: Path | None = Field(None, description="folder of earlier models to begin from, one folder a trainer's name")
    output: Path | None = Field(None, description="folder for the finished models; none: models in the workspace")
    seed: int = Field(0, ge=0, description="of weights, batches and noise, where `settings` say no other")
    workspace: Place | None = None

    @field_validator("split")
    @classmethod
    def _train_only(cls, value: str) -> str:
        return training_split(value, "models learn")


Models = Literal["full", "mini"]
