"""The scene renderer: equal seeds equal scenes, boxes tight around what is seen, and the checked-in demo set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.scenes import warehouse as scenes
from lib.scenes.solids import SUPERSAMPLE, Camera, Canvas, box
from lib.scenes.things import BUILDERS, Dice
from lib.scenes.warehouse import CATEGORIES, Scene, render, scene_seed, to_coco, write_dataset

DEMO = Path(__file__).parent.parent / "data" / "demo"
SIZES = [(128, 128), (240, 180), (64, 48), (100, 200), (300, 90), (33, 200)]


@pytest.fixture(scope="module")
def some() -> list[Scene]:
    return [render(seed, 128, 128) for seed in range(14)]


def test_equal_seeds_give_equal_scenes_and_another_seed_another_one():
    one, again, other = render(3, 160, 120), render(3, 160, 120), render(4, 160, 120)
    np.testing.assert_array_equal(one.image, again.image)
    np.testing.assert_array_equal(one.owners, again.owners)
    assert (one.objects, one.caption) == (again.objects, again.caption)
    assert not np.array_equal(one.image, other.image)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_boxes_are_tight_around_the_owned_cells_at_any_size(width: int, height: int):
    for seed in range(3):
        scene = render(seed, width, height)
        assert scene.image.shape == (height, width, 3) and scene.image.dtype == np.uint8
        assert scene.owners.shape == (height * SUPERSAMPLE, width * SUPERSAMPLE)
        assert set(np.unique(scene.owners)) - {0} == set(range(1, len(scene.objects) + 1))
        for index, thing in enumerate(scene.objects, start=1):
            rows, columns = np.nonzero(scene.owners == index)
            left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            expected = np.array([left, top, right - left, bottom - top]) / SUPERSAMPLE
            np.testing.assert_array_equal(thing.bbox_xywh, expected)
            assert thing.area == len(rows) / SUPERSAMPLE**2


def test_every_scene_has_one_to_five_objects_mostly_in_sight(some: list[Scene]):
    for scene in some:
        assert 1 <= len(scene.objects) <= 5
        for thing in scene.objects:
            assert thing.category in CATEGORIES
            assert 0.3 < thing.visible <= 1
            x, y, w, h = thing.bbox_xywh
            assert x > 0 and y > 0 and x + w < 128 and y + h < 128, "objects are whole"
    assert {t.category for s in some for t in s.objects} == set(CATEGORIES)


def test_outlines_lie_inside_their_boxes_and_cover_what_is_visible(some: list[Scene]):
    import cv2

    for scene in some:
        for index, thing in enumerate(scene.objects, start=1):
            x, y, w, h = thing.bbox_xywh
            assert thing.polygons
            filled = np.zeros(scene.owners.shape, np.uint8)
            for polygon in thing.polygons:
                points = np.array(polygon).reshape(-1, 2)
                assert (points >= [x, y]).all() and (points <= [x + w, y + h]).all()
                cv2.fillPoly(filled, [np.round(points * SUPERSAMPLE - 0.5).astype(np.int32)], 1)
            assert filled[scene.owners == index].mean() > 0.85


def test_the_caption_names_every_object(some: list[Scene]):
    for scene in some:
        singles = [t for t in scene.objects if [o.phrase for o in scene.objects].count(t.phrase) == 1]
        assert all(thing.phrase in scene.caption for thing in singles)
        assert scene.caption.endswith("light")


def test_equal_things_are_counted_in_the_caption():
    assert scenes._counted("a stack of boxes", 2) == "two stacks of boxes"
    assert scenes._counted("a red pallet truck", 3) == "three red pallets truck".replace(
        "pallets truck", "pallet trucks"
    )
    assert scenes._counted("an empty pallet", 2) == "two empty pallets"
    assert scenes._counted("a pallet wrapped in film", 2) == "two pallets wrapped in film"
    assert scenes._counted("a pallet of blue drums", 1) == "a pallet of blue drums"


def test_a_nearer_solid_hides_a_farther_one_whatever_is_drawn_first():
    camera = Camera(width=40, height=40, focal=40, horizon=20, above=1)
    near, far = (box((-0.5, 0.5), (0.5, 1.5), (z, z + 1), (200, 0, 0)) for z in (4, 8))
    owners = []
    for order in ((1, 2), (2, 1)):
        canvas = Canvas(camera, np.array([0, 1, 0]))
        alone = {i: canvas.draw_object(i, [near if i == 1 else far]) for i in order}
        owners.append(canvas.owners)
        # Faces 1 m wide at 4 and 8 m: 10 and 5 pixels, the farther one wholly behind the nearer.
        assert alone[1] == pytest.approx((10 * SUPERSAMPLE) ** 2, rel=0.06)
        assert alone[2] == pytest.approx((5 * SUPERSAMPLE) ** 2, rel=0.12)
        assert (canvas.owners == 1).sum() == alone[1] and not (canvas.owners == 2).any()
    np.testing.assert_array_equal(*owners)


@pytest.mark.parametrize("name", BUILDERS)
def test_every_thing_stands_on_the_floor_within_its_reach(name: str):
    for seed in range(12):
        thing = BUILDERS[name](Dice(f"thing {seed}"))
        points = np.concatenate([p for s in thing.solids for p in (s.lower, s.upper)])
        assert thing.category == name
        assert -1e-9 <= points[:, 1].min() < 0.05
        assert np.hypot(points[:, 0], points[:, 2]).max() <= thing.reach


def test_a_frame_too_small_to_show_anything_is_refused():
    with pytest.raises(ValueError, match="at least 32x32"):
        render(0, 31, 200)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, on its own arrays
def test_a_dataset_loads_in_pycocotools_and_keeps_its_first_scenes_when_it_grows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from pycocotools.coco import COCO

    small = write_dataset(tmp_path / "small", 2, seed=5, size=(96, 72))
    scenes.main([str(tmp_path / "large"), "--count", "3", "--seed", "5", "--size", "96", "72"])
    large = json.loads((tmp_path / "large" / "annotations.json").read_text())
    assert large["images"][:2] == small["images"]
    assert large["annotations"][: len(small["annotations"])] == small["annotations"]
    coco = COCO(str(tmp_path / "large" / "annotations.json"))
    assert len(coco.getImgIds()) == 3
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert coco.annToMask(annotation).any()
    for image in large["images"]:
        with Image.open(tmp_path / "large" / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (96, 72)
    assert "3 pictures" in capsys.readouterr().out


def test_the_demo_set_is_what_the_renderer_draws():
    """The first eight scenes, which one seed makes each. Annotations are compared to one cell, pictures not at all:
    JPEG bytes differ between versions of Pillow."""
    demo = json.loads((DEMO / "annotations.json").read_text())
    demo["images"] = demo["images"][:8]
    demo["annotations"] = [box for box in demo["annotations"] if box["image_id"] <= demo["images"][-1]["id"]]
    drawn = to_coco((render(scene_seed(7, i), 256, 256) for i in range(8)), seed=7)
    for part in ("info", "licenses", "categories", "images"):
        assert demo[part] == drawn[part], part
    assert len(demo["annotations"]) == len(drawn["annotations"])
    for kept, new in zip(demo["annotations"], drawn["annotations"], strict=True):
        assert kept["bbox"] == pytest.approx(new["bbox"], abs=1 / SUPERSAMPLE)
        assert kept["area"] == pytest.approx(new["area"], rel=0.01)
        assert kept["visible"] == pytest.approx(new["visible"], abs=0.01)
        assert {k: kept[k] for k in ("id", "image_id", "category_id", "iscrowd", "phrase")} == {
            k: new[k] for k in ("id", "image_id", "category_id", "iscrowd", "phrase")
        }


def test_the_demo_set_is_complete_small_and_worth_looking_at():
    demo = json.loads((DEMO / "annotations.json").read_text())
    files = {p.name for p in (DEMO / "images").iterdir()}
    assert files == {image["file_name"] for image in demo["images"]} and len(files) == 24
    assert sum(p.stat().st_size for p in DEMO.rglob("*") if p.is_file()) < 1_500_000
    sides = [max(a["bbox"][2:]) for a in demo["annotations"]]
    assert min(sides) > 28, "every object is larger than 28 pixels"
    assert {a["category_id"] for a in demo["annotations"]} == {1, 2, 3, 4}
    for image in demo["images"]:
        with Image.open(DEMO / "images" / image["file_name"]) as picture:
            assert picture.size == (256, 256)
