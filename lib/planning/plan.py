"""Plan: decides everything random before a model is touched. Rows in, requests out.

Draws come from SHA-256 over (seed, edit, source digest, annotation ids, variant), never from a shared stream, so a
picture added to the data set leaves the other plans alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lib.core.geometry import (
    IntBox,
    clip_xyxy,
    outer_pixels,
    rectangles_mask,
    to_window,
    window_around,
    xywh_to_xyxy,
    xyxy_to_xywh,
)
from lib.core.keys import canonical, hash_draw, key_of
from lib.core.registry import Member
from lib.painting.composites import COMPOSITES
from lib.painting.painters import PAINTERS
from lib.planning.donors import Donors
from lib.planning.edits import EDITS, Box, Draft, LabelledPicture, Target
from lib.planning.former import Former
from lib.planning.outlines import Outlines
from lib.planning.recipe import Recipe
from lib.planning.statistics import Statistics
from lib.planning.surroundings import Room, Surroundings
from lib.records.labels import VisibilitySettings, added, occluded, redrawn
from lib.records.requests import Donor, Label, Pass, Request, Rle
from lib.records.rle import decode_rle
from lib.records.rows import OK, REJECTED, PlanRow


def labelled_pictures(
    selected: pd.DataFrame,
    objects: pd.DataFrame,
    prompts: Mapping[str, str],
    seed: int,
    statistics: Statistics,
) -> Iterator[tuple[Any, LabelledPicture]]:
    """(SelectRow, LabelledPicture of variant 0) of every selected picture, with all its usable annotations."""
    by_image = objects.groupby("image_key", sort=False).indices
    keys, categories = objects.key.to_numpy(object), objects.category.to_numpy(object)
    annotated = objects[["x", "y", "w", "h"]].to_numpy()
    corners = xywh_to_xyxy(annotated)
    crowds, records = objects.crowd.to_numpy(), objects.record.to_numpy(object)
    for row in selected.itertuples(index=False):
        numbers = by_image.get(row.key, np.array([], dtype=np.int64))
        editable = set(row.objects)
        clipped = clip_xyxy(corners[numbers], row.width, row.height)
        whole = (clipped == corners[numbers]).all(axis=1, keepdims=True)
        labelled = np.where(whole, annotated[numbers], xyxy_to_xywh(clipped)).tolist()
        boxes = [
            Box(
                key=keys[i],
                category=categories[i],
                xyxy=tuple(xyxy),
                xywh=tuple(xywh),
                editable=keys[i] in editable,
                crowd=bool(crowds[i]),
                record=records[i],
            )
            for i, xyxy, xywh in zip(numbers, clipped.tolist(), labelled, strict=True)
        ]
        prompt = prompts.get(row.key, "")
        frame = row.width, row.height
        drawn_from = statistics.places, statistics.mixes
        yield row, LabelledPicture(row.key, row.digest, *frame, prompt, (seed, 0), boxes, *drawn_from)


def targets_of(
    selected: pd.DataFrame,
    objects: pd.DataFrame,
    prompts: Mapping[str, str],
    edit: Member,
    seed: int,
    statistics: Statistics,
) -> list[tuple[Target, str]]:
    """What variant 0 of `plan_requests` may want to paint, each target with the category of its object."""
    built = EDITS.build(edit)
    return [
        (one, _category(one, picture))
        for _, picture in labelled_pictures(selected, objects, prompts, seed, statistics)
        for target in built.draft(picture).targets
        for one in (target, *target.instead)
    ]


def _category(target: Target, picture: LabelledPicture) -> str:
    """Category of the target's object; "" where the target has none."""
    categories = {box.key: box.category for box in picture.boxes}
    return target.category or (categories[target.about[0]] if target.about else "")


def plan_requests(
    selected: pd.DataFrame,
    objects: pd.DataFrame,
    prompts: Mapping[str, str],
    recipe: Recipe,
    statistics: Statistics,
    seed: int,
    variants: int | Mapping[str, Sequence[int]],
    former: Mapping[int, Former] | None = None,
    outlines: Outlines | None = None,
) -> list[PlanRow]:
    """One row per selected picture and variant: a request, or the reason why it has none.

    selected: SelectRow; objects: ObjectRow that are ok; prompts: image key → prompt; statistics: those that the recipe
    needs; variants: how many of each picture, or which ones by image key; former: `former_donors` of an earlier plan,
    which stay where they still fit; outlines: of donors without a mask, where the recipe needs donors. With them pixels
    are at hand, and new objects go where their surroundings are like those that they had.
    """
    surroundings = None if outlines is None else Surroundings(outlines.load, outlines.store)
    painter = PAINTERS[recipe.painter.name]
    donors = Donors(statistics.donors, painter, _settings(recipe), former or {}, outlines, surroundings)
    planner = _Planner(recipe, donors, seed)
    return [
        planner.row(row, replace(picture, draws=(seed, variant)), variant)
        for row, picture in labelled_pictures(selected, objects, prompts, seed, statistics)
        for variant in (range(variants) if isinstance(variants, int) else variants.get(picture.image_key, ()))
    ]


def picture_name(file_name: str, key: str, edit: str, painter: str) -> str:
    """The file name of a synthetic picture: its source's stem, what was done, and the request's key."""
    last = file_name.replace("\\", "/").rpartition("/")[2]
    stem = last.rpartition(".")[0] if "." in last else last
    safe = "".join(c if c.isalnum() or c in ",.-_ " else "_" for c in stem).strip(". ") or "picture"
    short = safe[:80].encode()[:160].decode(errors="ignore")  # file systems count bytes: 255
    return f"{short}__{edit}-{painter}-{key[:12]}.png"


def _settings(recipe: Recipe) -> Any:
    """The painter's."""
    return PAINTERS.settings(recipe.painter.name, recipe.painter.settings)


_Steps = list[tuple[Target, Pass | str]]  # a target and its pass, or the reason why it gets none


class _Planner:
    def __init__(self, recipe: Recipe, donors: Donors, seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        self.edit = EDITS.build(recipe.edit)
        self.painter = PAINTERS[recipe.painter.name]
        self.painter_settings, self.donors = _settings(recipe), donors
        # In steps, so that composites of about the same reach share their paints.
        self.margin = 16 * max(1, math.ceil(COMPOSITES.build(recipe.composite).margin() / 16))

    def row(self, selected: Any, picture: LabelledPicture, variant: int) -> PlanRow:
        draft = self.edit.draft(picture)
        limit = self.painter.MAX_BOXES
        if limit is not None and any(len(target.boxes) > limit for target in draft.targets):
            most = max(len(target.boxes) for target in draft.targets)
            return self._rejected(picture, variant, draft, "too_many_boxes", f"{most} boxes, {limit} at most")
        steps = self._steps(draft, picture, selected.frame, variant)
        painted = [(target, step) for target, step in steps if isinstance(step, Pass)]
        barred = [
            f"{key}: {reason}"
            for target, reason in steps
            if isinstance(reason, str)
            for key in (target.about if target.redraws else [target.role or self.recipe.edit.name])
        ]
        if not painted:
            reason = draft.reason or barred[-1].rpartition(": ")[2]
            return self._rejected(picture, variant, draft, reason, "; ".join((*draft.barred, *barred)))
        labels, hidden = self._labels(draft, picture, painted)
        request = Request(
            image_key=picture.image_key,
            source=picture.digest,
            frame=selected.frame,
            width=picture.width,
            height=picture.height,
            split=selected.split,
            variant=variant,
            edit=self.recipe.edit.name,
            painter=self.recipe.painter.identity(),
            composite=self.recipe.composite.identity(),
            passes=tuple(step for _, step in painted),
            labels=labels,
        )
        key = key_of(request)
        name = picture_name(selected.file_name, key, request.edit, self.recipe.painter.name)
        left = [*draft.barred, *barred, *hidden]
        return PlanRow(key, OK, "", "", picture.image_key, variant, name, canonical(request), left, _scale(request))

    def _steps(self, draft: Draft, picture: LabelledPicture, frame: str, variant: int) -> _Steps:
        """Each target, in a free place as its donor allows, and its pass, or the reason why it gets none."""
        steps: _Steps = []
        drafted = [target.adds for target in draft.targets]
        for number, target in enumerate(draft.targets):
            seed = self._seed_of(target, picture, variant)
            if not self.painter.NEEDS_DONOR:
                steps.append((target, self._pass(target, picture, seed, target.region, None)))
            elif target.redraws or not target.adds:
                steps.append((target, self._replaced(target, picture, seed)))
            else:
                done = [one.adds for one, _ in steps]
                taken = [box for boxes in (*done, *drafted[number + 1 :]) for box in boxes]
                steps.append(self._inserted(target, picture, frame, seed, taken))
        return steps

    def _seed_of(self, target: Target, picture: LabelledPicture, variant: int) -> int:
        role = (target.role,) if target.role else ()
        return hash_draw(self.seed, self.recipe.edit.name, picture.digest, target.about, variant, *role)

    def _replaced(self, target: Target, picture: LabelledPicture, seed: int) -> Pass | str:
        """A donor over an old object."""
        box, key = outer_pixels(target.boxes[0]), target.about[0] if target.about else ""
        donor = self.donors.choose(box, _category(target, picture), seed, key)
        return "no_donor" if donor is None else self._pass(target, picture, seed, (box,), donor)

    def _inserted(
        self, target: Target, picture: LabelledPicture, frame: str, seed: int, taken: list[IntBox]
    ) -> tuple[Target, Pass | str]:
        """A donor in a free place, of the target's category or of another one that fits better there."""
        boxes = np.array([*(box.xyxy for box in picture.boxes), *taken], np.float64).reshape(-1, 4)
        choices = (target, *target.instead)
        rooms = [self._room(one, picture, boxes) for one in choices]
        around = self.donors.surroundings
        pixels = None if around is None else around.pixels(picture.digest, frame)
        settled = self.donors.settle(rooms, seed, pixels)
        if settled is None:
            return target, "no_donor"
        box = settled.box
        target = replace(choices[settled.number], region=(box,), boxes=(box,), adds=(box,))
        return target, self._pass(target, picture, seed, (box,), settled.donor)

    def _room(self, target: Target, picture: LabelledPicture, taken: np.ndarray) -> Room:
        settings, category = self.edit.settings, target.category or ""
        return Room(
            box=target.adds[0],
            category=category,
            least=settings.min_side,
            taken=taken,
            most_shared=settings.max_overlap,
            places=picture.places[category] * picture.height,
            height=picture.height,
        )

    def _pass(
        self, target: Target, picture: LabelledPicture, seed: int, region: tuple[IntBox, ...], donor: Donor | None
    ) -> Pass | str:
        """A pass, or the reason why the target gets none."""
        holes = tuple(self._wider(hole, picture) for hole in target.holes)
        if holes and rectangles_mask(holes, (0, 0, picture.width, picture.height)).all():
            return "nothing_to_paint"
        window, shape = self._window(target, picture)
        boxes = clip_xyxy(to_window(np.array(target.boxes).reshape(-1, 4), window, shape), shape[1], shape[0])
        return Pass(
            window=window,
            shape=shape,
            region=region,
            holes=holes,
            mask=target.mask,
            boxes=tuple(tuple(round(v, 4) for v in box) for box in boxes.tolist()),
            phrases=target.phrases,
            prompt=target.prompt if self.painter.READS_PHRASES else target.plain or target.prompt,
            negative_prompt=self.edit.settings.negative_prompt,
            seed=seed,
            donor=donor,
        )

    def _wider(self, hole: IntBox, picture: LabelledPicture) -> IntBox:
        """A hole that the composite's reach beyond the region does not enter, cut to the frame."""
        x0, y0, x1, y1 = hole
        grow = self.margin
        return max(x0 - grow, 0), max(y0 - grow, 0), min(x1 + grow, picture.width), min(y1 + grow, picture.height)

    def _window(self, target: Target, picture: LabelledPicture) -> tuple[IntBox, tuple[int, int]]:
        """The window around the target and the painter's shape for it, of one aspect: nothing is squashed."""
        width, height, settings = picture.width, picture.height, self.painter_settings
        if self.edit.WHOLE:
            shape = self.painter.shape(settings, width, height)
            return window_around((0, 0, width, height), width, height, shape, 1, 1), shape
        corners = np.array(target.region)
        low, high = corners[:, :2].min(axis=0) - self.margin, corners[:, 2:].max(axis=0) + self.margin
        around = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
        if self.painter.MODEL is None:  # works at the picture's size: no more than it needs
            return around, self.painter.shape(settings, around[2] - around[0], around[3] - around[1])
        edit = self.edit.settings
        window = window_around(around, width, height, (1, 1), edit.context, edit.min_window)
        return window, self.painter.shape(settings, window[2] - window[0], window[3] - window[1])

    def _labels(
        self, draft: Draft, picture: LabelledPicture, painted: list[tuple[Target, Pass]]
    ) -> tuple[tuple[Label, ...], list[str]]:
        """Labels, the source's in their order and then new ones; and "annotation key: reason" of those that are gone.

        Objects without a fitting donor keep their labels.
        """
        redrawn_by = {key: (target, step) for target, step in painted for key in target.redraws}
        targeted = {key for target in draft.targets for key in target.redraws}
        occlusion = _Occlusion(painted) if isinstance(self.edit.settings, VisibilitySettings) else None
        labels: list[Label] = []
        gone: list[str] = []
        for box in picture.boxes:
            if box.key in redrawn_by:
                label = _redrawn(box, *redrawn_by[box.key])
            elif box.key in draft.keeps or (box.key in targeted and not self.edit.WHOLE):
                label = Label(source=box.key, painted=False)
            else:
                continue
            visible: Label | None = label
            if occlusion is not None and not box.crowd:
                visible = occlusion.visible(label, box, picture, self.edit.settings)
            if visible is None:
                gone.append(f"{box.key}: hidden")
            else:
                labels.append(visible)
        for number, (target, step) in enumerate(painted):
            for (x0, y0, x1, y1), category in target.added:
                new = Box("", category, (x0, y0, x1, y1), (x0, y0, x1 - x0, y1 - y0), editable=False)
                visible = added((x0, y0, x1, y1), category, step)
                if visible is not None and occlusion is not None:
                    visible = occlusion.visible(visible, new, picture, self.edit.settings, after=number)
                labels += [] if visible is None else [visible]
        return tuple(labels), gone

    def _rejected(self, picture: LabelledPicture, variant: int, draft: Draft, reason: str, detail: str) -> PlanRow:
        key = key_of("no request", picture.image_key, picture.digest, variant, self.recipe.edit.identity(), self.seed)
        return PlanRow(key, REJECTED, reason, detail, picture.image_key, variant, "", b"", list(draft.barred), 0.0)


class _Occlusion:
    """Which objects passes hide: each covers what earlier passes and the source show, except the objects it paints."""

    def __init__(self, painted: list[tuple[Target, Pass]]) -> None:
        self.targets = [target for target, _ in painted]
        self.last = {key: number for number, target in enumerate(self.targets) for key in target.redraws}
        # A donor fills only its box, whatever the region; and a new object is not larger than its box.
        self.regions = [np.array(target.adds or step.region, dtype=np.float64) for target, step in painted]
        self._masks: dict[int, np.ndarray] = {}

    def visible(
        self, label: Label, box: Box, picture: LabelledPicture, policy: VisibilitySettings, after: int | None = None
    ) -> Label | None:
        """The label of a box (or of what pass `after` added there) with all that later passes painted over it; None
        where it is to be dropped."""
        since = self.last.get(box.key, -1) if after is None else after
        low, high = np.array(box.xyxy[:2]), np.array(box.xyxy[2:])
        boxes: list[IntBox] = []
        masks: list[np.ndarray] = []
        for number in range(since + 1, len(self.targets)):
            target, regions = self.targets[number], self.regions[number]
            meets = ((regions[:, :2] < high) & (regions[:, 2:] > low)).all(axis=1)
            if box.key in target.redraws or not meets.any():
                continue
            if target.mask is None:
                boxes += [_whole(region) for region in regions[meets].tolist()]
            else:
                masks.append(self._mask(number, target.mask))
        if not boxes and not masks:
            return label
        return occluded(label, box.xywh, box.record, (picture.height, picture.width), boxes, policy, masks)

    def _mask(self, number: int, mask: Rle) -> np.ndarray:
        if number not in self._masks:
            self._masks[number] = decode_rle(mask)
        return self._masks[number]


def _whole(xyxy: list[float]) -> IntBox:
    x0, y0, x1, y1 = map(int, xyxy)
    return x0, y0, x1, y1


def _redrawn(box: Box, target: Target, step: Pass) -> Label:
    if target.mask is not None:  # the object fills the mask that its annotation has
        return Label(source=box.key, painted=True, category=target.category)
    xywh = box.xywh
    if target.moves:
        x0, y0, x1, y1 = target.boxes[target.redraws.index(box.key)]
        xywh = x0, y0, round(x1 - x0, 4), round(y1 - y0, 4)
    return redrawn(box.key, xywh, step, target.category)


def _scale(request: Request) -> float:
    """The painter's pixels per pixel of the picture, least of all passes: below 1 the paint is coarser than it."""
    scales = (step.shape[0] / (step.window[3] - step.window[1]) for step in request.passes)
    return round(min(scales), 4)
