"""The parameters of the flow `advise`, and those of the run that it advises.

settings = check_advice(advice_values({"dataset": {...}, "preset": "insert"}))
run_parameters(advice, settings, dataset, workspace)        # what `augment run` takes
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from lib.core.errors import AugmentError, checked, unknown
from lib.core.places import shown
from lib.core.registry import Member
from lib.core.values import Place
from lib.planning.target import paintable
from lib.proof.advice import Advice
from lib.proof.augmentation import Augmentation
from lib.proof.detectors import TRAINABLE
from lib.proof.folds import FoldSettings
from lib.proof.job import Schedule
from lib.proof.settings import ProveSettings
from lib.proof.split import SplitSettings
from lib.records.settings import Choice, DatasetSettings, Settings
from lib.runs.parameters import Parameters, check_parameters, resolve_parameters
from lib.runs.preflight import recipe_without_models

# What a run that paints has of its own, or gets from the advice.
_NOT_PAINT = {
    "dataset",
    "workspace",
    "verify",
    "variants",
    "limit",
    "target",
    "budget",
    "finalise",
    "evaluate",
    "review",
}
_WITH_NEW_OBJECTS = ("insert", "replace", "layout")  # edits that a target of boxes can be set for
_MOST_A_PICTURE = 5  # new objects of one picture
PLAIN = {"preset": "insert"}  # needs no model


class AdviseSettings(Settings):
    """Every parameter of the flow `advise`."""

    dataset: DatasetSettings
    folds: FoldSettings = Field(default_factory=FoldSettings, description="cross-validation and the learning curve")
    split: SplitSettings | None = Field(
        None, description="that of a proof: its training pictures alone take part; none: those of the training split"
    )
    detector: str | Choice = Field("compact", description="a detector to train, or a name with its settings")
    schedule: Schedule = Field(default_factory=Schedule, description="how long and how fast every detector trains")
    augmentation: Augmentation = Field(
        default_factory=Augmentation, description="what is done to every training picture"
    )
    copy_paste: dict[str, Any] = Field(
        PLAIN, description="arm D, copy-paste: parameters of the flow `augment`; {}: it is not tried"
    )
    paint: dict[str, Any] = Field(PLAIN, description="how the advised run paints: parameters of the flow `augment`")
    quick: bool = Field(False, description="a look in minutes: two folds, few pictures and steps, no copy-paste")
    workers: int | None = Field(None, ge=1, description="trainings at once, each with one thread; none: one a core")
    trainings: Path | None = Field(None, description="folder of finished trainings; none: in the workspace")
    workspace: Place | None = None

    @property
    def member(self) -> Member:
        """The detector with its settings checked."""
        chosen = self.detector if isinstance(self.detector, Choice) else Choice(name=self.detector)
        return TRAINABLE.member(chosen.name or "compact", chosen.values)


def advice_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of `advise` from those of `augment` or `prove`. Raises AugmentError for one that none of them has.

    What paints stands in `paint` from then on, without models that a proof would train first.
    """
    own = AdviseSettings.model_fields
    known = {*own, *ProveSettings.model_fields, *Parameters.model_fields}
    if strange := [name for name in values if name not in known]:
        raise unknown("parameter", strange[0], known)
    given = {name: value for name, value in values.items() if name in Parameters.model_fields and name not in own}
    if isinstance(given.get("models"), Mapping):  # what a proof trains
        del given["models"]
    for name in ("paint", "copy_paste"):
        if not isinstance(values.get(name, {}), Mapping | None):
            raise AugmentError(f"parameter {name!r}: expected parameters of `augment run`, got {values[name]!r}")
    paint = _painting({**(values.get("paint") or {}), **given})
    if "{models}" in json.dumps(paint.get("screen"), default=str):
        del paint["screen"]
    if not paint or "{models}" in json.dumps(paint, default=str):
        paint = dict(PLAIN)
    found = {name: value for name, value in values.items() if name in own} | {"paint": paint}
    if "copy_paste" in found:
        found["copy_paste"] = found["copy_paste"] or {}
    return found


def _painting(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in _NOT_PAINT}


QUICK: dict[str, dict[str, int]] = {
    "folds": {"count": 2, "curve": 2, "pictures": 60, "fitted": 30},
    "schedule": {"steps": 80, "warmup": 10},
}


def check_advice(values: Mapping[str, Any]) -> AdviseSettings:
    """Parameters of the flow `advise` from plain values; raises AugmentError that names the wrong one."""
    settings = checked(AdviseSettings, values)
    settings = settings.model_copy(update={"schedule": settings.schedule.of(settings.member)})
    if settings.quick:
        lower = {
            name: {key: min(getattr(getattr(settings, name), key), value) for key, value in limits.items()}
            for name, limits in QUICK.items()
        }
        settings = settings.model_copy(
            update={name: getattr(settings, name).model_copy(update=lower[name]) for name in lower} | {"copy_paste": {}}
        )
    for name in ("paint", "copy_paste"):
        try:
            resolve_parameters(_with(settings, getattr(settings, name)), Path())
        except AugmentError as error:
            raise AugmentError(f"{name}: {error}") from None
    return settings


def _with(settings: AdviseSettings, given: Mapping[str, Any], **more: Any) -> Parameters:
    return check_parameters({**given, "dataset": settings.dataset.model_dump(mode="json"), **more})


def copy_parameters(settings: AdviseSettings, dataset: DatasetSettings, workspace: Path) -> Parameters:
    """Of the run that makes arm D's pictures from a fold's training pictures."""
    own = {"screen": {}, "finalise": {"originals": "none"}, "evaluate": {"extractor": None, "metrics": []}}
    values = {**_painting(settings.copy_paste), **own, "workspace": workspace}
    return check_parameters({**values, "dataset": dataset.model_dump(mode="json")})


def run_parameters(
    advice: Advice, settings: AdviseSettings, dataset: DatasetSettings, pictures: int, workspace: Path
) -> dict[str, Any]:
    """Plain parameters of the advised run. dataset: of `pictures` real ones; workspace: of that run.

    Where copy-paste is advised instead, a run of it; else `paint`, with the advised target where its edit can have one,
    and where not, inserted objects.
    """
    where = {"dataset": _plain(dataset), "workspace": shown(workspace)}
    if advice.instead == "D":
        return {**where, **_painting(settings.copy_paste or PLAIN)}
    paint = _painting(settings.paint)
    target = _painted(advice, settings, paint)
    if not target:
        paint, target = dict(PLAIN), advice.target["per_category"]
    edit = resolve_parameters(_with(settings, paint), Path()).edit.name
    if edit == "insert":
        given = paint.get("edit") or {}
        given = {"name": given} if isinstance(given, str) else dict(given)
        total = sum(one.new_boxes for one in advice.classes)
        count = min(_MOST_A_PICTURE, max(1, round(total / (advice.ratio * pictures))))
        found = next((one.settings for one in advice.edits if one.edit == "insert" and one.settings), {})
        paint["edit"] = {"name": "insert", "count": count, **found, **given}
    return {**where, **paint, "target": {"per_category": target}}


def _painted(advice: Advice, settings: AdviseSettings, paint: Mapping[str, Any]) -> dict[str, int]:
    """New boxes of the advised classes that a run paints, as its edit and its selection have it."""
    resolved = resolve_parameters(_with(settings, paint), Path())
    if resolved.edit.name not in _WITH_NEW_OBJECTS:
        return {}
    real = {one.name: one.boxes for one in advice.classes}
    able = paintable(recipe_without_models(resolved), real, resolved.select.categories)
    return {one.name: one.new_boxes for one in advice.classes if one.name in able}


def _plain(dataset: DatasetSettings) -> dict[str, Any]:
    values = dataset.model_dump(mode="json", exclude_defaults=True)
    places = {name: getattr(dataset, name) for name in ("images", "annotations")}
    return values | {name: shown(place.absolute()) for name, place in places.items() if place is not None}


def run_yaml(advice: Advice, parameters: Mapping[str, Any]) -> str:
    """Them as a YAML file, the advice in its first lines."""
    lines = [advice.sentence, *(["What would be painted all the same:"] if advice.answer == "no" else [])]
    if advice.instead == "D":
        lines = [advice.sentence, "That is this run:"]
    lines += [f"Fits as well, with a model that paints it: {one}" for one in _others(advice, parameters)]
    if left := [one for one in advice.classes if one.name not in parameters.get("target", {}).get("per_category", {})]:
        names = ", ".join(f"{one.name} ({one.new_boxes})" for one in left)
        lines += [f"Left out, as the given edit or selection does not paint them: {names}"] * (advice.instead != "D")
    head = "".join(f"# {line}\n" for line in lines)
    return head + yaml.safe_dump(dict(parameters), sort_keys=False, allow_unicode=True, width=100)


def _others(advice: Advice, parameters: Mapping[str, Any]) -> list[str]:
    """Edits that fit and that the run does not have."""
    chosen = parameters.get("edit")
    own = chosen.get("name") if isinstance(chosen, Mapping) else chosen
    return list(
        dict.fromkeys(one.edit for one in advice.edits if one.fits and one.edit != own and one.edit != "insert")
    )
