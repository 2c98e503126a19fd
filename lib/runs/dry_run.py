"""A dry run: what a run would paint, leave alone and cost, by the stages' own functions; it writes nothing.

plan = dry_run(parameters, workspace)
plan.document()                     # the same for a machine

Of a picture its bytes are read for their digest, and its header; so a file that is broken further on is found by the
run alone. Captions that a model would make are replaced by the template's.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow.compute as pc

from lib.captioning.caption import caption_pictures, make_caption_form
from lib.captioning.captioners import CAPTIONERS
from lib.core.checkpoints import weights_of
from lib.core.images import source_loader
from lib.core.places import shown
from lib.core.registry import Family, Member
from lib.datasets.formats import Dataset, categories_of, read_dataset
from lib.datasets.ingest import check_pictures, settle_objects
from lib.datasets.select import OBJECT_COLUMNS, in_order_of_limit, select_pictures
from lib.painting.painters import PAINTERS
from lib.planning.donor_pool import DonorPool
from lib.planning.enough import enough, planned
from lib.planning.former import Former, former_donors
from lib.planning.outlines import Outlines
from lib.planning.plan import plan_requests
from lib.planning.recipe import Recipe
from lib.planning.statistics import Statistics, Survey
from lib.planning.target import (
    DrawGroup,
    Wanted,
    choose_draws,
    count_boxes,
    paintable,
    plan_draws,
    sources_needed,
    steered,
    wanted_boxes,
)
from lib.records.manifest import former_manifest, to_table
from lib.records.outputs import check_sources
from lib.records.requests import Label, Request, picture_keys
from lib.records.rows import OK, CaptionRow, ImageRow, PlanRow, SelectRow
from lib.records.settings import Choice
from lib.records.sorting import LaidRows
from lib.records.store import ReadOnlyStore
from lib.runs.account import former_account
from lib.runs.parameters import Parameters, Resolved
from lib.runs.preflight import captioner_without_model, check_data, check_run, recipe_without_models, room_needed
from lib.runs.workspace import Pins

Watch = Callable[[str, int, int], object]  # (what, done, total)


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
    data = read_dataset(settings.dataset)
    root = settings.workspace.absolute()
    check_sources(root, settings.dataset.images, data.images["path"].to_pylist())
    check_data(settings, data)
    return Rehearsal(settings, root, data, watch).result()


class Rehearsal:
    """The stages of a run up to its plan; nothing is written."""

    def __init__(self, settings: Resolved, root: Path, data: Dataset, watch: Watch) -> None:
        self.settings, self.root = settings, root
        self.store, self.notes = ReadOnlyStore(root / "store"), list[str]()
        self.categories = set(categories_of(data.envelope))
        self.images = self._checked(data, watch)
        objects = settle_objects(self.images, data.objects)
        self.table = objects
        self.objects = objects.filter(pc.equal(objects["status"], OK)).to_pandas()
        paths = {d: str(settings.dataset.images / p) for d, p in zip(self.images.digest, self.images.path, strict=True)}
        self.load = source_loader({digest: path for digest, path in paths.items() if digest})
        self.recipe = self._recipe()
        self.captioner, self.form = self._captions()

    def stages(self) -> dict[str, pd.DataFrame]:
        """Stage → its rows, of ingest to plan."""
        settings = self.settings
        selected = self._select(settings.limit) if settings.target is None else self._sources_of_target()
        usable = selected[selected.status == OK]
        captions = self._caption(usable)
        plan = to_table(self._plan(usable, captions), PlanRow).to_pandas()
        return {"ingest": self.images, "select": selected, "caption": captions, "plan": plan}

    def result(self) -> DryRun:
        """What the run would do."""
        settings, stages = self.settings, self.stages()
        plan = stages["plan"]
        ok = plan[plan.status == OK]
        requests = [Request.model_validate_json(text) for text in ok.request]
        new = sum(not self.store.has("picture", picture_keys(request)[-1][1]) for request in requests)
        seconds, measured = self._seconds(requests, new)
        left = {name: _reasons(rows) for name, rows in stages.items()}
        barred = Counter(text.rpartition(": ")[2] for texts in ok.barred for text in texts)
        images = to_table(self.images, ImageRow)
        copies = not (self.root / "final" / "annotations.json").is_file()
        return DryRun(
            workspace=self.root,
            recipe=f"{settings.edit.name} × {settings.painter.name} × {settings.composite.name}",
            pictures=len(ok),
            new=new,
            boxes=self._labels(requests, lambda label: label.painted),
            changed=self._labels(requests, lambda label: not label.painted and label.bbox is not None),
            left={name: reasons for name, reasons in left.items() if reasons},
            left_boxes=dict(barred.most_common()),
            size=room_needed(settings, images, new, copies),
            seconds=seconds,
            measured=measured,
            notes=self.notes,
        )

    def _checked(self, data: Dataset, watch: Watch) -> pd.DataFrame:
        """ImageRows; a picture that the last run read is not read again."""
        rows, dataset = data.images.to_pandas(), self.settings.dataset
        known = former_manifest(self.root / "manifests" / "ingest.parquet", ImageRow)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            watch("digests", done, len(rows))

        return check_pictures(rows, dataset.images, dataset.max_pixels, known, advance, decode=False)

    def _recipe(self) -> Recipe:
        """With the painter's checkpoint where it lies on this machine: then it is known what the store has."""
        recipe = recipe_without_models(self.settings)
        return recipe.model_copy(update={"painter": self._with_model(PAINTERS, self.settings.painter, recipe.painter)})

    def _with_model(self, family: Family, choice: Choice, member: Member) -> Member:
        values = family.settings(choice.name, choice.values)
        pins, refs = Pins(self.root / "models.lock"), {}
        for name, given in weights_of(choice.name, family[choice.name], values, self.settings.models).items():
            if given.startswith("mini:") or Path(given).expanduser().is_dir() or given in pins.pinned:
                refs[name] = pins.resolve(given)
            else:
                self.notes.append(f"checkpoint {given} is not pinned yet: all pictures count as new")
        return member.model_copy(update=refs)

    def _captions(self) -> tuple[Member, Any]:
        captioner = captioner_without_model(self.settings)
        if CAPTIONERS[captioner.name].MODEL is not None:
            self.notes.append(
                f"captions of {captioner.name} are replaced by the template's: prompts differ from the run's, and what "
                "it has painted already counts as new"
            )
            captioner = CAPTIONERS.member("template", {})
        return captioner, make_caption_form(self.settings.caption, captioner)

    def _select(self, limit: int | None) -> pd.DataFrame:
        """SelectRows; with a limit, of as many pictures as it takes for so many plans."""
        settings, images = self.settings, to_table(self.images, ImageRow)
        objects = self.table.select(OBJECT_COLUMNS)

        def select(most: int | None) -> pd.DataFrame:
            return select_pictures(images, objects, settings.select, settings.seed, most).to_pandas()

        rows = select(None)
        candidates = self._in_order(rows[rows.status == OK])
        if limit is None or len(candidates) <= limit:
            return rows
        return select(max(limit, enough(candidates, limit, self._come_out)))

    def _in_order(self, rows: pd.DataFrame) -> LaidRows:
        """SelectRows in the order in which a limit takes them."""
        folder = Path(tempfile.gettempdir())
        return in_order_of_limit([to_table(rows, SelectRow)], self.settings.seed, len(rows), folder)

    def _sources_of_target(self) -> pd.DataFrame:
        """SelectRows of as many pictures as are enough for the target."""
        settings, images = self.settings, to_table(self.images, ImageRow)
        chosen = self.table.select(OBJECT_COLUMNS), settings.select, settings.seed
        rows = select_pictures(images, *chosen, None).to_pandas()
        candidates = self._in_order(rows[rows.status == OK])
        taken = sources_needed(candidates, self.recipe, self._goals, settings.limit or 0)
        return select_pictures(images, *chosen, taken).to_pandas()

    @cached_property
    def _goals(self) -> dict[str, int]:
        """Category → painted boxes that the target asks for."""
        target, select = self.settings.target, self.settings.select
        assert target is not None
        boxes = count_boxes(to_table(self.images, ImageRow), self.table, select.split)
        return wanted_boxes(target, boxes, paintable(self.recipe, boxes, select.categories))

    def _draws(self, selected: pd.DataFrame, prompts: Mapping[str, str]) -> list[DrawGroup]:
        """Those of a single round, as if screening refused nothing."""
        settings, goals = self.settings, self._goals
        caps = [n for n in (settings.budget.pictures, settings.limit) if n is not None]
        wanted = Wanted(boxes=goals, pictures=None if goals else settings.limit, most=min(caps, default=None))

        def look(some: pd.DataFrame, variant: int, lacking: Sequence[str]) -> list[PlanRow]:
            recipe, statistics, some = steered(self.recipe, self._statistics, some, lacking)
            objects = self.objects[self.objects.image_key.isin(some.key)]
            variants = {key: [variant] for key in some.key}
            return plan_requests(some, objects, prompts, recipe, statistics, settings.seed, variants)

        categories = dict(zip(self.objects.key, self.objects.category, strict=True))
        found = choose_draws(self._in_order(selected), wanted, 0, look, categories)
        self.notes.append("as if screening refused nothing: what it refuses the run replaces by new draws")
        self.notes += [f"target {name}: no further source gives a box" for name in found.without]
        return found.groups

    def _come_out(self, some: pd.DataFrame) -> set[str]:
        captions = self._caption(some)
        prompts = _prompts(captions)
        some, settings = some[some.key.isin(list(prompts))], self.settings
        objects = self.objects[self.objects.image_key.isin(some.key)]
        return planned(some, objects, prompts, self.recipe, self._statistics, settings.seed, settings.variants)

    def _caption(self, selected: pd.DataFrame) -> pd.DataFrame:
        """CaptionRows."""
        built = CAPTIONERS.build(self.captioner)
        records = dict(zip(self.images.key, self.images.record, strict=True)) if built.NEEDS_RECORDS else None
        rows = caption_pictures(selected, self.form, self.store, self.load, built, records=records)
        return to_table(rows, CaptionRow).to_pandas()

    def _plan(self, selected: pd.DataFrame, captions: pd.DataFrame) -> list[PlanRow]:
        prompts, settings = _prompts(captions), self.settings
        selected = selected[selected.key.isin(list(prompts))]
        objects = self.objects[self.objects.image_key.isin(selected.key)]
        common = objects, prompts, self.recipe, self._statistics, settings.seed
        donors: dict[str, Any] = {}
        if self.recipe.needs_donors:
            donors = {"former": self._former(), "outlines": Outlines(self.load, self.store)}
        if settings.target is not None:
            return plan_draws(self._draws(selected, prompts), selected, *common, **donors)
        return plan_requests(selected, *common, settings.variants, **donors)

    @cached_property
    def _statistics(self) -> Statistics:
        split = self.settings.select.split
        survey = Survey(self.root, split, self.categories, lambda _: (self.objects, self.images), pins=False)
        statistics = survey.statistics(self.recipe, self.settings.select.categories)
        if not self.recipe.needs_donors:
            return statistics
        return replace(statistics, donors=DonorPool.of(self.objects, self.images, split))

    def _former(self) -> Mapping[int, Former]:
        rows = former_manifest(self.root / "manifests" / "plan.parquet", PlanRow, ["status", "request"])
        if rows is not None:
            with contextlib.suppress(msgspec.MsgspecError):  # of another version
                return former_donors(rows.request[rows.status == OK])
        return {}

    def _labels(self, requests: list[Request], counts_one: Callable[[Label], bool]) -> dict[str, int]:
        """How many labels of each category count."""
        categories = dict(zip(self.objects.key, self.objects.category, strict=True))
        counts: Counter[str] = Counter()
        for request in requests:
            for label in request.labels:
                if counts_one(label):
                    counts[label.category or categories.get(label.source or "", "")] += 1
        return dict(counts.most_common())

    def _seconds(self, requests: list[Request], new: int) -> tuple[float, bool]:
        """(seconds of painting what is new, whether a run of this workspace has measured them)."""
        known = former_account(self.root).get("seconds_per_picture")
        if isinstance(known, int | float):
            return round(known * new, 1), True
        passes = sum(len(request.passes) for request in requests) / max(1, len(requests))
        return round(_seconds_of_a_pass(self.recipe.painter, self.settings) * passes * new, 1), False


def _reasons(rows: pd.DataFrame) -> dict[str, int]:
    return {str(reason): int(count) for reason, count in rows.reason[rows.status != OK].value_counts().items()}


def _prompts(captions: pd.DataFrame) -> dict[str, str]:
    good = captions[captions.status == OK]
    return dict(zip(good.key, good.prompt, strict=True))


# Seconds of a pass, (GPU, CPU), of published models and of the small ones: guesses, until a run has measured.
_GUESSES = {"full": (4.0, 300.0), "mini": (0.3, 3.0)}
_PASTED = 0.05


def _seconds_of_a_pass(painter: Member, settings: Resolved) -> float:
    if PAINTERS[painter.name].MODEL is None:
        return _PASTED
    from lib.core.compute import device

    return _GUESSES[settings.models][device().type == "cpu"]
