"""The verdict on generated pictures, in one sentence of plain words: would one train on them?

    verdict = verdict_of(result)                 # of an Evaluation
    verdict.level, verdict.sentence, verdict.reasons

Rules, from first to last; docs/evaluation.md has the same table, and each has a test:

    red      painted boxes are not what their labels say, or look like nothing in the real ones
    unknown  nobody looked into the boxes, there are too few, or the judge does not know real ones either
    yellow   most are what they should be, and something is to be looked at: some are not, or they have a look of their
             own, or are blurred or noisy, or the pictures as a whole are further from the real ones than these are
             from each other
    green    none of these

Where added objects stand is judged by nobody, which is said at every level. The judge is `content`,
made of the data set's own boxes, or the model that `regions` was given. The features `pixels`,
4×4 colours, count for nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from lib.evaluation.metrics.own_boxes import ContentDetails
    from lib.evaluation.metrics.regions import RegionDetails
    from lib.evaluation.results import Evaluation

Level = Literal["red", "unknown", "yellow", "green"]

LEAST_PAINTED, LEAST_REAL = 10, 20  # boxes, below which nothing is said
LEAST_PICTURES = 5  # real ones
KNOWN = 0.2  # by so much a judge must accept more real boxes than with exchanged labels
BAD, GOOD = 0.6, 0.85  # of what is accepted of real boxes
BAD_FIDELITY, GOOD_FIDELITY = 0.4, 0.7
EXCHANGED = 0.1  # by so much more would be accepted with exchanged labels, where labels are at fault
TYPICAL = 0.5  # share of painted boxes that lie no further from their category than 95 % of real ones: below is red
APART, SURELY_APART = 0.7, 0.6  # AUC, and the lower end of its interval
BLURRED, NOISY = 0.8, 1.25  # gradient energy, as a share of the real boxes'
SPREADS = 3  # so many standard deviations above the floor a KID is too high
NO_WORD = ("pixels",)  # extractors that see colours alone

_STARTS = {
    "red": "Do not train on these: they do not look like your data",
    "unknown": "Nothing can be said of these yet",
    "yellow": "Look before you train on these",
    "green": "These look like your data",
}


class Tally(BaseModel):
    """Boxes of a category."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    before: int  # in the real pictures
    new: int  # in the generated ones
    painted: int  # of these
    accepted: int  # of the painted ones, by the judge
    refused: int


class Verdict(BaseModel):
    """What a person reads first."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    level: Level
    sentence: str
    reasons: list[str]  # the sentence's own first
    categories: dict[str, Tally]  # the frequent ones first; empty where pictures have no boxes

    def lines(self) -> list[str]:
        """For a terminal: the sentence, then what else there is to say."""
        return [f"{self.level.upper()}. {self.sentence}", *(f"  - {reason}" for reason in self.reasons[1:])]


def verdict_of(result: Evaluation) -> Verdict:
    """By the rules above; the same result has the same verdict."""
    content: ContentDetails | None = result.details.get("content")
    regions: RegionDetails | None = result.details.get("regions")
    found = list(_findings(result, content, regions))
    level: Level = next((level for level in _ORDER if any(level == one for one, _ in found)), "green")
    first = [reason for one, reason in found if one == level]
    reasons = [*first, *(reason for one, reason in found if one != level)]
    return Verdict(
        level=level, sentence=f"{_STARTS[level]}: {reasons[0]}.", reasons=reasons, categories=_tallies(result, content)
    )


def too_few_pictures(real: int, made: int) -> Verdict:
    """Of a run with nothing to compare."""
    reason = f"{real} real and {made} new pictures, where a verdict takes 2 of each"
    return Verdict(level="unknown", sentence=f"{_STARTS['unknown']}: {reason}.", reasons=[reason], categories={})


def _tallies(result: Evaluation, content: ContentDetails | None) -> dict[str, Tally]:
    judged = content.by_category if content else {}
    found = {}
    for name, count in (result.labels.categories if result.labels else {}).items():
        accepted = judged[name].painted_accepted if name in judged else 0
        refused = judged[name].painted - accepted if name in judged else 0
        found[name] = Tally(**dict(count), accepted=accepted, refused=refused)
    return found


_ORDER: tuple[Level, ...] = ("red", "unknown", "yellow", "green")


def _findings(
    result: Evaluation, content: ContentDetails | None, regions: RegionDetails | None
) -> Iterator[tuple[Level, str]]:
    """What each rule finds: the level that it asks for, and why."""
    given = regions is not None and regions.fidelity is not None and regions.n_generated >= LEAST_PAINTED
    if given and regions is not None:
        yield _by_given(regions)
    if content is not None:
        few = _few(content)
        if few and not given:
            yield "unknown", few
        if not few:
            yield from _by_content(content, given)
    elif not given:
        why = result.left_out.get("content", "the metric `content` was not measured")
        yield "unknown", f"no judge looked into the painted boxes ({why})"
    yield from _by_sets(result)
    if result.labels and result.labels.added:
        yield "green", f"nobody judged where its {result.labels.added} new objects stand: look for some that float"


def _few(content: ContentDetails) -> str:
    if not content.n_painted:
        return "there is no painted box to judge"
    if content.n_painted < LEAST_PAINTED:
        return f"too few painted boxes, {content.n_painted}, where a verdict takes {LEAST_PAINTED}"
    if content.n_real < LEAST_REAL or content.ratio is None:
        return (
            f"too few real boxes to learn from, {content.n_real}, where a judge takes {LEAST_REAL} in {LEAST_PICTURES} "
            "pictures"
        )
    return ""


def _by_given(regions: RegionDetails) -> tuple[Level, str]:
    """Of a CLIP or a classifier that was configured."""
    if unknown := _unknown_of_given(regions):
        return "unknown", unknown
    fidelity, (low, high) = regions.fidelity or 0.0, regions.interval or [0.0, 1.0]
    told = (
        f"the judge that was given recognises {_percent(regions.generated)} of {regions.n_generated} painted boxes and "
        f"{_percent(regions.real)} of real ones (fidelity {fidelity:.2f}, {low:.2f} to {high:.2f})"
    )
    if fidelity < BAD_FIDELITY and high < GOOD_FIDELITY:
        return "red", told
    if low < BAD_FIDELITY and high > GOOD_FIDELITY:
        return "unknown", f"too few boxes to decide, {told}"
    return ("green" if fidelity >= GOOD_FIDELITY else "yellow"), told


def _unknown_of_given(regions: RegionDetails) -> str:
    """Why real boxes do not show what such a judge knows; "" where they do."""
    if regions.n_real < LEAST_REAL or regions.pictures_real < LEAST_PICTURES:
        return (
            f"too few real boxes for the judge that was given, {regions.n_real} in {regions.pictures_real} pictures, "
            f"where a verdict takes {LEAST_REAL} in {LEAST_PICTURES}"
        )
    # One category has no other to be exchanged with; results of former versions do not have the share.
    several = sum(hits.n_real > 0 for hits in regions.by_category.values()) > 1
    if several and regions.real_shuffled is not None and (regions.real or 0.0) - regions.real_shuffled < KNOWN:
        return f"the judge that was given tells categories of real boxes hardly apart ({_percent(regions.real)} right)"
    return ""


def _by_content(content: ContentDetails, given: bool) -> Iterator[tuple[Level, str]]:
    """Of the judge that is made of the data set's own boxes, which gives way to one that was given."""
    if not given:
        yield _by_share(content)
    alike = sum(one.typical > 0.05 for one in content.boxes) / len(content.boxes)
    if alike < TYPICAL:
        yield "red", f"{_percent(alike)} of the painted boxes look like any real box of their kind, of real ones 95 %"
    if content.auc is not None and content.auc >= APART and (content.auc_interval or [0.0])[0] >= SURELY_APART:
        yield (
            "yellow",
            (
                "painted boxes have a look of their own: a classifier tells one from a real one "
                f"{100 * content.auc:.0f} times in 100, where 50 is chance"
            ),
        )
    low, high = content.sharpness_interval or [0.0, 9.0]
    if content.sharpness is not None and (high < BLURRED or low > NOISY):
        how = "blurred" if high < BLURRED else "noisy or hard-edged"
        yield "yellow", f"painted boxes are {how}: {content.sharpness:.2f} of the real ones' gradient energy"


def _by_share(content: ContentDetails) -> tuple[Level, str]:
    ratio, (low, high) = content.ratio or 0.0, content.interval or [0.0, 1.0]
    told = (
        f"of {content.n_painted} painted boxes {_percent(content.painted)} look like what their labels say, of real "
        f"ones {_percent(content.expected)}"
    )
    if (content.real or 0.0) - (content.real_shuffled or 0.0) < KNOWN and len(content.names) > 1:
        return "unknown", f"the judge tells categories of real boxes hardly apart ({_percent(content.real)} right)"
    if ratio < BAD and high < GOOD:
        exchanged = (content.shuffled or 0.0) > (content.painted or 0.0) + EXCHANGED
        return "red", f"{told}; with exchanged labels it would be more, so look at the labels" if exchanged else told
    if low < BAD and high > GOOD:
        return "unknown", f"too few boxes to decide, {told}"
    return ("green" if ratio >= GOOD else "yellow"), told


def _by_sets(result: Evaluation) -> Iterator[tuple[Level, str]]:
    """Of the pictures as a whole, where the features see more than colours."""
    floor, kid = result.floor, result.numbers.get("kid")
    if floor is None or not isinstance(kid, float) or result.features is None:
        return
    at, real = floor.kid_at_m, floor.kid
    if result.features.extractor in NO_WORD or at is None or real.mean is None or real.std is None:
        return
    if at > max(real.mean, 0) + SPREADS * real.std:
        yield "yellow", f"as a whole they are further from real pictures than these from each other (KID {at:.3g})"


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0):.0f} %"


def doubt_of(result: Evaluation, name: str) -> str:
    """Why a number cannot be trusted; "" where it can, as far as is known."""
    if name not in result.known:
        return ""
    kind, number = result.kind_of(name), result.known[name][0]
    few = min(result.n_real, result.n_generated)
    if kind == "sets" and result.features is not None:
        if number.biased and result.biased:
            return "too few pictures for it: too high"
        if result.features.extractor in NO_WORD:
            return "made of 4×4 colours: it cannot tell what is shown"
        if few < LEAST_PAINTED:
            return f"{few} pictures on a side are too few"
    content: ContentDetails | None = result.details.get("content")
    if name.startswith("content") and content is not None:
        return _few(content)
    return ""
