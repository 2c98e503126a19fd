"""Tune: the cheapest settings of a painter whose boxes a judge accepts as often as those of the run's own settings.

    tuning = tune(parameters, Path("data/runs/demo"), boxes=64, margin=0.02)
    tuning.chosen.values                    # {"scheduler": "dpm++2m", "steps": 10, "guided": (0, 0.5), "reuse": 1}
    tuning.yaml()                           # the parameters of the run with them

Every trial paints the same boxes from the same noise. First the scheduler and its steps, then the part of the steps
that is guided, then the reuse of deep features: each as cheap as the margin allows. What was chosen on some boxes is
the luckiest of many: so it is held against the run's own settings once more, on boxes that no trial has seen.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from lib.core.errors import AugmentError
from lib.core.keys import canonical
from lib.core.registry import Member
from lib.datasets.formats import lay_dataset
from lib.judges import Judge, make_judge
from lib.painting.generate import generate_pictures
from lib.painting.painters import PAINTERS
from lib.painting.painters.denoise import LatentPainter
from lib.painting.painters.schedulers import MOST_STEPS
from lib.records.manifest import to_table
from lib.records.outputs import inputs_of
from lib.records.requests import Outcome, Request, parsed
from lib.records.rows import OK, PictureRow, PlanRow
from lib.records.settings import BoxScreenSettings, ScreenSettings
from lib.records.store import Store
from lib.runs.parameters import Parameters
from lib.runs.preflight import check_data, check_run
from lib.runs.rehearsal import Rehearsal, Watch
from lib.runs.workspace import Pins, locked, recipe_of
from lib.screening.boxes import BoxRules, judge_pictures, learn_rules, real_boxes
from lib.screening.labels import BoxVerdict
from lib.screening.pictures import measure_pictures

DIALS = ("scheduler", "steps", "guided", "reuse")
SCHEDULERS = ("dpm++2m", "unipc", "ddim")  # tried beside the run's own
FEWER = (0.6, 0.4, 0.28, 0.2, 0.14, 0.1)  # shares of the run's steps
LEAST_STEPS = 4
GUIDED = ((0.0, 0.25), (0.0, 0.5), (0.2, 0.7), (0.0, 0.75))
REUSE = (4, 3, 2)
VARIANTS = 4  # of each picture at most: small data sets have too few boxes otherwise
POOR = 0.5  # share of accepted boxes under which there is something else to mend
FEW = 32  # boxes under which no acceptance is worth a look

Box = tuple[str, int]  # key of its request, position among the labels


@dataclass(frozen=True)
class Trial:
    """What some settings gave on some boxes."""

    values: dict[str, Any]  # of the DIALS
    seconds: float  # of painting all pictures, without loading the model
    accepted: dict[Box, bool]

    @property
    def boxes(self) -> int:
        """How many were judged."""
        return len(self.accepted)

    @property
    def share(self) -> float:
        """Accepted ones, 0 .. 1."""
        return float(np.mean(list(self.accepted.values())))

    @property
    def per_accepted(self) -> float:
        """Seconds for each accepted box; infinite where none was."""
        count = sum(self.accepted.values())
        return self.seconds / count if count else float("inf")

    @property
    def words(self) -> str:
        """The settings in a line."""
        low, high = self.values["guided"]
        parts = [f"{self.values['scheduler']}, {self.values['steps']} steps"]
        parts += [f"guided from {low:g} to {high:g}"] * ((low, high) != (0, 1))
        parts += [f"deep features once in {self.values['reuse']}"] * (self.values["reuse"] > 1)
        return ", ".join(parts)


@dataclass(frozen=True)
class Tuning:
    """What was tried, and what is best."""

    parameters: Parameters
    painter: str
    margin: float
    trials: list[Trial]  # in their order, the run's own settings first
    own: Trial  # the run's settings on boxes that no trial has seen
    chosen: Trial  # the cheapest ones that hold, on the same boxes
    notes: list[str] = field(default_factory=list)

    @property
    def faster(self) -> float:
        """How many times as many pictures a second."""
        return self.own.seconds / self.chosen.seconds

    @property
    def difference(self) -> tuple[float, float, float]:
        """Acceptance of the chosen settings less that of the run's own, and its interval (95 %, paired bootstrap)."""
        pairs = np.array([(self.chosen.accepted[box], found) for box, found in self.own.accepted.items()], float)
        gains = pairs[:, 0] - pairs[:, 1]
        draws = np.random.default_rng(0).integers(0, len(gains), (2000, len(gains)))
        low, high = np.percentile(gains[draws].mean(axis=1), [2.5, 97.5])
        return float(gains.mean()), float(low), float(high)

    @property
    def sentence(self) -> str:
        """The outcome in plain words."""
        if self.chosen.values == self.own.values:
            return f"nothing cheaper is accepted as often, by a margin of {self.margin:g}: {self.own.words} stays"
        gain, low, high = self.difference
        return (
            f"{self.faster:.1f} times as fast: {self.chosen.words}; of {self.own.boxes} boxes that no trial has seen "
            f"the judge accepts {self.chosen.share:.0%}, of the same by {self.own.words} {self.own.share:.0%} "
            f"(difference {gain:+.2f}, {low:+.2f} to {high:+.2f}); {self.chosen.per_accepted:.2f} s an accepted box, "
            f"not {self.own.per_accepted:.2f}"
        )

    def yaml(self) -> str:
        """The run's parameters with what was chosen, for `augment run`; what was found in its first lines."""
        given = self.parameters.model_dump(mode="json", exclude_unset=True)
        painter = given.get("painter") or {}
        painter = {"name": painter} if isinstance(painter, str) else dict(painter)
        changed = {k: v for k, v in self.chosen.values.items() if self.own.values[k] != v}
        given["painter"] = {**painter, "name": self.painter, **_plain(changed)}
        head = "".join(f"# {line}\n" for line in [self.sentence, *self.notes])
        return head + yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=100)


def tune(
    parameters: Parameters,
    workspace: Path,
    boxes: int = 64,
    margin: float = 0.02,
    judge: str | None = None,
    watch: Watch = lambda what, done, total: None,
) -> Tuning:
    """Find the cheapest settings of the run's painter; nothing is left in the workspace but models.lock.

    boxes: painted by each trial, and as many others at the end; margin: of the share of accepted boxes; judge: a CLIP
    or a classifier, none: that of screen.boxes, or mini:clip for the mini models. watch: as of `dry_run`.
    Raises AugmentError as the preflight does, where a run holds the workspace, for a painter without steps, without a
    judge, and for too few boxes.
    """
    given = parameters.model_copy(update={"limit": 2 * boxes, "target": None, "variants": VARIANTS})
    settings = check_run(given, workspace)
    if not issubclass(PAINTERS[settings.painter.name], LatentPainter):
        able = ", ".join(name for name in PAINTERS if issubclass(PAINTERS[name], LatentPainter))
        raise AugmentError(f"painter {settings.painter.name!r} has nothing to tune: expected one of {able}")
    data = lay_dataset(settings.dataset)
    check_data(settings, data)
    root = settings.workspace.absolute()
    root.mkdir(parents=True, exist_ok=True)
    rehearsal = Rehearsal(settings, root, data, watch)
    with locked(root, inputs_of(settings)), tempfile.TemporaryDirectory(prefix="tune-", dir=root) as folder:
        member = recipe_of(settings, Pins(root / "models.lock")).painter
        PAINTERS.check(member)
        bench = _Bench(rehearsal, member, _judge_of(settings.screen, settings.models, judge), Path(folder), watch)
        return bench.tuning(parameters, boxes, margin)


def _judge_of(screen: ScreenSettings, models: str, given: str | None) -> tuple[BoxScreenSettings, str]:
    """The settings of screening by box, and the judge's checkpoint."""
    judge = given or screen.judge or ("mini:clip" if models == "mini" else None)
    if judge is None:
        raise AugmentError(
            "nothing judges the boxes: give --judge, a CLIP or a classifier by folder or hub id, or set "
            "screen.boxes.judge"
        )
    return screen.boxes or BoxScreenSettings(), judge


class _Bench:
    """The planned pictures, the painter with its model loaded once, and the judge with its limits."""

    def __init__(
        self,
        rehearsal: Rehearsal,
        member: Member,
        judged: tuple[BoxScreenSettings, str],
        folder: Path,
        watch: Watch,
    ) -> None:
        self.rehearsal, self.member, self.folder, self.watch = rehearsal, member, folder, watch
        self.store = Store(folder / "store")
        self.painter = PAINTERS.build(member)
        screen, model = judged
        self.judge: Judge = make_judge(Pins(folder / "models.lock").resolve(model))
        self.rules = self._limits(screen)
        rows = rehearsal.objects[:]
        self.objects = {o.key: (o.category, (o.x, o.y, o.w, o.h)) for o in rows.itertuples()}
        images = rehearsal.images[:]
        self.frames = dict(zip(images.key, zip(images.digest, images.frame, strict=True), strict=True))

    def tuning(self, parameters: Parameters, boxes: int, margin: float) -> Tuning:
        seen, unseen = self._pictures(boxes)
        self._paint(self.painter, seen.head(1), self.folder / "first")  # loads the model
        first = self._trial(self._own(), seen)
        if not any(first.accepted.values()):
            raise AugmentError(
                f"the judge accepts none of {first.boxes} boxes as the run paints them: there is nothing to hold "
                "trials against; look at the pictures, and at the judge (augment grid, augment fidelity)"
            )
        choices = {dial: self._possible(dial, some) for dial, some in (("guided", GUIDED), ("reuse", REUSE))}
        search = _Search(lambda values: self._trial(values, seen, first), first, margin, choices)
        best = search.best()
        notes = list(self.rehearsal.notes)
        own = self._trial(self._own(), unseen)
        if own.share < POOR:
            notes.append(
                f"of what the run's own settings paint the judge accepts {own.share:.0%}: look at the pictures first, "
                "and at the judge; a cheaper way to poor pictures is no gain"
            )
        for trial in best:
            chosen = self._trial(trial.values, unseen, own) if trial.values != own.values else own
            if chosen.share >= own.share - margin and chosen.seconds <= own.seconds:
                break
            notes.append(f"{trial.words}: fell short on boxes that no trial had seen ({chosen.share:.0%})")
        if own.boxes < boxes:
            notes.append(f"{own.boxes} boxes that no trial had seen were left, {boxes} were asked for")
        return Tuning(parameters, self.member.name, margin, search.trials, own, chosen, notes)

    def _possible(self, dial: str, choices: Sequence[Any]) -> list[Any]:
        """Those that the painter takes with its other settings."""
        if dial == "guided" and self.painter.settings.guidance <= 1:
            return []
        return [choice for choice in choices if self._takes({dial: choice})]

    def _takes(self, values: Mapping[str, Any]) -> bool:
        try:
            self._settings(values)
        except AugmentError:
            return False
        return True

    def _settings(self, values: Mapping[str, Any]) -> Any:
        """The painter's, with other values. Raises AugmentError where they do not go together."""
        return PAINTERS.settings(self.member.name, {**self.painter.settings.model_dump(), **values})

    def _own(self) -> dict[str, Any]:
        return {name: getattr(self.painter.settings, name) for name in DIALS}

    def _limits(self, screen: BoxScreenSettings) -> BoxRules:
        data, split = self.rehearsal, self.rehearsal.settings.select.split
        real = real_boxes(data.by_picture(), split, screen.min_side)
        labelled = {name for table in data.objects for name in table["category"].unique().to_pylist()}
        names = sorted(labelled | {name for _, name in data.recipe.categories})
        rules = learn_rules(real, names, screen, self.judge, data.load, self.store)
        if not rules.known:
            raise AugmentError(
                f"{len(real)} real boxes are too few to learn from what is accepted: {screen.least} are expected at "
                "least (screen.boxes.least)"
            )
        return rules

    def _pictures(self, boxes: int) -> tuple[pd.DataFrame, pd.DataFrame]:
        """PlanRows with at least so many painted labels, where there are enough, and others with as many."""
        plan = to_table([row for rows, _ in self.rehearsal.plan() for row in rows], PlanRow).to_pandas()
        plan = plan[plan.status == OK].sort_values("variant", kind="stable", ignore_index=True)
        painted = [sum(label.painted for label in parsed(Request, text).labels) for text in plan.request]
        total = np.cumsum(painted)
        if not len(total) or total[-1] < 2 * FEW:
            raise AugmentError(
                f"{total[-1] if len(total) else 0} boxes would be painted: expected {2 * FEW} at least, half of them "
                "to choose by and half to check what was chosen; give more pictures"
            )
        first = min(boxes, total[-1] // 2)
        middle = int(np.searchsorted(total, first)) + 1
        end = int(np.searchsorted(total, total[middle - 1] + boxes)) + 1
        return plan[:middle], plan[middle:end]

    def _trial(self, values: dict[str, Any], plan: pd.DataFrame, like: Trial | None = None) -> Trial:
        """Paint the pictures by some settings, and judge their boxes, those of another trial where one is given."""
        painter = copy.copy(self.painter)  # with the model that it has loaded
        painter.settings = self._settings(values)
        known = self.member
        member = PAINTERS.member(known.name, painter.settings.model_dump(), known.model, **known.beside)
        texts = [parsed(Request, text).model_copy(update={"painter": member.identity()}) for text in plan.request]
        plan = plan.assign(request=[canonical(request) for request in texts])
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            begun = time.perf_counter()
            pictures = self._paint(painter, plan, Path(folder), Trial(dict(values), 0, {}).words)
            seconds = time.perf_counter() - begun
            found = self._accepted(plan, pictures, Store(Path(folder)))
        accepted = {box: found.get(box, False) for box in like.accepted} if like else found
        if not accepted:
            raise AugmentError(
                f"no box of {len(plan)} painted pictures could be judged, by {Trial(values, 0, {}).words}"
            )
        return Trial(dict(values), seconds, accepted)

    def _paint(self, painter: Any, plan: pd.DataFrame, folder: Path, words: str = "") -> pd.DataFrame:
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if words:
                self.watch(words, done, len(plan))

        rows = generate_pictures(plan, painter, self.rehearsal.load, Store(folder), advance)
        return to_table(rows, PictureRow).to_pandas()

    def _accepted(self, plan: pd.DataFrame, pictures: pd.DataFrame, store: Store) -> dict[Box, bool]:
        """Of every painted label that is large enough whether the judge accepts it; failed pictures have none."""
        outcomes = {row.key: parsed(Outcome, row.request) for row in plan.itertuples()}
        good, load = pictures[pictures.status == OK], self.rehearsal.load
        rows = measure_pictures(good, self.frames, ScreenSettings(duplicates=False), load, store)
        return {
            (row.key, verdict.position): verdict.action == "keep"
            for row in judge_pictures(rows, outcomes, self.objects, self.rules, self.judge, store)
            for verdict in map(BoxVerdict.parse, row.boxes)
            if verdict.score is not None
        }


class _Search:
    """One dial after the other, each as cheap as the margin allows."""

    def __init__(
        self,
        attempt: Callable[[dict[str, Any]], Trial],
        own: Trial,
        margin: float,
        choices: Mapping[str, Sequence[Any]],
    ) -> None:
        self._attempt, self.margin, self.choices = attempt, margin, choices
        self.trials = [own]

    def best(self) -> list[Trial]:
        """The trials within the margin, the cheapest first; the run's own settings are the last of them."""
        own = self.trials[0]
        names = dict.fromkeys([own.values["scheduler"], *SCHEDULERS])
        for name in names:
            self._fewest_steps({**own.values, "scheduler": name})
        for dial, choices in self.choices.items():
            best = self._held()[0].values
            for choice in choices:
                if self._holds(self._try({**best, dial: choice})):
                    break
        return self._held()

    def _fewest_steps(self, values: dict[str, Any]) -> None:
        """By halving: fewer steps are never accepted more often, as far as this search believes."""
        steps = sorted({max(LEAST_STEPS, round(share * values["steps"])) for share in FEWER}, reverse=True)
        steps = [count for count in steps if count < values["steps"] and count <= MOST_STEPS[values["scheduler"]]]
        low, high = 0, len(steps)
        while low < high:
            middle = (low + high) // 2
            if self._holds(self._try({**values, "steps": steps[middle]})):
                low = middle + 1
            else:
                high = middle

    def _try(self, values: dict[str, Any]) -> Trial:
        self.trials.append(self._attempt(values))
        return self.trials[-1]

    def _holds(self, trial: Trial) -> bool:
        return trial.share >= self.trials[0].share - self.margin

    def _held(self) -> list[Trial]:
        """Cheaper ones that hold, the cheapest first, then the run's own."""
        own, *others = self.trials
        cheaper = [trial for trial in others if self._holds(trial) and trial.seconds < own.seconds]
        return [*sorted(cheaper, key=lambda trial: trial.seconds), own]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
