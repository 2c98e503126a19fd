"""Which painted boxes screening accepted: their pictures passed, and their labels are neither ignored nor dropped.

made = Accepted()
made.add(outcomes, reasons, verdicts, objects)          # some pictures, and then others
made.accepted["forklift"], made.refused["forklift"]["not_recognised"]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lib.records.labels import new_boxes
from lib.records.requests import Label, Outcome
from lib.screening.labels import Objects, judged_labels


@dataclass
class Accepted:
    """Painted boxes by category."""

    painted: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    refused: dict[str, Counter[str]] = field(default_factory=dict)  # category → reason → boxes
    planned: int = 0  # pictures
    pictures: int = 0  # of them, those that passed

    def add(
        self,
        outcomes: Mapping[str, Outcome],
        reasons: Mapping[str, str],
        verdicts: Mapping[str, Sequence[str]],
        objects: Objects,
    ) -> None:
        """Enter what was planned, by request key: `outcomes`, why painting or screening set a picture aside ("": it did
        not), and the ScreenRow.boxes of those that passed."""
        categories = {key: category for key, (category, _) in objects.items()}
        self.planned += len(outcomes)
        for key, outcome in outcomes.items():
            boxes = new_boxes(outcome.labels, categories)
            self.painted.update(boxes)
            if reasons[key]:
                for name, count in boxes.items():
                    self.refused.setdefault(name, Counter())[reasons[key]] += count
                continue
            self.pictures += 1
            judged = judged_labels(outcome, verdicts[key], objects)
            self.accepted.update(new_boxes(judged.labels, categories))
            for before, after in zip(outcome.labels, judged.labels, strict=False):  # proposed ones come after them
                for name in new_boxes([before], categories) - new_boxes([after], categories):
                    self.refused.setdefault(name, Counter())[_reason(after)] += 1


def _reason(label: Label) -> str:
    return label.dropped or label.ignored
