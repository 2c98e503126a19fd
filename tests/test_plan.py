"""Plans: everything random decided, and unmoved by what does not concern them."""

import msgspec
import numpy as np
import pandas as pd
import pytest

from lib.core.errors import AugmentError
from lib.core.keys import hash_draw
from lib.painting.composites import COMPOSITES
from lib.painting.painters import PAINTERS
from lib.planning.donor_pool import DonorPool
from lib.planning.edits import EDITS
from lib.planning.former import former_donors
from lib.planning.outlines import Outlines
from lib.planning.plan import plan_requests
from lib.planning.recipe import Recipe, check_triple
from lib.planning.statistics import Statistics
from lib.records.manifest import to_table
from lib.records.requests import Label, Request, picture_keys
from lib.records.rows import OK, ImageRow, ObjectRow, SelectRow
from lib.records.store import Store


def image(key, width=400, height=300, split="train"):
    digest = f"{int(key):064x}"
    return ImageRow(
        key, OK, "", "", f"{key}.jpg", f"{key}.jpg", split, "", width, height, "upright", 1, 1, digest, b"{}"
    )


def box(key, image_key, x, y, w, h, category="forklift", crowd=False, segmentation=None):
    record = msgspec.json.encode({"id": int(key), "bbox": [x, y, w, h], "segmentation": segmentation or []})
    return ObjectRow(key, OK, "", "", image_key, "1", category, x, y, w, h, crowd, segmentation is not None, record)


def select(row, objects):
    usable = [o for o in objects if o.image_key == row.key and not o.crowd]
    keys, labels = [o.key for o in usable], [o.category for o in usable]
    fields = (row.file_name, row.digest, row.frame, row.split, row.width, row.height)
    return SelectRow(row.key, OK, "", "", *fields, keys, labels)


def frame(rows, row_type) -> pd.DataFrame:
    return to_table(rows, row_type).to_pandas()


def recipe(edit="replace", painter="copy-paste", composite="feather", **edit_settings):
    return Recipe(
        edit=EDITS.member(edit, edit_settings),
        painter=PAINTERS.member(painter, {}),
        composite=COMPOSITES.member(composite, {}),
    )


def plan(images, objects, chosen=None, seed=0, variants=1, chain=None, places=None, former=None, looks=None):
    chain = chain or recipe()
    usable = frame(objects, ObjectRow)
    donors = DonorPool.of(usable, frame(images, ImageRow), "train")
    selected = frame([select(row, objects) for row in (chosen or images)], SelectRow)
    statistics = Statistics(places or {}, donors=donors)
    return plan_requests(selected, usable, {}, chain, statistics, seed, variants, former, looks)


def requests(rows):
    return [Request.model_validate_json(row.request) for row in rows if row.status == OK]


IMAGES = [image(str(i)) for i in range(1, 41)]
BOXES = [box(str(100 + i), str(i), 20 + 3 * i, 30 + i, 60 + i, 50 + i) for i in range(1, 41)]


def test_every_selected_picture_has_a_row_per_variant():
    rows = plan(IMAGES, BOXES, variants=3)
    assert len(rows) == 120 and len({row.key for row in rows}) == 120


def test_the_same_inputs_give_the_same_plan():
    assert plan(IMAGES, BOXES) == plan(IMAGES, BOXES)


def test_another_seed_and_another_variant_give_another_plan():
    one, two = requests(plan(IMAGES, BOXES, seed=0)), requests(plan(IMAGES, BOXES, seed=1))
    assert all(a.passes[0].seed != b.passes[0].seed for a, b in zip(one, two, strict=True))
    first, second = requests(plan(IMAGES, BOXES, chosen=IMAGES[:1], variants=2))
    assert first.passes[0].seed != second.passes[0].seed


def test_one_added_donor_changes_about_one_plan_in_as_many():
    before = {row.image_key: row.key for row in plan(IMAGES, BOXES)}
    images, boxes = [*IMAGES, image("99")], [*BOXES, box("999", "99", 10, 10, 80, 70)]
    after = {row.image_key: row.key for row in plan(images, boxes)}
    changed = [key for key in before if before[key] != after[key]]
    assert len(changed) <= 4


def test_a_picture_is_planned_alike_alone_and_among_others():
    together = {row.image_key: row for row in plan(IMAGES, BOXES)}
    for one in IMAGES[:3]:
        (alone,) = plan(IMAGES, BOXES, chosen=[one])
        assert alone == together[one.key]


def test_a_donor_is_another_object_of_the_same_category_and_about_the_same_shape():
    boxes = [*BOXES, box("500", "1", 200, 100, 90, 80, category="pallet")]
    for request in requests(plan(IMAGES, boxes)):
        (step,) = [step for step in request.passes if step.phrases == ("forklift",)]
        assert step.donor is not None and step.donor.annotation not in {label.source for label in request.labels}
        assert step.donor.annotation != "500"


def test_a_large_pool_is_drawn_from_evenly_and_moves_little():
    def chosen(pool):
        def all_fit(sizes):
            return np.ones(len(sizes), bool)

        rows = [next(pool.candidates(all_fit, "forklift", hash_draw("s", i), "")) for i in range(400)]
        return [row.key for row in rows]

    images = [image(str(i)) for i in range(1, 3001)]
    objects = frame([box(str(i), str(i), 10, 10, 60, 50) for i in range(1, 3001)], ObjectRow)
    before = chosen(DonorPool.of(objects[:-1], frame(images, ImageRow), "train"))
    after = chosen(DonorPool.of(objects, frame(images, ImageRow), "train"))
    assert len(set(before)) > 330  # 400 draws of 2,999 hit about 374 different ones
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 4


def test_an_added_picture_leaves_the_donors_of_an_earlier_plan_alone():
    images = [image(str(i)) for i in range(1, 10)]
    boxes = [box(str(100 + i), str(i), 10, 10, 60 + i, 50) for i in range(1, 10)]
    before = plan(images[:8], boxes[:8])
    former = former_donors([row.request for row in before])
    assert sum(a.key != b.key for a, b in zip(before, plan(images, boxes), strict=False)) > 0
    assert plan(images, boxes, former=former)[:8] == before


def test_a_former_donor_that_is_gone_is_replaced_and_the_others_stay():
    images = [image(str(i)) for i in range(1, 10)]
    boxes = [box(str(100 + i), str(i), 10, 10, 60 + i, 50) for i in range(1, 10)]
    before = plan(images, boxes)
    former = former_donors([row.request for row in before])
    after = plan(images[:8], boxes[:8], former=former)
    for old, new in zip(requests(before)[:8], requests(after), strict=True):
        used = old.passes[0].donor.annotation
        assert new.passes[0].donor.annotation != "109"
        assert used == "109" or new == old


PLACES = {"forklift": np.array([[0.9, 0.3, 0.3]])}  # bottom, width, height in heights of the picture


def test_a_donor_in_a_free_place_keeps_its_aspect_and_stands_on_the_same_ground():
    boxes = [box("101", "1", 10, 10, 60, 20)]
    (row,) = plan(IMAGES[:1], boxes, chain=recipe("insert"), places=PLACES)
    (request,) = requests([row])
    (x0, y0, x1, y1) = request.passes[0].region[0]
    assert (x1 - x0, y1 - y0) == (90, 30) and y1 == 270
    assert request.labels[-1].bbox == (x0, y0, 90, 30)


def test_a_donor_too_small_for_a_free_place_makes_a_smaller_object():
    boxes = [box("101", "1", 10, 10, 20, 20)]
    (request,) = requests(plan(IMAGES[:1], boxes, chain=recipe("insert"), places=PLACES))
    (x0, y0, x1, y1) = request.passes[0].region[0]
    assert (x1 - x0, y1 - y0) == (40, 40)


MASK = [[20, 20, 90, 20, 90, 90, 20, 90]]


def test_in_a_free_place_the_object_is_cut_out_and_over_an_old_one_it_is_not():
    boxes = [box(str(100 + i), str(i), 10, 10, 90, 90, segmentation=MASK) for i in (1, 2)]
    (inserted, *_) = requests(plan(IMAGES[:2], boxes, chain=recipe("insert"), places=PLACES))
    (replaced, *_) = requests(plan(IMAGES[:2], boxes))
    assert inserted.passes[0].donor.outline == (tuple(map(float, MASK[0])),)
    assert replaced.passes[0].donor.outline is None


def test_in_a_free_place_an_object_with_an_outline_comes_before_one_without():
    images = [image(str(i)) for i in range(1, 10)]
    boxes = [box(str(100 + i), str(i), 10, 10, 90, 90, segmentation=MASK if i == 7 else None) for i in range(1, 10)]
    found = requests(plan(images, boxes, chain=recipe("insert"), places=PLACES))
    assert {request.passes[0].donor.annotation for request in found} == {"107"}


def test_an_object_with_a_piece_of_another_in_its_box_is_not_a_donor():
    boxes = [box("1", "1", 10, 10, 60, 50), box("2", "2", 10, 10, 60, 50), box("3", "2", 55, 10, 60, 50, "pallet")]
    (row,) = plan(IMAGES[:2], boxes, chosen=IMAGES[:1])
    assert row.reason == "no_donor"
    (row,) = plan(IMAGES[:2], [*boxes[:2], box("3", "2", 66, 10, 60, 50, "pallet")], chosen=IMAGES[:1])
    assert row.status == OK


def test_with_a_mask_it_is_one_where_it_is_cut_out_and_not_where_its_box_is_pasted():
    boxes = [box("1", "1", 10, 10, 90, 90), box("2", "2", 10, 10, 90, 90, segmentation=MASK)]
    boxes.append(box("3", "2", 80, 10, 90, 90, "pallet"))  # covers 2/9 of it
    (row,) = plan(IMAGES[:2], boxes[1:], chosen=IMAGES[:1], chain=recipe("insert", category="forklift"), places=PLACES)
    assert requests([row])[0].passes[0].donor.annotation == "2"
    (row,) = plan(IMAGES[:2], boxes, chosen=IMAGES[:1])
    assert row.reason == "no_donor"


def test_without_a_fitting_donor_the_row_says_so():
    (row, *_) = plan(IMAGES, [box("1", "1", 0, 0, 300, 10), *BOXES[1:]], chosen=IMAGES[:1])
    assert (row.status, row.reason) == ("rejected", "no_donor")


def test_a_box_that_covers_another_is_barred_and_stays():
    boxes = [box("1", "1", 10, 10, 100, 80), box("2", "1", 20, 20, 30, 30), *BOXES[1:]]
    (row,) = plan(IMAGES, boxes, chosen=IMAGES[:1])
    assert row.barred == ["1: covers_other_object"]
    labels = {label.source: label.painted for label in requests([row])[0].labels} if row.status == OK else {}
    assert labels in ({}, {"1": False, "2": True})


def test_crowds_are_neither_edited_nor_donors():
    boxes = [*BOXES[:5], box("77", "1", 200, 150, 60, 50, crowd=True)]
    for request in requests(plan(IMAGES[:5], boxes)):
        assert all(step.donor.annotation != "77" for step in request.passes)
        assert all(not label.painted for label in request.labels if label.source == "77")


def test_an_edited_label_is_its_box_and_its_area_follows():
    (label,) = requests(plan(IMAGES, BOXES, chosen=IMAGES[:1]))[0].labels
    assert label.bbox == (23, 31, 61, 51) and label.area == 61 * 51
    assert label.segmentation == ((23, 31, 84, 31, 84, 82, 23, 82),)


def test_a_donors_mask_becomes_the_label_mapped_and_mirrored():
    triangle = [[10.0, 10.0, 70.0, 10.0, 70.0, 60.0]]
    images = [image("1"), image("2")]
    boxes = [box("11", "1", 100, 100, 60, 50), box("12", "2", 10, 10, 60, 50, segmentation=triangle)]
    request = requests(plan(images, boxes, chosen=images[:1]))[0]
    (step,), (label,) = request.passes, request.labels
    expected = (
        (160.0, 100.0, 100.0, 100.0, 100.0, 150.0) if step.donor.flip else (100.0, 100.0, 160.0, 100.0, 160.0, 150.0)
    )
    assert label.segmentation == (expected,) and label.area == 1500


def test_more_boxes_than_a_painter_takes_is_a_reason():
    boxes = [box(str(i), "1", 10 * i, 10, 8, 8) for i in range(31)]
    (row,) = plan([image("1")], boxes, chain=recipe("layout", "gligen", "none"))
    assert (row.status, row.reason) == ("rejected", "too_many_boxes") and "30" in row.detail


def test_thirty_boxes_are_planned_in_order():
    boxes = [box(str(i), "1", 10 * i, 10, 8, 8, category=f"c{i}") for i in range(30)]
    (request,) = requests(plan([image("1")], boxes, chain=recipe("layout", "gligen", "none")))
    assert request.passes[0].phrases == tuple(f"c{i}" for i in range(30))


def test_a_picture_without_boxes_has_a_reason():
    (row,) = plan([image("1")], [], chain=recipe("layout", "gligen", "none"))
    assert (row.status, row.reason) == ("rejected", "no_boxes_to_edit")


def test_a_window_shows_a_small_box_large():
    (request,) = requests(
        plan([image("1", 1920, 1080)], [box("1", "1", 900, 500, 30, 30)], chain=recipe(painter="gligen-inpaint"))
    )
    (step,) = request.passes
    x0, _, x1, _ = step.window
    assert x1 - x0 == 256 and step.shape == (512, 512)
    np.testing.assert_allclose(np.array(step.boxes[0][2:]) - step.boxes[0][:2], 60)


def test_a_painter_that_does_not_serve_an_edit_is_refused_with_what_is_allowed():
    with pytest.raises(
        AugmentError, match=r"'copy-paste' does not serve edit 'layout': it serves insert, replace.*gligen"
    ):
        recipe("layout", "copy-paste")


def test_the_composite_is_not_part_of_the_paints_key():
    one = requests(plan(IMAGES[:2], BOXES[:2], chain=recipe(composite="paste")))[0]
    two = requests(plan(IMAGES[:2], BOXES[:2], chain=recipe(composite="none")))[0]
    assert picture_keys(one)[0][0] == picture_keys(two)[0][0]
    assert picture_keys(one)[0][1] != picture_keys(two)[0][1]


def test_a_later_pass_depends_on_the_picture_before_it():
    boxes = [*BOXES, box("500", "1", 250, 200, 62, 52)]
    request = requests(plan(IMAGES, boxes, chosen=IMAGES[:1]))[0]
    assert len(request.passes) == 2
    other = request.model_copy(update={"composite": {"name": "none"}})
    (a1, _), (a2, _) = picture_keys(request)
    (b1, _), (b2, _) = picture_keys(other)
    assert a1 == b1 and a2 != b2


def test_members_that_say_where_and_not_what_leave_keys_alone():
    one = PAINTERS.member("gligen", {"batch_size": 1})
    two = PAINTERS.member("gligen", {"batch_size": 8})
    assert one.identity() == two.identity() != PAINTERS.member("gligen", {"steps": 3}).identity()


def test_variants_and_seeds_choose_other_boxes():
    boxes = [box(str(900 + i), "1", 12 + 70 * (i % 4), 10 + 62 * (i // 4), 61, 51) for i in range(16)]
    chain = recipe(max_boxes=1)

    def edited(**changes):
        rows = plan(IMAGES, [*boxes, *BOXES[1:]], chosen=IMAGES[:1], chain=chain, **changes)
        return [[label.source for label in r.labels if label.painted] for r in requests(rows)]

    assert len({tuple(keys) for keys in edited(variants=6)}) > 2
    assert len({tuple(edited(seed=seed)[0]) for seed in range(6)}) > 2


def test_no_donor_comes_from_a_group_that_lies_on_two_sides_of_the_split():
    from dataclasses import replace

    images = [image("1"), replace(image("2"), group="dock"), replace(image("3", split="val"), group="dock")]
    boxes = [box(str(i), str(i), 10, 10, 60, 50) for i in (1, 2, 3)]
    (row,) = plan(images, boxes, chosen=images[:1])
    assert row.reason == "no_donor"


def test_a_box_keeps_its_numbers_to_the_last_digit():
    boxes = [box("1", "1", 10.1, 20.3, 60.2, 50.7), *BOXES[1:]]
    (label,) = requests(plan(IMAGES, boxes, chosen=IMAGES[:1]))[0].labels
    assert label.bbox == (10.1, 20.3, 60.2, 50.7)


# What comes in front of something


def occluding(edit="occlude", **values):
    return recipe(edit, "gligen-inpaint", "feather", **values)


def occluded(boxes, chain=None, **values):
    """The one request of a picture of these boxes, and its labels by source."""
    (row,) = plan([image("1")], boxes, chain=chain or occluding(**values))
    (request,) = requests([row])
    return row, request, {label.source: label for label in request.labels}


def test_an_occluded_object_keeps_its_tight_box_where_only_a_corner_is_hidden():
    _, request, labels = occluded([box("1", "1", 100, 100, 80, 60)])
    x0, y0, x1, y1 = request.passes[0].region[0]
    label = labels["1"]
    assert label.bbox == (100, 100, 80, 60) and not label.painted
    assert label.area == 80 * 60 - (x1 - x0) * (y1 - y0) and label.visible == round(label.area / 4800, 4)


def test_an_occluder_across_a_whole_side_moves_that_side():
    _, _, labels = occluded([box("1", "1", 100, 100, 80, 60)], left=(0, 0), top=(0.5, 0.5))
    assert labels["1"].bbox == (100, 100, 80, 30) and labels["1"].visible == 0.5


def test_full_labels_keep_their_shape_and_record_the_visible_share():
    _, _, labels = occluded([box("1", "1", 100, 100, 80, 60)], labels="full", left=(0, 0), top=(0.5, 0.5))
    assert (labels["1"].bbox, labels["1"].visible) == (None, 0.5)


@pytest.mark.parametrize("hidden", ["ignore", "drop"])
def test_an_object_hidden_beyond_the_limit_is_ignored_or_dropped_with_the_reason(hidden):
    row, _, labels = occluded([box("1", "1", 100, 100, 80, 60)], left=(0, 0), top=(0.2, 0.2), hidden=hidden)
    if hidden == "ignore":
        assert (labels["1"].ignored, labels["1"].bbox) == ("occluded", (100, 100, 80, 60)) and row.barred == []
    else:
        assert labels == {} and row.barred == ["1: hidden"]


def test_an_occluder_hides_its_share_of_every_object_behind_it_but_crowds():
    boxes = [
        box("1", "1", 100, 100, 80, 60),
        box("2", "1", 150, 130, 60, 60, category="pallet"),
        box("3", "1", 150, 130, 60, 60, crowd=True),
    ]
    _, _, labels = occluded(boxes, min_visible=0)
    assert labels["2"].visible < 1 and labels["3"].visible is None


def test_a_named_occluder_has_a_label_of_its_own():
    _, request, labels = occluded([box("1", "1", 100, 100, 80, 60)], occluder_category="pallet")
    x0, y0, x1, y1 = request.passes[0].region[0]
    assert labels[None].category == "pallet" and labels[None].bbox == (x0, y0, x1 - x0, y1 - y0)
    assert labels[None].painted and list(labels) == ["1", None]


def test_a_later_occluder_hides_a_part_of_an_earlier_one():
    boxes = [box("1", "1", 100, 100, 80, 60), box("2", "1", 110, 105, 80, 60)]
    _, request, _ = occluded(boxes, occluder_category="pallet", min_visible=0)
    first, second = [label for label in request.labels if label.source is None]
    assert first.visible is not None and first.visible < 1 and second.visible is None


def test_refine_has_two_passes_a_box_and_its_label_is_painted_and_occluded():
    _, request, labels = occluded([box("1", "1", 100, 100, 80, 60)], occluding("refine"))
    one, two = request.passes
    assert one.region == ((100, 100, 180, 160),) and one.seed != two.seed and one.phrases == ("forklift",)
    assert labels["1"].painted and 0 < labels["1"].visible < 1


def test_passes_about_one_box_have_seeds_of_their_own():
    boxes = [box(str(i), "1", 10 + 60 * i, 100, 50, 60) for i in range(1, 4)]
    _, request, _ = occluded(boxes, occluding("refine"))
    assert len({step.seed for step in request.passes}) == 6


# New objects, and the background


def test_insert_adds_objects_of_the_pinned_places_with_labels_of_their_own():
    places = {"pallet": np.array([[0.9, 0.2, 0.15]])}
    chain = recipe("insert", "gligen-inpaint", "feather", count=2)
    boxes = [box("1", "1", 10, 10, 40, 40)]
    (request,) = requests(plan([image("1")], boxes, chain=chain, places=places))
    old, *new = request.labels
    assert old.source == "1" and not old.painted
    for label, step in zip(new, request.passes, strict=True):
        assert (label.category, label.bbox[2:]) == ("pallet", (60, 45)) and label.bbox[1] + 45 == 270
        assert step.phrases == ("pallet",)


def test_insert_by_copy_paste_takes_a_donor_of_its_category():
    places = {"pallet": np.array([[0.9, 0.2, 0.15]])}
    images, boxes = [image("1"), image("2")], [box("1", "1", 10, 10, 40, 40), box("2", "2", 10, 10, 62, 44, "pallet")]
    chain = recipe("insert", "copy-paste", "feather")
    rows = plan(images, boxes, chosen=images[:1], chain=chain, places=places)
    assert requests(rows)[0].passes[0].donor.annotation == "2"
    (row,) = plan(images, boxes[:1], chosen=images[:1], chain=chain, places=places)
    assert (row.status, row.reason) == ("rejected", "no_donor")


def test_a_clean_picture_can_be_given_objects():
    places = {"pallet": np.array([[0.9, 0.2, 0.15]])}
    (request,) = requests(plan([image("1")], [], chain=recipe("insert", "gligen-inpaint"), places=places))
    assert [label.source for label in request.labels] == [None]


def test_the_composites_reach_does_not_enter_what_the_background_leaves_out():
    from lib.painting.canvas import cut_window

    boxes = [box("1", "1", 100.5, 100, 80, 60)]
    for composite in ("paste", "feather"):
        chain = recipe("background", "gligen-inpaint", composite, margin=0)
        (request,) = requests(plan([image("1")], boxes, chain=chain))
        (step,) = request.passes
        view = cut_window(step.window, 400, 300)
        reach = COMPOSITES.build(chain.composite).alpha(step, view) > 0
        assert reach.any() and not reach[100 - view[1] : 160 - view[1], 100 - view[0] : 181 - view[0]].any()


def test_the_background_is_painted_in_one_window_at_a_scale_that_is_noted():
    boxes = [box("1", "1", 100, 100, 80, 60)]
    chain = recipe("background", "gligen-inpaint", "paste")
    (row,) = plan([image("1", 1920, 1280)], boxes, chain=chain)
    (request,) = requests([row])
    x0, y0, x1, y1 = request.passes[0].window
    height, width = request.passes[0].shape
    assert row.scale == round(height / (y1 - y0), 4) < 0.4
    assert abs(width / (x1 - x0) - height / (y1 - y0)) < 0.002  # nothing is squashed
    assert request.labels == (Label(source="1", painted=False),)


def test_a_picture_full_of_objects_has_no_background_to_paint():
    chain = recipe("background", "gligen-inpaint", "feather")
    (row,) = plan([image("1")], [box("1", "1", 10, 10, 380, 280)], chain=chain)
    assert (row.status, row.reason) == ("rejected", "nothing_to_paint")


def test_a_composite_that_needs_a_decoder_is_refused_where_there_is_none():
    needs = [name for name in COMPOSITES if COMPOSITES[name].NEEDS_DECODER]
    for name in needs:
        with pytest.raises(AugmentError, match=f"'{name}' needs a painter with a decoder.*feather"):
            check_triple("replace", "copy-paste", name)
        check_triple("replace", "gligen-inpaint", name)


def test_a_category_that_the_data_set_lacks_is_refused_with_those_it_has():
    chain = recipe("insert", "gligen-inpaint", category=["pallet", "crate"])
    chain.check_categories({"pallet", "crate"})
    with pytest.raises(AugmentError, match="no category 'crate', it has forklift, pallet"):
        chain.check_categories({"pallet", "forklift"})


# What is painted covers what was in its place before


def labels_of(boxes, chain, **values):
    (row,) = plan([image("1")], boxes, chain=chain, **values)
    (request,) = requests([row])
    return row, {label.source: label for label in request.labels}


def test_an_object_under_several_that_are_painted_anew_is_hidden_by_all_of_them():
    corners = [(100, 100), (150, 100), (100, 150), (150, 150)]
    boxes = [box(str(i), "1", x, y, 50, 50) for i, (x, y) in enumerate(corners, 1)]
    under = box("9", "1", 125, 125, 50, 50, category="pallet")
    rows = [image("1")], [*boxes, under]
    chosen = frame([select(rows[0][0], boxes)], SelectRow)  # the pallet is not among the selected
    chain = recipe("replace", "gligen-inpaint", "feather")
    (row,) = plan_requests(chosen, frame(rows[1], ObjectRow), {}, chain, Statistics(), 0, 1)
    (label,) = [label for label in requests([row])[0].labels if label.source == "9"]
    assert (label.painted, label.visible, label.ignored) == (False, 0, "occluded")


def test_what_is_painted_later_hides_its_part_of_what_was_painted_before():
    boxes = [box("1", "1", 100, 100, 100, 100), box("2", "1", 180, 100, 100, 100)]
    _, labels = labels_of(boxes, recipe("replace", "gligen-inpaint", "feather"))
    assert (labels["1"].visible, labels["1"].bbox) == (0.8, (100, 100, 80, 100))
    assert labels["2"].visible is None and labels["2"].bbox == (180, 100, 100, 100)


def test_an_object_that_is_kept_is_cut_by_what_is_painted_over_it():
    boxes = [box("1", "1", 100, 100, 100, 100), box("2", "1", 180, 100, 100, 100)]
    _, labels = labels_of(boxes, recipe("replace", "gligen-inpaint", "feather", max_boxes=1))
    painted, kept = sorted(labels.values(), key=lambda label: not label.painted)
    assert painted.visible is None and (kept.visible, kept.painted) == (0.8, False)


def test_masks_hide_what_they_cover_and_not_their_boxes():
    table = [[50, 150, 350, 150, 350, 250, 50, 250], [180, 60, 190, 60, 190, 150, 180, 150]]  # with a post in the air
    cup, lamp = [[100, 160, 140, 160, 140, 200, 100, 200]], [[60, 70, 100, 70, 100, 110, 60, 110]]
    boxes = [
        box("1", "1", 100, 160, 40, 40, "cup", segmentation=cup),
        box("2", "1", 60, 70, 40, 40, "lamp", segmentation=lamp),
        box("3", "1", 50, 60, 300, 190, "table", segmentation=table),
    ]
    _, labels = labels_of(boxes, recipe("mask", "gligen-inpaint", "feather"))
    assert (labels["1"].ignored, labels["1"].visible) == ("occluded", 0)
    assert labels["2"].visible is None and labels["3"].visible is None


def test_a_prompt_says_the_object_where_the_painter_reads_no_phrases():
    boxes = [box("1", "1", 100, 100, 100, 100)]
    prompts = {}
    for painter in ("gligen-inpaint", "vanilla"):
        chain = recipe("replace", painter, "feather")
        usable = frame(boxes, ObjectRow)
        selected = frame([select(image("1"), boxes)], SelectRow)
        (row,) = plan_requests(selected, usable, {"1": "a busy hall"}, chain, Statistics(), 0, 1)
        prompts[painter] = requests([row])[0].passes[0].prompt
    assert prompts == {"gligen-inpaint": "a busy hall", "vanilla": "a forklift"}


# Surroundings


ROUGH = np.random.default_rng(0).integers(40, 220, (300, 400, 1), np.uint8).repeat(3, 2)
SMOOTH = np.full((300, 400, 3), 120, np.uint8)


def seen(tmp_path, pictures):
    """Outlines, and with them pixels, of pictures by their number."""
    return Outlines(lambda digest, frame: pictures[int(digest, 16)], Store(tmp_path))


def test_a_new_object_is_of_the_first_category_whose_surroundings_are_like_those_of_a_place(tmp_path):
    boxes = [box("102", "2", 100, 100, 60, 50, "crack"), box("103", "3", 100, 100, 60, 50, "stain")]
    places = {name: np.array([[0.5, 0.2, 0.17], [0.9, 0.2, 0.17]]) for name in ("crack", "stain")}
    for here, expected in ((ROUGH, "crack"), (SMOOTH, "stain")):
        looks = seen(tmp_path, {1: here, 2: ROUGH, 3: SMOOTH})
        found = plan(IMAGES[:3], boxes, IMAGES[:1], variants=4, chain=recipe("insert"), places=places, looks=looks)
        assert [request.labels[-1].category for request in requests(found)] == [expected] * 4


def test_an_object_with_its_surroundings_keeps_its_size_and_is_lit_by_them(tmp_path):
    boxes = [box("102", "2", 100, 100, 60, 50)]
    looks = seen(tmp_path, {1: SMOOTH, 2: SMOOTH})
    (request,) = requests(plan(IMAGES[:2], boxes, IMAGES[:1], chain=recipe("insert"), places=PLACES, looks=looks))
    (x0, y0, x1, y1), donor = request.passes[0].region[0], request.passes[0].donor
    assert (x1 - x0, y1 - y0) == (60, 50) and donor.around and donor.outline is None


def test_an_added_picture_leaves_donors_and_places_of_an_earlier_plan_alone(tmp_path):
    numbers = range(1, 10)
    images = [image(str(i)) for i in numbers]
    boxes = [box(str(100 + i), str(i), 10, 10, 60 + i, 50) for i in numbers]
    looks = seen(tmp_path, {i: np.roll(ROUGH, 7 * i, axis=1) for i in numbers})
    more = {"chain": recipe("insert"), "places": PLACES, "looks": looks}
    before = plan(images[:8], boxes[:8], **more)
    former = former_donors([row.request for row in before])
    assert plan(images, boxes, former=former, **more)[:8] == before
    gone = [one for one in boxes[:8] if one.key != requests(before)[0].passes[0].donor.annotation]
    changed = plan(images[:8], gone, former=former, **more)
    assert changed[0].key != before[0].key


def test_an_object_whose_former_place_is_taken_moves(tmp_path):
    looks = seen(tmp_path, {1: SMOOTH, 2: SMOOTH})
    boxes = [box("102", "2", 100, 100, 60, 50)]
    more = {"chosen": IMAGES[:1], "chain": recipe("insert"), "places": PLACES, "looks": looks}
    before = plan(IMAGES[:2], boxes, **more)
    x0, y0, x1, y1 = requests(before)[0].passes[0].region[0]
    former = former_donors([row.request for row in before])
    taken = box("101", "1", x0, y0, x1 - x0, y1 - y0, "pallet")
    (after,) = requests(plan(IMAGES[:2], [*boxes, taken], former=former, **more))
    assert after.passes[0].region[0] != (x0, y0, x1, y1)
