"""The result of a proof: one type, from which the report is drawn, and its JSON file.

trainings = [training_of("F", 1.0, seed, truth, found, names, limit) for seed in seeds]
proof = proven("steel", protocol, opened, trainings, arms, pictures={"real": 60, "test": 300})
write_proof(folder, proof)                 # folder/proof.json, folder/report.html
read_proof(folder / "proof.json").headline
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError

from lib.core.documents import read_json
from lib.core.errors import AugmentError
from lib.evaluation.detectors import Detections
from lib.evaluation.metrics.layout import Truth, layout_ap
from lib.proof.errors import ErrorKinds, Rates, Threshold, errors_of, rates
from lib.proof.protocol import Opened, Protocol
from lib.proof.statistics import Comparison, compare, failed_checks, headline

BEFOREHAND = Threshold(score=0.3, rule="was set beforehand")
FEW_TEST = 50  # test pictures below which AP moves by points with each of them
WEAK = 5.0  # AP points of arm A below which a detector has hardly learned anything
REAL = "A"
_SCORES = ("ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Training(_Model):
    """One training and what its detector found in the test pictures. AP in points, 0 .. 100."""

    arm: str
    ratio: float  # 0 of arms without synthetic pictures
    seed: int
    key: str = ""  # of its files
    value: float | None = None  # the protocol's metric; None: diverged or not finished
    why: str = ""  # why there is no value
    diverged: bool = False
    scores: dict[str, float | None] = {}  # ap50, ap75, ap_small, ap_medium, ap_large, ar
    by_category: dict[str, float | None] = {}  # None of a category without test boxes
    rates: Rates | None = None
    errors: ErrorKinds | None = None
    curve: list[tuple[float, float]] = []  # step, loss
    seconds: float = 0.0  # of training

    @property
    def cell(self) -> tuple[str, float]:
        return self.arm, self.ratio


class ArmAccount(_Model):
    """What the trainings of an arm at a ratio learned from, and what it cost to make."""

    arm: str
    ratio: float
    title: str
    real: int  # pictures
    synthetic: int = 0
    refused: dict[str, int] = {}  # screened out, by reason
    painting: float = 0.0  # seconds, of all that was painted for it, the refused ones too


class Proof(_Model):
    """All that a report says."""

    title: str
    headline: str
    warnings: list[str]
    protocol: Protocol
    digest: str  # of the protocol
    opened: str  # when the test set was, UTC
    pictures: dict[str, int]  # by pool
    left_out: dict[str, int]  # pictures of the data set that are in no pool, by reason
    threshold: Threshold  # of error kinds and rates
    arms: list[ArmAccount]
    trainings: list[Training]
    comparisons: list[Comparison]

    def name(self, one: ArmAccount | Training) -> str:
        """ "F", or "F@2" where there are several ratios: as a contrast writes it."""
        several = one.ratio and len(self.protocol.ratios) > 1
        return f"{one.arm}@{one.ratio:g}" if several else one.arm

    def of(self, arm: ArmAccount) -> list[Training]:
        """The finished trainings of an arm at a ratio, by seed."""
        found = [one for one in self.trainings if one.cell == (arm.arm, arm.ratio) and one.value is not None]
        return sorted(found, key=lambda one: one.seed)

    def gain(self, arm: ArmAccount) -> float | None:
        """Mean AP points over arm A, of the seeds that both have."""
        base = {one.seed: one.value for one in self.trainings if one.arm == REAL}
        gains = [
            one.value - value
            for one in self.of(arm)
            if (value := base.get(one.seed)) is not None and one.value is not None
        ]
        return float(np.mean(gains)) if gains else None


def training_of(
    arm: str,
    ratio: float,
    seed: int,
    truth: Sequence[Truth],
    found: Sequence[Detections],
    names: Sequence[str],
    threshold: Threshold = BEFOREHAND,
    history: Sequence[Mapping[str, float]] = (),
    gains: bool = False,
    **more: Any,
) -> Training:
    """The scores of a training by its detections in the test pictures.

    history: points with "step" and "loss". gains: what mending each kind of error would win, which is slow. more: key
    and seconds of the training.
    """
    scores = layout_ap(truth, found, names)
    return Training(
        arm=arm,
        ratio=ratio,
        seed=seed,
        value=100 * (scores["ap"] or 0.0),
        scores={name: _points(scores[name]) for name in _SCORES},
        by_category={name: _points(one["ap"]) for name, one in scores["by_category"].items()},
        rates=rates(truth, found, threshold.score),
        errors=errors_of(truth, found, names, threshold.score, scores, gains),
        curve=[(one["step"], one["loss"]) for one in history if "loss" in one and np.isfinite(one["loss"])],
        **more,
    )


def _points(share: float | None) -> float | None:
    return None if share is None else 100 * share


def table_of(trainings: Sequence[Training]) -> pd.DataFrame:
    """As `compare` reads it: NaN where a training diverged; one that is not finished has no row."""
    rows = [
        (one.arm, one.ratio, one.seed, np.nan if one.value is None else one.value)
        for one in trainings
        if one.value is not None or one.diverged
    ]
    return pd.DataFrame(rows, columns=["arm", "ratio", "seed", "value"])


def proven(
    title: str,
    protocol: Protocol,
    opened: Opened,
    trainings: Sequence[Training],
    arms: Sequence[ArmAccount],
    pictures: Mapping[str, int],
    left_out: Mapping[str, int] | None = None,
    notes: Sequence[str] = (),
    threshold: Threshold = BEFOREHAND,
) -> Proof:
    """The protocol's contrasts compared, the headline, and the warnings; notes: further ones.

    Raises AugmentError where the test set was opened under another protocol, or as `compare`.
    """
    if opened.digest != protocol.digest:
        raise AugmentError(f"the test set was opened under the protocol {opened.digest}, not {protocol.digest}")
    contrasts = protocol.contrasts_read()
    found = compare(table_of(trainings), contrasts, protocol.alpha, protocol.seeds, protocol.ratio)
    proof = Proof(
        title=title,
        headline=headline(found),
        warnings=[],
        protocol=protocol,
        digest=protocol.digest,
        opened=opened.at,
        pictures=dict(pictures),
        left_out=dict(left_out or {}),
        threshold=threshold,
        arms=list(arms),
        trainings=list(trainings),
        comparisons=found,
    )
    return proof.model_copy(update={"warnings": [*_warnings(proof), *notes]})


def _warnings(proof: Proof) -> list[str]:
    lines = [one.sentence for one in failed_checks(proof.comparisons)]
    if proof.comparisons and (short := proof.protocol.seeds_short):
        n = len(proof.protocol.seeds)
        lines.append(f"{n} seeds cannot show anything, however clear it is: at least {n + short} are needed")
    lines += [
        f"{proof.name(one)}, seed {one.seed}, diverged and is left out: {one.why or 'its loss was not finite'}"
        for one in proof.trainings
        if one.diverged
    ]
    planned = len(proof.arms) * len(proof.protocol.seeds)
    ended = sum(one.value is not None or one.diverged for one in proof.trainings)
    if ended < planned:
        lines.append(f"{ended} of {planned} trainings are finished: run it again to go on")
    if (test := proof.pictures.get("test", FEW_TEST)) < FEW_TEST:
        lines.append(f"{test} test pictures are few: AP changes by points with every one of them")
    base = [one.value for one in proof.trainings if one.arm == REAL and one.value is not None]
    if base and np.mean(base) < WEAK:
        lines.append(f"the detector hardly learns ({np.mean(base):.1f} AP on real pictures): more steps or pictures")
    return lines


def read_proof(path: Path) -> Proof:
    """From proof.json; raises AugmentError for anything else."""
    try:
        return Proof.model_validate(read_json(path, "the result of a proof"))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise AugmentError(f"{path} is not the result of a proof ({place}: {first['msg']}): run it again") from None
