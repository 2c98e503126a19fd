"""The parameters of the flow `prove`, as small typed values.

settings = check_proof({"dataset": {...}, "paint": {"preset": "insert"}})
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from lib.core.errors import AugmentError, checked, unknown
from lib.core.registry import Member
from lib.core.values import Place
from lib.proof.arms import ARMS
from lib.proof.augmentation import Augmentation
from lib.proof.detectors import TRAINABLE
from lib.proof.job import Schedule
from lib.proof.split import SplitSettings
from lib.proof.statistics import Contrast, arm_of
from lib.records.settings import Choice, DatasetSettings, Settings
from lib.runs.parameters import Parameters, check_parameters, resolve_parameters
from lib.runs.preflight import recipe_without_models
from lib.training.train import check_training

# What `prove` sets itself for a run that paints, and for one that trains what paints or judges.
_OWN = dict.fromkeys(("dataset", "workspace", "finalise", "evaluate", "review"), "")
_OWN["screen"] = ", by `screen` for arm F"
_OWN_OF_MODELS = ("dataset", "workspace", "output")
CONTRASTS = ["T > B, C, D", "F > A", "F > D", "F > G"]
CHECKS = ["A > X", "Y > A"]


class ProveSettings(Settings):
    """Every parameter of the flow `prove`."""

    dataset: DatasetSettings
    split: SplitSettings = Field(default_factory=SplitSettings, description="training and test pictures")
    detector: str | Choice = Field("compact", description="a detector to train, or a name with its settings")
    schedule: Schedule = Field(default_factory=Schedule, description="how long and how fast every arm trains")
    augmentation: Augmentation = Field(
        default_factory=Augmentation, description="what is done to every training picture of every arm"
    )
    arms: list[str] = Field(list("ABCDEFGHXY"), description="what detectors learn from: letters, see docs/proof.md")
    ratios: list[float] = Field([1.0], description="synthetic pictures per real one")
    fade: float = Field(
        0,
        ge=0,
        le=1,
        description="by which share synthetic pictures become rarer from the first step to the last, in every arm that "
        "has any; 1: the last steps see real ones alone",
    )
    seeds: int = Field(8, ge=1, le=100, description="trainings of each arm and ratio, from seed 0 on")
    models: dict[str, Any] | None = Field(
        None,
        description="models trained on the real training pictures alone before anything is painted: parameters of the "
        "flow `train`; {models} stands for their folder in `paint` and `screen`",
    )
    copy_paste: dict[str, Any] = Field(
        {"preset": "insert"}, description="arm D, the free baseline: parameters of the flow `augment`"
    )
    paint: dict[str, Any] = Field(
        {"preset": "insert"}, description="the synthetic pictures of arm E: parameters of the flow `augment`"
    )
    screen: dict[str, Any] = Field(
        default_factory=dict, description="how they are screened for F: the parameter `screen` of the flow `augment`"
    )
    targeted: dict[str, Any] = Field(
        default_factory=dict,
        description="what differs in the run for T: parameters of the flow `augment` beside `paint`",
    )
    contrasts: list[str] = Field(
        CONTRASTS,
        description="claims that are tested together; those of arms that do not run are left out",
    )
    workers: int | None = Field(None, ge=1, description="trainings at once, each with one thread; none: one a core")
    trainings: Path | None = Field(
        None, description="folder of finished trainings, which several proofs may share; none: in the workspace"
    )
    workspace: Place | None = None

    @field_validator("arms")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in ARMS:
                raise ValueError(f"arm {name!r} is not known: expected of {', '.join(ARMS)}")
        if "A" not in value:
            raise ValueError("arm A, the real pictures, is what all others are held against: add it")
        return sorted(set(value), key=list(ARMS).index)

    @field_validator("ratios")
    @classmethod
    def _positive(cls, value: list[float]) -> list[float]:
        if not value or min(value) <= 0 or max(value) > 100:
            raise ValueError(f"ratios {value}: expected numbers above 0, at most 100")
        return sorted(set(value))

    @property
    def member(self) -> Member:
        """The detector with its settings checked."""
        chosen = self.detector if isinstance(self.detector, Choice) else Choice(name=self.detector)
        return TRAINABLE.member(chosen.name or "compact", chosen.values)

    def claims(self) -> list[Contrast]:
        """The contrasts, and the protocol's own checks, whose arms all run."""
        found = dict.fromkeys(Contrast.of(text) for text in [*self.contrasts, *CHECKS])
        return [one for one in found if {arm_of(name)[0] for name in one.names} <= set(self.arms)]

    def cells(self) -> list[tuple[str, float]]:
        """(arm, ratio) of every row of the table; arms without synthetic pictures have the ratio 0."""
        return [(arm, ratio) for arm in self.arms for ratio in (self.ratios if ARMS[arm].graded else [0.0])]

    def pools(self) -> set[str]:
        """Names of the pools that the arms need."""
        return {pool for arm in self.arms for pool in ARMS[arm].pools()}

    def pool_runs(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Pool → name of the run that paints it, and that run's parameters.

        A target says itself how many there are of each picture, so a run with one has no `variants`.
        """
        aimed = "target" in self.targeted
        paint = {name: value for name, value in self.paint.items() if not (aimed and name == "variants")}
        runs: dict[str, tuple[str, dict[str, Any]]] = {
            "copy": ("copy-paste", {**self.copy_paste, "screen": {}}),
            "all": ("paint", {**self.paint, "screen": {}}),
            "screened": ("paint", {**self.paint, "screen": self.screen}),
            "targeted": ("targeted", {**paint, **self.targeted, "screen": self.screen}),
        }
        variants = {"variants": math.ceil(max(self.ratios))}
        return {pool: (run, given if "target" in given else variants | given) for pool, (run, given) in runs.items()}

    def painting(self, given: dict[str, Any], dataset: DatasetSettings, root: Path, **more: Any) -> Parameters:
        """Parameters of a run that paints from the real training pictures into a workspace of its own."""
        models = str(root / "models")
        values, more = _filled(given, models), _filled(more, models)
        own = {"finalise": {"originals": "none"}, "evaluate": {"extractor": None, "metrics": []}}
        return check_parameters({**values, **own, **more, "dataset": dataset.model_dump(mode="json")})


def _filled(value: Any, models: str) -> Any:
    if isinstance(value, str):
        return value.replace("{models}", models)
    if isinstance(value, dict):
        return {name: _filled(one, models) for name, one in value.items()}
    return [_filled(one, models) for one in value] if isinstance(value, list) else value


QUICK: dict[str, Any] = {
    "seeds": 2,
    "ratios": [1.0],
    "arms": list("ABCDEFGX"),
    "split": {"train": 24, "test": 40},
    "schedule": {"steps": 60, "warmup": 10},
}


def check_proof(values: dict[str, Any]) -> ProveSettings:
    """Parameters of the flow `prove` from plain values; raises AugmentError that names the wrong one."""
    settings = checked(ProveSettings, values)
    settings = settings.model_copy(update={"schedule": settings.schedule.of(settings.member)})
    for claim in settings.claims():
        for arm, ratio in map(arm_of, claim.names):
            if ratio is not None and not ARMS[arm].graded:
                raise AugmentError(f"contrast {str(claim)!r}: arm {arm} has no ratios: write {arm}")
            if ratio is not None and ratio not in settings.ratios:
                raise AugmentError(
                    f"contrast {str(claim)!r}: {arm} has no ratio {ratio:g}; `ratios` are {settings.ratios}"
                )
    for name in ("paint", "copy_paste", "targeted"):
        given = getattr(settings, name)
        for own, how in _OWN.items():
            if own in given:
                raise AugmentError(f"{name}.{own} is set by the proof itself{how}: leave it out")
        for one in given:
            if one not in Parameters.model_fields:
                raise unknown(f"parameter of {name}", one, Parameters.model_fields)
    for own in _OWN_OF_MODELS:
        if own in (settings.models or {}):
            raise AugmentError(f"models.{own} is set by the proof itself: leave it out")
    if settings.models is not None:
        try:
            check_training({**settings.models, "dataset": settings.dataset})
        except AugmentError as error:
            raise AugmentError(f"models: {error}") from None
    names = {"copy": "copy_paste", "all": "paint", "screened": "screen", "targeted": "targeted"}
    for pool, (_, given) in settings.pool_runs().items():
        try:
            recipe_without_models(resolve_parameters(settings.painting(given, settings.dataset, Path()), Path()))
        except AugmentError as error:
            raise AugmentError(f"{names[pool]}: {error}") from None
    return settings


def quick(values: dict[str, Any]) -> dict[str, Any]:
    """Parameters for a look at the whole path in minutes: few pictures, steps and seeds, and so no claim.

    values: such as `check_proof` takes.
    """
    merged = {**values, **QUICK}
    merged["arms"] = [arm for arm in QUICK["arms"] if arm in values.get("arms", QUICK["arms"])]
    if "contrasts" in values:
        merged["contrasts"] = [text for text in values["contrasts"] if "@" not in text]  # there is one ratio
    for name in ("split", "schedule"):
        given = dict(values.get(name) or {})
        merged[name] = {**given, **{key: min(given.get(key, value), value) for key, value in QUICK[name].items()}}
    if values.get("models"):
        trainers = dict(values["models"].get("settings") or {})
        short = {name: {**given, "steps": min(given.get("steps", _STEPS), _STEPS)} for name, given in trainers.items()}
        merged["models"] = {**values["models"], "settings": short}
    return merged


_STEPS = 100  # of a painter or a judge, in a quick look
