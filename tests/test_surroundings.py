"""Where in a picture an object would stand among what it stood among before."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lib.core.images import PictureError
from lib.painting.painters import PAINTERS
from lib.planning.donor_pool import DonorPool
from lib.planning.donors import Donors
from lib.planning.surroundings import Room, Spot, Surroundings
from lib.records.store import Store

SIDE = 120


def tracks(*lefts, wide=8):
    """A white board with black vertical tracks."""
    board = np.full((SIDE, SIDE, 3), 255, np.uint8)
    for left in lefts:
        board[:, left : left + wide] = 0
    return board


def broken():
    """A track from 40 to 48 with a gap; its box is (34, 50, 54, 70)."""
    board = tracks(40)
    board[56:64, 40:48] = 255
    return board


BOX = (34, 50, 54, 70)


def surroundings(tmp_path, **pictures):
    loaded = []

    def load(digest, frame):
        loaded.append(digest)
        if digest not in pictures:
            raise PictureError("image_missing", digest)
        return pictures[digest]

    made = Surroundings(load, Store(tmp_path))
    return made, loaded


def room(drawn, taken=(), places=None, **more):
    grounds = [[bottom, 20, 20] for bottom in range(20, SIDE + 1)]
    values = {"category": "open", "least": 4, "most_shared": 0.1, "height": SIDE}
    taken = np.array(taken, float).reshape(-1, 4)
    return Room(box=drawn, taken=taken, places=np.array(places or grounds, float), **values | more)


def test_a_break_of_a_track_comes_onto_a_track(tmp_path):
    found, _ = surroundings(tmp_path, donor=broken())
    view = found.view("donor", "upright", BOX)
    spot = found.spot(tracks(77), view, room((10, 50, 30, 70)), (20, 20))
    assert spot.box[0] == 77 - 6 and spot.differs == pytest.approx(0, abs=0.1)


def test_a_mirrored_object_looks_for_mirrored_surroundings(tmp_path):
    found, _ = surroundings(tmp_path, donor=broken())
    view = found.view(
        "donor", "upright", (36, 50, 56, 70)
    ).mirrored()  # the track lies 4 from its left, so 8 from it now
    spot = found.spot(tracks(77), view, room((10, 50, 30, 70)), (20, 20))
    assert spot.box[0] == 77 - 8


def test_of_equal_places_it_is_the_nearest_to_the_one_that_was_drawn(tmp_path):
    found, _ = surroundings(tmp_path, donor=tracks())
    view = found.view("donor", "upright", BOX)
    assert found.spot(tracks(), view, room((31, 17, 51, 37)), (20, 20)).box == (31, 17, 51, 37)


def test_what_is_taken_is_kept_clear(tmp_path):
    found, _ = surroundings(tmp_path, donor=broken())
    view = found.view("donor", "upright", BOX)
    taken = [(70, 0, 90, SIDE)]
    spot = found.spot(tracks(30, 77), view, room((70, 50, 90, 70), taken), (20, 20))
    assert spot.box[0] == 30 - 6
    assert found.spot(tracks(77), view, room((70, 50, 90, 70), [(0, 0, SIDE, SIDE)]), (20, 20)) is None


def test_an_object_stands_on_the_ground_of_objects_of_its_size(tmp_path):
    found, _ = surroundings(tmp_path, donor=tracks())
    view = found.view("donor", "upright", BOX)
    places = [[100, 20, 20], [40, 60, 60]]
    spot = found.spot(tracks(), view, room((20, 20, 40, 40), places=places), (20, 20))
    assert abs(spot.box[3] - 100) <= 4


def test_a_texture_fits_its_own_kind_better_than_a_smooth_place(tmp_path):
    rough = np.random.default_rng(0).integers(60, 200, (SIDE, SIDE, 1), np.uint8).repeat(3, 2)
    half = np.full((SIDE, SIDE, 3), 130, np.uint8)
    half[:, 60:] = np.random.default_rng(1).integers(60, 200, (SIDE, 60, 1), np.uint8)
    found, _ = surroundings(tmp_path, donor=rough)
    view = found.view("donor", "upright", BOX)
    assert found.spot(half, view, room((10, 50, 30, 70)), (20, 20)).box[0] >= 55


def test_a_view_is_made_once_and_again_where_what_was_kept_is_none(tmp_path):
    found, loaded = surroundings(tmp_path, donor=broken())
    first, second = found.view("donor", "upright", BOX), found.view("donor", "upright", BOX)
    assert loaded == ["donor"] and (first.pixels == second.pixels).all() and first.inner == second.inner
    for path in (tmp_path / "view").glob("*/*"):
        found.store.put("view", path.name, b"no picture")
    assert (found.view("donor", "upright", BOX).pixels == first.pixels).all() and len(loaded) == 2


def test_what_is_gone_has_no_view_and_no_pixels(tmp_path):
    found, _ = surroundings(tmp_path)
    assert found.view("donor", "upright", BOX) is None and found.pixels("donor", "upright") is None


def test_a_former_place_is_admitted_where_it_is_clear_and_on_its_ground():
    places = [[100, 20, 20]]
    assert room((10, 10, 60, 60), places=places).admits((70, 80, 90, 100))
    assert not room((10, 10, 60, 60), places=places).admits((70, 50, 90, 70))
    assert room((10, 10, 60, 60), places=places).admits((20, 30, 40, 50))  # within the place that was drawn
    assert not room((10, 10, 60, 60), [(70, 80, 90, 100)], places).admits((70, 80, 90, 100))
    assert not room((10, 10, 60, 60), places=places, least=30).admits((70, 80, 90, 100))


def donors(mask: bool) -> tuple[Donors, list[Room]]:
    """A wanted `truck` whose surroundings are found nowhere, and a `pin` that fits everywhere."""
    images = pd.DataFrame(
        {
            "key": ["1", "2"],
            "status": "ok",
            "split": "train",
            "group": "",
            "digest": ["a", "b"],
            "frame": "upright",
            "width": SIDE,
            "height": SIDE,
        }
    )
    outline = json.dumps({"segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]] if mask else []}).encode()
    objects = pd.DataFrame(
        {
            "key": ["11", "12"],
            "image_key": ["1", "2"],
            "status": "ok",
            "category": ["truck", "pin"],
            "x": 10.0,
            "y": 10.0,
            "w": 20.0,
            "h": 20.0,
            "crowd": False,
            "polygon": mask,
            "record": [outline, outline],
        }
    )
    painter = PAINTERS["copy-paste"]

    def spot(picture, view, room, size):
        return Spot((50, 50, 70, 70), 99.0 if room.category == "truck" else 0.0)

    around = SimpleNamespace(view=lambda *names: SimpleNamespace(mirrored=lambda: None), spot=spot)
    pool = DonorPool.of(objects, images, "train")
    made = Donors(pool, painter, painter.Settings(flip=False), surroundings=around)
    rooms = [room((40, 40, 60, 60), category="truck"), room((80, 80, 100, 100), category="pin")]
    return made, rooms


def test_what_is_cut_out_keeps_its_category_whatever_surrounds_its_place():
    made, rooms = donors(mask=True)
    settled = made.settle(rooms, 3, tracks())
    assert (settled.number, settled.donor.annotation, settled.box) == (0, "11", (50, 50, 70, 70))


def test_what_is_pasted_with_its_surroundings_gives_way_to_what_fits():
    made, rooms = donors(mask=False)
    assert made.settle(rooms, 3, tracks()).number == 1
