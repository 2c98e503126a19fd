"""A dry run: what a run would paint, leave alone and cost, by the stages' own functions (rehearsal.py). It writes
nothing into the workspace.

plan = dry_run(parameters, workspace)
plan.document()                     # the same for a machine
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lib.core.places import shown
from lib.core.registry import Member
from lib.datasets.formats import lay_dataset
from lib.painting.painters import PAINTERS
from lib.records.outputs import check_sources
from lib.records.requests import Request, picture_keys
from lib.records.rows import OK
from lib.runs.account import former_account
from lib.runs.parameters import Parameters, Resolved
from lib.runs.preflight import check_data, check_run, room_needed
from lib.runs.rehearsal import Rehearsal, Watch


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a run would do."""

    workspace: Path
    recipe: str  # edit × painter × composite
    pictures: int  # that would come out of painting, new and reused
    new: int  # of them, those that the store does not have
    boxes: dict[str, int] = field(default_factory=dict)  # labels that would be painted, by category
    changed: dict[str, int] = field(
        default_factory=dict
    )  # others whose box changes: covered in part by what is painted
    left: dict[str, dict[str, int]] = field(default_factory=dict)  # stage → reason → rows set aside
    left_boxes: dict[str, int] = field(default_factory=dict)  # reason → boxes that a plan leaves alone
    size: int = 0  # bytes needed at least, roughly
    seconds: float = 0.0  # of painting what is new
    measured: bool = False  # the seconds are those of this workspace's last run; no: a guess
    notes: list[str] = field(default_factory=list)  # what is not as in the run

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"workspace": shown(self.workspace)}


def dry_run(parameters: Parameters, workspace: Path, watch: Watch = lambda what, done, total: None) -> DryRun:
    """What a run with these parameters would do. Raises AugmentError as the preflight does.

    workspace: used where the parameters have none; watch: receives (what, done, total) as pictures are read.
    """
    settings = check_run(parameters, workspace)
    data = lay_dataset(settings.dataset)
    root = settings.workspace.absolute()
    paths = (path for table in data.images for path in table["path"].to_pylist())
    check_sources(root, settings.dataset.images, paths)
    check_data(settings, data)
    return _result(Rehearsal(settings, root, data, watch))


def _result(rehearsal: Rehearsal) -> DryRun:
    settings, root = rehearsal.settings, rehearsal.root
    pictures = new = passes = 0
    painted, changed, barred = Counter[str](), Counter[str](), Counter[str]()
    for rows, objects in rehearsal.plan():
        categories = dict(zip(objects.key, objects.category, strict=True))
        for row in rows:
            if row.status != OK:
                continue
            request = Request.model_validate_json(row.request)
            pictures, passes = pictures + 1, passes + len(request.passes)
            new += not rehearsal.store.has("picture", picture_keys(request)[-1][1])
            barred.update(text.rpartition(": ")[2] for text in row.barred)
            for label in request.labels:
                if label.painted or label.bbox is not None:
                    counts = painted if label.painted else changed
                    counts[label.category or categories.get(label.source or "", "")] += 1
    seconds, measured = _seconds(rehearsal, passes / max(1, pictures), new)
    copies = not (root / "final" / "annotations.json").is_file()
    return DryRun(
        workspace=root,
        recipe=f"{settings.edit.name} × {settings.painter.name} × {settings.composite.name}",
        pictures=pictures,
        new=new,
        boxes=dict(painted.most_common()),
        changed=dict(changed.most_common()),
        left={stage: dict(reasons.most_common()) for stage, reasons in rehearsal.left.items() if reasons},
        left_boxes=dict(barred.most_common()),
        size=room_needed(settings, rehearsal.images, new, copies),
        seconds=seconds,
        measured=measured,
        notes=rehearsal.notes,
    )


def _seconds(rehearsal: Rehearsal, passes: float, new: int) -> tuple[float, bool]:
    """(seconds of painting what is new, whether a run of this workspace has measured them). passes: of a
    picture."""
    known = former_account(rehearsal.root).get("seconds_per_picture")
    if isinstance(known, int | float):
        return round(known * new, 1), True
    return round(_seconds_of_a_pass(rehearsal.recipe.painter, rehearsal.settings) * passes * new, 1), False


# Seconds of a pass, (GPU, CPU), of published models and of the small ones: guesses, until a run has measured.
_GUESSES = {"full": (4.0, 300.0), "mini": (0.3, 3.0)}
_PASTED = 0.05


def _seconds_of_a_pass(painter: Member, settings: Resolved) -> float:
    if PAINTERS[painter.name].MODEL is None:
        return _PASTED
    from lib.core.compute import device

    return _GUESSES[settings.models][device().type == "cpu"]
