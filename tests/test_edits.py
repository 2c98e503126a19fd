"""What to paint where; every registered edit is held to the contract."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.errors import AugmentError
from lib.painting.painters import PAINTERS
from lib.planning.edits import EDITS, Box, LabelledPicture
from lib.planning.edits.background import NEUTRAL, without_objects
from lib.records.rle import decode_rle

WIDTH, HEIGHT = 200, 150

CORNERS = st.tuples(st.floats(0, WIDTH - 1), st.floats(0, HEIGHT - 1), st.floats(0.5, 80), st.floats(0.5, 80))
BOXES = st.lists(st.tuples(CORNERS, st.sampled_from(["cat", "dog"]), st.booleans()), max_size=8)
every_edit = pytest.mark.parametrize("name", sorted(EDITS))


def every_edit_and_scene(test):
    """Over 150 scenes a truth, shared out among the edits."""
    return every_edit(settings(max_examples=25)(given(drawn=BOXES)(test)))


def make_box(key, x, y, w, h, category="cat", editable=True):
    right, bottom = min(x + w, WIDTH), min(y + h, HEIGHT)
    record = json.dumps({"segmentation": [[x, y, right, y, right, bottom, x, bottom]]}).encode()
    return Box(str(key), category, (x, y, right, bottom), (x, y, right - x, bottom - y), editable, False, record)


PLACES = {"cat": np.array([[0.5, 0.2, 0.2], [0.9, 0.3, 0.25]]), "dog": np.array([[1.0, 0.2, 0.3]])}


def scene_of(*boxes, prompt="a scene", digest="d", draws=(0, 0), places=PLACES):
    return LabelledPicture("1", digest, WIDTH, HEIGHT, prompt, draws, boxes, places)


def drawn_scene(drawn, **values):
    return scene_of(*(make_box(i, *at, name, editable) for i, (at, name, editable) in enumerate(drawn)), **values)


def edit(name, **values):
    return EDITS.build(EDITS.member(name, values))


def redrawn(draft):
    return [key for target in draft.targets for key in target.redraws]


NEED_BOXES = pytest.mark.parametrize("name", sorted(set(EDITS) - {"insert"}))
APART = [make_box(i, 2 + 40 * (i % 5), 2 + 50 * (i // 5), 30, 40) for i in range(10)]


# The contract


@every_edit
def test_a_member_declares_what_plan_needs(name):
    member = EDITS[name]
    assert isinstance(member.VERSION, int) and member.VERSION >= 1 and isinstance(member.WHOLE, bool)
    settings = edit(name).settings
    assert settings.needs_places == (name == "insert") and not settings.needs_mixes
    assert settings.negative_prompt == "" and settings.prompt is None
    if not member.WHOLE:  # plan cuts a window around each target
        assert settings.context >= 1 and settings.min_window >= 1


@every_edit
def test_some_painter_serves_it(name):
    assert any(name in PAINTERS[painter].EDITS for painter in PAINTERS)


@NEED_BOXES
def test_without_boxes_there_is_a_reason_and_no_target(name):
    draft = edit(name).draft(scene_of())
    assert draft.targets == () and draft.reason == "no_boxes_to_edit"


@NEED_BOXES
def test_without_editable_boxes_there_is_a_reason_and_no_target(name):
    draft = edit(name).draft(scene_of(make_box(1, 5, 5, 30, 30, editable=False)))
    assert draft.targets == () and draft.reason == "no_boxes_to_edit"


@every_edit_and_scene
def test_targets_or_a_reason_never_both(name, drawn):
    draft = edit(name).draft(drawn_scene(drawn))
    assert bool(draft.targets) != bool(draft.reason)


@every_edit_and_scene
def test_the_same_scene_gives_the_same_draft(name, drawn):
    assert edit(name).draft(drawn_scene(drawn)) == edit(name).draft(drawn_scene(drawn))


@every_edit_and_scene
def test_only_editable_boxes_are_painted_anew_each_once(name, drawn):
    scene = drawn_scene(drawn)
    keys = redrawn(edit(name).draft(scene))
    assert len(keys) == len(set(keys)) and set(keys) <= {box.key for box in scene.boxes if box.editable}


@every_edit_and_scene
def test_a_box_is_not_both_kept_and_painted_anew(name, drawn):
    draft = edit(name).draft(drawn_scene(drawn))
    assert not set(draft.keeps) & set(redrawn(draft))


@every_edit_and_scene
def test_a_target_has_a_phrase_for_each_box_and_a_prompt(name, drawn):
    for target in edit(name).draft(drawn_scene(drawn, prompt="")).targets:
        assert len(target.boxes) == len(target.phrases) and target.prompt and all(target.phrases)


@every_edit_and_scene
def test_the_region_lies_in_the_frame_and_holds_the_boxes(name, drawn):
    for target in edit(name).draft(drawn_scene(drawn)).targets:
        for x0, y0, x1, y1 in target.region:
            assert 0 <= x0 < x1 <= WIDTH and 0 <= y0 < y1 <= HEIGHT
        for bx0, by0, bx1, by1 in target.boxes:
            assert any(x0 <= bx0 and y0 <= by0 and bx1 <= x1 and by1 <= y1 for x0, y0, x1, y1 in target.region)


@every_edit_and_scene
def test_targets_about_the_same_annotations_have_different_roles(name, drawn):
    """Their noise would be the same otherwise."""
    targets = edit(name).draft(drawn_scene(drawn)).targets
    assert len({(target.about, target.role) for target in targets}) == len(targets)


@every_edit_and_scene
def test_what_a_target_paints_anew_it_is_about(name, drawn):
    assert all(set(target.redraws) <= set(target.about) for target in edit(name).draft(drawn_scene(drawn)).targets)


@every_edit
def test_boxes_keep_the_order_of_the_annotations(name):
    keys = redrawn(edit(name).draft(scene_of(*APART)))
    assert keys in ([], [box.key for box in APART])


@every_edit
def test_another_variant_of_a_random_edit_is_another_draft(name):
    drafts = {repr(edit(name).draft(scene_of(APART[0], draws=(0, variant))).targets) for variant in range(4)}
    assert (len(drafts) > 1) == (name in ("occlude", "refine", "insert"))


@pytest.mark.parametrize("name", ["layout", "replace", "mask"])
def test_the_captions_prompt_is_the_targets(name):
    assert {target.prompt for target in edit(name).draft(scene_of(*APART)).targets} == {"a scene"}


@every_edit
def test_a_prompt_that_is_set_has_its_fields_filled_in(name):
    targets = edit(name, prompt="one {category}").draft(scene_of(APART[0])).targets
    prompts = {"background": {"one"}, "insert": {"one cat", "one dog"}}
    assert targets[-1].prompt in prompts.get(name, {"one cat"})


@every_edit
def test_of_several_prompts_each_target_takes_one(name):
    pool = ["red", "green", "blue"]
    prompts = {
        target.prompt
        for variant in range(12)
        for target in edit(name, prompt=pool).draft(scene_of(*APART[:3], draws=(0, variant))).targets
        if target.role != "object"
    }
    assert prompts == set(pool)


@every_edit
@pytest.mark.parametrize("prompt", ["", "  ", [], ["a", ""]])
def test_an_empty_prompt_is_refused(name, prompt):
    with pytest.raises(AugmentError, match="none of them empty"):
        EDITS.member(name, {"prompt": prompt})


# layout


def test_layout_paints_the_whole_frame_once_with_all_editable_boxes():
    boxes = [make_box(1, 5, 5, 30, 30), make_box(2, 60, 5, 30, 30, "dog"), make_box(3, 9, 9, 9, 9, editable=False)]
    draft = edit("layout").draft(scene_of(*boxes))
    (target,) = draft.targets
    assert target.region == ((0, 0, WIDTH, HEIGHT),) and target.phrases == ("cat", "dog")
    assert target.redraws == ("1", "2") and draft.keeps == ()


def test_layout_without_a_caption_names_its_objects():
    (target,) = (
        edit("layout").draft(scene_of(make_box(1, 5, 5, 9, 9), make_box(2, 60, 5, 9, 9, "dog"), prompt="")).targets
    )
    assert target.prompt == "cat, dog"


# replace


@given(BOXES)
def test_replace_keeps_or_paints_every_box(drawn):
    scene = drawn_scene(drawn)
    draft = edit("replace").draft(scene)
    assert sorted([*draft.keeps, *redrawn(draft)]) == sorted(box.key for box in scene.boxes)


def test_replace_has_a_target_per_box_with_its_whole_pixels():
    (target,) = edit("replace").draft(scene_of(make_box(1, 10.5, 20.25, 30, 40))).targets
    assert target.region == ((10, 20, 41, 61),) and target.boxes == ((10.5, 20.25, 40.5, 60.25),)


@pytest.mark.parametrize(("limit", "barred"), [(0.24, ("1: covers_other_object",)), (0.26, ())])
def test_a_box_that_covers_more_of_another_than_the_limit_is_barred(limit, barred):
    boxes = [make_box(1, 0, 0, 100, 100), make_box(2, 90, 0, 40, 40, editable=False)]  # covers a quarter
    assert edit("replace", cover_limit=limit).draft(scene_of(*boxes)).barred == barred


def test_a_barred_box_is_kept_and_what_it_covers_is_still_painted():
    draft = edit("replace").draft(scene_of(make_box(1, 0, 0, 100, 100), make_box(2, 20, 20, 30, 30)))
    assert draft.barred == ("1: covers_other_object",) and draft.keeps == ("1",) and redrawn(draft) == ["2"]


def test_where_every_box_is_barred_the_reason_says_so():
    draft = edit("replace").draft(scene_of(make_box(1, 10, 10, 50, 50), make_box(2, 11, 11, 50, 50)))
    assert draft.reason == "all_boxes_barred" and draft.keeps == ("1", "2") and len(draft.barred) == 2


def test_a_box_that_is_not_edited_anyway_is_not_called_barred():
    draft = edit("replace").draft(scene_of(make_box(1, 0, 0, 100, 100, editable=False), make_box(2, 20, 20, 30, 30)))
    assert draft.barred == () and redrawn(draft) == ["2"]


@given(st.integers(1, 12))
def test_at_most_so_many_boxes_are_painted(most):
    draft = edit("replace", max_boxes=most).draft(scene_of(*APART))
    assert len(redrawn(draft)) == min(most, 10) and len(draft.keeps) == 10 - min(most, 10)


@given(st.integers(1, 9), st.text(max_size=6))
def test_one_more_box_moves_at_most_one_other_out_of_the_chosen(most, digest):
    made = edit("replace", max_boxes=most)
    before = set(redrawn(made.draft(scene_of(*APART[:-1], digest=digest))))
    after = set(redrawn(made.draft(scene_of(*APART, digest=digest))))
    assert len(before - after) <= 1 and after - before <= {APART[-1].key}


def test_other_pictures_choose_other_boxes():
    made = edit("replace", max_boxes=1)
    assert len({redrawn(made.draft(scene_of(*APART, digest=str(i))))[0] for i in range(60)}) == 10


def test_a_prompt_of_its_own_names_the_category():
    (target,) = edit("replace", prompt="one {category}, {new}").draft(scene_of(make_box(1, 5, 5, 9, 9, "dog"))).targets
    assert target.prompt == "one dog, {new}"


def test_without_any_prompt_replace_names_the_object():
    (target,) = edit("replace").draft(scene_of(make_box(1, 5, 5, 9, 9, "dog"), prompt="")).targets
    assert target.prompt == "a dog"


def test_a_limit_beyond_its_range_is_refused_by_name():
    with pytest.raises(AugmentError, match="cover_limit"):
        edit("replace", cover_limit=1.5)


def test_a_box_is_painted_wider_and_higher_by_the_padding():
    """The check of the replaced system: 1920×1280, YOLO .494337 .541262 .745955 .684466 → centre 949, 692, 1489×914."""
    width, height = 1920, 1280
    x, y, w, h = 0.494337 * width, 0.541262 * height, 0.745955 * width, 0.684466 * height
    box = Box("1", "cat", (x - w / 2, y - h / 2, x + w / 2, y + h / 2), (x - w / 2, y - h / 2, w, h), True)
    scene = LabelledPicture("1", "d", width, height, "", (0, 0), [box])
    (target,) = edit("replace", padding=0.03).draft(scene).targets
    ((x0, y0, x1, y1),) = target.region
    assert (x1 - x0, y1 - y0) == (1489, 914) and (x0 + 1489 // 2, y0 + 914 // 2) == (949, 692)


def test_refine_paints_its_objects_as_wide_and_as_high_as_replace():
    scene = scene_of(make_box(1, 20, 20, 30, 30))
    (replaced,), refined = (edit(name, padding=0.2).draft(scene).targets for name in ("replace", "refine"))
    assert refined[0].role == "object" and refined[0].region == replaced.region != ((20, 20, 50, 50),)


@given(BOXES, st.floats(0, 0.5))
def test_a_padded_region_still_holds_its_box_and_stays_in_the_frame(drawn, padding):
    for target in edit("replace", padding=padding, cover_limit=1).draft(drawn_scene(drawn)).targets:
        ((x0, y0, x1, y1),), ((bx0, by0, bx1, by1),) = target.region, target.boxes
        assert 0 <= x0 <= bx0 and 0 <= y0 <= by0 and bx1 <= x1 <= WIDTH and by1 <= y1 <= HEIGHT


def test_a_new_category_is_what_is_painted_and_the_old_ones_caption_is_not_used():
    (target,) = edit("replace", category="dog").draft(scene_of(APART[0])).targets
    assert (target.category, target.phrases, target.prompt) == ("dog", ("dog",), "a dog")


# occlude


@given(BOXES, st.integers(0, 5))
def test_an_occluder_stands_in_the_right_lower_part_of_its_box(drawn, variant):
    """The rule of LOCO occlusion inpainting: x + w·U(.1, .4), y + h·U(.4, .7), right and bottom edges kept."""
    scene = drawn_scene(drawn, draws=(0, variant))
    boxes = {box.key: box.xyxy for box in scene.boxes}
    for target in edit("occlude").draft(scene).targets:
        (left, top, right, bottom), (x0, y0, x1, y1) = target.adds[0], boxes[target.about[0]]
        assert x0 + 0.1 * (x1 - x0) - 1 <= left <= x0 + 0.4 * (x1 - x0)
        assert y0 + 0.4 * (y1 - y0) - 1 <= top <= y0 + 0.7 * (y1 - y0)
        assert x1 <= right < x1 + 1 and y1 <= bottom < y1 + 1


def test_occluders_cover_a_third_of_their_boxes_on_average():
    """LOCO occlusion inpainting: mean .3375, range .18 to .54."""
    shares = []
    for variant in range(500):
        (target,) = edit("occlude").draft(scene_of(make_box(1, 0, 0, 150, 150), draws=(0, variant))).targets
        left, top, right, bottom = target.adds[0]
        shares.append((right - left) * (bottom - top) / 150**2)
    assert abs(np.mean(shares) - 0.3375) < 0.02 and min(shares) > 0.17 and max(shares) < 0.56


def test_an_occluder_may_stand_across_a_whole_side():
    (target,) = edit("occlude", left=(0, 0), top=(0.5, 0.5)).draft(scene_of(make_box(1, 10, 20, 40, 60))).targets
    assert target.adds == ((10, 50, 50, 80),)


def test_each_box_of_a_picture_has_its_own_occluder_and_every_label_stays():
    draft = edit("occlude").draft(scene_of(*APART))
    assert [target.about for target in draft.targets] == [(box.key,) for box in APART]
    assert draft.keeps == tuple(box.key for box in APART) and redrawn(draft) == []


def test_an_occluder_is_a_stack_of_boxes_unless_a_category_is_named():
    (plain,) = edit("occlude").draft(scene_of(APART[0])).targets
    (named,) = edit("occlude", occluder_category="dog").draft(scene_of(APART[0])).targets
    assert (plain.prompt, plain.category) == ("a stack of boxes", None)
    assert (named.prompt, named.category) == ("a dog", "dog")


@pytest.mark.parametrize("values", [{"left": (0.5, 0.2)}, {"left": (0.2, 1.5)}, {"top": (0.4, 1)}])
def test_ranges_that_leave_no_occluder_are_refused(values):
    with pytest.raises(AugmentError, match="occlude"):
        EDITS.member("occlude", values)


# refine


def test_refine_paints_all_objects_first_and_then_their_occluders():
    targets = edit("refine").draft(scene_of(*APART[:2])).targets
    assert [(target.about, target.role) for target in targets] == [
        (("0",), "object"),
        (("1",), "object"),
        (("0",), "occluder"),
        (("1",), "occluder"),
    ]
    assert targets[0].prompt == "a cat" and targets[2].prompt == "a stack of boxes"


def test_refine_occludes_where_occlude_does():
    one = edit("refine").draft(scene_of(APART[0])).targets[1]
    (two,) = edit("occlude").draft(scene_of(APART[0])).targets
    assert one.region == two.region


# insert


@given(BOXES, st.integers(0, 3))
def test_new_objects_stand_clear_of_all_others(drawn, variant):
    scene = drawn_scene(drawn, draws=(0, variant))
    taken = [box.xyxy for box in scene.boxes]
    for target in edit("insert", count=3, max_overlap=0).draft(scene).targets:
        (x0, y0, x1, y1) = target.adds[0]
        assert all(x1 <= a or c <= x0 or y1 <= b or d <= y0 for a, b, c, d in taken)
        taken.append(target.adds[0])


@given(st.integers(0, 20))
def test_new_objects_have_the_size_and_height_of_one_of_the_data_sets(variant):
    for target in edit("insert", count=2).draft(scene_of(draws=(0, variant))).targets:
        x0, y0, x1, y1 = target.adds[0]
        place = np.array([y1, x1 - x0, y1 - y0]) / HEIGHT
        assert np.abs(PLACES[target.category] - place).max(axis=1).min() < 0.5 / HEIGHT + 1e-9


def test_new_objects_may_be_of_one_category_of_some_or_of_any():
    def categories(**values):
        scenes = [scene_of(draws=(0, variant)) for variant in range(12)]
        return {target.category for scene in scenes for target in edit("insert", **values).draft(scene).targets}

    assert categories(category="dog") == {"dog"}
    assert categories(category=["dog", "cat"]) == categories() == {"cat", "dog"}


def test_new_objects_may_be_kept_to_categories_that_the_picture_holds():
    def drafts(*boxes):
        return [edit("insert", present=True).draft(scene_of(*boxes, draws=(0, variant))) for variant in range(12)]

    dogs = [target for draft in drafts(make_box(1, 0, 0, 20, 20, "dog")) for target in draft.targets]
    assert dogs and {target.category for target in dogs} == {"dog"} and not any(target.instead for target in dogs)
    assert {draft.reason for draft in drafts()} == {"no_boxes_to_edit"}
    assert "present" not in EDITS.member("insert", {}).settings  # keys of plans made before it was a setting


def test_without_room_or_examples_there_is_a_reason():
    full = scene_of(make_box(1, 0, 0, WIDTH, HEIGHT))
    assert edit("insert").draft(full).reason == "no_free_place"
    assert edit("insert").draft(scene_of(places={})).reason == "no_examples"
    assert edit("insert", category="ox").draft(scene_of()).reason == "no_examples"


# background


def test_background_paints_all_but_the_boxes_and_keeps_every_label():
    boxes = [make_box(1, 20, 20, 30.5, 30), make_box(2, 100, 20, 30, 30, editable=False)]
    draft = edit("background", margin=4).draft(scene_of(*boxes))
    (target,) = draft.targets
    assert target.region == ((0, 0, WIDTH, HEIGHT),) and target.holes == ((16, 16, 55, 54), (96, 16, 134, 54))
    assert draft.keeps == ("1", "2") and target.boxes == () and target.redraws == ()


def test_background_has_a_neutral_prompt_and_takes_the_objects_out_of_a_caption():
    scene = scene_of(make_box(1, 20, 20, 30, 30), prompt="a cat on a sofa, two cats, near a window")
    assert edit("background").draft(scene).targets[0].prompt == NEUTRAL
    assert edit("background", prompt="{caption}").draft(scene).targets[0].prompt == "a sofa near a window"


@pytest.mark.parametrize(
    ("caption", "left"),
    [
        ("a forklift in a warehouse with two pallets", "a warehouse"),
        ("a warehouse", "a warehouse"),
        ("two Pallet_Trucks beside a pallet truck", ""),
        ("a palletiser in a hall", "a palletiser in a hall"),
        ("two people and a table, knives near a shelf", "a table near a shelf"),
        ("", ""),
    ],
)
def test_without_objects_a_caption_describes_the_place_alone(caption, left):
    assert without_objects(caption, ["forklift", "pallet", "pallet_truck", "person", "knife"]) == left


# mask


def test_mask_paints_in_the_annotations_own_mask_and_its_box_is_that_masks():
    triangle = json.dumps({"segmentation": [[20, 20, 60, 20, 20, 60]]}).encode()
    box = Box("1", "cat", (15, 15, 70, 70), (15, 15, 55, 55), True, False, triangle)
    (target,) = edit("mask").draft(scene_of(box)).targets
    mask = decode_rle(target.mask)
    ((x0, y0, x1, y1),) = target.region
    assert mask.shape == (HEIGHT, WIDTH) and mask[y0:y1, x0:x1].sum() == mask.sum() and abs(mask.sum() - 800) < 50
    assert abs(x0 - 20) <= 1 and abs(y1 - 60) <= 1


RUNS = b'{"segmentation": {"size": [3, 4], "counts": [12]}}'  # of another picture


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (None, "no_mask"),
        (b"{}", "no_mask"),
        (b'{"segmentation": []}', "no_mask"),
        (b'{"segmentation": [[1, 2]]}', "mask_malformed"),
        (RUNS, "mask_malformed"),
        (b'{"segmentation": [[900, 900, 950, 900, 950, 950]]}', "mask_empty"),
    ],
)
def test_an_annotation_without_a_mask_of_use_is_left_alone_with_the_reason(record, reason):
    draft = edit("mask").draft(scene_of(Box("1", "cat", (5, 5, 9, 9), (5, 5, 4, 4), True, False, record)))
    assert (draft.reason, draft.barred, draft.keeps) == ("all_boxes_barred", (f"1: {reason}",), ("1",))


@pytest.mark.parametrize("name", ["replace", "mask"])
def test_painters_that_read_no_phrases_receive_the_object_alone(name):
    (target,) = edit(name).draft(scene_of(APART[0])).targets
    assert (target.prompt, target.plain) == ("a scene", "a cat")
    (target,) = edit(name, category="dog").draft(scene_of(APART[0])).targets
    assert (target.prompt, target.plain, target.category) == ("a dog", "", "dog")


@given(st.integers(0, 8))
def test_what_finds_no_room_is_accounted_for(variant):
    draft = edit("insert", count=30).draft(scene_of(draws=(0, variant)))
    assert len(draft.targets) + len(draft.barred) == 30 and all("no_free_place" in text for text in draft.barred)


def test_of_several_categories_each_replaced_object_takes_one_by_its_hash_whatever_the_others_are():
    chosen = redrawn_categories(["cat", "cow"])
    assert set(chosen.values()) == {"cat", "cow"}
    more = redrawn_categories(["cat", "cow", "dog"])
    assert all(more[key] in (name, "dog") for key, name in chosen.items())
    assert set(redrawn_categories("cow").values()) == {"cow"} and set(redrawn_categories(None).values()) == {None}


def redrawn_categories(category) -> dict[str, str | None]:
    draft = edit("replace", category=category).draft(scene_of(*APART))
    assert all(target.phrases == (target.category or "cat",) for target in draft.targets)
    return {target.about[0]: target.category for target in draft.targets}
