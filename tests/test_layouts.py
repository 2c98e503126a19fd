"""Layouts of edit `layout`: the data's own, near them, or drawn from what the data set's pictures hold."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_edits import BOXES, HEIGHT, WIDTH, drawn_scene, edit, make_box, scene_of
from test_plan import box, frame, image, plan, recipe, requests, select

from lib.core.geometry import to_window, xywh_to_xyxy
from lib.planning.edits import LabelledPicture
from lib.planning.plan import plan_requests
from lib.planning.statistics import Statistics
from lib.records.rows import ObjectRow, SelectRow

SMALL = {"cat": np.array([[0.5, 0.2, 0.2], [0.9, 0.25, 0.15]]), "dog": np.array([[1.0, 0.2, 0.2]])}
MIXES = [("cat",), ("cat", "cat", "dog"), ("dog", "dog")]


def sampled_scene(variant=0, mixes=MIXES, places=SMALL, boxes=()):
    return LabelledPicture("1", "d", WIDTH, HEIGHT, "a scene", (0, variant), boxes, places, mixes)


def sampled_targets(**values):
    """The targets of forty variants."""
    made = edit("layout", layouts="sampled", **values)
    return [made.draft(sampled_scene(variant)).targets[0] for variant in range(40)]


# Jittered


@given(BOXES, st.floats(0, 1), st.floats(0, 0.9), st.integers(0, 3))
def test_jittered_boxes_stay_in_the_frame_near_their_own(drawn, shift, scale, variant):
    scene = drawn_scene(drawn, draws=(0, variant))
    boxes = {box.key: box.xyxy for box in scene.boxes}
    for target in edit("layout", layouts="jittered", shift=shift, scale=scale).draft(scene).targets:
        assert target.moves and len(target.boxes) == len(target.redraws)
        for key, (x0, y0, x1, y1) in zip(target.redraws, target.boxes, strict=True):
            assert 0 <= x0 < x1 <= WIDTH and 0 <= y0 < y1 <= HEIGHT
            for low, high, a, b in ((x0, x1, boxes[key][0], boxes[key][2]), (y0, y1, boxes[key][1], boxes[key][3])):
                assert (high - low) / (b - a) <= 1 + scale + 1e-3
                assert abs((low + high) / 2 - (a + b) / 2) <= (shift + scale / 2) * (b - a) + 1e-3


def test_another_variant_jitters_otherwise_and_no_jitter_is_the_data():
    def boxes_of(variant, **values):
        scene = scene_of(make_box(1, 60, 50, 30, 30), draws=(0, variant))
        return edit("layout", **values).draft(scene).targets[0].boxes

    assert len({boxes_of(variant, layouts="jittered") for variant in range(8)}) == 8
    assert boxes_of(3, layouts="jittered", shift=0, scale=0) == boxes_of(3)


def test_the_labels_of_jittered_boxes_are_the_new_ones_and_keep_their_annotation():
    boxes = [box("7", "1", 100, 100, 80, 60), box("8", "1", 20, 20, 40, 40, category="pallet")]
    (request,) = requests(plan([image("1")], boxes, chain=recipe("layout", "gligen", "none", layouts="jittered")))
    (step,) = request.passes
    assert [label.source for label in request.labels] == ["7", "8"] and all(label.painted for label in request.labels)
    for label, painted, row in zip(request.labels, step.boxes, boxes, strict=True):
        expected = to_window(xywh_to_xyxy(np.array(label.bbox)), step.window, step.shape)
        np.testing.assert_allclose(painted, expected, atol=1e-3)
        assert label.bbox != (row.x, row.y, row.w, row.h) and label.area == pytest.approx(label.bbox[2] * label.bbox[3])
        assert label.category is None  # the annotation's own


# Sampled


def test_a_sampled_layout_is_a_mix_of_the_data_at_places_of_its_categories():
    for target in sampled_targets():
        assert tuple(sorted(target.kinds)) in MIXES and target.phrases == target.kinds
        assert target.boxes == target.adds and target.redraws == ()
        for (x0, y0, x1, y1), name in target.added:
            place = np.array([y1, x1 - x0, y1 - y0]) / HEIGHT
            assert np.abs(SMALL[name] - place).max(axis=1).min() < 0.5 / HEIGHT + 1e-9


def test_sampled_layouts_come_as_often_as_their_mixes():
    counts = Counter(tuple(sorted(target.kinds)) for target in sampled_targets())
    assert set(counts) == set(MIXES) and min(counts.values()) >= 5


def test_sampled_objects_stand_clear_of_each_other():
    for target in sampled_targets(max_overlap=0):
        for i, (a0, b0, a1, b1) in enumerate(target.adds):
            assert all(a1 <= x0 or x1 <= a0 or b1 <= y0 or y1 <= b0 for x0, y0, x1, y1 in target.adds[:i])


def test_of_more_objects_than_requested_no_layout_is_sampled():
    assert {len(target.adds) for target in sampled_targets(max_objects=2)} == {1, 2}


def test_a_picture_without_boxes_gets_a_sampled_layout_and_those_of_others_are_gone():
    made = edit("layout", layouts="sampled")
    assert made.draft(sampled_scene()) == made.draft(sampled_scene(boxes=[make_box(1, 5, 5, 30, 30)]))
    assert made.draft(sampled_scene()).keeps == ()


def test_categories_without_places_are_left_out_of_the_mixes():
    made = edit("layout", layouts="sampled")
    (target,) = made.draft(sampled_scene(mixes=[("cat", "gone")])).targets
    assert target.kinds == ("cat",)
    draft = made.draft(sampled_scene(mixes=[("gone",)]))
    assert draft.targets == () and draft.reason == "no_examples"


def test_what_finds_no_room_is_accounted_for():
    crowd = [("cat",) * 60]
    draft = edit("layout", layouts="sampled").draft(sampled_scene(mixes=crowd))
    assert len(draft.targets[0].adds) + len(draft.barred) == 60
    assert draft.barred and all(text.endswith(": no_free_place") for text in draft.barred)
    draft = edit("layout", layouts="sampled", min_side=99).draft(sampled_scene())
    assert draft.targets == () and draft.reason == "no_free_place"


def test_every_sampled_object_has_a_label_of_its_class_and_box():
    chain = recipe("layout", "gligen", "none", layouts="sampled")
    boxes, one = [box("7", "1", 100, 100, 80, 60)], image("1")
    chosen = frame([select(one, boxes)], SelectRow)
    rows = plan_requests(chosen, frame(boxes, ObjectRow), {}, chain, Statistics(SMALL, MIXES), 0, 9)
    phrases = set()
    for request in requests(rows):
        (step,) = request.passes
        assert [label.category for label in request.labels] == list(step.phrases)
        phrases.add(step.phrases)
        for label, painted in zip(request.labels, step.boxes, strict=True):
            corners = to_window(xywh_to_xyxy(np.array(label.bbox)), step.window, step.shape)
            np.testing.assert_allclose(painted, corners, atol=1e-3)
            assert label.painted and label.source is None and label.area == label.bbox[2] * label.bbox[3]
    assert len(phrases) > 1


# Through the flow


def test_a_run_with_sampled_layouts_pins_what_pictures_hold(made_set, checkpoints, tmp_path):
    from test_preset_runs import run

    account = run(
        tmp_path / "ws",
        made_set.dataset,
        edit={"name": "layout", "layouts": "sampled"},
        painter={"name": "gligen", "model": str(checkpoints["gligen"]), "steps": 1, "size": 64},
        composite="none",
        screen={"black": 0, "blank": 0},
        limit=2,
    )
    assert account["stages"]["generate"]["ok"] == 2
    pinned = json.loads((tmp_path / "ws" / "mixes.json").read_bytes())
    assert (pinned["split"], pinned["mixes"]) == ("train", [["forklift", "pallet"]] * 6)
