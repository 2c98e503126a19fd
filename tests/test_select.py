"""Which pictures and boxes may be used: every rule has its reason, and nothing is limiting by default."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.datasets.select import OBJECT_COLUMNS, select_batches, select_pictures
from lib.records.manifest import to_table
from lib.records.rows import OK, REJECTED, ImageRow, ObjectRow, SelectRow, arrow_schema
from lib.records.settings import SelectSettings


def image(key, split="train", group="", width=100, height=80, status=OK):
    reason = "" if status == OK else "image_broken"
    name = f"{key}.png"
    return ImageRow(key, status, reason, "", name, name, split, group, width, height, "upright", 1, 1, f"d{key}", b"{}")


def box(key, image_key, category="cat", wh=(20, 10), crowd=False, status=OK):
    reason = "" if status == OK else "box_empty"
    return ObjectRow(key, status, reason, "", image_key, "1", category, 1, 1, *wh, crowd, False, b"{}")


def select(images, objects=(), seed=0, limit=None, **values):
    """SelectRows by image key."""
    tables = to_table(list(images), ImageRow), to_table(list(objects), ObjectRow).select(list(OBJECT_COLUMNS))
    table = select_pictures(*tables, SelectSettings(**values), seed, limit)
    assert table.schema.equals(arrow_schema(SelectRow))
    return {row["key"]: row for row in table.to_pylist()}


def reasons(rows):
    return {key: row["reason"] for key, row in rows.items()}


def chosen(rows):
    return {key for key, row in rows.items() if row["status"] == OK}


IMAGES = [image(str(i)) for i in range(40)]


def test_by_default_every_picture_is_selected_with_all_its_boxes():
    rows = select(IMAGES[:3], [box("a", "0"), box("b", "2", "dog", (100, 80)), box("c", "2", "cat", (1, 1))])
    assert [rows[key]["objects"] for key in "012"] == [["a"], [], ["b", "c"]]
    assert rows["2"]["labels"] == ["dog", "cat"] and chosen(rows) == {"0", "1", "2"}


def test_a_row_describes_its_picture():
    (row,) = select([image("7", width=30, height=20)]).values()
    del row["objects"], row["labels"]
    assert row == {
        "key": "7",
        "file_name": "7.png",
        "status": OK,
        "reason": "",
        "detail": "",
        "digest": "d7",
        "frame": "upright",
        "split": "train",
        "width": 30,
        "height": 20,
    }


def test_only_readable_pictures_have_a_row():
    assert list(select([image("1"), image("2", status=REJECTED)])) == ["1"]


def test_no_pictures_at_all_is_not_a_fault():
    assert select([], [box("a", "1")], limit=3, max_per_category=2, max_categories=1) == {}


@pytest.mark.parametrize("chunks", [[], [pa.array([], pa.string())]], ids=["no chunk", "an empty chunk"])
def test_pictures_without_any_box_stay_selectable_under_every_limit(chunks):
    schema = arrow_schema(ObjectRow)
    empty = pa.table({f.name: pa.chunked_array([c.cast(f.type) for c in chunks], f.type) for f in schema})
    limits = SelectSettings(max_objects=6, max_categories=1, max_per_category=1, min_box=5)
    table = select_pictures(to_table(IMAGES, ImageRow), empty, limits, 0, None)
    assert table["status"].to_pylist() == [OK] * 40


def test_another_split_is_a_reason():
    rows = select([image("1"), image("2", "val"), image("3", "test")])
    assert reasons(rows) == {"1": "", "2": "other_split", "3": "other_split"}


def test_the_training_split_may_have_another_name():
    assert chosen(select([image("1", "train2017"), image("2", "val2017")], split="train2017")) == {"1"}


@pytest.mark.parametrize("split", ["val", "Validation", "test-dev"])
def test_a_split_to_measure_with_is_refused(split):
    with pytest.raises(ValueError, match="training split only"):
        SelectSettings(split=split)


def test_a_group_on_two_sides_of_a_split_is_left_alone():
    images = [image("1", group="a"), image("2", "val", group="a"), image("3", group="b"), image("4", group="b")]
    rows = select([*images, image("5"), image("6", "val")])
    assert reasons(rows) == {
        "1": "group_crosses_split",
        "2": "other_split",
        "3": "",
        "4": "",
        "5": "",
        "6": "other_split",
    }


def test_a_picture_with_a_shorter_side_than_required_is_too_small():
    rows = select([image("1", width=64, height=500), image("2", width=63, height=500)], min_picture=64)
    assert reasons(rows) == {"1": "", "2": "picture_too_small"}


def test_more_boxes_than_the_limit_are_too_many_and_as_many_are_not():
    objects = [box(f"{i}-{k}", str(i)) for i in range(4) for k in range(i)]
    assert reasons(select(IMAGES[:4], objects, max_objects=2))["3"] == "too_many_objects"
    assert chosen(select(IMAGES[:4], objects, max_objects=2)) == {"0", "1", "2"}


def test_a_limit_of_no_boxes_leaves_the_pictures_without_any():
    assert chosen(select(IMAGES[:2], [box("a", "0")], max_objects=0)) == {"1"}


def test_boxes_that_ingest_rejected_do_not_count():
    rows = select(IMAGES[:1], [box("a", "0"), box("b", "0", status=REJECTED)], max_objects=1)
    assert rows["0"]["objects"] == ["a"] and chosen(rows) == {"0"}


def test_a_crowd_counts_but_is_not_edited():
    objects = [box("a", "0"), box("b", "0", crowd=True)]
    assert select(IMAGES[:1], objects)["0"]["objects"] == ["a"]
    assert reasons(select(IMAGES[:1], objects, max_objects=1)) == {"0": "too_many_objects"}


def test_categories_are_counted_once_each():
    objects = [box("a", "0"), box("b", "0"), box("c", "1"), box("d", "1", "dog")]
    assert reasons(select(IMAGES[:2], objects, max_categories=1)) == {"0": "", "1": "too_many_categories"}


def test_exempt_categories_do_not_count_but_are_edited():
    objects = [box("a", "0"), box("b", "0", "person"), box("c", "0", "person")]
    rows = select(IMAGES[:1], objects, max_objects=1, max_categories=1, exempt=["person", "never seen"])
    assert chosen(rows) == {"0"} and rows["0"]["objects"] == ["a", "b", "c"]


def test_only_wanted_categories_are_edited_and_pictures_must_hold_one():
    objects = [box("a", "0"), box("b", "0", "dog"), box("c", "1", "dog")]
    rows = select(IMAGES[:3], objects, categories=["cat"])
    assert reasons(rows) == {"0": "", "1": "category_not_wanted", "2": "category_not_wanted"}
    assert rows["0"]["objects"] == ["a"]


def test_small_boxes_are_not_edited_but_their_picture_stays():
    rows = select(IMAGES[:1], [box("a", "0", wh=(50, 9)), box("b", "0", wh=(10, 50))], min_box=10)
    assert rows["0"]["objects"] == ["b"] and chosen(rows) == {"0"}


def test_boxes_outside_the_wanted_share_of_the_picture_are_not_edited():
    objects = [box("a", "0", wh=(10, 8)), box("b", "0", wh=(50, 40)), box("c", "0", wh=(100, 80))]
    assert select(IMAGES[:1], objects, min_box_area=0.1, max_box_area=0.5)["0"]["objects"] == ["b"]


def test_a_box_larger_than_its_picture_is_edited_by_default():
    assert select(IMAGES[:1], [box("a", "0", wh=(200, 90))])["0"]["objects"] == ["a"]


def test_a_usable_box_can_be_required():
    objects = [box("a", "0"), box("b", "1", crowd=True)]
    rows = select(IMAGES[:3], objects, require_objects=True)
    assert reasons(rows) == {"0": "", "1": "no_usable_objects", "2": "no_usable_objects"}


def test_the_limit_counts_pictures_after_selection():
    rows = select([*IMAGES, image("99", "val")], limit=5)
    assert len(chosen(rows)) == 5 and rows["99"]["reason"] == "other_split"
    assert sorted(set(reasons(rows).values())) == ["", "other_split", "over_limit"]


def test_a_limit_above_the_number_of_pictures_changes_nothing():
    assert select(IMAGES, limit=41) == select(IMAGES)


def test_another_seed_limits_to_other_pictures():
    assert chosen(select(IMAGES, limit=10)) != chosen(select(IMAGES, limit=10, seed=1))


@given(st.integers(0, 30), st.integers(1, 40), st.integers(100, 10**6))
@settings(max_examples=30)
def test_one_more_picture_moves_at_most_one_other_out_of_the_limit(seed, limit, new):
    before = chosen(select(IMAGES, seed=seed, limit=limit))
    after = chosen(select([*IMAGES, image(str(new))], seed=seed, limit=limit))
    assert len(before - after) <= 1 and after - before <= {str(new)}.union(before)


def test_the_order_of_the_pictures_leaves_the_limit_alone():
    assert chosen(select(IMAGES, limit=7)) == chosen(select(IMAGES[::-1], limit=7))


def test_a_cap_keeps_so_many_pictures_of_each_category():
    objects = [box(f"a{i}", str(i), "cat" if i < 30 else "dog") for i in range(40)]
    rows = select(IMAGES, objects, max_per_category=4)
    kept = [rows[key]["labels"] for key in chosen(rows)]
    assert sorted(kept) == [["cat"]] * 4 + [["dog"]] * 4
    assert sorted(set(reasons(rows).values())) == ["", "category_capped"]


def test_a_cap_takes_pictures_with_rare_categories_first():
    common = [box(f"a{i}", str(i)) for i in range(40)]
    rare = [box("r1", "3", "dog"), box("r2", "4", "dog")]
    assert chosen(select(IMAGES, common + rare, max_per_category=2)) == {"3", "4"}


@given(st.lists(st.sets(st.sampled_from("abcd"), max_size=3), max_size=25), st.integers(1, 4))
def test_a_cap_holds_for_every_category_and_wastes_none(pictures, cap):
    objects = [box(f"{i}{c}", str(i), c) for i, categories in enumerate(pictures) for c in sorted(categories)]
    rows = select(IMAGES[: len(pictures)], objects, max_per_category=cap)
    kept = [categories for i, categories in enumerate(pictures) if rows[str(i)]["status"] == OK]
    counts = {c: sum(c in categories for categories in kept) for c in "abcd"}
    assert max(counts.values()) <= cap
    for i, categories in enumerate(pictures):  # what was left out had a full category
        assert rows[str(i)]["status"] == OK or any(counts[c] == cap for c in categories)


def test_a_cap_leaves_pictures_without_a_usable_box_alone():
    rows = select(IMAGES[:5], [box("a", "0"), box("b", "1")], max_per_category=1)
    assert {"2", "3", "4"} < chosen(rows) and len(chosen(rows)) == 4


def test_what_another_rule_set_aside_does_not_fill_a_cap():
    images = [*IMAGES[:3], *(image(f"v{i}", "val") for i in range(30))]
    rows = select(images, [box(f"b{row.key}", row.key) for row in images], max_per_category=3)
    assert chosen(rows) == {"0", "1", "2"}


def test_the_first_rule_gives_the_reason():
    rows = select([image("1", "val", width=5, height=5)], [box("a", "1")], min_picture=10, max_objects=0)
    assert reasons(rows) == {"1": "other_split"}


RANDOM_OBJECTS = st.lists(
    st.tuples(st.integers(0, 9), st.sampled_from(["cat", "dog", "cow"]), st.integers(1, 100), st.booleans()),
    max_size=40,
)
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "max_objects": st.integers(0, 5),
        "max_categories": st.integers(0, 3),
        "max_per_category": st.integers(1, 4),
        "min_box": st.integers(0, 50),
        "require_objects": st.booleans(),
        "categories": st.lists(st.sampled_from(["cat", "dog", "owl"])),
    },
)


@given(RANDOM_OBJECTS, LIMITS, st.none() | st.integers(1, 12))
@settings(max_examples=60)
def test_no_row_is_lost_and_every_one_set_aside_has_a_reason(drawn, limits, limit):
    objects = [box(str(n), str(i), name, (side, side), crowd=crowd) for n, (i, name, side, crowd) in enumerate(drawn)]
    rows = select(IMAGES[:10], objects, limit=limit, **limits)
    assert list(rows) == [row.key for row in IMAGES[:10]]
    assert all((row["status"] == OK) == (row["reason"] == "") for row in rows.values())
    owner = {o.key: o.image_key for o in objects if not o.crowd}
    assert all(owner[key] == row["key"] for row in rows.values() for key in row["objects"])
    assert all(len(row["objects"]) == len(row["labels"]) for row in rows.values())


# --- some at a time

RULES = [
    {},
    {"max_per_category": 2},
    {"max_per_category": 1, "categories": ["cat", "dog"]},
    {"max_objects": 2, "max_categories": 1, "require_objects": True},
]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), limit=st.none() | st.integers(0, 12), size=st.sampled_from([1, 3, 100]))
@pytest.mark.parametrize("rules", RULES)
def test_some_at_a_time_the_rows_are_the_same(tmp_path_factory, rules, data, limit, size):
    count = data.draw(st.integers(0, 12))
    some = st.sampled_from(range(count)) if count else st.just(0)
    images = to_table(
        [
            image(
                str(i),
                split=data.draw(st.sampled_from(["train", "train", "val"])),
                group=data.draw(st.sampled_from(["", "", "one", "two"])),
                status=data.draw(st.sampled_from([OK, OK, OK, REJECTED])),
            )
            for i in range(count)
        ],
        ImageRow,
    )
    kinds = st.sampled_from(["cat", "dog", "cow"])
    of = data.draw(st.lists(st.tuples(some, kinds, st.booleans(), st.sampled_from([OK, OK, REJECTED])), max_size=25))
    objects = to_table(
        [box(f"o{i}", str(at), kind, crowd=crowd, status=ok) for i, (at, kind, crowd, ok) in enumerate(of)], ObjectRow
    ).select(list(OBJECT_COLUMNS))
    chosen = SelectSettings.model_validate(rules)

    def pieces(table):
        return (table.slice(start, size) for start in range(0, len(table), size))

    found = select_batches(
        lambda: pieces(images), pieces(objects), chosen, 0, limit, tmp_path_factory.getbasetemp(), 10**6
    )
    whole = select_pictures(images, objects, chosen, 0, limit)
    assert pa.concat_tables([whole.schema.empty_table(), *found]).equals(whole)
    assert not list(tmp_path_factory.getbasetemp().glob(".tmp-*"))
