"""The whole journey: what a run makes, what a rerun makes again.

The flow is called as a plain function, which takes a third of the time that it takes as a flow; that both make the same
is held by test_kill, and what is Prefect's own by test_serve, test_newcomer and others.
"""

import io
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from conftest import MadeSet, pixels_of, tree
from PIL import Image
from pycocotools.coco import COCO
from shared import shared

from lib.records.manifest import read_manifest
from lib.records.rows import PlanRow
from lib.records.store import Store
from lib.runs.export import export_run
from tasks import inputs


def run(workspace: Path, dataset, **parameters):
    """Run the flow without evaluation, which takes half of the time; the account of the run."""
    from flows.augment import augment

    state = augment.fn(**{"dataset": dataset, "workspace": workspace, "evaluate": {"extractor": None}, **parameters})
    account = json.loads((workspace / "status.json").read_bytes())
    assert state.is_completed() and account["state"] == "completed", state.message
    return account


def assert_outside_untouched(final: Path, margin: int) -> int:
    """Every synthetic picture equals its source outside its edited boxes; returns how many were compared."""
    coco = json.loads((final / "annotations.json").read_bytes())
    originals = {i["id"]: i for i in coco["images"] if "source_image_id" not in i}
    bbox = {a["id"]: a["bbox"] for a in coco["annotations"]}
    synthetic = [i for i in coco["images"] if "source_image_id" in i]
    for image in synthetic:
        made = pixels_of(final / "images" / image["file_name"])
        source = pixels_of(final / "images" / originals[image["source_image_id"]]["file_name"])
        outside, inside = np.ones(made.shape[:2], bool), np.zeros(made.shape[:2], bool)
        for note in coco["annotations"]:
            if note["image_id"] == image["id"] and ("painted" in note or "visible" in note):
                x, y, w, h = bbox[note["source_annotation_id"]]
                x0, y0, x1, y1 = int(x), int(y), int(np.ceil(x + w)), int(np.ceil(y + h))
                outside[max(y0 - margin, 0) : y1 + margin, max(x0 - margin, 0) : x1 + margin] = False
                inside[max(y0, 0) : y1, max(x0, 0) : x1] = True
        np.testing.assert_array_equal(made[outside], source[outside])
        assert (made[inside] != source[inside]).any()
    return len(synthetic)


class Whole(NamedTuple):
    """A run of six pictures that ended well: tests look at it, none may change it."""

    made: MadeSet
    workspace: Path  # a copy
    account: dict[str, Any]
    place: Path  # where it ran: keys of some rows hold the path


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Whole:
    root = tmp_path_factory.mktemp("whole")
    made = MadeSet(root / "made", 6)
    account = run(root / "ws", made.dataset)
    return Whole(made, shutil.copytree(root / "ws", root / "kept"), account, root / "ws")


def test_a_run_of_few_boxes_says_that_nothing_can_be_said_and_counts_them(made_set, tmp_path):
    verdict = run(tmp_path / "ws", made_set.dataset, evaluate={})["verdict"]
    assert verdict["level"] == "unknown" and verdict["reasons"][0] in verdict["sentence"]
    stored = json.loads((tmp_path / "ws" / "report" / "metrics.json").read_bytes())
    assert stored["verdict"] == verdict and stored["labels"]["categories"].keys() == verdict["categories"].keys()
    boxes = len(json.loads(made_set.annotations.read_bytes())["annotations"])
    assert 0 < sum(tally["before"] for tally in verdict["categories"].values()) <= boxes


@pytest.fixture
def again(whole) -> Path:
    """Its workspace as the run left it, to be changed and run again."""
    shutil.rmtree(whole.place)
    return shutil.copytree(whole.workspace, whole.place)


def test_a_run_ends_with_a_merged_set_that_pycocotools_loads(whole):
    final = whole.workspace / "final"
    coco = COCO(str(final / "annotations.json"))
    assert whole.account["stages"]["generate"]["painted"] == 6 == whole.account["painted"]
    assert len(coco.imgs) == 12 and len(coco.anns) == 24
    assert len({i["file_name"] for i in coco.imgs.values()}) == 12
    assert all((final / "images" / i["file_name"]).is_file() for i in coco.imgs.values())


def test_originals_are_as_they_were(whole):
    made_set, folder = whole.made, whole.workspace / "final"
    final = json.loads((folder / "annotations.json").read_bytes())
    for name in ("images", "annotations"):
        count = len(made_set.coco[name])
        assert final[name][:count] == made_set.coco[name]
        assert min(r["id"] for r in final[name][count:]) > max(r["id"] for r in made_set.coco[name])
    assert final["info"].pop("augment").startswith("6 synthetic pictures with 12 painted objects were made")
    assert {k: v for k, v in final.items() if k not in ("images", "annotations")} == {
        k: v for k, v in made_set.coco.items() if k not in ("images", "annotations")
    }
    for image in made_set.coco["images"]:
        name = image["file_name"]
        assert (folder / "images" / name).read_bytes() == (made_set.images / name).read_bytes()


def test_synthetic_records_name_where_they_come_from(whole):
    made_set = whole.made
    final = json.loads((whole.workspace / "final" / "annotations.json").read_bytes())
    sources = {a["id"]: a for a in made_set.coco["annotations"]}
    for note in final["annotations"][12:]:
        source = sources[note["source_annotation_id"]]
        assert note["category_id"] == source["category_id"] and note["colour"] == "unknown field"
        assert note["bbox"] == source["bbox"] and note["area"] == source["area"]
        assert note["painted"] and note["segmentation"] == source["segmentation"] == []
    assert {note.get("painted") for note in final["annotations"]} == {None, True}
    for image in final["images"][6:]:
        assert image["source_image_id"] in {i["id"] for i in made_set.coco["images"]}
        assert image["source_file_name"].startswith("picture ")


def test_outside_the_edits_every_pixel_is_the_sources_own(whole):
    assert assert_outside_untouched(whole.workspace / "final", margin=9) == 6


def test_a_run_becomes_a_folder_that_yolo_trains_on(again):
    result = export_run(again, "yolo")
    out = Path(result.folder)
    assert result.splits["train"] | {"categories": {}} == {
        "pictures": 12, "synthetic": 6, "boxes": 24, "ignored": 0, "categories": {},
    }  # fmt: skip
    new = [p for p in (out / "images" / "train").iterdir() if "__replace-copy-paste-" in p.name]
    assert len(new) == 6
    assert all(len((out / "labels" / "train" / f"{p.stem}.txt").read_text().splitlines()) == 2 for p in new)


def test_a_rerun_does_nothing_and_changes_nothing(whole, again):
    account = run(again, whole.made.dataset)
    assert account["painted"] == 0 and account["reused"] == 6
    assert all(stage["painted"] == 0 for stage in account["stages"].values())
    assert tree(again / "final") == tree(whole.workspace / "final")


def test_one_more_picture_makes_about_its_own_rows_new(tmp_path):
    made = MadeSet(tmp_path / "made", 20)
    run(tmp_path / "ws", made.dataset)
    made.add(99)
    made.write()
    account = run(tmp_path / "ws", made.dataset)
    plan = account["stages"]["plan"]
    assert plan["new"] == 1 and plan["changed"] <= 4 and plan["gone"] == 0
    assert account["painted"] == 1 + plan["changed"]
    assert account["stages"]["ingest"]["painted"] == 1
    assert account["stages"]["caption"]["painted"] == 1 == account["stages"]["select"]["painted"]
    assert plan["painted"] == account["stages"]["screen"]["painted"] == account["stages"]["draw"]["painted"]
    assert plan["painted"] == account["painted"]


def test_ids_are_remembered_when_the_set_grows(tmp_path):
    made = MadeSet(tmp_path / "made", 4)
    run(tmp_path / "ws", made.dataset)
    before = json.loads((tmp_path / "ws" / "final" / "annotations.json").read_bytes())
    made.add(99)
    made.write()
    run(tmp_path / "ws", made.dataset)
    after = json.loads((tmp_path / "ws" / "final" / "annotations.json").read_bytes())
    ids = {i["file_name"]: i["id"] for i in after["images"]}
    kept = [i for i in before["images"] if i["file_name"] in ids]
    assert len(kept) >= 5 and all(ids[i["file_name"]] == i["id"] for i in kept if i["id"] not in (109,))
    assert len(set(ids.values())) == len(ids)


@pytest.mark.parametrize(
    "what", ["store/picture", "drawn", "final/images", "parts/plan", "parts/generate", "manifests"]
)
def test_a_deleted_output_is_noticed_and_made_again(whole, again, what):
    files = [p for p in sorted((again / what).rglob("*")) if p.is_file()]
    assert files
    shutil.rmtree(again / what)
    run(again, whole.made.dataset)
    assert all(p.is_file() for p in files)
    assert tree(again / "final") == tree(whole.workspace / "final")


def test_a_damaged_picture_in_the_store_is_noticed_when_the_final_set_is_gone(whole, again):
    victim = next(p for p in (again / "store/picture").rglob("*") if p.is_file())
    victim.write_bytes(victim.read_bytes()[:-20])
    shutil.rmtree(again / "final")
    run(again, whole.made.dataset)
    assert tree(again / "final") == tree(whole.workspace / "final")


def test_two_workspaces_of_equal_inputs_give_equal_bytes(whole, tmp_path):
    run(tmp_path / "two", whole.made.dataset)
    assert tree(whole.workspace / "final") == tree(tmp_path / "two" / "final")


def test_limit_counts_pictures_after_selection(made_set, tmp_path):
    account = run(tmp_path / "ws", made_set.dataset, limit=2, select={"categories": ["forklift"]})
    assert account["stages"]["select"]["ok"] == 2
    assert account["stages"]["select"]["rejected"] == {"over_limit": 4}
    assert account["painted"] == 2


def test_variants_are_different_pictures(made_set, tmp_path):
    run(tmp_path / "ws", made_set.dataset, variants=3)
    final = json.loads((tmp_path / "ws" / "final" / "annotations.json").read_bytes())
    assert len(final["images"]) - 6 > 12


def test_review_by_folder_keeps_what_was_picked(made_set, tmp_path):
    review = str(tmp_path / "picked")
    (tmp_path / "picked").mkdir()
    account = run(tmp_path / "ws", made_set.dataset, review=review)
    assert account["stages"]["review"]["rejected"] == {"not_picked": 6}
    for drawn in sorted((tmp_path / "ws" / "drawn").iterdir())[:2]:
        shutil.copy(drawn, tmp_path / "picked")
    account = run(tmp_path / "ws", made_set.dataset, review=review)
    final = json.loads((tmp_path / "ws" / "final" / "annotations.json").read_bytes())
    picked = {p.stem for p in (tmp_path / "picked").iterdir()}
    assert {Path(i["file_name"]).stem for i in final["images"][6:]} == picked
    assert account["painted"] == 0


def test_yolo_labels_and_the_s3_pair_on_request(made_set, tmp_path):
    run(tmp_path / "ws", made_set.dataset, finalise={"yolo": True, "s3_pair": True})
    final = tmp_path / "ws" / "final"
    assert (final / "classes.txt").read_text() == "forklift\npallet\n"
    (first, _) = (final / "labels" / "picture 000.txt").read_text().splitlines()
    x, y, w, h = made_set.coco["annotations"][0]["bbox"]
    code, *values = first.split()
    assert code == "0"
    np.testing.assert_allclose(
        [float(v) for v in values], [(x + w / 2) / 160, (y + h / 2) / 120, w / 160, h / 120], atol=1e-6
    )
    picked, originals = COCO(str(final / "selected_ann.json")), COCO(str(final / "original_selected_ann.json"))
    assert len(picked.imgs) == len(originals.imgs) == 6
    assert not set(picked.anns) & set(originals.anns)
    run(tmp_path / "ws", made_set.dataset)
    assert not (final / "classes.txt").exists() and not (final / "selected_ann.json").exists()


def test_jpeg_results_use_the_sources_tables(tmp_path):
    made = MadeSet(tmp_path / "made", 4)
    for record in made.coco["images"]:
        path = made.images / record["file_name"]
        record["file_name"] = path.with_suffix(".jpg").name
        Image.fromarray(pixels_of(path)).save(path.with_suffix(".jpg"), quality=71)
        path.unlink()
    made.write()
    run(tmp_path / "ws", made.dataset, finalise={"format": "jpeg"})
    images = tmp_path / "ws" / "final" / "images"
    tables = {}
    for path in images.iterdir():
        with Image.open(path) as image:
            tables[path.name] = image.quantization
    assert len([name for name in tables if "__" in name]) == 4 == len(tables) - 4
    assert all(table == tables["picture 000.jpg"] for table in tables.values())


def test_synthetic_pictures_come_from_the_train_split_only(tmp_path):
    made = MadeSet(tmp_path / "made", 6)
    for number, record in enumerate(made.coco["images"]):
        record["split"] = "val" if number % 3 == 0 else "train"
    made.write()
    account = run(tmp_path / "ws", {**made.dataset, "split": "official"})
    assert account["stages"]["select"]["rejected"] == {"other_split": 2}
    final = json.loads((tmp_path / "ws" / "final" / "annotations.json").read_bytes())
    val = {i["id"] for i in made.coco["images"] if i["split"] == "val"}
    assert all(i["source_image_id"] not in val and i["split"] == "train" for i in final["images"][6:])
    validation = json.loads((tmp_path / "ws" / "final" / "annotations-val.json").read_bytes())
    assert {i["id"] for i in validation["images"]} == val
    donors = [
        step["donor"]["annotation"]
        for row in read_manifest(tmp_path / "ws/manifests/plan.parquet", PlanRow).request
        for step in json.loads(row)["passes"]
    ]
    held_out = {str(a["id"]) for a in made.coco["annotations"] if a["image_id"] in val}
    assert donors and not held_out & set(donors)


def test_every_stage_accounts_for_every_row(made_set, tmp_path):
    (made_set.images / "picture 001.png").unlink()
    (made_set.images / "picture 002.png").write_bytes(b"\x89PNG broken")
    account = run(tmp_path / "ws", made_set.dataset)
    stages = account["stages"]
    assert stages["ingest"]["rejected"] == {"image_broken": 1, "image_missing": 1}
    for name, stage in stages.items():
        assert stage["rows"] == stage["ok"] + sum(stage["rejected"].values()), name
    order = ["ingest", "select", "caption", "plan", "generate", "screen", "review"]
    for before, after in itertools.pairwise(order):
        assert stages[after]["rows"] == stages[before]["ok"], (before, after)
    assert len(COCO(str(tmp_path / "ws" / "final" / "annotations.json")).imgs) == 4 + 4


def test_a_picture_that_changes_between_ingest_and_painting_is_a_reason(made_set, tmp_path, monkeypatch):
    from tasks import generate

    real = generate.sources_of

    def change(*args):
        (made_set.images / "picture 003.png").write_bytes((made_set.images / "picture 004.png").read_bytes())
        return real(*args)

    monkeypatch.setattr(generate, "sources_of", change)
    account = run(tmp_path / "ws", made_set.dataset)
    assert account["stages"]["generate"]["rejected"].get("image_changed", 0) >= 1
    assert account["state"] == "completed"


def rot(path: Path, data: bytes) -> None:
    """Other bytes under the same size and time, as of a bad disk, for a process that has decoded nothing yet."""
    inputs._pictures.cache_clear()
    info = path.stat()
    assert len(data) <= info.st_size
    path.write_bytes(data.ljust(info.st_size, b"\0"))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def flat(size=(160, 120)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, "PNG")
    return file.getvalue()


def flipped(path: Path) -> bytes:
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    return bytes(data)


@pytest.mark.parametrize("lost", ["store", "final"])
def test_a_picture_found_to_be_another_is_looked_at_again_by_the_next_run(made_set, tmp_path, lost):
    run(tmp_path / "ws", made_set.dataset)
    rot(made_set.images / "picture 003.png", flat())
    shutil.rmtree(tmp_path / "ws" / lost)
    account = run(tmp_path / "ws", made_set.dataset)
    assert account["rejected"]["image_changed"] >= 1
    account = run(tmp_path / "ws", made_set.dataset)
    assert "image_changed" not in account["rejected"]
    final = tmp_path / "ws" / "final" / "images" / "picture 003.png"
    assert final.read_bytes() == (made_set.images / "picture 003.png").read_bytes()


def test_a_donor_found_to_be_another_is_looked_at_again_too(tmp_path):
    made = MadeSet(tmp_path / "made", 2, boxes=1)
    given = {"dataset": made.dataset, "workspace": tmp_path / "ws", "select": {"split": "train"}, "limit": 1}
    run(**given)
    rows = read_manifest(tmp_path / "ws/manifests/plan.parquet", PlanRow)
    (other,) = {"10", "11"} - set(rows.image_key)
    rot(made.images / f"picture {int(other) - 10:03d}.png", flat())
    shutil.rmtree(tmp_path / "ws" / "store")
    account = run(**given)
    assert account["stages"]["generate"]["rejected"] == {"image_changed": 1}
    assert run(**given)["stages"]["generate"]["rejected"] == {}


def test_verify_reads_what_a_run_otherwise_believes(made_set, tmp_path):
    run(tmp_path / "ws", made_set.dataset)
    before = tree(tmp_path / "ws" / "final")
    copied = tmp_path / "ws" / "final" / "images" / "picture 001.png"
    painted = next(p for p in sorted((tmp_path / "ws/store/picture").rglob("*")) if p.is_file())
    drawn = next((tmp_path / "ws/drawn").iterdir())
    drawing = drawn.read_bytes()
    for path in (copied, painted, drawn):
        rot(path, flipped(path))
    account = run(tmp_path / "ws", made_set.dataset, verify=True)
    assert account["stages"]["verify"]["rejected"] == {"item_damaged": 1}
    assert account["stages"]["verify"]["damaged: picture"] == 1
    assert tree(tmp_path / "ws" / "final") == before and drawn.read_bytes() == drawing
    assert Store(tmp_path / "ws" / "store").get("picture", painted.name) is not None
    account = run(tmp_path / "ws", made_set.dataset, verify=True)
    assert account["painted"] == 0 and account["stages"]["verify"]["rejected"] == {}
    rot(made_set.images / "picture 003.png", flat())
    assert run(tmp_path / "ws", made_set.dataset)["stages"]["plan"]["changed"] == 0
    assert run(tmp_path / "ws", made_set.dataset, verify=True)["stages"]["plan"]["changed"] >= 1
    assert (tmp_path / "ws/final/images/picture 003.png").read_bytes().startswith(flat())


def test_a_run_ends_with_the_number_of_pictures_that_its_set_lists(made_set, tmp_path, monkeypatch):
    from flows import augment as flow

    real = flow.review_images

    def change(*args):
        (made_set.images / "picture 003.png").write_bytes(flat())
        return real(*args)

    monkeypatch.setattr(flow, "review_images", change)
    state = flow.augment.fn(dataset=made_set.dataset, workspace=tmp_path / "ws")
    final = json.loads((tmp_path / "ws" / "final" / "annotations.json").read_bytes())
    assert len(final["images"]) == 11 and state.message.startswith("11 pictures in ")


def test_two_runs_in_one_workspace_are_refused(whole, again):
    from filelock import FileLock

    from flows.augment import augment

    with FileLock(again / ".lock"):
        state = augment.fn(dataset=whole.made.dataset, workspace=again)
    assert state.is_failed() and "in use by another run" in state.message


def test_bad_annotations_end_the_run_with_one_sentence(tmp_path):
    from flows.augment import augment

    (tmp_path / "broken.json").write_text('{"images": [')
    dataset = {"images": str(tmp_path), "annotations": str(tmp_path / "broken.json")}
    state = augment.fn(dataset=dataset, workspace=tmp_path / "ws")
    assert state.is_failed() and "broken.json" in state.message and "Traceback" not in state.message


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Eighteen of the 49 real forklifts; test_preset_runs paints them all."""
    source, folder = shared("loco_forklifts", "forklifts"), tmp_path_factory.mktemp("photographs")
    rows = pd.read_csv(source / "annotations.csv", dtype=str, keep_default_na=False)
    names = sorted(path.name for path in source.glob("*.jpg"))[:18]
    rows[rows.file_name.isin(names)].to_csv(folder / "annotations.csv", index=False)
    for name in names:
        shutil.copy(source / name, folder)
    return {"images": str(folder), "format": "loco"}


def test_the_real_forklifts_end_in_a_merged_set(photographs, tmp_path):
    account = run(tmp_path / "ws", photographs, edit="replace", painter="copy-paste", composite="feather", limit=12)
    assert account["painted"] >= 11
    coco = COCO(str(tmp_path / "ws" / "final" / "annotations.json"))
    assert len(coco.imgs) == 18 + account["stages"]["screen"]["ok"]
    assert_outside_untouched(tmp_path / "ws" / "final", margin=9)


def test_odd_pictures_are_used_or_set_aside_with_a_reason(tmp_path):
    folder = shared("odd_images", "pillow")
    names = sorted(p.name for p in folder.iterdir() if p.name != "LICENSE")
    names += ["../exif/Landscape_6.jpg", "not there.jpg", "ünï cödé,1.2.png"]
    images = [{"id": i + 1, "file_name": name} for i, name in enumerate(names)]
    boxes = [{"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [2, 2, 20, 20]} for i in range(len(names))]
    coco = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "odd.json").write_text(json.dumps(coco))
    before = {p.name for p in tmp_path.parent.iterdir()}
    account = run(tmp_path / "ws", {"images": str(folder), "annotations": str(tmp_path / "odd.json")})
    rejected = account["stages"]["ingest"]["rejected"]
    assert rejected["path_outside_root"] == 1 and rejected["image_missing"] == 2
    assert rejected["image_broken"] >= 3 and rejected["image_too_large"] >= 1
    assert account["painted"] > 30
    assert len(COCO(str(tmp_path / "ws/final/annotations.json")).imgs) >= 60
    assert {p.name for p in tmp_path.parent.iterdir()} == before


ODD_BOXES = {
    "zero": [5, 5, 0, 10],
    "negative": [5, 5, -10, 10],
    "overflowing": [140, 100, 60, 60],
    "outside": [500, 500, 10, 10],
    "three numbers": [1, 2, 3],
    "text": "5 5 10 10",
}


def test_odd_boxes_and_ids_are_rows_with_reasons_and_stay_in_the_final_set(made_set, tmp_path):
    notes = made_set.coco["annotations"]
    for i, bbox in enumerate(ODD_BOXES.values()):
        notes.append({"id": f"odd {i}", "image_id": 10, "category_id": 3, "bbox": bbox, "iscrowd": False})
    notes.append(
        {
            "id": 2**40,
            "image_id": 11,
            "category_id": 4,
            "bbox": [0, 0, 160, 120],
            "iscrowd": True,
            "segmentation": {"size": [120, 160], "counts": "PoS5"},
            "area": 19200,
        }
    )
    notes.append(dict(notes[0]))
    made_set.write()
    account = run(tmp_path / "ws", made_set.dataset)
    rejected = account["stages"]["objects"]["rejected"]
    assert rejected["annotation_id_duplicate"] == 1 and rejected["box_empty"] == 2 and rejected["box_outside"] == 1
    final = json.loads((tmp_path / "ws" / "final" / "annotations.json").read_bytes())
    by_id = {note["id"]: note for note in final["annotations"]}
    assert len(by_id) == len(final["annotations"])
    assert by_id["odd 0"] == notes[12] and by_id[2**40] == notes[18]
    crowds = [n for n in final["annotations"] if n.get("source_annotation_id") == 2**40]
    assert all(n["segmentation"] == notes[18]["segmentation"] and n["iscrowd"] is True for n in crowds)


@pytest.mark.parametrize(
    ("edit", "painter", "composite"),
    [
        ("replace", "gligen-inpaint", "feather"),
        ("layout", "gligen", "none"),
    ],
)
def test_the_real_forklifts_are_painted_by_a_tiny_gligen(photographs, tmp_path, edit, painter, composite):
    from tiny import tiny_blip2, tiny_gligen

    model = tiny_gligen(tmp_path / "model", inpaint=painter == "gligen-inpaint")
    captioner = {"name": "blip2", "model": str(tiny_blip2(tmp_path / "blip2"))}
    account = run(
        tmp_path / "ws",
        photographs,
        edit=edit,
        painter={"name": painter, "model": str(model), "size": 64, "steps": 2},
        composite=composite,
        caption={"captioner": captioner},
        limit=4,
    )
    assert account["painted"] == 4 and account["stages"]["caption"]["painted"] == 4
    if edit == "replace":
        assert assert_outside_untouched(tmp_path / "ws" / "final", margin=9) == 4
    request = json.loads(read_manifest(tmp_path / "ws/manifests/plan.parquet", PlanRow).request[0])
    assert request["painter"]["model"]["revision"].startswith("sha256:")


def test_a_picture_that_was_away_for_a_while_is_painted_by_the_next_run(whole, made_set, tmp_path, monkeypatch):
    from tasks import generate

    real, victim, away = generate.sources_of, made_set.images / "picture 003.png", tmp_path / "away.png"

    def unplug(*args):
        if victim.exists():
            victim.rename(away)
        return real(*args)

    monkeypatch.setattr(generate, "sources_of", unplug)
    account = run(tmp_path / "ws", made_set.dataset)
    assert account["stages"]["generate"]["rejected"]["image_missing"] >= 1
    monkeypatch.undo()
    away.rename(victim)
    account = run(tmp_path / "ws", made_set.dataset)
    assert account["stages"]["generate"]["rejected"] == {}
    assert {k: v for k, v in tree(tmp_path / "ws/final").items() if k.startswith("images/")} == {
        k: v for k, v in tree(whole.workspace / "final").items() if k.startswith("images/")
    }


def test_a_corrected_box_is_drawn_anew(made_set, tmp_path):
    edit = {"name": "replace", "max_boxes": 1}
    run(tmp_path / "ws", made_set.dataset, edit=edit)
    before = tree(tmp_path / "ws" / "drawn")
    made_set.coco["annotations"][0]["bbox"][2] -= 3  # a box of the first picture is put right by hand
    made_set.write()
    run(tmp_path / "ws", made_set.dataset, edit=edit)
    run(tmp_path / "fresh", made_set.dataset, edit=edit)
    assert tree(tmp_path / "ws" / "drawn") == tree(tmp_path / "fresh" / "drawn") != before


def test_a_renamed_file_gives_its_new_name_to_its_pictures(made_set, tmp_path):
    run(tmp_path / "ws", made_set.dataset)
    (made_set.images / "picture 000.png").rename(made_set.images / "zebra.png")
    made_set.coco["images"][0]["file_name"] = "zebra.png"
    made_set.write()
    account = run(tmp_path / "ws", made_set.dataset)
    run(tmp_path / "fresh", made_set.dataset)
    assert account["painted"] == 0
    assert tree(tmp_path / "ws" / "final") == tree(tmp_path / "fresh" / "final")


def test_another_composite_paints_nothing_again(made_set, tmp_path):
    one = {"name": "replace", "max_boxes": 1}  # a second pass would start from another picture
    run(tmp_path / "ws", made_set.dataset, edit=one, composite="paste")
    before = sorted((tmp_path / "ws/store/paint").rglob("*"))
    for composite in ("none", {"name": "feather", "kernel": 7}):
        run(tmp_path / "ws", made_set.dataset, edit=one, composite=composite)
        assert sorted((tmp_path / "ws/store/paint").rglob("*")) == before


@pytest.mark.parametrize("what", ["no pictures", "empty file", "nothing selected", "no originals"])
def test_a_final_set_may_be_empty(made_set, tmp_path, what):
    parameters: dict = {"dataset": made_set.dataset}
    if what == "no pictures":
        shutil.rmtree(made_set.images)
        made_set.images.mkdir()
    if what == "empty file":
        made_set.coco |= {"images": [], "annotations": []}
        made_set.write()
    if what == "nothing selected":
        parameters |= {"select": {"min_picture": 10_000}, "finalise": {"originals": "selected"}}
    if what == "no originals":
        (tmp_path / "none.txt").write_text("")
        parameters |= {"review": str(tmp_path / "none.txt"), "finalise": {"originals": "none"}}
    run(tmp_path / "ws", **parameters)
    final = json.loads((tmp_path / "ws" / "final" / "annotations.json").read_bytes())
    assert final["images"] == final["annotations"] == []
    assert final["categories"] == made_set.coco["categories"]


def test_a_workspace_that_cannot_be_written_is_one_sentence(made_set, tmp_path):
    from flows.augment import augment

    (tmp_path / "file").write_text("in the way")
    state = augment.fn(dataset=made_set.dataset, workspace=tmp_path / "file" / "ws")
    assert state.is_failed() and "workspace" in state.message and "another folder" in state.message


@pytest.mark.parametrize("text", [b"", b"garbage" * 99, b"0" * 64 + b"\nother"], ids=["empty", "garbage", "wrong"])
def test_a_damaged_jpeg_in_the_store_is_made_again_and_the_set_stays(made_set, tmp_path, text):
    run(tmp_path / "ws", made_set.dataset, limit=3, finalise={"format": "jpeg"})
    before = tree(tmp_path / "ws" / "final")
    for kept in (path for path in (tmp_path / "ws" / "store" / "jpeg").rglob("*") if path.is_file()):
        kept.write_bytes(text)
    account = run(tmp_path / "ws", made_set.dataset, limit=3, finalise={"format": "jpeg"})
    assert tree(tmp_path / "ws" / "final") == before and account["stages"]["finalise"]["rejected"] == {}
