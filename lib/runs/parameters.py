"""Presets: a name for a triple edit × painter × composite and its values, and how a run's parameters are resolved.

To add one: an entry in PRESETS; `replaces` names the system that it can replace. Explicit values override
a preset; a bare name means that member with its defaults.
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, model_validator

from lib.captioning.captioners import CAPTIONERS
from lib.core.documents import read_json
from lib.core.errors import AugmentError, checked, unknown
from lib.core.registry import Family
from lib.core.values import Place
from lib.painting.composites import COMPOSITES
from lib.painting.painters import PAINTERS
from lib.planning.edits import EDITS
from lib.planning.recipe import check_triple
from lib.records.engine_settings import EngineSettings
from lib.records.settings import (
    BoxScreenSettings,
    BudgetSettings,
    CaptionSettings,
    Choice,
    DatasetSettings,
    EvaluateSettings,
    FinaliseSettings,
    Models,
    ReviewSettings,
    ScreenSettings,
    SelectSettings,
    Settings,
    TargetSettings,
    UnlabelledSettings,
)
from lib.runs.presets import PRESETS

M = TypeVar("M", bound=BaseModel)


class Parameters(Settings):
    """Every parameter of the flow, as given: what is not set is taken from the preset, then from the defaults."""

    dataset: DatasetSettings
    select: SelectSettings = Field(default_factory=SelectSettings)
    preset: str = "copy-paste"
    caption: CaptionSettings = Field(default_factory=CaptionSettings)
    edit: str | Choice | None = None
    painter: str | Choice | None = None
    composite: str | Choice | None = None
    models: Models = "full"
    variants: int = Field(1, ge=1, le=1000)
    screen: ScreenSettings = Field(default_factory=ScreenSettings)
    review: ReviewSettings = Field(default_factory=ReviewSettings)
    finalise: FinaliseSettings = Field(default_factory=FinaliseSettings)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    seed: int = 0
    limit: int | None = Field(
        None,
        ge=1,
        description="pictures that are to be painted from, taken in the order of their hashes; one for which no box "
        "can be painted does not count, and the next one takes its place. A run that finds fewer ends with exit code 3",
    )
    target: TargetSettings | None = Field(
        None,
        description="painting goes on in rounds, with new draws where screening refuses pictures or boxes, until so "
        "many painted boxes of each category are accepted, or `budget` is spent. A run that accepts fewer ends with "
        "exit code 3",
    )
    budget: BudgetSettings = Field(default_factory=BudgetSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    workspace: Place | None = None
    verify: bool = False

    @model_validator(mode="after")
    def _with_target(self) -> Parameters:
        """What a target decides, or needs."""
        if self.target is None and self.budget != BudgetSettings():
            raise ValueError("budget says when painting towards a target ends: set `target`, or leave budget out")
        if self.target is not None and self.variants != 1:
            raise ValueError(
                f"variants is {self.variants}: with a target there are as many of each source as it needs; leave "
                "variants out"
            )
        if self.target is not None and self.target.limit and self.limit is None:
            raise ValueError("target is limit, and there is none: set `limit` to the number of pictures to come out")
        return self


class Resolved(Settings):
    """Parameters with the preset merged in: what is saved with the run."""

    dataset: DatasetSettings
    select: SelectSettings
    preset: str
    caption: CaptionSettings
    captioner: Choice
    edit: Choice
    painter: Choice
    composite: Choice
    models: Models
    variants: int
    screen: ScreenSettings
    review: ReviewSettings
    finalise: FinaliseSettings
    evaluate: EvaluateSettings
    seed: int
    limit: int | None
    target: TargetSettings | None = None  # defaults for the settings that former versions saved
    budget: BudgetSettings = Field(default_factory=BudgetSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    workspace: Place


def check_parameters(values: dict[str, Any]) -> Parameters:
    """Parameters from plain values; raises AugmentError that names the wrong one and the known ones."""
    return checked(Parameters, values)


def preset_of(name: str) -> dict[str, Any]:
    """The values of a preset; raises AugmentError that lists the known ones."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    return PRESETS[name]


def resolve_parameters(given: Parameters, workspace: Path) -> Resolved:
    """Preset and explicit values, merged. workspace: used where none is set.

    Raises AugmentError for an unknown name, and for members that do not go together.
    """
    preset = preset_of(given.preset)
    edit, painter = _choice(preset["edit"], given.edit), _choice(preset["painter"], given.painter)
    if given.models == "mini":
        painter = _for_mini(PAINTERS, painter, given.painter)
    composite = _choice(preset["composite"], given.composite)
    check_triple(edit.name, painter.name, composite.name)
    merged = {
        "select": _merged(SelectSettings, preset.get("select", {}), given.select),
        "caption": _merged(CaptionSettings, preset.get("caption", {}), given.caption),
        "captioner": _captioner(preset, given.caption, given.models),
        "edit": edit,
        "painter": painter,
        "composite": composite,
        "target": _target(given.target),
        "workspace": given.workspace or workspace,
    }
    return Resolved(**{name: getattr(given, name) for name in Resolved.model_fields if name not in merged}, **merged)


def _target(given: TargetSettings | None) -> TargetSettings | None:
    """The target, with the numbers of its advice file; raises AugmentError where that has none."""
    if given is None or given.advice is None:
        return given
    expected = 'a file of `augment advise`, {"target": {"per_category": {"forklift": 500}}}'
    try:
        advised = read_json(given.advice, expected).get("target")
        if not isinstance(advised, dict) or not isinstance(advised.get("per_category"), dict):
            raise AugmentError(f"target.advice {given.advice} has no target.per_category: expected {expected}")
        return TargetSettings(advice=given.advice, per_category=advised["per_category"])
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"]))
        raise AugmentError(
            f"target.advice {given.advice}: target.{place}: {fault['msg']} (got {fault['input']!r:.100}): expected "
            f"{expected}"
        ) from None


def _merged(model: type[M], preset: dict[str, Any], explicit: M) -> M:
    return model.model_validate({**preset, **explicit.model_dump(exclude_unset=True)})


def _choice(preset: dict[str, Any] | None, explicit: str | dict[str, Any] | Choice | None) -> Choice:
    """The explicit member; one without a name takes the preset's name, and of the same name adds to its values."""
    if explicit is None:
        return Choice(**(preset or {}))
    if isinstance(explicit, str):
        return Choice(name=explicit)
    if isinstance(explicit, dict):
        explicit = Choice(**explicit)
    if preset and explicit.name in ("", preset["name"]):
        return Choice(**{**preset, **explicit.values})
    if not explicit.name:
        raise AugmentError(f"values {explicit.values} without a name: say which member they are for")
    return explicit


def _captioner(preset: dict[str, Any], explicit: CaptionSettings, models: Models) -> Choice:
    """As `_choice`, where a preset need not name one."""
    base = _choice(None, preset.get("caption", {}).get("captioner", CaptionSettings().captioner))
    captioner = explicit.captioner if "captioner" in explicit.model_fields_set else None
    chosen = _choice(base.model_dump(), captioner)
    return _for_mini(CAPTIONERS, chosen, captioner) if models == "mini" else chosen


def _for_mini(family: Family, chosen: Choice, explicit: str | Choice | None) -> Choice:
    """The values that the mini model was made for, unless given: a preset's values are for published models."""
    given = explicit.values if isinstance(explicit, Choice) else {}
    return Choice(**{"name": chosen.name, **chosen.values, **getattr(family[chosen.name], "MINI", {}), **given})


def parameters_markdown() -> str:
    """docs/parameters.md: every parameter and every member's settings, from the code that reads them."""
    text = _INTRODUCTION
    for name in ("limit", "target"):
        described = Parameters.model_fields[name].description or ""
        indent = " " * len(f"`{name}`: ")
        text = text.replace(name.upper(), textwrap.fill(described, 119, initial_indent=indent).strip())
    parts = [text]
    parts += [_table(f"`{name}`", model) for name, model in _groups().items()]
    for family in (EDITS, PAINTERS, COMPOSITES, CAPTIONERS):
        parts += [_table(f"{family.kind} `{name}`", family[name].Settings) for name in family]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """# Parameters

Made from the code by `.venv/bin/python -m lib.runs.parameters > docs/parameters.md`; a test holds the two together.

Each heading is one parameter of the flow: `--set select.max_objects=6` on the command line, a mapping in a YAML file,
`--param 'select={"max_objects": 6}'` in Prefect. `edit`, `painter`, `composite` and `caption.captioner` take a name, or
a name with that member's settings: `painter: {name: gligen, steps: 30}`. Explicit values override the preset's.

Plain ones: `preset` (copy-paste), `models` (full, or mini: the small ones in data/models), `variants` (1: pictures made
from each source), `seed` (0), `limit` (none: all), `workspace` (data/runs/NAME), `verify` (false; true: all source
pictures and all files of the store and the final set are read again, digests compared).

`limit`: LIMIT.

`target`: TARGET.

Everywhere, texts are UTF-8 without NUL, numbers finite and of at most 64 bits, paths not empty and no longer than 2000
bytes, 255 in each part. Anything else is refused by the parameter's name before a run starts."""


def _groups() -> dict[str, type[BaseModel]]:
    """Parameters that are mappings, by name, in their order."""
    groups = {}
    for name, field in Parameters.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            groups[name] = field.annotation
        if name == "screen":
            groups |= {"screen.boxes": BoxScreenSettings, "screen.unlabelled": UnlabelledSettings}
        if name == "limit":
            groups["target"] = TargetSettings
    return groups


def _table(title: str, model: type[BaseModel]) -> str:
    if not model.model_fields:
        return f"## {title}\n\nNo settings."
    lines = [f"## {title}", "", "| name | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        default = "required" if field.is_required() else f"`{field.get_default(call_default_factory=True)}`"
        lines.append(f"| `{name}` | {default} | {(field.description or '').replace('|', '/')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(parameters_markdown(), end="")
