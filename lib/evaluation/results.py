"""The result of an evaluation: one type, which the report, the tasks and the command line read, and its JSON file.

    result = read_result(Path("metrics.json"))      # raises AugmentError for anything else
    result.numbers["kid"], result.floor, result.details["regions"].by_category
    write_json(result.document(), Path("metrics.json"))
    print(summary(result))

In the file each number stands under its own name beside the rest, as do a metric's details under the metric's name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lib.core.errors import AugmentError
from lib.core.files import atomic_write
from lib.evaluation.boxes import BoxFigures
from lib.evaluation.metrics import METRICS, Details, Number, numbers_of
from lib.evaluation.metrics.sets import Floor, Spread
from lib.evaluation.verdict import Verdict, verdict_of

Value = float | list[float] | None  # a number, an interval, or one that is not finite

_OPTIONAL = ("floor_reason", "note")  # of FeatureSets: left out of the file where they are None


class FeatureSets(Details):
    """What metrics of sets were computed on: features, their extractor and the floor."""

    extractor: str  # its name
    floor: Floor | None  # None: nothing that was measured has one, or there are too few pictures
    biased: bool  # no more pictures than dimensions: FID is too high
    floor_reason: str | None = None  # why there is no floor, where a metric has one
    note: str | None = None
    features: str  # identity of the extractor
    resize: str  # its rule
    dimensions: int
    seed: int


class Row(BaseModel):
    """Numbers of one pair, group or picture. In JSON they stand beside the other fields."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    __pydantic_extra__: dict[str, float | None] = Field(init=False)

    @property
    def numbers(self) -> Mapping[str, float | None]:
        return self.__pydantic_extra__


class PairRow(Row):
    """A picture beside its source."""

    picture: str  # path
    source: str  # path


class GroupRow(Row):
    """The pictures made from one source."""

    source: str  # path
    pictures: int


class PictureRow(Row):
    """A picture by itself."""

    set: Literal["real", "generated"]
    picture: str  # path


class Box(Details):
    """A generated picture's box, as a judge sees it."""

    picture: str  # path
    size: list[int] = Field(
        [0, 0], min_length=2, max_length=2
    )  # width and height that the box was drawn in; 0: not known
    box: list[float]  # xyxy pixels
    label: str
    said: str  # category that the judge ranks first
    share: float  # of its label, 0 .. 1


class Failure(Details):
    """A metric that gave no number for a picture."""

    picture: str  # path
    reason: str


class UnreadablePicture(Details):
    set: Literal["real", "generated"]
    picture: str  # path, or its name where that leads outside
    reason: str
    detail: str


class UnreadablePictures(Details):
    count: int
    pictures: list[UnreadablePicture]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, str]]) -> UnreadablePictures:
        return cls.model_validate({"count": len(rows), "pictures": list(rows)})

    def summary(self) -> list[str]:
        """A line for a person, where there are any."""
        if not self.count:
            return []
        return [f"{self.count} unreadable, the first {self.pictures[0].picture}: {self.pictures[0].reason}"]


class Pairs(Details):
    count: int
    pictures: list[PairRow]


class Groups(Details):
    count: int
    sources: list[GroupRow]


class Evaluation(BaseModel):
    """The result of `lib.evaluation.evaluate.evaluate`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    numbers: dict[str, Value]  # by name, in the order of the metrics' family
    about: dict[str, str]  # explanation of each number
    details: dict[str, Any] = {}  # by metric, of its type MORE
    n_real: int  # pictures that could be read
    n_generated: int
    sampled_from: dict[str, int] | None = None  # where a sample was measured, pictures of each side: real, generated
    features: FeatureSets | None = None  # where sets were measured
    pairs: Pairs | None = None  # where pairs were
    groups: Groups | None = None  # where groups were
    pictures: list[PictureRow] | None = None  # where single pictures were
    boxes: list[Box] | None = None  # in the same case
    labels: BoxFigures | None = None  # where both sides have boxes
    left_out: dict[str, str] = {}  # metric → why it had nothing to work on
    failed: list[Failure] = []
    unreadable: UnreadablePictures = UnreadablePictures(count=0, pictures=[])

    @property
    def floor(self) -> Floor | None:
        return self.features.floor if self.features else None

    @property
    def biased(self) -> bool:
        """Are there too few pictures for FID?"""
        return self.features is not None and self.features.biased

    @cached_property
    def known(self) -> dict[str, tuple[Number, Value]]:
        """Name → (how it is shown, value) of each number."""
        known = numbers_of()
        return {name: (known[name][1], self.numbers[name]) for name in known if name in self.numbers}

    @cached_property
    def verdict(self) -> Verdict:
        """By the rules of verdict.py; never read from a file, so that an old result is judged as a new one."""
        return verdict_of(self)

    @property
    def sizes(self) -> str:
        """How many pictures were measured, in words."""
        counts = {"real": self.n_real, "generated": self.n_generated}
        if self.sampled_from is None:
            return ", ".join(f"{count} {side}" for side, count in counts.items())
        parts = (f"{count:,} of {self.sampled_from[side]:,} {side}" for side, count in counts.items())
        return f"a random sample: {', '.join(parts)}"

    def kind_of(self, number: str) -> str:
        """sets, pairs, groups or pictures."""
        return str(METRICS[numbers_of()[number][0]].OF)

    def of_kind(self, kind: str) -> dict[str, Value]:
        """The numbers of sets, pairs, groups or pictures."""
        names = numbers_of([name for name in METRICS if kind == METRICS[name].OF])
        return {name: value for name, value in self.numbers.items() if name in names}

    def singles(self, number: str) -> list[Row]:
        """Items with a value of that number: pictures beside their sources, generated pictures, sources of groups."""
        generated = [one for one in self.pictures or () if one.set == "generated"]
        rows: list[Row] = [*(self.pairs.pictures if self.pairs else ()), *generated]
        rows += self.groups.sources if self.groups else ()
        return [row for row in rows if row.numbers.get(number) is not None]

    def document(self) -> dict[str, Any]:
        """As metrics.json has it; JSON-safe."""
        fields: dict[str, Any] = self.of_kind("sets")
        counts = {"n_real": self.n_real, "n_generated": self.n_generated}
        if self.features is not None:
            values = self.features.model_dump()
            fields |= counts | {name: v for name, v in values.items() if v is not None or name not in _OPTIONAL}
        for name, part in (("pairs", self.pairs), ("groups", self.groups)):
            if part is not None:
                fields |= {**self.of_kind(name), name: part.model_dump()}
        for name in (name for name in METRICS if METRICS[name].OF == "pictures"):
            fields |= {number: self.numbers[number] for number in numbers_of([name]) if number in self.numbers}
            fields |= {name: self.details[name].model_dump()} if name in self.details else {}
        if self.pictures is not None:
            fields |= {"pictures": [row.model_dump() for row in self.pictures]}
            fields |= {"boxes": [box.model_dump() for box in self.boxes or ()]}
        fields |= counts | {"left_out": self.left_out, "about": self.about}
        fields |= {"failed": [one.model_dump() for one in self.failed], "unreadable": self.unreadable.model_dump()}
        fields |= {"labels": self.labels.model_dump()} if self.labels is not None else {}
        fields |= {"sampled_from": self.sampled_from} if self.sampled_from is not None else {}
        fields |= {"verdict": self.verdict.model_dump()}
        safe: dict[str, Any] = json_safe(fields)
        return safe

    @classmethod
    def parse(cls, document: Any) -> Evaluation:
        """Of `document()`; raises ValueError, a sentence, for anything else."""
        if not isinstance(document, dict) or not isinstance(document.get("about"), dict):
            raise ValueError("it has no `about`")
        rest, known = dict(document), numbers_of()
        rest.pop("verdict", None)
        if mixed := rest.keys() & {"numbers", "details"}:
            raise ValueError(f"{', '.join(sorted(mixed))}: not known")
        if strange := [name for name in rest["about"] if name not in known or name not in rest]:
            raise ValueError(f"`about` explains {', '.join(strange)}, a number that it lacks or that no metric gives")
        numbers = {name: rest.pop(name) for name in known if name in rest["about"]}
        try:
            details = {name: metric.MORE.model_validate(rest.pop(name)) for name, metric in _detailed(rest)}
            features = {name: rest.pop(name) for name in FeatureSets.model_fields if name in rest}
            about = {name: rest["about"][name] for name in numbers}
            parts = {"numbers": numbers, "details": details, "features": features or None, "about": about}
            return cls.model_validate(rest | parts)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg'].lower()}") from None


def _detailed(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Metrics with details that stand in a document."""
    return [(name, METRICS[name]) for name in METRICS if METRICS[name].MORE is not None and name in document]


def read_result(path: Path) -> Evaluation:
    """What `augment evaluate --json` wrote; raises AugmentError for anything else."""
    try:
        return Evaluation.parse(json.loads(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise AugmentError(f"{path} is not a result of `augment evaluate --json`: {error}") from None


def write_json(document: Any, path: Path) -> None:
    """Write JSON by rename; a number that JSON does not have (NaN, infinity) becomes null."""
    text = json.dumps(json_safe(document), indent=2, ensure_ascii=False, allow_nan=False)
    # A name that is not valid Unicode has halves of characters: JSON's own \udcff, which reads as the same name.
    atomic_write(path, text.encode(errors="backslashreplace") + b"\n")


def json_safe(value: Any) -> Any:
    """The same with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def summary(result: Evaluation) -> str:
    """A few lines for a person: the scores, the floor beside them, and the remarks. KID first where FID is biased."""
    lines = [*result.verdict.lines(), ""]
    if result.features is not None:
        lines += _of_sets(result)
    elif result.sampled_from is not None:
        lines.append(f"{result.sizes} pictures")
    if result.pairs is not None:
        lines.append(f"{result.pairs.count} pictures beside their sources")
    if result.groups is not None:
        lines.append(f"{result.groups.count} sources with several pictures made from each")
    lines += _of_singles(result)
    lines += [
        f"{name:<16}{_number(result.numbers[name], 10)}"
        for name in result.of_kind("pictures")
        if result.known[name][0].brief
    ]
    lines += [line for name, details in result.details.items() for line in METRICS[name].summary(details)]
    lines += [f"{name} left out: {why}" for name, why in result.left_out.items()]
    if result.failed:
        first = f"{Path(result.failed[0].picture).name}: {result.failed[0].reason}"
        lines.append(f"{len(result.failed)} measurement{'s' * (len(result.failed) != 1)} failed, the first {first}")
    lines += result.unreadable.summary()
    return "\n".join(lines).encode(errors="backslashreplace").decode()  # file names may not be valid Unicode


def _of_sets(result: Evaluation) -> list[str]:
    assert result.features is not None
    floor = result.floor
    known = {name: result.known[name][0] for name in result.of_kind("sets") if result.known[name][0].brief}
    scores = sorted((name for name in known if known[name].floor), key=lambda n: result.biased and known[n].biased)
    beside = f" {'at ' + str(floor.m):>12}   real against real at {floor.m}" if floor else ""
    lines = [f"{result.sizes} pictures; features: {result.features.extractor}"]
    lines += [f"          {'score':>12}{beside}"] if scores else []
    for name in scores:
        at_m = floor.beside(name) if floor else None
        text = f" {_number(at_m[0], 12)}   {plus_minus(at_m[1])}" if at_m else ""
        lines.append(f"{known[name].title or name:<10}{shown(known[name], result.numbers[name]):>12}{text}")
    for name in (name for name in known if name not in scores):
        value, title = result.numbers[name], known[name].title or name
        if isinstance(value, list):
            lines.append(f"{'':10}{_number(value[0], 12)} to {_number(value[1])}: {title}")
        else:
            lines.append(f"{title:<10}{_number(value, 12)}")
    return lines + [text for text in (result.features.note, result.features.floor_reason) if text]


def _of_singles(result: Evaluation) -> list[str]:
    """Numbers of pairs and groups, with the range of the single ones."""
    lines = []
    for name in result.of_kind("pairs") | result.of_kind("groups"):
        values = [value for row in result.singles(name) if (value := row.numbers[name]) is not None]
        if values and result.known[name][0].brief:
            among = f"{_number(min(values))} to {_number(max(values))}, of {len(values)}"
            lines.append(f"{name:<16}{_number(result.numbers[name], 10)}   {among}")
    return lines


def plus_minus(spread: Spread) -> str:
    return f"{_number(spread.mean)} ± {'–' if spread.std is None else f'{spread.std:.2g}'}"


def shown(number: Number, value: Value) -> str:
    """A number for a person: an estimate that came out below its own zero is told as that."""
    if number.from_zero and isinstance(value, float) and value < 0:
        return f"≈ 0 (−{-value:.2g})"
    return _number(value).strip()


def _number(value: Value, width: int = 0) -> str:
    return f"{value:{width}.4g}" if isinstance(value, float | int) else f"{'–':>{width}}"
