"""What came of a run, in one sentence, from the counts of its stages; and what a command ends with.

outcome = outcome_of(account["stages"], asked=20)     # {"state": "less", "made": 18, "asked": 20, "text": "18 of 20 …"}
exit_code(account)                                    # 3
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from lib.core.words import in_words

LESS_THAN_ASKED = 3  # exit code
STATES = {"nothing": "Painted nothing", "less": "Painted less"}  # names of Prefect states; the others are Completed

_STAGES = ("ingest", "select", "caption", "plan", "generate", "screen")


def outcome_of(
    stages: Mapping[str, Mapping[str, Any]], asked: int | None, target: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """State (painted, reused, less, nothing), pictures made and asked for, and the sentence for a person.

    stages: counts as tasks.run.Work.count enters them. asked: pictures that `limit` asks for; None: as many as there
    are plans. target: what Tally.document says of one, which then decides in place of `asked`. Pictures that a person
    did not pick count as made.
    """
    made, painted = stages["screen"]["ok"], stages["generate"]["painted"]
    planned, whole = stages["plan"]["ok"], stages["generate"]["ok"]
    if target is not None:
        asked = target["pictures"]["wanted"]
    wanted = planned if asked is None else asked
    if not made:
        why = _short_of(target) if target is not None and stages["caption"]["ok"] else _emptied(stages)
        return _outcome("nothing", 0, wanted, f"painted nothing: {why}")
    if target is not None and not target["reached"]:
        return _outcome("less", made, wanted, f"{_short_of(target)}; {_pictures(made)} in all")
    if target is None and (made < wanted if asked is not None else whole < planned):
        return _outcome("less", made, wanted, f"{made} of {wanted} pictures: {_missing(stages)}")
    if not painted:
        return _outcome("reused", made, wanted, f"nothing new: {_pictures(made)} reused")
    reached = "" if target is None else "target reached: "
    return _outcome(
        "painted", made, wanted, f"{reached}{_pictures(made)}: {painted} painted, {max(0, made - painted)} reused"
    )


def exit_code(account: Mapping[str, Any]) -> int:
    """0, or 3 for a run that painted nothing, or less than it was asked for."""
    return LESS_THAN_ASKED if known_outcome(account).get("state") in STATES else 0


def known_outcome(account: Mapping[str, Any]) -> dict[str, str]:
    """State and sentence that an account holds; empty for one of a former version, or that a person changed."""
    found = account.get("outcome")
    if not isinstance(found, dict):
        return {}
    return {name: found[name] for name in ("state", "text") if isinstance(found.get(name), str)}


def _outcome(state: str, made: int, asked: int, text: str) -> dict[str, Any]:
    return {"state": state, "made": made, "asked": asked, "text": text}


def _short_of(target: Mapping[str, Any]) -> str:
    """What is missing of a target, those categories first that lack most, and why."""
    short = {name: one for name, one in target["boxes"].items() if one["missing"]}
    if not short:
        pictures = target["pictures"]
        return f"{pictures['accepted']} of {pictures['wanted']} pictures: {target['ended']}"
    ordered = sorted(short, key=lambda name: -short[name]["missing"])
    listed = [
        f"{name}: {short[name]['accepted']} of {short[name]['wanted']} boxes accepted ({short[name]['why']})"
        for name in ordered[:_NAMED]
    ]
    more = [f"{len(ordered) - _NAMED} categories more"] if len(ordered) > _NAMED else []
    return "; ".join(listed + more)


_NAMED = 5  # categories in a sentence


def _emptied(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """Which stage left nothing over, and its main reason."""
    name = next((name for name in _STAGES if not stages[name]["ok"]), "screen")
    stage = stages[name]
    if not stage["rows"]:
        return "the data set has no pictures"
    return f"{name} set aside {'all ' * (stage['rows'] > 1)}{_pictures(stage['rows'])}, {_main(stage['rejected'])}"


def _missing(stages: Mapping[str, Mapping[str, Any]]) -> str:
    """Why there are not more: the main reason after selection, or else of it."""
    later = Counter[str]()
    for name in _STAGES[2:]:
        later.update(stages[name]["rejected"])
    earlier = {reason: n for reason, n in stages["select"]["rejected"].items() if reason != "over_limit"}
    reasons = later or earlier
    return f"the others were set aside, {_main(reasons)}" if reasons else "the data set has no more"


def _main(rejected: Mapping[str, int]) -> str:
    """ "most as no donor (12 of 14)"."""
    reason, count = max(rejected.items(), key=lambda item: item[1])
    total = sum(rejected.values())
    return f"most as {in_words(reason)} ({count} of {total})" if count < total else f"as {in_words(reason)} ({count})"


def _pictures(count: int) -> str:
    return f"{count} picture{'s' * (count != 1)}"
