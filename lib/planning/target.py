"""Targets: which categories lack painted boxes, and which draws bring them. A draw is a source picture and a variant.

    check_target(target, recipe, boxes, known, select.categories)    # raises for what no draw can bring
    goals = wanted_boxes(target, boxes, paintable(recipe, boxes, select.categories))    # category → boxes to accept
    found = choose_draws(candidates, Wanted(boxes=goals), 0, look, categories)          # the draws of a round

As enough.py does for a limit, draws are planned ahead, in an order that the seed decides: all sources with variant 0,
then all with variant 1, and so on. One that brings nothing that is lacking is left out for good, so nothing is drawn
twice, and a round begins where the one before it ended.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from lib.core.errors import AugmentError, nearest
from lib.planning.edits import EDITS
from lib.planning.former import Former
from lib.planning.outlines import Outlines
from lib.planning.plan import plan_requests
from lib.planning.recipe import Recipe
from lib.planning.statistics import Statistics
from lib.records.labels import new_boxes
from lib.records.manifest import GROUP
from lib.records.requests import Outcome
from lib.records.rows import OK, PlanRow
from lib.records.settings import TargetSettings
from lib.records.sorting import LaidRows

MOST_VARIANTS = 1000  # of one source, as the parameter `variants` has it
_SPARE = 64  # sources beyond those that the target is likely to need
_LEAST, _MOST = 16, 512  # draws that are looked at together
_PATIENCE = 32  # draws beyond one of each source, a lacking category, until one of them is given up

# SelectRows, a variant and the categories that are lacking → a PlanRow each, in their order.
Look = Callable[[pd.DataFrame, int, Sequence[str]], Sequence[PlanRow]]


class Wanted(BaseModel):
    """What a round is to bring."""

    boxes: dict[str, int] = {}  # category → painted boxes that it lacks
    pictures: int | None = None  # without boxes: pictures that are lacking
    most: int | None = None  # pictures of the round at most; None: as many as it takes


class DrawGroup(BaseModel):
    """Draws that paint what one set of categories lacks."""

    lacking: list[str]
    draws: dict[str, list[int]]  # image key → variants


class Draws(BaseModel):
    """The draws of a round."""

    groups: list[DrawGroup] = []
    count: int = 0
    at: int  # draws that were looked at so far, where the next round begins
    without: dict[str, str] = {}  # category of which no draw brings a box → why, a reason of the plan or ""
    exhausted: str | None = None  # no draw brings a picture: why


# --- what is wanted ----------------------------------------------------------------------------------------------


def count_boxes(images: Iterable[pa.Table], objects: Iterable[pa.Table], split: str) -> dict[str, int]:
    """Category → real boxes of a split. images: ImageRows; objects: ObjectRows; crowds do not count."""
    ours = (table.filter(pc.and_(pc.equal(table["status"], OK), pc.equal(table["split"], split))) for table in images)
    keys = pa.concat_arrays([pa.array([], pa.string()), *(chunk for table in ours for chunk in table["key"].chunks)])
    counts = Counter[str]()
    for table in objects:
        usable = pc.and_(pc.equal(table["status"], OK), pc.invert(table["crowd"]))
        usable = pc.and_(usable, pc.is_in(table["image_key"], value_set=keys))
        counts.update(table["category"].filter(usable).to_pylist())
    return dict(sorted(counts.items()))


def paintable(recipe: Recipe, boxes: Mapping[str, int], selected: Collection[str] | None) -> set[str]:
    """Categories of which the recipe can paint new objects. boxes: `count_boxes`; selected: `select.categories`."""
    settings = EDITS.settings(recipe.edit.name, recipe.edit.settings)
    own = {name for name in boxes if selected is None or name in selected}
    found = {name for _, name in recipe.categories} | (own if settings.paints_own else set())
    if settings.needs_places:  # it has the places of real objects alone
        return found & own
    return found & set(boxes) if recipe.needs_donors else found


def check_target(
    target: TargetSettings,
    recipe: Recipe,
    boxes: Mapping[str, int],
    known: Collection[str],
    selected: Collection[str] | None = None,
) -> None:
    """Raise AugmentError for a target that no run can reach. known: names of the data set's categories; others: as
    `paintable`."""
    able = paintable(recipe, boxes, selected)
    for name in target.per_category or ():
        if name not in known:
            raise AugmentError(
                f"target.per_category: the data set has no category {name!r}{nearest(name, known)}, it has "
                f"{', '.join(sorted(known)) or 'none'}"
            )
        if name not in able:
            raise AugmentError(
                f"target.per_category: edit {recipe.edit.name!r} with painter {recipe.painter.name!r} paints no object "
                f"of category {name!r} here (it has {boxes.get(name, 0)} real boxes): it paints "
                f"{', '.join(sorted(able)) or 'none with a label'}; leave it out, or choose another edit, or other "
                "values of edit.category and select.categories"
            )
    if target.balance and not wanted_boxes(target, boxes, able):
        raise AugmentError(
            f"target balance asks for nothing: of what edit {recipe.edit.name!r} paints "
            f"({', '.join(sorted(able)) or 'nothing with a label'}) no category has fewer boxes than "
            f"{target.balance:g} × {max(boxes.values(), default=0)}, those of the most frequent one; name counts in "
            "target.per_category"
        )


def wanted_boxes(target: TargetSettings, boxes: Mapping[str, int], able: Collection[str]) -> dict[str, int]:
    """Category → painted boxes that are to be accepted; empty where pictures are the target.

    boxes: real ones; able: `paintable`, to which `balance` is confined.
    """
    if target.balance is None:
        return dict(sorted((target.per_category or {}).items()))
    goal = math.floor(target.balance * max(boxes.values(), default=0))
    lacking = {name: min(goal - n, math.floor(target.ratio * n)) for name, n in sorted(boxes.items()) if name in able}
    return {name: count for name, count in lacking.items() if count > 0}


def sources_needed(candidates: LaidRows, recipe: Recipe, goals: Mapping[str, int], pictures: int) -> int:
    """How many of the first candidates to caption and draw from: twice what the goals take, and some to spare.

    candidates: SelectRows in the order of their hashes; pictures: to come out, where there are no goals.
    """
    settings = EDITS.settings(recipe.edit.name, recipe.edit.settings)
    left = Counter({name: 2 * count for name, count in goals.items()})
    in_place = settings.paints_own and not settings.needs_places  # what it paints is what the source holds
    if not in_place:
        return min(2 * (left.total() // 2 or pictures) + _SPARE, len(candidates))
    open_pictures = 0 if goals else 2 * pictures
    every = (
        labels for start in range(0, len(candidates), GROUP) for labels in candidates[start : start + GROUP].labels
    )
    for place, labels in enumerate(every, 1):
        left.subtract(name for name in labels if name in left)
        open_pictures -= len(labels) > 0
        if max(left.values(), default=0) <= 0 and open_pictures <= 0:
            return min(place + _SPARE, len(candidates))
    return len(candidates)


# --- which draws bring it ----------------------------------------------------------------------------------------


def steered(
    recipe: Recipe, statistics: Statistics, selected: pd.DataFrame, lacking: Collection[str]
) -> tuple[Recipe, Statistics, pd.DataFrame]:
    """Recipe, statistics and SelectRows with which the plan paints what is lacking, where the edit has a choice: of
    categories, of a layout's mix, or of the boxes that it paints anew. Nothing lacking: as they are."""
    settings, wanted = EDITS.settings(recipe.edit.name, recipe.edit.settings), set(lacking)
    pool, named = getattr(settings, "category", None), {name for _, name in recipe.categories}
    if not wanted:
        return recipe, statistics, selected
    if isinstance(pool, list):
        chosen = {**recipe.edit.settings, "category": [name for name in pool if name in wanted] or pool}
        recipe = recipe.model_copy(update={"edit": recipe.edit.model_copy(update={"settings": chosen})})
    elif settings.needs_mixes:
        statistics = replace(statistics, mixes=[mix for mix in statistics.mixes if wanted & set(mix)])
    elif settings.needs_places and settings.paints_own:
        places = {name: rows for name, rows in statistics.places.items() if name in wanted}
        statistics = replace(statistics, places=places)
    elif settings.paints_own and not EDITS[recipe.edit.name].WHOLE and not wanted & named:
        selected = _confined(selected, wanted)
    return recipe, statistics, selected


def plan_draws(
    groups: Sequence[DrawGroup],
    selected: pd.DataFrame,
    objects: pd.DataFrame,
    prompts: Mapping[str, str],
    recipe: Recipe,
    statistics: Statistics,
    seed: int,
    former: Mapping[int, Former] | None = None,
    outlines: Outlines | None = None,
) -> list[PlanRow]:
    """A row per draw. Arguments as those of `plan_requests`."""
    rows = []
    for group in groups:
        of_group = selected[selected.key.isin(list(group.draws))]
        own, drawn_from, some = steered(recipe, statistics, of_group, group.lacking)
        rows += plan_requests(some, objects, prompts, own, drawn_from, seed, group.draws, former, outlines)
    return rows


def _confined(selected: pd.DataFrame, wanted: Collection[str]) -> pd.DataFrame:
    """SelectRows with the objects of some categories alone."""
    both = [
        [(key, name) for key, name in zip(keys, names, strict=True) if name in wanted]
        for keys, names in zip(selected.objects, selected.labels, strict=True)
    ]
    objects = pd.Series([[key for key, _ in some] for some in both], selected.index, dtype=object)
    labels = pd.Series([[name for _, name in some] for some in both], selected.index, dtype=object)
    return selected.assign(objects=objects, labels=labels)


def choose_draws(candidates: LaidRows, wanted: Wanted, at: int, look: Look, categories: Mapping[str, str]) -> Draws:
    """The next draws that bring what is wanted, as if everything they paint were accepted.

    candidates: SelectRows in the order of their hashes; at: draws that earlier rounds looked at; look: plans some;
    categories: annotation key → category.
    """
    search = _Search(candidates, wanted, at)
    while search.goes_on():
        (some, variant), lacking = search.next(), search.lacking
        for row in look(some, variant, lacking):
            if not search.goes_on() or search.lacking != lacking:  # from here on others are planned
                break
            search.see(row, variant, categories)
    return search.found


class _Search:
    def __init__(self, candidates: LaidRows, wanted: Wanted, at: int) -> None:
        self.candidates, self.first = candidates, at
        self.found = Draws(at=at)
        self.left = Counter({name: count for name, count in wanted.boxes.items() if count > 0})
        self.by_boxes = bool(wanted.boxes)
        self.most = min((n for n in (wanted.most, wanted.pictures) if n is not None), default=None)
        self.barren, self.reasons = Counter[str](), Counter[str]()  # draws since the last that brought some
        self.patience = len(candidates) + _PATIENCE * len(wanted.boxes)

    @property
    def lacking(self) -> list[str]:
        """Categories."""
        return sorted(self.left)

    def goes_on(self) -> bool:
        if self.found.at >= len(self.candidates) * MOST_VARIANTS:
            self._exhausted()
        if self.found.exhausted is not None or (self.most is not None and self.found.count >= self.most):
            return False
        return bool(self.left) or not self.by_boxes

    def next(self) -> tuple[pd.DataFrame, int]:
        """Some candidates, and their variant: about as many as the rest takes."""
        variant, place = divmod(self.found.at, len(self.candidates))
        looked, missing = self.found.at - self.first, self.left.total() or (self.most or _MOST) - self.found.count
        size = min(max(_LEAST, math.ceil(missing * looked / max(self.found.count, 1)) if looked else missing), _MOST)
        return self.candidates[place : place + size], variant

    def see(self, row: PlanRow, variant: int, categories: Mapping[str, str]) -> None:
        """One more draw: taken where it brings something."""
        self.found.at += 1
        brought = Counter[str]()
        if row.status == OK:
            brought = new_boxes(Outcome.model_validate_json(row.request).labels, categories)
        else:
            self.reasons[row.reason] += 1
        useful = any(brought[name] for name in self.left) if self.by_boxes else row.status == OK
        if useful:
            self._take(row.image_key, variant)
        if self.by_boxes:
            self._settle(brought)
        else:
            self.barren[""] = 0 if useful else self.barren[""] + 1
            if self.barren[""] >= self.patience:
                self._exhausted()

    def _take(self, image_key: str, variant: int) -> None:
        groups = self.found.groups
        if not groups or groups[-1].lacking != self.lacking:
            groups.append(DrawGroup(lacking=self.lacking, draws={}))
        groups[-1].draws.setdefault(image_key, []).append(variant)
        self.found.count += 1

    def _settle(self, brought: Counter[str]) -> None:
        for name in list(self.left):
            self.barren[name] = 0 if brought[name] else self.barren[name] + 1
            self.left[name] -= brought[name]
            if self.left[name] <= 0:
                del self.left[name]
            elif self.barren[name] >= self.patience:
                self.found.without[name] = self._reason()
                del self.left[name]

    def _exhausted(self) -> None:
        self.found.exhausted = self._reason()
        self.found.without |= dict.fromkeys(self.left, self._reason())
        self.left.clear()

    def _reason(self) -> str:
        return max(self.reasons, key=lambda name: self.reasons[name], default="")
