"""Where objects stand: taken from the data set once, and pinned."""

import numpy as np
import pandas as pd
import pytest

from lib.errors import AugmentError
from lib.places import pinned_places, places_of, read_places, usable_categories


def images(*keys, split="train"):
    told = {"key": keys, "status": "ok", "split": split, "digest": "d", "width": 200, "height": 100}
    return pd.DataFrame(told, index=range(len(keys)))


def objects(*rows):
    names = ["key", "image_key", "category", "x", "y", "w", "h", "crowd"]
    return pd.DataFrame(rows, columns=names)


CAT = ("1", "1", "cat", 10.0, 20.0, 50.0, 30.0, False)
DOG = ("2", "1", "dog", 150.0, 80.0, 90.0, 40.0, False)


def test_a_place_is_bottom_width_and_height_in_heights_of_the_picture_cut_to_it():
    told = places_of(objects(CAT, DOG), images("1"), "train")
    assert told["cat"].tolist() == [[0.5, 0.5, 0.3]] and told["dog"].tolist() == [[1.0, 0.5, 0.2]]


def test_crowds_other_splits_and_boxes_beyond_the_frame_are_no_places():
    crowd, beyond = (*CAT[:7], True), ("3", "1", "ox", 300.0, 20.0, 50.0, 30.0, False)
    assert places_of(objects(crowd, beyond), images("1"), "train") == {}
    assert places_of(objects(CAT), images("1", split="val"), "train") == {}


def test_what_is_pinned_stays_and_new_categories_are_added(tmp_path):
    path, one, two = tmp_path / "places.json", np.array([[0.5, 0.2, 0.2]]), np.array([[0.9, 0.3, 0.3]])
    pinned_places(path, "train", lambda known: {"cat": one})
    told = pinned_places(path, "train", lambda known: {"cat": two, "dog": two})
    assert told["cat"].tolist() == one.tolist() and told["dog"].tolist() == two.tolist()
    assert {name: rows.tolist() for name, rows in read_places(path, "train").items()} == {
        name: rows.tolist() for name, rows in told.items()
    }


def test_those_of_another_split_are_taken_anew_and_nothing_is_pinned_where_there_is_nothing(tmp_path):
    path, rows = tmp_path / "places.json", np.array([[0.5, 0.2, 0.2]])
    assert pinned_places(path, "training", dict) == {} and not path.exists()
    pinned_places(path, "training", lambda known: {"cat": rows})
    assert read_places(path, "train") == {}
    assert list(pinned_places(path, "train", lambda known: {"dog": rows})) == ["dog"]


@pytest.mark.parametrize("text", ["{", "[]", '{"split": "train", "places": {"cat": []}}', '{"cat": [[1, 1, 1]]}'])
def test_a_damaged_file_is_a_clear_error(tmp_path, text):
    (tmp_path / "places.json").write_text(text)
    with pytest.raises(AugmentError, match=r"places\.json is damaged.*remove it"):
        read_places(tmp_path / "places.json", "train")


def test_new_objects_are_of_categories_that_the_data_set_still_has_and_that_are_wanted():
    places = {"cat": np.zeros((1, 3)), "dog": np.zeros((1, 3)), "gone": np.zeros((1, 3))}
    assert usable_categories(places, {"cat", "dog"}, None) == ["cat", "dog"]
    assert usable_categories(places, {"cat", "dog"}, ["dog", "gone"]) == ["dog"]


def test_known_categories_are_not_gone_through_again(tmp_path):
    path, rows, asked = tmp_path / "places.json", np.array([[0.5, 0.2, 0.2]]), []
    for _ in range(2):
        pinned_places(path, "train", lambda known: asked.append(sorted(known)) or {"cat": rows})
    assert asked == [[], ["cat"]]
    assert list(places_of(objects(CAT, DOG), images("1"), "train", {"cat"})) == ["dog"]
