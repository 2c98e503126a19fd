"""Which edit fits what a detector gets wrong.

edits_of(findings)[0].text          # "insert: new objects in free places, for those that are missed (...)"
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from lib.proof.errors import RIGHT
from lib.proof.findings import Findings

FEW_PICTURES = 100  # that a detector may learn by heart
SHARE = 0.2  # of what can be mended, from which false alarms in the background are worth an edit
BY_HEART = 30.0  # AP points by which pictures learned from are found better
ALONE = 0.9  # of the pictures with several boxes, from which a class seems to be told by its surroundings
CROWDED = 20  # boxes near others that are needed to say anything of them


class EditAdvice(BaseModel):
    """Whether an edit fits what was found."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    edit: str
    fits: bool
    text: str
    settings: dict[str, bool] = {}  # of the edit


def edits_of(found: Findings) -> list[EditAdvice]:
    """The fitting ones by what mending their kind of error would gain, the most first; then those that do not fit."""
    gains = {kind: max(0.0, one.ap) for kind, one in found.errors.gains.items()}
    share = {kind: gain / max(sum(gains.values()), 1e-9) for kind, gain in gains.items()}
    missed, confused = share.get("missed", 0.0), share.get("wrong_class", 0.0)
    ranked = [(missed, _insert(found)), (confused, _confused(found)), (0.9 * missed, _occlude(found))]
    ranked.append((share.get("background", 0.0), _background(found, share.get("background", 0.0))))
    if (layout := _layout(found)) is not None:
        ranked.append((0.1, layout))
    ranked.append((0.0, _replace(share.get("badly_placed", 0.0), confused)))
    ordered = sorted(ranked, key=lambda item: (not item[1].fits, -item[0]))
    return [one for _, one in ordered]


def _insert(found: Findings) -> EditAdvice:
    worst = sorted((one for one in found.classes if one.missed), key=lambda one: -one.missed / max(one.boxes, 1))[:3]
    listed = ", ".join(f"{one.name} {one.missed} of {one.boxes}" for one in worst) or "none"
    text = f"insert: new objects in free places, for those that are missed ({listed})"
    if found.alone is None or found.alone < ALONE:
        return EditAdvice(edit="insert", fits=bool(worst), text=text)
    text += f"; of classes that the picture holds already, as {100 * found.alone:.0f} % of the pictures hold one alone"
    return EditAdvice(edit="insert", fits=bool(worst), text=text, settings={"present": True})


def _confused(found: Findings) -> EditAdvice:
    pairs = found.errors.confusions[:2]
    listed = ", ".join(f"{one.category} taken for {one.found_as} {one.count} times" for one in pairs) or "none"
    fits = sum(one.count for one in found.errors.confusions) >= max(5, 0.05 * found.errors.boxes)
    text = f"insert, both classes of those that are confused ({listed}): more of what tells them apart"
    return EditAdvice(edit="insert", fits=fits, text=text)


def _occlude(found: Findings) -> EditAdvice:
    counts = [found.errors.by_crowding[where] for where in ("near others", "apart")]
    totals = [one[RIGHT] + one["missed"] for one in counts]
    near, apart = (one["missed"] / total if total else 0.0 for one, total in zip(counts, totals, strict=True))
    text = (
        f"occlude: something before the objects, where crowded ones are missed: {100 * near:.0f} % of {totals[0]} near "
        f"others, {100 * apart:.0f} % of {totals[1]} apart"
    )
    fits = totals[0] >= CROWDED and near >= max(0.1, 1.5 * apart)
    return EditAdvice(edit="occlude", fits=fits, text=text)


def _background(found: Findings, share: float) -> EditAdvice:
    gain = found.errors.gains.get("background")
    text = (
        "background: new surroundings around the objects as they are, for false alarms: "
        f"{found.errors.counts['background']} detections where nothing is labelled"
        + (f", {gain.ap:.1f} AP points if there were none" if gain else "")
    )
    return EditAdvice(edit="background", fits=share >= SHARE, text=text)


def _layout(found: Findings) -> EditAdvice | None:
    if found.fitted is None:
        return None
    gap = found.fitted - found.ap
    text = (
        "layout: whole new scenes for the same boxes, where few pictures are learned by heart: "
        f"{found.pictures} pictures, those learned from {gap:.1f} AP points better"
    )
    return EditAdvice(edit="layout", fits=found.pictures < FEW_PICTURES and gap >= BY_HEART, text=text)


def _replace(placed: float, confused: float) -> EditAdvice:
    text = (
        "replace: objects painted anew in their boxes, where looks vary too little; it does little for boxes that are "
        f"badly placed ({100 * placed:.0f} % of what can be mended)"
    )
    return EditAdvice(edit="replace", fits=placed < 0.4 and confused >= 0.15, text=text)
