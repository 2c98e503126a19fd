"""What to paint where; every registered edit is held to the contract."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.edits import EDITS, Box, Scene
from lib.errors import AugmentError
from lib.painters import PAINTERS

WIDTH, HEIGHT = 200, 150

CORNERS = st.tuples(st.floats(0, WIDTH - 1), st.floats(0, HEIGHT - 1), st.floats(0.5, 80), st.floats(0.5, 80))
BOXES = st.lists(st.tuples(CORNERS, st.sampled_from(["cat", "dog"]), st.booleans()), max_size=8)
every_edit = pytest.mark.parametrize("name", sorted(EDITS))


def make_box(key, x, y, w, h, category="cat", editable=True):
    right, bottom = min(x + w, WIDTH), min(y + h, HEIGHT)
    return Box(str(key), category, (x, y, right, bottom), (x, y, right - x, bottom - y), editable)


def scene_of(*boxes, prompt="a scene", digest="d", draws=(0, 0)):
    return Scene("1", digest, WIDTH, HEIGHT, prompt, draws, boxes)


def drawn_scene(drawn, **values):
    return scene_of(*(make_box(i, *at, name, editable) for i, (at, name, editable) in enumerate(drawn)), **values)


def edit(name, **values):
    return EDITS.build(EDITS.member(name, values))


def redrawn(draft):
    return [key for target in draft.targets for key in target.redraws]


APART = [make_box(i, 2 + 40 * (i % 5), 2 + 50 * (i // 5), 30, 40) for i in range(10)]


# The contract


@every_edit
def test_a_member_declares_what_plan_needs(name):
    member = EDITS[name]
    assert isinstance(member.VERSION, int) and member.VERSION >= 1 and isinstance(member.WHOLE, bool)
    settings = edit(name).settings
    assert settings.negative_prompt == ""
    if not member.WHOLE:  # plan cuts a window around each target
        assert settings.context >= 1 and settings.min_window >= 1


@every_edit
def test_some_painter_serves_it(name):
    assert any(name in PAINTERS[painter].EDITS for painter in PAINTERS)


@every_edit
def test_without_boxes_there_is_a_reason_and_no_target(name):
    draft = edit(name).draft(scene_of())
    assert draft.targets == () and draft.reason == "no_boxes_to_edit"


@every_edit
def test_without_editable_boxes_there_is_a_reason_and_no_target(name):
    draft = edit(name).draft(scene_of(make_box(1, 5, 5, 30, 30, editable=False)))
    assert draft.targets == () and draft.reason == "no_boxes_to_edit"


@every_edit
@given(drawn=BOXES)
def test_targets_or_a_reason_never_both(name, drawn):
    draft = edit(name).draft(drawn_scene(drawn))
    assert bool(draft.targets) != bool(draft.reason)


@every_edit
@given(drawn=BOXES)
def test_the_same_scene_gives_the_same_draft(name, drawn):
    assert edit(name).draft(drawn_scene(drawn)) == edit(name).draft(drawn_scene(drawn))


@every_edit
@given(drawn=BOXES)
def test_only_editable_boxes_are_painted_anew_each_once(name, drawn):
    scene = drawn_scene(drawn)
    keys = redrawn(edit(name).draft(scene))
    assert len(keys) == len(set(keys)) and set(keys) <= {box.key for box in scene.boxes if box.editable}


@every_edit
@given(drawn=BOXES)
def test_a_box_is_not_both_kept_and_painted_anew(name, drawn):
    draft = edit(name).draft(drawn_scene(drawn))
    assert not set(draft.keeps) & set(redrawn(draft))


@every_edit
@given(drawn=BOXES)
def test_a_target_has_a_phrase_for_each_box_and_a_prompt(name, drawn):
    for target in edit(name).draft(drawn_scene(drawn, prompt="")).targets:
        assert len(target.boxes) == len(target.phrases) == len(target.redraws) >= 1 and target.prompt


@every_edit
@given(drawn=BOXES)
def test_the_region_lies_in_the_frame_and_holds_the_boxes(name, drawn):
    for target in edit(name).draft(drawn_scene(drawn)).targets:
        for x0, y0, x1, y1 in target.region:
            assert 0 <= x0 < x1 <= WIDTH and 0 <= y0 < y1 <= HEIGHT
        for bx0, by0, bx1, by1 in target.boxes:
            assert any(x0 <= bx0 and y0 <= by0 and bx1 <= x1 and by1 <= y1 for x0, y0, x1, y1 in target.region)


@every_edit
def test_boxes_keep_the_order_of_the_annotations(name):
    keys = redrawn(edit(name).draft(scene_of(*APART)))
    assert keys == [box.key for box in APART]


@every_edit
def test_the_captions_prompt_is_the_targets(name):
    assert {target.prompt for target in edit(name).draft(scene_of(*APART)).targets} == {"a scene"}


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
    own = edit("replace", max_boxes=most)
    before = set(redrawn(own.draft(scene_of(*APART[:-1], digest=digest))))
    after = set(redrawn(own.draft(scene_of(*APART, digest=digest))))
    assert len(before - after) <= 1 and after - before <= {APART[-1].key}


def test_other_pictures_choose_other_boxes():
    own = edit("replace", max_boxes=1)
    assert len({redrawn(own.draft(scene_of(*APART, digest=str(i))))[0] for i in range(60)}) == 10


def test_a_prompt_of_its_own_names_the_category():
    (target,) = edit("replace", prompt="one {category}, {new}").draft(scene_of(make_box(1, 5, 5, 9, 9, "dog"))).targets
    assert target.prompt == "one dog, {new}"


def test_without_any_prompt_replace_names_the_object():
    (target,) = edit("replace").draft(scene_of(make_box(1, 5, 5, 9, 9, "dog"), prompt="")).targets
    assert target.prompt == "a dog"


def test_a_limit_beyond_its_range_is_refused_by_name():
    with pytest.raises(AugmentError, match="cover_limit"):
        edit("replace", cover_limit=1.5)
