"""Outlines of objects without a mask: found where they are clear, not guessed where they are not, and found once."""

import numpy as np
import pytest

from lib.core.images import PictureError
from lib.planning.outlines import Outlines, grab_cut, outline_key
from lib.records.store import ReadOnlyStore, Store

BOX = (16, 16, 48, 48)


def noise(seed):
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def disc(radius=14, centre=(32, 32)):
    """A bright disc on a dark ground, with a little noise; and its mask."""
    rows, columns = np.indices((64, 64))
    mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    picture = np.where(mask[..., None], (220, 180, 60), (60, 70, 90)) + noise(5) % 12
    return picture.astype(np.uint8), mask


def test_the_outline_of_a_clear_object_is_found():
    picture, mask = disc()
    found, expected = grab_cut(picture, BOX) > 0, mask[16:48, 16:48]
    assert (found & expected).sum() / (found | expected).sum() > 0.9


@pytest.mark.parametrize(
    "picture",
    [noise(5), np.full((64, 64, 3), 90, np.uint8), disc(radius=5)[0], disc(centre=(24, 24), radius=8)[0]],
    ids=["noise", "one colour", "an object much smaller than its box", "an object in a corner of its box"],
)
def test_no_outline_is_guessed(picture):
    assert grab_cut(picture, BOX) is None


@pytest.mark.parametrize(
    "box", [(0, 0, 64, 64), (0, 0, 64, 40), (20, 20, 24, 50)], ids=["whole", "three sides", "thin"]
)
def test_a_box_without_surroundings_or_pixels_has_no_outline(box):
    assert grab_cut(disc()[0], box) is None


def test_the_same_box_has_the_same_outline():
    picture, _ = disc()
    np.testing.assert_array_equal(grab_cut(picture, BOX), grab_cut(picture, BOX))


def test_an_outline_is_found_once_and_kept(tmp_path):
    loads = []

    def load(digest, frame):
        loads.append(digest)
        return disc()[0]

    first, second = (Outlines(load, Store(tmp_path))("d1", "upright", BOX) for _ in range(2))
    assert first == second and loads == ["d1"]
    corners = np.reshape(first[0], (-1, 2))
    assert (corners.min(axis=0) >= 16).all() and (corners.max(axis=0) <= 48).all()  # in the picture's pixels


def test_without_a_store_that_keeps_it_an_outline_is_found_once_too(tmp_path):
    loads = []

    def load(digest, frame):
        loads.append(digest)
        return disc()[0]

    found = Outlines(load, ReadOnlyStore(tmp_path))
    assert found("d1", "upright", BOX) == found("d1", "upright", BOX) != ()
    assert loads == ["d1"] and not list(tmp_path.iterdir())


def test_no_outline_is_kept_too(tmp_path):
    loads = []

    def load(digest, frame):
        loads.append(digest)
        return noise(5)

    assert [Outlines(load, Store(tmp_path))("d1", "upright", BOX) for _ in range(2)] == [None, None]
    assert loads == ["d1"]


def test_a_kept_outline_that_is_not_one_is_found_again(tmp_path):
    store = Store(tmp_path)
    store.put("outline", outline_key("d1", "upright", BOX), b'{"a": 1}')
    assert Outlines(lambda digest, frame: disc()[0], store)("d1", "upright", BOX)


def test_a_picture_that_cannot_be_read_has_no_outline(tmp_path):
    def load(digest, frame):
        raise PictureError("missing", "gone")

    assert Outlines(load, Store(tmp_path))("d1", "upright", BOX) is None
