"""Rounds: what the next one is to bring, from what the earlier ones brought, and when they end.

    tally = Tally(goals, pictures, budget)
    while (wanted := tally.next()) is not None:
        ...                                         # draw, paint, screen
        tally.add(painted, accepted, refused, pictures=(64, 60), seconds=12.5)
    tally.document()                                # for status.json

A round asks for what is still lacking, more of it where screening has refused some before. Of a category of which
nothing was accepted yet it asks for a few boxes, so that a target that cannot be reached costs little.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lib.core.words import in_words
from lib.planning.target import Draws, Wanted
from lib.records.settings import BudgetSettings

PROBE = 64  # boxes of a category, or pictures, at most while none was accepted
TRIES = 3  # rounds that bring a category nothing, until it is given up,
FRUITLESS = 16  # and painted boxes in them, or pictures: a round of one or two may have bad luck
_LEAST_YIELD = 0.5  # a round asks for twice what is lacking, at most
_FIRST = 8  # pictures of the first round where seconds are limited and their pace is not known

Counts = Mapping[str, int]  # by category


@dataclass
class Tally:
    """How far a target is reached."""

    goals: Counts  # category → painted boxes to accept; empty: pictures are the target
    pictures: int | None  # to come out: the target where there are no goals, else at most
    budget: BudgetSettings
    rounds: int = 0
    tried: int = 0  # pictures that were painted, or were to be
    made: int = 0  # of them, those that passed screening
    seconds: float = 0.0
    ended: str = ""  # why, in words
    painted: Counter[str] = field(default_factory=Counter)  # boxes
    accepted: Counter[str] = field(default_factory=Counter)
    refused: dict[str, Counter[str]] = field(default_factory=dict)  # category → reason → boxes
    spent: Counter[str] = field(default_factory=Counter)  # seconds by category, as boxes share those of a round
    idle: Counter[str] = field(default_factory=Counter)  # rounds since the last accepted box; "" for pictures
    fruitless: Counter[str] = field(default_factory=Counter)  # painted in these rounds
    why: dict[str, str] = field(default_factory=dict)  # categories that were given up

    def next(self) -> Wanted | None:
        """What the next round is to bring; None, and `ended`, where there is none."""
        lacking = {
            name: self._asked(count - self.accepted[name], self.painted[name], self.accepted[name])
            for name, count in self.goals.items()
            if self.accepted[name] < count and name not in self.why
        }
        if self.ended or (self.goals and not lacking):
            self.ended = self.ended or ("target reached" if self.reached else "no more of it can be painted")
            return None
        caps = self._caps()
        self.ended = next((text for text, left in caps.items() if left <= 0), "")
        if self.ended:
            return None
        most = min(caps.values(), default=None)
        if self.goals:
            return Wanted(boxes=lacking, most=most)
        assert self.pictures is not None
        missing = self.pictures - self.made
        return Wanted(pictures=missing if self.made else min(missing, PROBE), most=most)

    def _asked(self, lacking: int, painted: int, accepted: int) -> int:
        """Boxes to paint for so many to be accepted."""
        if not accepted:
            return min(max(lacking, painted), PROBE)  # twice as many in all as before, where none was accepted
        return math.ceil(lacking / max(accepted / painted, _LEAST_YIELD))

    def _caps(self) -> dict[str, int]:
        """Pictures that the next round may have at most, by what says so."""
        caps, budget = {}, self.budget
        if self.pictures is not None:
            text = f"limit of {self.pictures} pictures reached" if self.goals else "target reached"
            caps[text] = self.pictures - self.made
        if budget.pictures is not None:
            caps[f"budget of {budget.pictures} pictures spent"] = budget.pictures - self.tried
        if budget.seconds is not None:
            left, pace = budget.seconds - self.seconds, self.seconds / max(self.tried, 1)
            most = max(1, math.floor(left / pace)) if pace else _FIRST
            caps[f"budget of {budget.seconds:g} seconds spent"] = most if left > 0 else 0
        return caps

    def exhaust(self, found: Draws) -> None:
        """Enter what no draw brings, whether or not others bring something."""
        for name, reason in found.without.items():
            why = f", most as {in_words(reason)}" if reason else ""
            self.why[name] = f"no further source gives one{why}"
        if not found.groups and not self.ended:
            why = f", most as {in_words(found.exhausted)}" if found.exhausted else ""
            self.ended = f"no more pictures can be painted{why}" if not found.without else ""

    def add(
        self,
        painted: Counts,
        accepted: Counts,
        refused: Mapping[str, Counts],
        pictures: tuple[int, int],
        seconds: float,
    ) -> None:
        """Enter a round: boxes painted and accepted by category, why others were refused, its pictures (all, and those
        that passed screening) and the seconds that it took."""
        self.rounds += 1
        tried, made = pictures
        self.tried, self.made, self.seconds = self.tried + tried, self.made + made, self.seconds + seconds
        self.painted.update(painted)
        self.accepted.update(accepted)
        for name, reasons in refused.items():
            self.refused.setdefault(name, Counter()).update(reasons)
        for name, count in painted.items():
            self.spent[name] += seconds * count / sum(painted.values())  # type: ignore[assignment]
        for name in self.goals:
            self._idle(name, painted.get(name, 0), accepted.get(name, 0))
        if not self.goals:
            self._idle("", tried, made)

    def _idle(self, name: str, painted: int, accepted: int) -> None:
        self.idle[name] = 0 if accepted else self.idle[name] + (painted > 0)
        self.fruitless[name] = 0 if accepted else self.fruitless[name] + painted
        if self.idle[name] < TRIES or self.fruitless[name] < FRUITLESS:
            return
        reasons = self.refused.get(name, Counter[str]())
        why = f", most as {in_words(reasons.most_common(1)[0][0])}" if reasons else ""
        if name in self.goals:
            self.why[name] = f"none of the last {self.idle[name]} rounds brought an accepted one{why}"
        else:
            self.ended = f"none of the last {self.idle[name]} rounds brought a picture that passed screening"

    @property
    def reached(self) -> bool:
        """Is all of the target accepted?"""
        if self.goals:
            return all(self.accepted[name] >= count for name, count in self.goals.items())
        return self.made >= (self.pictures or 0)

    def document(self) -> dict[str, Any]:
        """For status.json."""
        boxes = {name: self._category(name, count) for name, count in self.goals.items()}
        return {
            "reached": self.reached,
            "ended": self.ended,
            "rounds": self.rounds,
            "pictures": {"wanted": None if self.goals else self.pictures, "painted": self.tried, "accepted": self.made},
            "seconds": round(self.seconds, 3),
            "boxes": boxes,
        }

    def _category(self, name: str, wanted: int) -> dict[str, Any]:
        accepted, reasons = self.accepted[name], self.refused.get(name, Counter[str]())
        short = accepted < wanted
        return {
            "wanted": wanted,
            "accepted": accepted,
            "refused": self.painted[name] - accepted,
            "reasons": dict(sorted(reasons.items())),
            "seconds_per_box": round(self.spent[name] / accepted, 3) if accepted else None,
            "missing": max(0, wanted - accepted),
            "why": (self.why.get(name) or self.ended) if short else "",
        }
