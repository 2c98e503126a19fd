"""What plans draw from: counted in the data set once, and pinned."""

import json

import pandas as pd
import pytest

from lib.core.errors import AugmentError
from lib.core.files import file_digest
from lib.painting.composites import COMPOSITES
from lib.painting.painters import PAINTERS
from lib.planning import statistics
from lib.planning.edits import EDITS
from lib.planning.recipe import Recipe
from lib.planning.statistics import Survey, mixes_of, places_of, rows_drawn_from

CAT = ("1", "1", "cat", 10.0, 20.0, 50.0, 30.0, False)
DOG = ("2", "1", "dog", 150.0, 80.0, 90.0, 40.0, False)
CAT_PLACE, DOG_PLACE = [[0.5, 0.5, 0.3]], [[1.0, 0.5, 0.2]]


def images(*keys, split="train", **more):
    fields = {"key": keys, "status": "ok", "split": split, "digest": [f"d{key}" for key in keys]}
    return pd.DataFrame({**fields, "width": 200, "height": 100, **more}, index=range(len(keys)))


def objects(*rows):
    names = ["key", "image_key", "category", "x", "y", "w", "h", "crowd"]
    return pd.DataFrame(rows, columns=names).astype({"crowd": bool})


def holding(*rows):
    """Objects of (picture, category, crowd)."""
    return objects(*((str(i), key, name, 9.0, 9.0, 9.0, 9.0, crowd) for i, (key, name, crowd) in enumerate(rows)))


def survey(root, *rows, split="train", categories=("cat", "dog"), **more):
    return Survey(root, split, categories, lambda names: (objects(*rows), images("1", split=split)), **more)


def unread(categories):
    raise AssertionError(f"the objects are read for {categories}")


def listed(places):
    return {name: rows.tolist() for name, rows in places.items()}


def recipe(edit, painter="gligen", composite="none", **values):
    return Recipe(
        edit=EDITS.member(edit, values),
        painter=PAINTERS.member(painter, {}),
        composite=COMPOSITES.member(composite, {}),
    )


# Places


def test_a_place_is_bottom_width_and_height_in_heights_of_the_picture_cut_to_it():
    found = places_of(objects(CAT, DOG), images("1"), "train")
    assert listed(found) == {"cat": CAT_PLACE, "dog": DOG_PLACE}


def test_crowds_other_splits_and_boxes_beyond_the_frame_are_not_places():
    crowd, beyond = (*CAT[:7], True), ("3", "1", "ox", 300.0, 20.0, 50.0, 30.0, False)
    assert places_of(objects(crowd, beyond), images("1"), "train") == {}
    assert places_of(objects(CAT), images("1", split="val"), "train") == {}


def test_what_is_pinned_stays_and_new_categories_are_added(tmp_path):
    survey(tmp_path, CAT, categories=["cat"]).places()
    moved = (*CAT[:3], 0.0, 0.0, 9.0, 9.0, False)
    found = survey(tmp_path, moved, DOG).places()
    assert listed(found) == {"cat": CAT_PLACE, "dog": DOG_PLACE}
    assert listed(Survey(tmp_path, "train", ["cat", "dog"], unread).places()) == listed(found)


def test_those_of_another_split_are_taken_anew_and_nothing_is_pinned_where_there_is_nothing(tmp_path):
    assert survey(tmp_path, split="training").places() == {} and not any(tmp_path.iterdir())
    survey(tmp_path, CAT, split="training").places()
    assert listed(survey(tmp_path, DOG).places()) == {"dog": DOG_PLACE}


@pytest.mark.parametrize("text", ["{", "[]", '{"split": "train", "places": {"cat": []}}', '{"cat": [[1, 1, 1]]}'])
def test_a_damaged_file_is_a_clear_error(tmp_path, text):
    (tmp_path / "places.json").write_text(text)
    with pytest.raises(AugmentError, match=r"places\.json is damaged.*remove it"):
        survey(tmp_path).places()


def test_new_objects_are_of_categories_that_the_data_set_still_has_and_that_are_wanted(tmp_path):
    ox = ("3", "1", "ox", *CAT[3:])
    survey(tmp_path, CAT, DOG, ox, categories=["cat", "dog", "ox"]).places()
    today = Survey(tmp_path, "train", {"cat", "dog"}, unread)
    assert list(today.places()) == ["cat", "dog"] and list(today.places(["dog", "ox"])) == ["dog"]


def test_known_categories_are_not_gone_through_again(tmp_path):
    assert list(places_of(objects(CAT, DOG), images("1"), "train", {"cat"})) == ["dog"]
    survey(tmp_path, CAT, DOG).places()
    assert list(Survey(tmp_path, "train", ["dog", "cat"], unread).places()) == ["cat", "dog"]


# Mixes


def test_a_mix_is_what_one_picture_of_the_split_holds_without_crowds():
    rows = holding(("1", "dog", False), ("1", "cat", False), ("1", "cat", True), ("2", "ox", False))
    assert mixes_of(rows, images("1", "3"), "train") == [("cat", "dog")]
    assert mixes_of(rows, images("1", split="val"), "train") == []


def test_one_more_picture_leaves_the_others_mixes_in_their_order():
    rows = holding(*((str(i), f"c{i}", False) for i in range(20)))
    before = mixes_of(rows, images(*map(str, range(19))), "train")
    after = mixes_of(rows, images(*map(str, range(20))), "train")
    assert [mix for mix in after if mix != ("c19",)] == before


def test_pictures_of_equal_bytes_are_mixes_of_their_own():
    """As a clean template is that stands for several layouts."""
    twins = images("1", "2", digest="same")
    assert sorted(mixes_of(holding(("1", "cat", False), ("2", "dog", False)), twins, "train")) == [("cat",), ("dog",)]


def test_mixes_are_pinned_for_their_split(tmp_path):
    assert survey(tmp_path).mixes() == [] and not any(tmp_path.iterdir())
    assert survey(tmp_path, CAT, DOG).mixes() == [("cat", "dog")]
    assert Survey(tmp_path, "train", ["ox"], unread).mixes() == [("cat", "dog")]
    assert survey(tmp_path, split="training").mixes() == []
    (tmp_path / "mixes.json").write_text("{")
    with pytest.raises(AugmentError, match=r"mixes\.json is damaged.*remove it"):
        survey(tmp_path).mixes()


# For a recipe


def test_a_recipe_gets_what_it_draws_from_and_nothing_else_is_read(tmp_path):
    assert Survey(tmp_path, "train", ["cat"], unread).statistics(recipe("layout")).places == {}
    insert = survey(tmp_path, CAT, DOG).statistics(recipe("insert", "gligen-inpaint"), ["dog"])
    assert listed(insert.places) == {"dog": DOG_PLACE} and list(insert.mixes) == []
    drawn = survey(tmp_path, CAT, DOG).statistics(recipe("layout", layouts="sampled"))
    assert list(drawn.places) == ["cat", "dog"] and drawn.mixes == [("cat", "dog")]


def test_a_survey_that_pins_nothing_counts_the_same(tmp_path):
    chain = recipe("layout", layouts="sampled")
    counted = survey(tmp_path, CAT, DOG, pins=False).statistics(chain)
    assert not any(tmp_path.iterdir())
    pinned = survey(tmp_path, CAT, DOG).statistics(chain)
    assert listed(counted.places) == listed(pinned.places) and counted.mixes == pinned.mixes


FORMER = {
    "places.json": {"split": "train", "places": {"cat": CAT_PLACE}},
    "mixes.json": {"split": "train", "mixes": [["cat"]]},
}


def test_files_of_a_former_version_are_taken_as_they_are_and_get_their_digests(tmp_path):
    for name, content in FORMER.items():
        (tmp_path / name).write_text(json.dumps(content))
    for pins in (False, True):
        found = Survey(tmp_path, "train", ["cat"], unread, pins).statistics(recipe("layout", layouts="sampled"))
        assert listed(found.places) == {"cat": CAT_PLACE} and found.mixes == [("cat",)]
        for name, content in FORMER.items():
            found = json.loads((tmp_path / name).read_bytes())
            assert bool(found.pop("sha256", None)) == pins and found == content


def test_a_plans_key_holds_the_categories_and_the_pinned_bytes(tmp_path):
    found = survey(tmp_path, CAT, DOG).identity(recipe("layout", layouts="sampled"), ["cat"])
    digests = {name: file_digest(tmp_path / f"{name}.json") for name in ("places", "mixes")}
    assert found == {"categories": ["cat"], **digests}
    assert survey(tmp_path).identity(recipe("layout")) == {}


def test_donors_are_those_of_the_categories_that_are_wanted(tmp_path):
    wanted = []

    def rows(categories):
        wanted.extend(categories)
        more = {"status": "ok", "group": "", "frame": "upright"}
        return objects(CAT, DOG).assign(status="ok", polygon=False), images("1", **more)

    pool = Survey(tmp_path, "train", ["cat", "dog"], rows).donors(["dog"])
    assert wanted == ["dog"] and list(pool.categories["dog"].rows.key) == ["2"]


@pytest.mark.parametrize(("pictures", "held"), [(1, 1), (7, 10), (7, 10_000), (90, 10_000)])
def test_of_the_rows_that_are_drawn_from_places_and_mixes_are_those_of_all(monkeypatch, pictures, held):
    monkeypatch.setattr(statistics, "_HELD", held)
    monkeypatch.setattr(statistics, "MOST", 12)
    shown = pd.DataFrame(
        {
            "key": str(number),
            "status": "ok" if number % 5 else "rejected",
            "image_key": str(number % 89),
            "category": ["cat", "dog", "ox"][number * number % 3],
            "x": 1.0 + number % 7,
            "y": 2.0,
            "w": 20.0 + number,
            "h": 10.0 + number % 13,
            "crowd": number % 11 == 0,
        }
        for number in range(300)
    )
    taken = pd.DataFrame(
        {
            "key": str(number),
            "status": "ok" if number % 9 else "rejected",
            "split": "val" if number % 7 == 0 else "train",
            "digest": f"d{number // 2}",
            "width": 400,
            "height": 300 + number,
        }
        for number in range(89)
    )
    parts = [taken[start : start + pictures] for start in range(0, len(taken), pictures)]
    some, of = rows_drawn_from(((shown[shown.image_key.isin(part.key)], part) for part in parts), "train")
    usable = shown[shown.status == "ok"]
    assert listed(places_of(some, of, "train")) == listed(places_of(usable, taken, "train"))
    assert mixes_of(some, of, "train") == mixes_of(usable, taken, "train") and len(some) < len(usable)


def test_nothing_is_drawn_from_a_data_set_without_objects():
    assert places_of(*rows_drawn_from([], "train"), "train") == {}
    assert mixes_of(*rows_drawn_from([], "train"), "train") == []
