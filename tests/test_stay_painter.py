"""stay: one's own layout-to-image model as a painter. What it shares with the others is in test_painters.py."""

import json

import numpy as np
import pytest
import torch
from conftest import pixels_of
from PIL import Image
from pycocotools.coco import COCO
from test_painters import item, noise
from test_plan import box, plan, recipe, requests
from test_plan import image as picture
from test_preset_runs import run, untouched
from test_recipes import Bench
from tiny import THINGS, tiny_stay

from lib.core.checkpoints import NOT_PUBLISHED, model_of, resolve
from lib.core.errors import AugmentError
from lib.core.images import PictureError
from lib.painting.canvas import mask_of
from lib.painting.painters import PAINTERS, PassInput
from lib.painting.painters.stay import Stay, _to_paint
from lib.records.settings import DatasetSettings

GREY = noise(9)[..., :1].repeat(3, axis=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One tiny checkpoint of each kind."""
    root = tmp_path_factory.mktemp("stay")
    return {
        "grey": tiny_stay(root / "grey"),
        "colour": tiny_stay(root / "colour", channels=3),
        "latent": tiny_stay(root / "latent", vae=True),
        "forgetful": tiny_stay(root / "forgetful", keeps=False),
        "few": tiny_stay(root / "few", max_objects=2),
        "large": tiny_stay(root / "large", size=128),
    }


def painter(folder, **values):
    return PAINTERS.build(PAINTERS.member("stay", {"steps": 3, **values}, resolve(str(folder), {})))


def with_layout(work, phrases, boxes=None, **changes):
    """A pass with other phrases."""
    boxes = boxes or ((16, 8, 48, 40),) * len(phrases)
    step = work.step.model_copy(update={"phrases": tuple(phrases), "boxes": boxes, **changes})
    return PassInput(step, work.canvas, work.mask)


def paint(made, *items):
    return [paint.image for paint in made.paint(list(items))]


# What is painted


def test_a_grey_model_paints_grey_whatever_the_picture_is(folders):
    (image,) = paint(painter(folders["grey"]), item("stay", canvas=noise(9)))
    assert (image == image[..., :1]).all() and len(np.unique(image)) > 20


def test_a_colour_model_paints_colours(folders):
    (image,) = paint(painter(folders["colour"]), item("stay", canvas=noise(9)))
    assert (image != image[..., :1]).any()


@pytest.mark.parametrize(("kind", "canvas"), [("grey", GREY), ("forgetful", GREY), ("colour", noise(9))])
def test_what_is_not_painted_comes_back_bit_for_bit(folders, kind, canvas):
    work = item("stay", canvas=canvas)
    (image,) = paint(painter(folders[kind]), work)
    np.testing.assert_array_equal(image[~work.mask], canvas[~work.mask])
    assert (image[work.mask] != canvas[work.mask]).mean() > 0.9


def test_latents_are_decoded_by_the_models_own_autoencoder(folders):
    work = item("stay", canvas=noise(9))
    (image,) = paint(painter(folders["latent"]), work)
    assert image.shape == (64, 64, 3) and (image != work.canvas).any()


@pytest.mark.parametrize("kind", ["grey", "latent"])
def test_what_is_known_around_it_affects_the_paint(folders, kind):
    one, other = (item("stay", canvas=np.full((64, 64, 3), grey, np.uint8)) for grey in (40, 220))
    made = painter(folders[kind])
    (first,), (second,) = paint(made, one), paint(made, other)
    assert (first[one.mask] != second[one.mask]).any()


@pytest.mark.parametrize("what", ["phrase", "box"])
def test_category_and_box_affect_the_paint(folders, what):
    work = item("stay", canvas=GREY)
    other = with_layout(work, ["dog"]) if what == "phrase" else with_layout(work, ["a fish"], ((16, 8, 30, 40),))
    (one,), (two,) = paint(painter(folders["grey"]), work), paint(painter(folders["grey"]), other)
    assert (one != two).any()


def test_a_prompt_is_not_read(folders):
    work, made = item("stay", canvas=GREY), painter(folders["grey"])
    np.testing.assert_array_equal(
        *paint(made, work), *paint(made, with_layout(work, ["a fish"], prompt="something else"))
    )


def test_where_the_whole_frame_is_painted_nothing_is_known(folders):
    """The window of a wide picture is a square that reaches beyond its frame, whose edges are repeated there."""
    greys, boxes = (np.full((64, 64, 3), grey, np.uint8) for grey in (40, 220)), ((16, 8, 48, 40),)
    one, two = (item("stay", box=(0, 8, 64, 56), boxes=boxes, canvas=grey) for grey in greys)
    made = painter(folders["grey"])
    np.testing.assert_array_equal(*paint(made, one), *paint(made, two))


def test_a_box_across_a_large_picture_leaves_known_what_is_above_and_below():
    """Its window is wider by less than a pixel of the model's, so that the mask alone reaches from side to side."""
    across = box("7", "1", 0, 1400, 3000, 200)
    (request,) = requests(plan([picture("1", width=3000, height=3000)], [across], chain=recipe("replace", "stay")))
    (step,) = request.passes
    mask = mask_of(step)
    assert mask.all(axis=1).any()
    np.testing.assert_array_equal(_to_paint(PassInput(step, noise(9), mask)), mask)


def test_guidance_of_one_is_the_model_alone(folders):
    work = item("stay", canvas=GREY)
    images = [paint(painter(folders["grey"], guidance=g), work)[0] for g in (1, 1.5, 3)]
    assert all((images[0] != image).any() for image in images[1:])


@pytest.mark.parametrize("scheduler", ["pndm", "ddim", "euler", "dpm++2m", "unipc"])
def test_every_scheduler_keeps_what_is_known(folders, scheduler):
    work = item("stay", canvas=GREY)
    (image,) = paint(painter(folders["grey"], scheduler=scheduler, steps=4), work)
    np.testing.assert_array_equal(image[~work.mask], GREY[~work.mask])


def test_a_pass_does_not_depend_on_how_many_objects_its_neighbours_have(folders, monkeypatch):
    monkeypatch.setattr("lib.painting.painters.denoise.available_cores", lambda: 1)  # one batch, as on a GPU
    made = painter(folders["grey"])
    made._fitted = 4
    work, crowd = item("stay", 1, canvas=GREY), with_layout(item("stay", 2), ["cat", "dog", "forklift"])
    (alone,) = paint(made, work)
    for batch in ([work, crowd], [crowd, work, crowd]):
        images = paint(made, *batch)
        np.testing.assert_array_equal(images[batch.index(work)], alone)


# What cannot be painted


def test_a_label_that_the_model_does_not_know_names_both_lists(folders):
    with pytest.raises(PictureError) as error:
        painter(folders["grey"]).paint([with_layout(item("stay"), ["cat", "a crate"])])
    assert error.value.reason == "category_unknown"
    assert error.value.detail.startswith("a crate: ") and all(name in error.value.detail for name in THINGS)


def test_more_objects_than_the_model_takes_name_its_limit(folders):
    made = painter(folders["few"])
    with pytest.raises(PictureError, match="too_many_boxes: 3 boxes, 2 at most"):
        made.paint([with_layout(item("stay"), ["cat"] * 3)])
    assert paint(made, with_layout(item("stay"), ["cat"] * 2))


def test_both_are_reasons_of_a_row(folders, tmp_path):
    bench = Bench({"stay": folders["few"]}, tmp_path)
    boxes = [(4 + 50 * i, 4, 30, 30) for i in range(3)]
    assert bench.run(bench.recipe("layout", "stay", "none"), (160, 120), boxes)[3] == "too_many_boxes"
    assert bench.run(bench.recipe("layout", "stay", "none"), (160, 120), boxes[:2])[3] == ""
    chain = bench.recipe("replace", "stay", edit_settings={"category": "a crate"})
    assert bench.run(chain, (160, 120), boxes[:1])[3] == "category_unknown"


def test_without_a_model_it_says_where_one_comes_from():
    with pytest.raises(AugmentError, match=r"trained on your own data.*model: FOLDER.*augment train stay"):
        model_of("stay", Stay, Stay.Settings(), "full")
    assert Stay.MODEL == NOT_PUBLISHED and model_of("stay", Stay, Stay.Settings(model="x"), "full") == "x"


def test_a_checkpoint_of_another_size_says_which_it_is(folders):
    with pytest.raises(AugmentError, match=r"paints 128 × 128 pixels, and the painter's size is 64.*size: 128"):
        painter(folders["large"]).check()
    painter(folders["large"], size=128).check()
    painter(folders["latent"]).check()  # eight cells of eight pixels


def test_a_checkpoint_of_another_kind_is_refused(checkpoints):
    with pytest.raises(AugmentError, match=r"another kind: its U-Net is a UNet2DConditionModel.*LayoutUNet"):
        painter(checkpoints["gligen"]).check()


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(AugmentError, match=r"unet/config\.json"):
        painter(tmp_path).check()


def test_a_model_that_predicts_no_numbers_makes_no_picture(folders, monkeypatch):
    made = painter(folders["grey"])
    with torch.no_grad():
        made._loaded().unet.outward.bias.fill_(float("nan"))
    with pytest.raises(ArithmeticError, match="not finite"):
        made.paint([item("stay")])


# From clean boards to defective ones


class Boards:
    """Grey boards with tracks: two with defects in a COCO file, three without any."""

    CATEGORIES = ("open", "short")

    def __init__(self, folder):
        self.folder = folder
        (folder / "images").mkdir(parents=True)
        coco = {"categories": [{"id": i + 1, "name": n} for i, n in enumerate(self.CATEGORIES)]}
        coco |= {"images": [], "annotations": []}
        for number in range(5):
            pixels = np.full((160, 160), 40 + 4 * number, np.uint8)
            pixels[:, 8 + number :: 16] = pixels[8 + number :: 24, :] = 200
            for k in range(2 if number < 2 else 0):
                x, y, w, h = 20 + 60 * k + 5 * number, 30 + 50 * k, 18 + 8 * k, 20
                pixels[y : y + h, x : x + w] = 120
                note = {"id": 10 * number + k, "image_id": number, "category_id": 1 + k, "bbox": [x, y, w, h]}
                coco["annotations"].append({**note, "area": w * h, "iscrowd": 0, "segmentation": []})
            Image.fromarray(pixels).save(folder / "images" / f"board {number}.png")
            coco["images"].append({"id": number, "file_name": f"board {number}.png", "width": 160, "height": 160})
        (folder / "annotations.json").write_text(json.dumps(coco))
        self.dataset = {"images": str(folder / "images"), "annotations": str(folder / "annotations.json")}


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    return Boards(tmp_path_factory.mktemp("boards"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_stay(tmp_path_factory.mktemp("board") / "model", categories=Boards.CATEGORIES))


def test_clean_boards_become_defective_ones_and_nothing_else_changes(boards, model, tmp_path):
    account = run(tmp_path / "ws", boards.dataset, preset="stay-defects", painter={"model": model, "steps": 2})
    stages = account["stages"]
    assert stages["select"]["ok"] == 3 and stages["select"]["rejected"] == {"too_many_objects": 2}
    assert account["painted"] == 3 == stages["screen"]["ok"]
    assert untouched(tmp_path / "ws", DatasetSettings(**boards.dataset)) == 3
    final = COCO(str(tmp_path / "ws" / "final" / "annotations.json"))
    sizes = {1: (18, 20), 2: (26, 20)}  # of the labelled boards' defects, by category
    for image in final.imgs.values():
        if "source_image_id" not in image:
            continue
        notes = final.loadAnns(final.getAnnIds(image["id"]))
        made = pixels_of(tmp_path / "ws" / "final" / "images" / image["file_name"])
        source = pixels_of(boards.folder / "images" / f"board {image['source_image_id']}.png")
        changed = (made != source).any(axis=2)
        assert notes and (made == made[..., :1]).all()
        for note in notes:
            x, y, w, h = map(int, note["bbox"])
            assert (w, h) == sizes[note["category_id"]] or "visible" in note
            assert changed[y : y + h, x : x + w].mean() > 0.5
            changed[y : y + h, x : x + w] = False
        assert not changed.any()  # class and box exact: whatever is painted has a label


def test_a_run_without_a_model_fails_with_the_way_out(boards, tmp_path):
    from flows.augment import augment

    state = augment.fn(dataset=boards.dataset, workspace=tmp_path / "ws", preset="stay-defects")
    assert state.is_failed() and "augment train stay" in state.message


def test_a_given_layout_is_painted_into_the_boxes_of_its_picture(boards, model, tmp_path):
    """Edit `replace` on pictures whose boxes say where defects shall be."""
    account = run(
        tmp_path / "ws",
        boards.dataset,
        preset="stay-defects",
        select={"max_objects": None, "require_objects": True},
        edit={"name": "replace", "context": 1, "min_window": 64},
        painter={"model": model, "steps": 2},
    )
    assert account["painted"] == 2 == account["stages"]["screen"]["ok"]
    assert untouched(tmp_path / "ws", DatasetSettings(**boards.dataset)) == 2
    final = json.loads((tmp_path / "ws" / "final" / "annotations.json").read_text())
    given = json.loads((boards.folder / "annotations.json").read_text())["annotations"]
    real = {image["id"] for image in final["images"] if "source_image_id" not in image}
    new = [(n["category_id"], *n["bbox"]) for n in final["annotations"] if n["image_id"] not in real]
    assert sorted(new) == sorted((n["category_id"], *n["bbox"]) for n in given)
