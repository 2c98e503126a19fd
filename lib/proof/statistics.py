"""Paired statistics: did one arm beat another, seed by seed, or is it not shown?

contrasts = [Contrast.of("T > B, C, D"), Contrast.of("F > A"), Contrast.of("A > X"), Contrast.of("Y > A")]
for one in compare(table, contrasts):         # table: columns arm, ratio, seed, value
    one.sentence     # "F gained 3.1 AP over A in 8 paired seeds (95 % interval 1.2 to 4.9, p = .008 after Holm): shown"
headline(comparisons)   # one sentence: what was shown and what was not, or that the protocol's own check failed

A seed fixes start, order and subset of a training, so two arms of one seed are a pair. What is tested is the mean of
the pairs' differences, by the exact sign-flip test (Fisher 1935, "The Design of Experiments", §21), which assumes only
that a difference could as well have had the other sign if the arms were equal. n pairs give no p below 2^−n.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from lib.core.errors import AugmentError

COLUMNS = ("arm", "ratio", "seed", "value")
HARMFUL, HELPFUL = "X", "Y"  # the protocol's own checks: shifted labels, and real pictures in place of synthetic ones
DRAWS = 10_000  # of the bootstrap
EXACT = 16  # pairs up to which all 2^n flips are counted
FLIPS = 2**EXACT  # beyond: a sample of as many, with the identity in it

Floats = NDArray[np.float64]
Role = Literal["claim", "harm", "help"]
Outcome = Literal["shown", "not shown", "too few seeds", "harm shown", "not measured"]

_NAME = r"[A-Za-z][\w-]*(?:@(?:\d+\.?\d*|\.\d+))?"
_CONTRAST = re.compile(rf"\s*({_NAME})\s*>\s*({_NAME}(?:\s*,\s*{_NAME})*)\s*")


@dataclass(frozen=True)
class Contrast:
    """An arm is better than another, or than the best of several; "F@2" is arm F at ratio 2.

    That something does harm is written with it on the right: "A > X".
    """

    better: str
    rivals: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Contrast:
        """From "T > B, C, D"; raises AugmentError for anything else."""
        found = _CONTRAST.fullmatch(text)
        if found is None:
            raise AugmentError(f"contrast {text!r} is not understood: write 'F > A', 'T > B, C, D' or 'F@2 > A'")
        one = cls(found[1], tuple(name.strip() for name in found[2].split(",")))
        if len(set(one.names)) < len(one.names):
            raise AugmentError(f"contrast {text!r} names an arm twice: compare different ones")
        return one

    def __str__(self) -> str:
        return f"{self.better} > {', '.join(self.rivals)}"

    @property
    def names(self) -> tuple[str, ...]:
        """The better one first."""
        return (self.better, *self.rivals)

    @property
    def role(self) -> Role:
        """A claim, or one of the checks that a protocol makes of itself."""
        if arm_of(self.better)[0] == HELPFUL:
            return "help"
        return "harm" if [arm_of(name)[0] for name in self.rivals] == [HARMFUL] else "claim"


def arm_of(name: str) -> tuple[str, float | None]:
    """("F", 2.0) of "F@2"; (name, None) where no ratio is written."""
    arm, _, ratio = name.partition("@")
    return arm, float(ratio) if ratio else None


class Missing(BaseModel):
    """A training that a comparison had to do without."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    seed: int
    why: Literal["diverged", "not finished"]


class Comparison(BaseModel):
    """A contrast as it was found. Differences in AP points, the better arm's value less its rival's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    contrast: str
    role: Role
    better: str
    rival: str  # of several the one with the highest mean
    seeds: list[int]  # that all arms of the contrast have finished
    differences: list[float]  # one a seed
    missing: list[Missing]
    mean: float | None  # None: no seed
    low: float | None  # 95 % interval of the mean; None below 2 seeds
    high: float | None
    p: float  # one-sided: the better arm is better
    p_two_sided: float
    p_least: float  # that so many seeds can give, one-sided
    p_holm: float  # adjusted over the claims, or over the checks
    p_two_sided_holm: float
    outcome: Outcome
    sentence: str


def compare(
    table: pd.DataFrame,
    contrasts: Sequence[Contrast],
    alpha: float = 0.05,
    seeds: Sequence[int] | None = None,
    ratio: float | None = None,
) -> list[Comparison]:
    """Each contrast, in the order given, by the seeds that all its arms have finished.

    table: a row a training: arm (str), ratio (float; 0 of arms without synthetic pictures), seed (int), value (AP in
    points, 0 .. 100; NaN of a training that diverged). seeds: those that were planned; without, those of the table.
    ratio: what a bare "F" means where F has several; without, F needs to have one.

    Of several rivals the one with the highest mean over the shared seeds is compared: it was chosen for its luck too,
    so the difference comes out rather too small, which is conservative for the claim. A seed that diverged or is not
    finished in one of the arms is left out for all and named in `missing`.

    p: exact sign-flip test of the mean, one-sided and two-sided; over EXACT pairs of a fixed sample of FLIPS. Interval:
    percentile bootstrap with a fixed seed; of 8 seeds it covers rather 90 % than 95 %, so the test decides. Adjusted by
    Holm (1979): the claims among themselves, and the checks with arms X and Y among themselves, as they are a gate
    before the claims. "shown" takes p_holm ≤ alpha; "harm shown", of a claim, the two-sided one and a negative mean.

    Raises AugmentError for a table without these columns, with two trainings of one arm, ratio and seed, or an
    ambiguous bare name.
    """
    _check(table)
    measured = [_measured(table, one, seeds, ratio) for one in contrasts]
    found: dict[int, Comparison] = {}
    for family in (["claim"], ["harm", "help"]):
        rows = [i for i, one in enumerate(contrasts) if one.role in family]
        found |= dict(zip(rows, _judged([measured[i] for i in rows], alpha), strict=True))
    return [found[i] for i in range(len(contrasts))]


def _check(table: pd.DataFrame) -> None:
    lacking = [name for name in COLUMNS if name not in table.columns]
    if lacking:
        raise AugmentError(f"the table of trainings has no column {', '.join(lacking)}: expected {', '.join(COLUMNS)}")
    twice = table[table.duplicated(["arm", "ratio", "seed"])]
    if len(twice):
        one = twice.iloc[0]
        raise AugmentError(f"arm {one.arm} at ratio {one.ratio:g} has two trainings of seed {one.seed}: keep one")


def values_of(table: pd.DataFrame, name: str, ratio: float | None = None) -> dict[int, float]:
    """{seed: value, NaN where diverged} of "F" or "F@2", as in `compare`; raises AugmentError for an ambiguous one."""
    arm, own = arm_of(name)
    rows = table[table["arm"] == arm]
    ratios = sorted(rows["ratio"].unique())
    if own is None and len(ratios) > 1:
        if ratio not in ratios:
            shown = ", ".join(f"{arm}@{one:g}" for one in ratios)
            raise AugmentError(f"arm {arm!r} was trained at several ratios: name one of {shown}")
        own = ratio
    rows = rows if own is None else rows[rows["ratio"] == own]
    return {int(seed): float(value) for seed, value in zip(rows["seed"], rows["value"], strict=True)}


def _measured(
    table: pd.DataFrame, contrast: Contrast, seeds: Sequence[int] | None, ratio: float | None
) -> dict[str, Any]:
    """All of a Comparison that does not depend on the other contrasts."""
    values = {name: values_of(table, name, ratio) for name in contrast.names}
    planned = sorted(set().union(*values.values()) if seeds is None else set(seeds))
    missing = [
        Missing(arm=name, seed=seed, why="diverged" if seed in some else "not finished")
        for name, some in values.items()
        for seed in planned
        if not np.isfinite(some.get(seed, np.nan))
    ]
    shared = [seed for seed in planned if seed not in {one.seed for one in missing}]
    means = {name: np.mean([values[name][seed] for seed in shared] or [0.0]) for name in contrast.rivals}
    rival = max(contrast.rivals, key=lambda name: means[name])
    differences = np.array([values[contrast.better][seed] - values[rival][seed] for seed in shared], np.float64)
    low, high = bootstrap_interval(differences)
    p, p_two_sided = sign_flip(differences)
    return {
        "contrast": str(contrast),
        "role": contrast.role,
        "better": contrast.better,
        "rival": rival,
        "seeds": shared,
        "differences": differences.tolist(),
        "missing": missing,
        "mean": float(differences.mean()) if shared else None,
        "low": low,
        "high": high,
        "p": p,
        "p_two_sided": p_two_sided,
        "p_least": least_p(len(shared)),
    }


def bootstrap_interval(differences: Floats) -> tuple[float | None, float | None]:
    """95 % percentile interval of the mean (Efron 1979), the same at every call; (None, None) below 2 values."""
    n = len(differences)
    if n < 2:
        return None, None
    drawn = differences[np.random.default_rng(0).integers(n, size=(DRAWS, n))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def sign_flip(differences: Floats) -> tuple[float, float]:
    """(one-sided p that the mean is above 0, two-sided p); (1, 1) without values."""
    n = len(differences)
    if not n:
        return 1.0, 1.0
    flipped = _signs(n) @ differences
    slack = 1e-9 * np.abs(differences).sum()  # equal sums in another order of adding
    total = differences.sum()
    return float((flipped >= total - slack).mean()), float((np.abs(flipped) >= abs(total) - slack).mean())


def _signs(n: int) -> Floats:
    """(flips, n) of −1 and 1, the identity among them."""
    if n <= EXACT:
        return (1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)).astype(np.float64)
    signs: Floats = np.random.default_rng(0).choice([-1.0, 1.0], (FLIPS, n))
    signs[0] = 1.0
    return signs


def least_p(n: int) -> float:
    """The smallest one-sided p of the sign-flip test with n pairs."""
    return 2.0 ** -min(n, EXACT)


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values in the order given (Holm 1979, "A simple sequentially rejective multiple test procedure")."""
    order = np.argsort(np.asarray(p, np.float64), kind="stable")
    steps = np.minimum(1.0, np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty(len(p))
    adjusted[order] = np.maximum.accumulate(steps)
    return [float(one) for one in adjusted]


def seeds_needed(claims: int, alpha: float = 0.05) -> int:
    """Paired seeds below which the test cannot show any of so many claims, however clear they are."""
    return next((n for n in range(1, EXACT) if max(claims, 1) * least_p(n) <= alpha), EXACT)


def _judged(family: list[dict[str, Any]], alpha: float) -> list[Comparison]:
    p, both = [one["p"] for one in family], [one["p_two_sided"] for one in family]
    found = []
    for i, (one, adjusted, adjusted_both) in enumerate(zip(family, holm(p), holm(both), strict=True)):
        at_best = holm([one["p_least"] if k == i else other for k, other in enumerate(p)])[i]
        values = one | {"p_holm": adjusted, "p_two_sided_holm": adjusted_both}
        values["outcome"] = _outcome(values, at_best, alpha)
        values["sentence"] = _sentence(values, at_best, seeds_needed(len(family), alpha))
        found.append(Comparison(**values))
    return found


def _outcome(one: dict[str, Any], at_best: float, alpha: float) -> Outcome:
    """at_best: the adjusted p if all differences of this contrast had the right sign."""
    if one["mean"] is None:
        return "not measured"
    if one["p_holm"] <= alpha and one["mean"] > 0:
        return "shown"
    if one["p_two_sided_holm"] <= alpha and one["mean"] < 0:
        return "harm shown"
    return "too few seeds" if at_best > alpha else "not shown"


def _sentence(one: dict[str, Any], at_best: float, needed: int) -> str:
    n, verdict = len(one["seeds"]), _verdict(one, at_best, needed)
    if one["mean"] is None:
        return f"{one['contrast']}: no seed has all of its arms{_left_out(one['missing'])}: {verdict}"
    lost = one["outcome"] == "harm shown" and one["role"] == "claim"
    p = f"two-sided p {p_text(one['p_two_sided_holm'])}" if lost else f"p {p_text(one['p_holm'])}"
    interval = "" if one["low"] is None else f"95 % interval {_interval(one)}, "
    seeds = f"{n} paired seed{'s' if n != 1 else ''}"
    return f"{gain_of(one)} in {seeds} ({interval}{p} after Holm){_left_out(one['missing'])}: {verdict}"


def _verdict(one: dict[str, Any], at_best: float, needed: int) -> str:
    check, outcome = one["role"] != "claim", one["outcome"]
    if outcome == "shown" and check:
        return f"{'harm ' if one['role'] == 'harm' else ''}shown, as it must be"
    failed = ", so the protocol's check failed" if check else ""
    if outcome == "harm shown" and check:
        return f"the opposite is shown{failed}"
    if outcome == "too few seeds":
        n = len(one["seeds"])
        holm = "" if at_best <= one["p_least"] else f" ({p_text(at_best, '')} after Holm)"
        least = f"{n} paired seed{'s' if n != 1 else ''} cannot give less than p = {p_text(one['p_least'], '')}{holm}"
        return f"not shown: too few seeds: {least}, at least {needed} are needed{failed}"
    return f"{outcome}{failed}"


def gain_of(one: dict[str, Any] | Comparison) -> str:
    """ "F gained 3.1 AP over A"; of X, which is on the right, "X lost 3.1 AP against A"."""
    values = one.model_dump() if isinstance(one, Comparison) else one
    subject, other, mean = _seen(values)
    rivals = Contrast.of(values["contrast"]).rivals
    best = f" (the best of {', '.join(rivals)})" if len(rivals) > 1 else ""
    words = ("gained", "over") if mean >= 0 else ("lost", "against")
    return f"{subject} {words[0]} {abs(mean):.1f} AP {words[1]} {other}{best}"


def _seen(one: dict[str, Any]) -> tuple[str, str, float]:
    """(subject, the other, what the subject gained): the harmful arm is the subject of its check."""
    if one["role"] == "harm":
        return one["rival"], one["better"], -one["mean"]
    return one["better"], one["rival"], one["mean"]


def _interval(one: dict[str, Any]) -> str:
    """Of what was gained, or, where the subject lost, of what was lost."""
    turned = (_seen(one)[2] < 0) != (one["role"] == "harm")
    low, high = (-one["high"], -one["low"]) if turned else (one["low"], one["high"])
    return f"{low:z.1f} to {high:z.1f}".replace("-", "−")


def p_text(p: float, equals: str = "= ") -> str:
    """ "= .008", "= 1" or "< .001"."""
    if p < 0.001:
        return "< .001"
    return equals + (f"{p:.3f}".rstrip("0").rstrip(".").removeprefix("0"))


def _left_out(missing: Sequence[Missing]) -> str:
    if not missing:
        return ""
    return ", left out: " + ", ".join(f"seed {one.seed} ({one.arm} {one.why})" for one in missing)


def failed_checks(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The checks that a protocol makes of itself and that did not come out as they must."""
    return [one for one in comparisons if one.role != "claim" and one.outcome != "shown"]


def headline(comparisons: Sequence[Comparison]) -> str:
    """One sentence: what was shown and what was not; where a check failed, that and nothing else."""
    failed = failed_checks(comparisons)
    if failed:
        why = "; ".join(_failure(one) for one in failed)
        return f"The protocol's own check failed ({why}): its other claims cannot be trusted."
    claims = [one for one in comparisons if one.role == "claim"]
    parts = [
        f"{outcome}: {'; '.join(gain_of(one) for one in claims if one.outcome == outcome)}"
        for outcome in ("shown", "harm shown")
        if any(one.outcome == outcome for one in claims)
    ]
    rest = [one.contrast for one in claims if one.outcome not in ("shown", "harm shown")]
    parts += [f"not shown: {'; '.join(rest)}"] if rest else []
    text = " — ".join(parts) or "nothing was claimed"
    unchecked = {"harm", "help"} - {one.role for one in comparisons}
    doubt = " — the protocol did not check itself with X and Y, so take it with doubt" if unchecked else ""
    return f"{text[0].upper()}{text[1:]}{doubt}."


def _failure(one: Comparison) -> str:
    few = f", {one.outcome}" if one.outcome in ("too few seeds", "not measured") else ""
    return f"{one.rival} not found harmful{few}" if one.role == "harm" else f"{one.better} not found helpful{few}"
