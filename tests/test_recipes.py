"""Every edit by every painter that serves it, on tiny weights: from plan to picture and labels, for any picture.

All pairs paint one size. Other sizes, numbers of boxes and seeds go to PARTNERS: every painter with the edits of one
object and of a layout, as far as it serves them, and every edit with one painter. How an edit cuts its windows does not
depend on who paints them, nor a painter's shapes and batches on which edit cut them.
"""

import json

import numpy as np
import pytest

from lib.core.checkpoints import resolve
from lib.painting.canvas import cut_window
from lib.painting.composites import COMPOSITES
from lib.painting.generate import generate_pictures
from lib.painting.painters import PAINTERS
from lib.planning.donor_pool import DonorPool
from lib.planning.edits import EDITS
from lib.planning.plan import plan_requests
from lib.planning.recipe import Recipe
from lib.planning.statistics import Statistics
from lib.records.manifest import to_table
from lib.records.requests import Request
from lib.records.rows import OK, ImageRow, ObjectRow, PlanRow, SelectRow
from lib.records.store import Store

SMALL, USUAL, LARGE = (40, 30), (160, 120), (320, 240)  # under the tiny painters' 64 pixels, about it, much more
FAST = {"reconstruct": {"iterations": 3}}  # the others change no shape and no reach
PLACES = {"cat": np.array([[0.9, 0.25, 0.25], [0.5, 0.2, 0.3]])}
SERVED = [(edit, name) for name in sorted(PAINTERS) for edit in sorted(PAINTERS[name].EDITS)]
PARTNERS = [pair for pair in SERVED if pair[0] in ("replace", "layout") or pair[1] in ("copy-paste", "vanilla")]
served, partners = (
    pytest.mark.parametrize(("edit", "name"), pairs, ids=["-".join(pair) for pair in pairs])
    for pairs in (SERVED, PARTNERS)
)


class Bench:
    """Plans and paints pictures that exist in memory alone."""

    def __init__(self, checkpoints, folder):
        self.checkpoints, self.store, self.painters, self.runs = checkpoints, Store(folder), {}, {}

    def recipe(self, edit, name, composite="feather", edit_settings=None, **painter_settings):
        ref = resolve(str(self.checkpoints[name]), {}) if PAINTERS[name].MODEL else None
        tiny = {"steps": 2, "size": 64, **painter_settings} if PAINTERS[name].MODEL else painter_settings
        return Recipe(
            edit=EDITS.member(edit, edit_settings or {}),
            painter=PAINTERS.member(name, tiny, ref),
            composite=COMPOSITES.member(composite, FAST.get(composite, {})),
        )

    def run_once(self, edit, name, size):
        """`run` of a picture with two boxes and a donor for each; tests that look at the same picture share it."""
        key = edit, name, size
        if key not in self.runs:
            one_step = {"steps": 1} if PAINTERS[name].MODEL else {}  # sizes and reach are those of many
            recipe = self.recipe(edit, name, edit_settings={"min_side": 4} if edit == "insert" else {}, **one_step)
            boxes = boxes_for(size)
            self.runs[key] = self.run(recipe, size, boxes, donors=[(0, 0, w, h) for _, _, w, h in boxes])
        return self.runs[key]

    def run(self, recipe, size, boxes, seed=0, donors=()):
        """(picture before, picture after or None, request or None, reason) of one picture with boxes xywh."""
        pixels = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        images = [picture_row("1", *size), picture_row("2", 300, 300)]
        objects = [box_row(str(10 + i), "1", *box) for i, box in enumerate(boxes)]
        others = [box_row(str(900 + i), "2", *box) for i, box in enumerate(donors)]
        keys = [row.key for row in objects]
        select = SelectRow("1", OK, "", "", "1.png", "a" * 64, "upright", "train", *size, keys, ["cat"] * len(keys))
        usable = frame([*objects, *others], ObjectRow)
        pool = DonorPool.of(usable, frame(images, ImageRow), "train")
        (row,) = plan_requests(frame([select], SelectRow), usable, {}, recipe, Statistics(PLACES, (), pool), seed, 1)
        if row.status != OK:
            return pixels, None, None, row.reason
        loaded = {"a" * 64: pixels, "b" * 64: np.random.default_rng(6).integers(0, 256, (300, 300, 3), dtype=np.uint8)}
        made = generate_pictures(
            frame([row], PlanRow), self.painter(recipe), lambda digest, _: loaded[digest], self.store
        )
        from lib.core.images import load_rgb

        result = load_rgb(self.store.get("picture", made[0].picture), "stored") if made[0].status == OK else None
        return pixels, result, Request.model_validate_json(row.request), made[0].reason

    def painter(self, recipe):
        key = recipe.painter.model_dump_json()
        if key not in self.painters:
            self.painters[key] = PAINTERS.build(recipe.painter)
        return self.painters[key]


def frame(rows, kind):
    return to_table(rows, kind).to_pandas()


def picture_row(key, width, height):
    digest = {"1": "a", "2": "b"}[key] * 64
    return ImageRow(key, OK, "", "", f"{key}.png", "p", "train", "", width, height, "upright", 1, 1, digest, b"{}")


def box_row(key, image, x, y, w, h):
    record = json.dumps({"segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]]}).encode()
    return ObjectRow(key, OK, "", "", image, "1", "cat", x, y, w, h, False, True, record)


def reach(request, shape):
    """bool (H, W): what the composite of any pass may touch."""
    reach = np.zeros(shape, bool)
    composite = COMPOSITES[request.composite["name"]](
        COMPOSITES.settings(request.composite["name"], request.composite["settings"])
    )
    for step in request.passes:
        x0, y0, x1, y1 = view = cut_window(step.window, shape[1], shape[0])
        reach[y0:y1, x0:x1] |= composite.alpha(step, view) > 0
    return reach


@pytest.fixture(scope="module")
def bench(checkpoints, tmp_path_factory):
    return Bench(checkpoints, tmp_path_factory.mktemp("bench"))


def boxes_for(size):
    """Two boxes apart, a third of the picture's sides each."""
    w, h = size[0] // 3, size[1] // 3
    return [(2, 2, w, h), (size[0] - w - 2, size[1] - h - 2, w, h)]


def check_size_and_reach(bench, edit, name, size):
    """A picture's size is kept and no pixel changes beyond the reach of its composites; or it has a reason."""
    before, after, request, reason = bench.run_once(edit, name, size)
    if after is None:
        assert reason in {"insert": ("no_free_place", "no_donor"), "background": ("nothing_to_paint",)}[edit]
        assert edit == "insert" or size == SMALL
        return
    inside = reach(request, before.shape[:2])
    assert after.shape == before.shape and after.dtype == np.uint8
    np.testing.assert_array_equal(after[~inside], before[~inside])
    assert (after[inside] != before[inside]).any()


@served
def test_size_is_kept_and_nothing_changes_beyond_the_reach(bench, edit, name):
    check_size_and_reach(bench, edit, name, USUAL)


@partners
@pytest.mark.parametrize("size", [SMALL, LARGE], ids=str)
def test_small_and_large_pictures_keep_their_size_and_what_is_beyond_the_reach(bench, edit, name, size):
    check_size_and_reach(bench, edit, name, size)


@served
def test_boxes_are_kept_unless_something_stands_before_them(bench, edit, name):
    _, _, request, _ = bench.run_once(edit, name, USUAL)
    if request is None:
        return
    labels = {label.source: label for label in request.labels}
    for i, box in enumerate(boxes_for(USUAL)):
        label = labels[str(10 + i)]
        assert label.bbox in (None, box) or label.visible is not None


@partners
def test_one_seed_one_picture_and_another_seed_another(bench, edit, name, tmp_path):
    recipe, boxes = bench.recipe(edit, name), boxes_for(USUAL)
    donors = [(0, 0, 53, 40), (60, 60, 50, 41), (120, 120, 55, 38), (10, 200, 54, 42)]
    fresh = Bench(bench.checkpoints, tmp_path)
    one, two, other = (b.run(recipe, USUAL, boxes, seed, donors)[1] for b, seed in ((bench, 1), (fresh, 1), (fresh, 2)))
    if one is None:
        return
    np.testing.assert_array_equal(one, two)
    assert other is None or (one != other).any()


# 30 boxes are what some painters of layouts take at most; the others take any number in a pass or in many.
COUNTS = [(*pair, count) for pair in PARTNERS for count in ([0, 1, 30, 31] if pair[0] == "layout" else [0, 1, 12])]


@pytest.mark.parametrize(("edit", "name", "count"), COUNTS, ids=["-".join(map(str, case)) for case in COUNTS])
def test_any_number_of_boxes_is_painted_or_has_a_reason(bench, edit, name, count):
    boxes = [(4 + 38 * (i % 8), 4 + 38 * (i // 8), 30, 30) for i in range(count)]
    recipe = bench.recipe(edit, name, **({"steps": 1} if PAINTERS[name].MODEL else {}))
    _, after, _, reason = bench.run(recipe, (320, 170), boxes, donors=[(0, 0, 30, 30)])
    if count == 0 and edit != "insert":
        assert reason == "no_boxes_to_edit"
    elif count > (PAINTERS[name].MAX_BOXES or count) and edit == "layout":
        assert reason == "too_many_boxes"
    elif edit == "insert":
        assert (after is not None) == (reason == "")
    else:
        assert after is not None


@partners
def test_a_box_under_one_latent_cell_is_painted(bench, edit, name):
    boxes = [(200, 150, 3, 4)]
    before, after, _, reason = bench.run(bench.recipe(edit, name), LARGE, boxes, donors=[(0, 0, 3, 4)])
    assert after is None if edit == "insert" and reason else (after != before).any()


LATENT = sorted(name for name in PAINTERS if PAINTERS[name].HAS_DECODER and "replace" in PAINTERS[name].EDITS)


@pytest.mark.parametrize("composite", sorted(COMPOSITES))
@pytest.mark.parametrize("name", LATENT)
def test_every_composite_takes_the_paint_of_every_latent_painter(bench, name, composite):
    recipe = bench.recipe("replace", name, composite)
    before, after, request, reason = bench.run(recipe, USUAL, boxes_for(USUAL)[:1])
    assert reason == ""
    inside = reach(request, before.shape[:2])
    np.testing.assert_array_equal(after[~inside], before[~inside])
    assert (after[inside] != before[inside]).any()
