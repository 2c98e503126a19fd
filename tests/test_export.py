"""Exports: each format is read back by a reader that does not know who wrote it; targets, the card, what is left."""

import hashlib
import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from filelock import FileLock
from PIL import Image
from test_finalise import HEIGHT, WIDTH, Folder, kept, picture, redrawn

from flows import cli
from lib.core.errors import AugmentError
from lib.datasets.export import EXPORTERS
from lib.datasets.export.folder import NOTE
from lib.datasets.formats import read_dataset
from lib.records.settings import DatasetSettings
from lib.runs.account import write_account
from lib.runs.export import export_run
from lib.runs.parameters import check_parameters, resolve_parameters

CUT = ("cvat", "hf", "label-studio", "voc", "yolo")  # formats that have boxes cut to their pictures
INSIDE = (4.123, 5.4567, 20.75, 10.015)
BEYOND = (-3.5, 20, 10, 20.25)  # left and below the picture
NAMES = {
    1: "a b, ü [1].png",
    2: "images/deep.png",
    3: "labels/deep.jpg",
    4: ".hidden.png",
    5: "grey.png",
    6: "empty.png",
    7: "val/one.png",
    8: "test 日本.png",
    9: "deep.png",
}
SPLITS = {7: "validation", 8: "test"}


@pytest.fixture
def run(tmp_path):
    """A workspace whose final set has odd names, boxes and splits, and two synthetic pictures."""
    folder = Folder(tmp_path)
    folder.dataset = {"split": "official"}
    folder.coco["categories"].append({"id": 9, "name": "pallet <truck>, ü"})
    for number, name in NAMES.items():
        folder.add(number, name, split=SPLITS.get(number, "train"))
    folder.note(10, 1, INSIDE)
    folder.note(11, 1, BEYOND, category_id=9)
    folder.note(12, 1, (1, 2, 3, 4), iscrowd=1, segmentation=[])
    folder.note("thirteen", 2, (0, 0, WIDTH, HEIGHT))
    folder.note(14, 3, (30.5, 2, 5, 6), ignore=1)
    for number in (4, 5, 9):
        folder.note(20 + number, number, (number, 2, 7.25, 6.125))
    folder.note(30, 7, (7, 3, 8, 9), category_id=9)
    folder.note(31, 8, (8, 3, 8, 9))
    folder.note(32, 8, (8, 3, 0, 9))  # no area
    folder.note(33, 8, None)  # no box
    folder.note(34, 8, (8, 3, 4, 9), category_id=77)  # no such category
    grey = Image.fromarray(picture(5)).convert("L")
    grey.save(folder.pictures / NAMES[5])
    folder.paint(1, redrawn(10), kept(11), kept(12))
    folder.paint(5, redrawn(25), variant=1)
    folder.finish()
    folder.run = folder.root / "ws"
    write_settings(folder)
    return folder


def write_settings(folder, **values):
    dataset = {"images": str(folder.pictures), "annotations": str(folder.root / "source.json"), **folder.dataset}
    given = check_parameters({"dataset": dataset, **values})
    resolved = resolve_parameters(given, folder.run)
    (folder.run / "settings.json").write_text(resolved.model_dump_json())


# What is right: by the final set's own COCO file


def expected(folder, format):
    """{SHA-256 of the picture: (split, sorted boxes)}; a box is (category, x, y, w, h, whether it is ignored)."""
    coco = folder.result()
    names = {category["id"]: category["name"] for category in coco["categories"]}
    found = {}
    for image in coco["images"]:
        data = (folder.final / "images" / image["file_name"]).read_bytes()
        split = {"train": "train", "validation": "val", "test": "test"}[image["split"]]
        boxes = []
        for note in coco["annotations"]:
            box, ignored = note["bbox"], bool(note["iscrowd"] or note.get("ignore"))
            if note["image_id"] != image["id"] or note["category_id"] not in names or not box or box[2] <= 0:
                continue
            if format in CUT:
                x, y, w, h = box
                x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, WIDTH), min(y + h, HEIGHT)
                box = [x0, y0, x1 - x0, y1 - y0]
            boxes.append((names[note["category_id"]], *box, ignored))
        found[hashlib.sha256(data).hexdigest()] = (split, sorted(boxes))
    assert len(found) == 11
    return found


# Readers that do not know us


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def opened(path):
    """((width, height), channels)."""
    with Image.open(path) as image:
        return image.size, len(image.getbands())


def read_yolo(folder):
    data = yaml.safe_load((folder / "data.yaml").read_text())
    assert data["train"] == "images/train"
    for key in ("train", "val", "test"):
        for file in sorted((folder / data[key]).iterdir()):
            label = Path(str(file.parent).replace("/images/", "/labels/")) / f"{file.stem}.txt"
            width, height = opened(file)[0]
            boxes = []
            for line in label.read_text().splitlines():
                code, cx, cy, w, h = (float(text) for text in line.split())
                assert all(0 <= value <= 1 for value in (cx, cy, w, h))
                corner = (cx - w / 2) * width, (cy - h / 2) * height
                boxes.append((data["names"][int(code)], *corner, w * width, h * height, False))
            yield file, key, boxes


def read_voc(folder):
    for split in ("train", "val", "test"):
        for line in (folder / "ImageSets" / "Main" / f"{split}.txt").read_text().splitlines():
            assert line.split() == [line]
            root = ET.parse(folder / "Annotations" / f"{line}.xml").getroot()
            file = folder / "JPEGImages" / root.findtext("filename")
            assert [root.findtext(f"size/{side}") for side in ("width", "height")] == [str(WIDTH), str(HEIGHT)]
            assert int(root.findtext("size/depth")) == opened(file)[1]
            boxes = []
            for node in root.iter("object"):
                x0, y0, x1, y1 = (float(node.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
                ignored = node.findtext("difficult") == "1"
                boxes.append((node.findtext("name"), x0, y0, x1 - x0, y1 - y0, ignored))
            yield file, split, boxes


def read_coco(folder, images="images/{}", labels="annotations/instances_{}.json"):
    from pycocotools.coco import COCO

    for split in ("train", "val", "test"):
        coco = COCO(folder / labels.format(split))
        for image in coco.imgs.values():
            notes = coco.loadAnns(coco.getAnnIds(image["id"]))
            boxes = [
                (coco.cats[n["category_id"]]["name"], *n["bbox"], bool(n["iscrowd"] or n.get("ignore"))) for n in notes
            ]
            yield folder / images.format(split) / image["file_name"], split, boxes


def read_fiftyone(folder):
    return read_coco(folder, "{}/data", "{}/labels.json")


def read_cvat(folder):
    root = ET.parse(folder / "annotations.xml").getroot()
    assert root.findtext("version") == "1.1"
    labels = [label.findtext("name") for label in root.iter("label")]
    for image in root.iter("image"):
        assert (image.get("width"), image.get("height")) == (str(WIDTH), str(HEIGHT))
        boxes = []
        for node in image.iter("box"):
            x0, y0, x1, y1 = (float(node.get(side)) for side in ("xtl", "ytl", "xbr", "ybr"))
            assert node.get("label") in labels
            ignored = node.findtext("attribute[@name='ignore']") == "true"
            boxes.append((node.get("label"), x0, y0, x1 - x0, y1 - y0, ignored))
        yield folder / "images" / image.get("subset") / image.get("name"), image.get("subset"), boxes


def read_label_studio(folder):
    labels = [node.get("value") for node in ET.parse(folder / "config.xml").getroot().iter("Label")]
    for task in json.loads((folder / "tasks.json").read_bytes()):
        address, _, path = task["data"]["image"].partition("?d=")
        assert address == "/data/local-files/"
        boxes = []
        for result in task["annotations"][0]["result"]:
            value = result["value"]
            (name,) = value["rectanglelabels"]
            assert name in labels
            sides = ("x", WIDTH), ("y", HEIGHT), ("width", WIDTH), ("height", HEIGHT)
            boxes.append((name, *(value[k] * side / 100 for k, side in sides), "meta" in result))
        yield folder / unquote(path), task["data"]["split"], boxes


def read_hf(folder):
    """The documented rule of an imagefolder: a folder a split, in it metadata.jsonl with the names of its files."""
    for split in ("train", "validation", "test"):
        for line in (folder / split / "metadata.jsonl").read_text().splitlines():
            row = json.loads(line)
            objects = row["objects"]
            assert {len(values) for values in objects.values()} == {len(objects["id"])}
            boxes = [
                (name, *box, ignored)
                for name, box, ignored in zip(objects["names"], objects["bbox"], objects["ignored"], strict=True)
            ]
            yield folder / split / row["file_name"], {"validation": "val"}.get(split, split), boxes


READERS = {
    "coco": read_coco,
    "cvat": read_cvat,
    "fiftyone": read_fiftyone,
    "hf": read_hf,
    "label-studio": read_label_studio,
    "voc": read_voc,
    "yolo": read_yolo,
}


def test_every_format_has_a_reader_here():
    assert set(READERS) == set(EXPORTERS)


@pytest.fixture(params=sorted(EXPORTERS))
def format(request):
    return request.param


def assert_boxes(found, wanted):
    """Equal to a thousandth of a pixel, in any order."""
    found, wanted = sorted(found), sorted(wanted)
    assert [(name, ignored) for name, *_, ignored in found] == [(name, ignored) for name, *_, ignored in wanted]
    np.testing.assert_allclose([b[1:5] for b in found], [b[1:5] for b in wanted], rtol=0, atol=0.0005)


def test_another_reader_finds_every_picture_in_its_split_with_its_boxes(run, format):
    result = export_run(run.run, format)
    wanted = expected(run, format)
    found = {sha(file): (split, boxes) for file, split, boxes in READERS[format](Path(result.folder))}
    assert set(found) == set(wanted)
    for key, (split, boxes) in wanted.items():
        if not EXPORTERS[format].KEEPS_IGNORED:
            boxes = [box for box in boxes if not box[-1]]
        assert found[key][0] == split
        assert_boxes(found[key][1], boxes)


def test_what_was_written_and_left_out_is_counted(run, format):
    result = export_run(run.run, format)
    keeps = EXPORTERS[format].KEEPS_IGNORED
    train, validation = result.splits["train"], result.splits["validation" if format == "hf" else "val"]
    assert (train["pictures"], train["synthetic"], train["boxes"]) == (9, 2, 9)
    assert train["ignored"] == (3 if keeps else 0)
    assert train["categories"] == {"cat": 7, "pallet <truck>, ü": 2}
    assert validation["categories"] == {"cat": 0, "pallet <truck>, ü": 1} and validation["synthetic"] == 0
    nothing = {"box_malformed": 1, "box_without_area": 1, "category_unknown": 1}
    assert result.left_out == nothing | ({} if keeps else {"ignored": 3})


@pytest.mark.parametrize(
    ("name", "file"), [("coco", "annotations/instances_train.json"), ("fiftyone", "train/labels.json")]
)
def test_an_ignored_box_is_a_crowd_for_trainers_whatever_its_record_said(run, name, file):
    notes = json.loads((Path(export_run(run.run, name).folder) / file).read_bytes())["annotations"]
    assert [(n["iscrowd"], n.get("ignore")) for n in notes if n["id"] == 14] == [(1, 1)]
    assert [n["id"] for n in notes if n["iscrowd"]].count(12) == 1
    assert all(n["iscrowd"] == 0 for n in notes if n["id"] in (10, 11, 24))


def test_two_exports_are_equal_to_the_byte_and_hold_no_link(run, format):
    trees = []
    for name in ("one", "two"):
        out = run.root / name / "data"
        export_run(run.run, format, out)
        assert not any(path.is_symlink() or (path.is_file() and path.stat().st_nlink > 1) for path in out.rglob("*"))
        trees.append({p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()})
        assert [p.name for p in out.parent.iterdir()] == ["data"]
    assert trees[0] == trees[1]


def test_pictures_of_one_name_in_several_folders_keep_apart(run, format):
    names = [file.name for file, _, _ in READERS[format](Path(export_run(run.run, format).folder))]
    stems = Counter(Path(name).stem.casefold() for name in names)
    assert len(names) == 11 and max(stems.values()) == 1
    assert not any(name.startswith(".") for name in names)
    assert {"images__deep.png", "labels__deep.jpg", "deep.png"} <= set(names)


def test_names_that_differ_in_suffix_or_case_alone_keep_apart(tmp_path, format):
    folder = Folder(tmp_path)
    for number, name in enumerate(("a.png", "a.jpg", "A.bmp", "b.png"), 1):
        folder.add(number, name, [10 + number])
    folder.finish()
    result = export_run(folder.root / "ws", format)
    stems = [re.search(r"([^/]*)\.\w+$", name)[1] for name in note_of(result)["pictures"]]
    assert len({stem.casefold() for stem in stems}) == 4 and "b" in stems


def note_of(result):
    return json.loads((Path(result.folder) / NOTE).read_text())


def test_a_member_says_what_it_is_and_how_it_is_used(format):
    exporter = EXPORTERS[format]
    assert exporter.ABOUT and exporter.IGNORED and "{folder}" in exporter.USE and exporter.write.__doc__
    assert ("ignored" if exporter.KEEPS_IGNORED else "left out") in __import__(
        exporter.__module__, fromlist=["_"]
    ).__doc__.replace("Ignored", "ignored")


# The tools themselves


def test_our_own_reader_of_yolo_reads_the_splits_and_boxes(run):
    out = Path(export_run(run.run, "yolo").folder)
    dataset = read_dataset(DatasetSettings(images=out / "images", annotations=out / "data.yaml", format="yolo"))
    images, objects = dataset.images.to_pandas(), dataset.objects.to_pandas()
    assert Counter(images.split) == {"train": 9, "val": 1, "test": 1} and set(images.status) == {"ok"}
    splits = {sha(out / "images" / row.path): row for row in images.itertuples()}
    for key, (split, boxes) in expected(run, "yolo").items():
        mine = objects[objects.image_key == splits[key].key]
        found = [(row.category, row.x, row.y, row.w, row.h, False) for row in mine.itertuples()]
        assert splits[key].split == split
        assert_boxes(found, [box for box in boxes if not box[-1]])


def test_our_own_reader_of_voc_reads_the_splits_and_boxes(run):
    out = Path(export_run(run.run, "voc").folder)
    dataset = read_dataset(DatasetSettings(images=out / "JPEGImages", annotations=out / "Annotations", format="voc"))
    images, objects = dataset.images.to_pandas(), dataset.objects.to_pandas()
    assert Counter(images.split) == {"train": 9, "val": 1, "test": 1} and set(images.status) == {"ok"}
    rows = {sha(out / "JPEGImages" / row.path): row for row in images.itertuples()}
    for key, (_, boxes) in expected(run, "voc").items():
        mine = objects[objects.image_key == rows[key].key]
        marks = [json.loads(record)["difficult"] == 1 for record in mine.record]
        found = [(r.category, r.x, r.y, r.w, r.h, d) for r, d in zip(mine.itertuples(), marks, strict=True)]
        assert_boxes(found, boxes)


@pytest.mark.parametrize(("format", "name"), [("voc", "voc_detection"), ("yolo", "yolo")])
def test_datumaro_finds_every_picture_and_the_number_of_boxes(run, format, name):
    datumaro = pytest.importorskip("datumaro", reason="datumaro is not installed")
    result = export_run(run.run, format)
    items = list(datumaro.Dataset.import_from(result.folder, name))
    assert Counter(item.subset for item in items) == {"train": 9, "val": 1, "test": 1}
    boxes = [note for item in items for note in item.annotations if note.type.name == "bbox"]
    assert len(boxes) == sum(split["boxes"] + split["ignored"] for split in result.splits.values())


def test_the_label_map_of_voc_lists_every_category(run):
    text = (Path(export_run(run.run, "voc").folder) / "labelmap.txt").read_text()
    assert text == "# label:color_rgb:parts:actions\ncat:::\npallet <truck>, ü:::\n"


def test_ultralytics_loads_every_picture_and_box(run):
    data = pytest.importorskip("ultralytics.data", reason="ultralytics is not installed (its licence is AGPL)")
    from ultralytics.data.utils import check_det_dataset

    out = Path(export_run(run.run, "yolo").folder)
    checked = check_det_dataset(str(out / "data.yaml"), autodownload=False)
    found = {}
    for split in ("train", "val", "test"):
        loaded = data.YOLODataset(img_path=checked[split], data=checked, task="detect", augment=False, imgsz=64)
        for label in loaded.labels:
            boxes = label["bboxes"].astype(float) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
            boxes[:, :2] -= boxes[:, 2:] / 2
            names = [checked["names"][int(code)] for code in label["cls"][:, 0]]
            pairs = zip(names, boxes.tolist(), strict=True)
            found[sha(Path(label["im_file"]))] = (split, [(name, *box, False) for name, box in pairs])
    wanted = expected(run, "yolo")
    assert set(found) == set(wanted)
    for key, (split, boxes) in wanted.items():
        assert found[key][0] == split
        assert_boxes(found[key][1], [box for box in boxes if not box[-1]])


def test_the_datasets_library_loads_every_picture_and_box(run, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the library datasets is not installed")
    out = Path(export_run(run.run, "hf").folder)
    for arguments in ({"path": "imagefolder", "data_dir": str(out)}, {"path": str(out)}):
        loaded = datasets.load_dataset(**arguments, cache_dir=str(tmp_path / "cache"))
        found = {}
        for split, rows in loaded.items():
            for row in rows.cast_column("image", datasets.Image(decode=False)):
                objects = row["objects"]
                triples = zip(objects["names"], objects["bbox"], objects["ignored"], strict=True)
                path = Path(row["image"]["path"])
                found[sha(path)] = (str(split), [(name, *box, ignored) for name, box, ignored in triples])
        wanted = expected(run, "hf")
        assert set(found) == set(wanted)
        for key, (split, boxes) in wanted.items():
            assert found[key][0] == {"val": "validation"}.get(split, split)
            assert_boxes(found[key][1], boxes)


def test_coco_records_keep_their_ids_and_all_their_fields(run):
    out = Path(export_run(run.run, "coco").folder)
    source = {str(note["id"]): note for note in run.result()["annotations"]}
    train = json.loads((out / "annotations" / "instances_train.json").read_bytes())
    assert len(train["annotations"]) == 12 and train["categories"] == run.result()["categories"]
    ignored = {str(note["id"]): {"iscrowd": 1} for note in run.result()["annotations"] if note.get("ignore")}
    wanted = {id: {"segmentation": []} | note | ignored.get(id, {}) for id, note in source.items()}
    assert list(ignored) == ["14"] and all(note == wanted[str(note["id"])] for note in train["annotations"])
    images = {image["id"]: image for image in run.result()["images"]}
    same = [{k: v for k, v in image.items() if k != "file_name"} for image in train["images"]]
    assert same == [{k: v for k, v in images[i["id"]].items() if k != "file_name"} for i in train["images"]]


def test_coco_evaluates_a_set_whose_records_lack_what_evaluations_need(tmp_path):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    folder = Folder(tmp_path)
    folder.add(1)
    folder.coco["annotations"] = [{"id": 7, "image_id": 1, "category_id": 3, "bbox": [4, 5, 20, 10]}]
    folder.finish()
    coco = COCO(Path(export_run(folder.root / "ws", "coco").folder) / "annotations" / "instances_train.json")
    assert coco.anns[7] | {"area": 200, "iscrowd": 0, "segmentation": []} == coco.anns[7]
    found = coco.loadRes([{"image_id": 1, "category_id": 3, "bbox": [4, 5, 20, 10], "score": 1.0}])
    judge = COCOeval(coco, found, "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert judge.stats[0] == pytest.approx(1)


# Splits


def test_synthetic_pictures_of_another_split_than_the_training_one_are_left_out(run, format):
    run.paint(7, kept(30), variant=2, split="validation")
    run.finish()
    result = export_run(run.run, format)
    assert result.left_out["synthetic_outside_training"] == 1
    assert {name: split["synthetic"] for name, split in result.splits.items() if name != "train"} == {
        "validation" if format == "hf" else "val": 0,
        "test": 0,
    }


@pytest.fixture
def unsplit(tmp_path):
    """A run of a data set without splits."""
    folder = Folder(tmp_path)
    folder.add(1, "a.png", [10])
    folder.add(2, "b.png", [11])
    folder.paint(1, redrawn(10))
    folder.finish()
    folder.run = folder.root / "ws"
    return folder


def test_a_set_without_splits_is_all_training(unsplit, format):
    splits = export_run(unsplit.run, format).splits
    assert {name: (split["pictures"], split["synthetic"]) for name, split in splits.items()} == {"train": (3, 1)}


def test_without_a_validation_split_yolo_validates_on_the_originals_and_says_what_that_means(unsplit):
    result = export_run(unsplit.run, "yolo")
    out = Path(result.folder)
    assert yaml.safe_load((out / "data.yaml").read_text())["val"] == "val.txt"
    assert (out / "val.txt").read_text() == "./images/train/a.png\n./images/train/b.png\n"
    (note,) = result.notes
    assert note.startswith("the data set has no validation split") and note in (out / "data.yaml").read_text()


def test_ultralytics_starts_on_a_set_without_a_validation_split(unsplit):
    data = pytest.importorskip("ultralytics.data", reason="ultralytics is not installed (its licence is AGPL)")
    from ultralytics.data.utils import check_det_dataset

    checked = check_det_dataset(str(Path(export_run(unsplit.run, "yolo").folder) / "data.yaml"), autodownload=False)
    sizes = [
        len(data.YOLODataset(img_path=checked[split], data=checked, task="detect", augment=False, imgsz=64).labels)
        for split in ("train", "val")
    ]
    assert sizes == [3, 2]


def test_the_training_split_is_that_of_the_run(tmp_path):
    folder = Folder(tmp_path)
    folder.dataset = {"split": "official"}
    for number, split in enumerate(("train2017", "val2017", "odd one"), 1):
        folder.add(number, note_ids=[10 + number], split=split)
    folder.paint(1, redrawn(11), split="train2017")
    folder.finish()
    folder.run = folder.root / "ws"
    write_settings(folder, select={"split": "train2017"})
    result = export_run(folder.run, "yolo")
    assert {name: split["synthetic"] for name, split in result.splits.items()} == {"train": 1, "val": 0, "odd_one": 0}
    assert "odd_one" not in yaml.safe_load((Path(result.folder) / "data.yaml").read_text())


def test_a_set_of_validation_pictures_alone_is_exported_with_a_note(unsplit):
    unsplit.dataset = {"split": "val"}
    write_settings(unsplit)
    unsplit.reviewed, unsplit.requests = [], {}
    unsplit.finish()
    result = export_run(unsplit.run, "coco")
    assert list(result.splits) == ["val"] and "nothing to train on" in result.notes[0]


# Types of files


def test_pictures_of_types_that_a_tool_passes_over_are_named(tmp_path):
    folder = Folder(tmp_path)
    for number, name in enumerate(("a.gif", "b.ppm", "c.avif", "d.png"), 1):
        folder.add(number, name)
    folder.finish()
    notes = {format: export_run(folder.root / "ws", format).notes for format in ("yolo", "hf", "coco")}
    assert notes["yolo"][0] == "YOLO passes over 2 pictures of types that it does not know: images/train/a.gif"
    assert notes["hf"] == ["imagefolder passes over 1 pictures of types that it does not know: train/c.avif"]
    assert notes["coco"] == []


def test_a_picture_without_a_suffix_gets_the_one_of_what_it_is(tmp_path, format):
    folder = Folder(tmp_path)
    folder.add(1, "plain.jpg", [10])
    (folder.pictures / "plain.jpg").rename(folder.pictures / "no suffix")
    folder.coco["images"][0]["file_name"] = "no suffix"
    folder.finish()
    (name,) = note_of(export_run(folder.root / "ws", format))["pictures"]
    assert name.endswith("no_suffix.jpg" if format == "voc" else "no suffix.jpg")


# Odd records


def test_odd_values_in_records_cost_nothing_but_themselves(tmp_path, format):
    folder = Folder(tmp_path)
    folder.coco["info"] = {"version": "VERSION"}
    folder.add(7, "a.png")
    folder.add("7", "b.png")
    folder.note(10, 7, difficult="VERSION")
    folder.note(11, "7", (1, 2, 3, 4), iscrowd=None)
    folder.written = lambda text: text.replace('"VERSION"', "1e999")
    folder.finish()
    result = export_run(folder.root / "ws", format)
    found = sorted(json.dumps(name) for name in note_of(result)["pictures"])
    assert len(found) == 2 and result.splits["train"]["boxes"] == 2 and result.left_out == {}


def test_equal_ids_written_differently_are_equal(unsplit, format):
    file = unsplit.final / "annotations.json"
    text, times = re.subn(r'("image_id": ?\d+)', r"\1.0", file.read_text())
    file.write_text(text)
    assert times == 3 and export_run(unsplit.run, format).splits["train"]["boxes"] == 3


def test_a_file_that_two_records_list_is_one_picture_with_the_boxes_of_both(tmp_path, format):
    folder = Folder(tmp_path)
    folder.add(1, "a.png", [10])
    folder.coco["images"].append({**folder.coco["images"][0], "id": 2})
    folder.note(11, 2, (1, 2, 3, 4))
    folder.finish()
    result = export_run(folder.root / "ws", format)
    counts = result.splits["train"]
    assert (counts["pictures"], counts["boxes"], result.left_out) == (1, 2, {"picture_listed_twice": 1})
    if format in ("coco", "fiftyone"):
        places = ("images/{}", "annotations/instances_{}.json") if format == "coco" else ("{}/data", "{}/labels.json")
        from pycocotools.coco import COCO

        coco = COCO(Path(result.folder) / places[1].format("train"))
        assert {note["image_id"] for note in coco.anns.values()} == set(coco.imgs) == {1}


def test_a_name_that_leads_out_of_the_final_set_is_refused(unsplit):
    file = unsplit.final / "annotations.json"
    file.write_text(file.read_text().replace("b.png", "../../../source/b.png"))
    with pytest.raises(AugmentError, match="leads elsewhere"):
        export_run(unsplit.run, "yolo")


# Turned pictures


def test_a_picture_whose_file_is_turned_has_its_boxes_in_the_frame_that_they_were_given_in(tmp_path):
    folder = Folder(tmp_path)
    folder.add(1, "turned.jpg", width=HEIGHT, height=WIDTH)  # annotated as it is shown
    folder.add(2, "stored.jpg")  # annotated as it is stored
    for number, name in ((1, "turned.jpg"), (2, "stored.jpg")):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(picture(number)).save(folder.pictures / name, exif=exif)
        folder.note(10 + number, number, (2, 4, 8, 16))
    folder.finish()
    result = export_run(folder.root / "ws", "yolo")
    lines = {p.stem: p.read_text().split()[1:] for p in (Path(result.folder) / "labels" / "train").iterdir()}
    assert [float(v) for v in lines["turned"]] == pytest.approx([6 / 30, 12 / 40, 8 / 30, 16 / 40])
    assert [float(v) for v in lines["stored"]] == pytest.approx([6 / 40, 12 / 30, 8 / 40, 16 / 30])
    assert any(note.startswith("1 pictures say that they are to be turned") for note in result.notes)


# Where it is written


def test_an_export_replaces_an_earlier_one_of_any_format(run):
    out = run.root / "out"
    export_run(run.run, "voc", out)
    (out / "train.cache").write_text("left by a tool")
    export_run(run.run, "yolo", out)
    assert not (out / "Annotations").exists() and (out / "data.yaml").is_file() and not (out / "train.cache").exists()


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (lambda out: (out / "mine.txt").write_text("x"), r"mine\.txt was not written by an export"),
        (lambda out: (out / "runs" / "w").mkdir(parents=True) or (out / "runs" / "w" / "best.pt").touch(), r"best\.pt"),
        (lambda out: (out / "data.yaml").write_text("names: {}"), r"data\.yaml was changed since it was exported"),
        (lambda out: (out / NOTE).unlink(), "is not empty, and no export wrote it"),
        (lambda out: (out / NOTE).write_text("{"), "is damaged"),
    ],
)
def test_what_others_left_or_changed_in_an_export_is_not_lost(run, harm, fault):
    out = run.root / "out"
    export_run(run.run, "yolo", out)
    harm(out)
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    with pytest.raises(AugmentError, match=fault):
        export_run(run.run, "yolo", out)
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


def test_an_empty_folder_is_filled_and_a_file_or_a_link_refused(run):
    (run.root / "empty").mkdir()
    export_run(run.run, "voc", run.root / "empty")
    (run.root / "file").touch()
    (run.root / "link").symlink_to(run.root / "empty")
    faults = {
        "file": "is a file",
        "link": "is a link to",
        "file/out": "cannot be written",
        "file/a/out": "cannot be written",
    }
    for name, fault in faults.items():
        with pytest.raises(AugmentError, match=fault):
            export_run(run.run, "voc", run.root / name)


@pytest.mark.parametrize(
    "place", ["ws/final", "ws/final/images/yolo", "ws/store", "ws", ".", "source", "source/export", "ws/../source/x"]
)
def test_a_place_among_a_runs_outputs_or_in_its_data_set_is_refused(run, place):
    before = sorted(run.root.rglob("*"))
    with pytest.raises(AugmentError, match="give another folder as --out"):
        export_run(run.run, "yolo", run.root / place)
    assert sorted(run.root.rglob("*")) == before


def test_a_relative_data_set_is_known_from_any_folder(run, monkeypatch):
    settings = json.loads((run.run / "settings.json").read_text())
    settings["dataset"]["images"], settings["workspace"] = "source", "ws"
    (run.run / "settings.json").write_text(json.dumps(settings))
    monkeypatch.chdir("/")
    with pytest.raises(AugmentError, match="lies in the data set"):
        export_run(run.run, "yolo", run.root / "source" / "export")


def test_an_error_leaves_the_former_export_and_no_half_of_the_new_one(run, monkeypatch):
    out = run.root / "out"
    export_run(run.run, "voc", out)
    before = sorted(out.rglob("*"))
    monkeypatch.setattr(EXPORTERS["yolo"], "write", lambda data, files: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_run(run.run, "yolo", out)
    assert sorted(out.rglob("*")) == before and not list(run.root.glob(".tmp-*"))


def test_what_a_killed_export_left_is_in_nobodys_way(run):
    half = run.root / ".tmp-out" / "new"
    half.mkdir(parents=True)
    (half / "half.png").touch()
    export_run(run.run, "yolo", run.root / "out")
    assert not half.exists() and not (run.root / "out" / "half.png").exists()


def test_two_exports_at_once_do_not_mix(run):
    (run.root / ".tmp-out").mkdir()
    with FileLock(run.root / ".tmp-out" / ".lock"), pytest.raises(AugmentError, match="by another export"):
        export_run(run.run, "yolo", run.root / "out")


def test_a_workspace_in_use_waits(run):
    with FileLock(run.run / ".lock"), pytest.raises(AugmentError, match="is in use by a run"):
        export_run(run.run, "yolo")


def test_a_run_leaves_an_export_in_its_workspace_alone(run):
    out = Path(export_run(run.run, "yolo").folder)
    assert out == run.run / "export" / "yolo"
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    run.finish()
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file()} == before


# Final sets that are not whole


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (lambda run: (run.final / "annotations.json").unlink(), "annotations.json not found"),
        (lambda run: (run.final / "annotations.json").write_text("{"), "annotations.json is damaged"),
        (lambda run: (run.final / "images" / "grey.png").unlink(), "run again"),
        (lambda run: (run.final / "images" / "grey.png").write_bytes(b"x"), "run again"),
    ],
)
def test_a_missing_or_damaged_file_is_one_sentence(run, harm, fault):
    harm(run)
    with pytest.raises(AugmentError, match=fault):
        export_run(run.run, "yolo")
    assert not (run.run / "export" / "yolo").exists()


def test_a_picture_that_is_not_what_the_run_wrote_is_noticed(run):
    from lib.records.manifest import write_manifest
    from lib.records.rows import FinalRow

    write_manifest(run.run / "manifests" / "finalise.parquet", run.known, FinalRow)
    export_run(run.run, "yolo")
    shutil.copyfile(run.final / "images" / "empty.png", run.final / "images" / "grey.png")
    with pytest.raises(AugmentError, match=r"grey\.png has other bytes than the run wrote"):
        export_run(run.run, "yolo")


def test_an_unknown_format_names_the_nearest(run):
    with pytest.raises(AugmentError, match=r"unknown export format 'yola' .do you mean 'yolo'"):
        export_run(run.run, "yola")


# The card


def card_of(run, format="hf"):
    return (Path(export_run(run.run, format).folder) / "README.md").read_text()


def test_the_card_has_counts_seeds_rules_and_what_was_left_out(run, format):
    write_settings(run, seed=7, variants=2)
    text = card_of(run, format)
    assert "11 labelled pictures: 9 originals and 2 synthetic ones, which are in the training split alone" in text
    assert "| synthetic | 2 | 0 | 0 |" in text and "| `pallet truck , ü` | 2 | 1 | 0 |" in text
    assert "| seed | 7 |" in text and "| painter | copy-paste |" in text and "| preset | copy-paste |" in text
    assert "None: new objects were cut out of the source pictures." in text
    assert "As the data set itself says." in text and "box_without_area 1" in text
    assert text.startswith("---") == (format == "hf")


def test_the_card_of_a_hugging_face_set_has_front_matter_that_names_the_splits(run):
    front = yaml.safe_load(card_of(run).split("---")[1])
    (config,) = front["configs"]
    assert [(one["split"], one["path"]) for one in config["data_files"]] == [
        ("train", "train/**"),
        ("validation", "validation/**"),
        ("test", "test/**"),
    ]


def test_the_card_names_checkpoints_their_licences_and_the_data_that_they_learned_from(run):
    write_settings(run, preset="gligen-inpainting", models="mini")
    text = card_of(run)
    assert "| painter | `mini:gligen-inpaint sha256:" in text
    assert "Apache-2.0. No published weights went into it. |" in text
    write_settings(run, preset="gligen-inpainting")
    (run.run / "models.lock").write_text(json.dumps(dict.fromkeys(hub_ids(), "0" * 40)))
    text = card_of(run)
    assert "CreativeML Open RAIL-M" in text and "OPT licence, not for commercial use" in text
    assert all(f"`{name} 000000000000000`" in text for name in hub_ids())


def test_a_models_own_card_says_its_licence_and_its_data(run):
    model = run.root / "models" / "stay"
    model.mkdir(parents=True)
    table = "| | |\n|---|---|\n| data | boards, for research alone |"
    (model / "README.md").write_text(f"---\nlicense: other\n---\n# stay\n\n{table}\n\n## Licence\n\nAs its data.")
    write_settings(run, preset="stay-defects", painter={"model": str(model)})
    assert "| painter | `stay` | As its data. | boards, for research alone |" in card_of(run)
    (model / "README.md").unlink()
    assert "| painter | `stay` | not known | not known |" in card_of(run)


def test_terms_that_allow_research_alone_are_marked_in_card_and_notes(run):
    terms = "research only by the README of DeepPCB"
    run.dataset = run.dataset | {"terms": terms}
    write_settings(run)
    result = export_run(run.run, "hf")
    text = (Path(result.folder) / "README.md").read_text()
    assert f"**Research only**: {terms}." in text and f"- terms of use: {terms}" in text
    assert yaml.safe_load(text.split("---")[1])["license_name"] == "research-only"
    assert result.notes[0] == f"research only: {terms}"
    run.dataset = {"split": "official"}
    write_settings(
        run, preset="stay-defects", painter={"model": str(cli.CHECKOUT / "data" / "models" / "pcb" / "stay")}
    )
    assert "**Research only**: painter: Research only, as the pictures that it learned from" in card_of(run)


def hub_ids():
    from lib.captioning.captioners import CAPTIONERS
    from lib.painting.painters import PAINTERS

    return PAINTERS["gligen-inpaint"].MODEL, CAPTIONERS["blip2"].MODEL


def test_the_card_repeats_the_terms_of_the_source(run):
    run.coco["info"]["description"] = "boards | photographed\n# twice"
    run.coco["licenses"] = [{"id": 1, "name": "CC BY 4.0", "url": "https://example.org/by"}]
    run.finish()
    text = card_of(run)
    assert "- licence: CC BY 4.0 https://example.org/by" in text
    assert "- description: boards photographed # twice" in text


def test_without_its_settings_a_run_is_exported_and_the_card_says_that_they_are_not_known(run):
    (run.run / "settings.json").write_text("{")
    assert "the workspace has no readable settings.json" in card_of(run)


# The command


@pytest.fixture
def command(run, capsys):
    """command(*arguments): (exit code, standard output, standard error) of `augment export` on the run."""
    write_account(run.run, {"run": "mine", "state": "completed", "stages": {}})

    def call(*arguments):
        code = cli.main(["export", str(run.run), *arguments])
        told = capsys.readouterr()
        return code, told.out, told.err

    return call


def test_the_command_prints_counts_what_was_left_out_and_how_the_tool_starts(command, run):
    code, out, _ = command("--to", "yolo")
    rows = [re.split(r"\s*[│┃|]\s*", line)[1:-1] for line in out.splitlines() if line[:1] in "│┃"]
    assert code == 0 and rows[0] == ["", "train", "val", "test"]
    assert ["pictures", "9", "1", "1"] in rows and ["synthetic", "2", "0", "0"] in rows
    assert ["pallet <truck>, ü", "2", "1", "0"] in rows
    assert "left out: box_malformed 1, box_without_area 1, category_unknown 1, ignored 3\n" in out
    assert f'use: yolo detect train model=yolo11n.pt "data={run.run}/export/yolo/data.yaml"\n' in out


def test_json_alone_is_on_standard_output(command, run):
    code, out, _ = command("--to", "coco", "--out", str(run.root / "out"), "--json")
    result = json.loads(out)
    assert code == 0 and result["format"] == "coco" and result["folder"] == str(run.root / "out")
    assert result["splits"]["val"]["categories"]["pallet <truck>, ü"] == 1


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--to", "yollo"], "unknown export format 'yollo' (do you mean 'yolo'?)"),
        (["--to", "yolo", "--out", "{ws}/final"], "which runs write: give another folder as --out"),
    ],
)
def test_what_is_wrong_is_one_sentence_on_standard_error(command, run, arguments, fault):
    code, out, err = command(*[argument.format(ws=run.run) for argument in arguments])
    assert (code, out) == (1, "") and fault in err and err.count("\n") == 1


# the hub


class Hub:
    """A HfApi that keeps what it is given."""

    def __init__(self, error=None):
        self.calls, self.error = [], error

    def create_repo(self, name, **more):
        self.calls.append(("create", name, more))
        return f"https://hub.test/datasets/{name}"

    def upload_folder(self, **more):
        if self.error:
            raise self.error
        self.calls.append(("upload", sorted(p.name for p in Path(more["folder_path"]).iterdir()), more))


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def test_an_export_is_pushed_as_a_private_data_set(command, token, monkeypatch):
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    code, told, _ = command("--to", "hf", "--push", "me/steel")
    assert code == 0 and "https://hub.test/datasets/me/steel" in told
    (create, name, made), (upload, files, sent) = hub.calls
    assert (create, name, upload) == ("create", "me/steel", "upload")
    assert made == {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert {"README.md", "train"} <= set(files) and sent["repo_id"] == "me/steel" and sent["repo_type"] == "dataset"


def test_without_a_token_nothing_is_exported(command, run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    code, _, error = command("--to", "hf", "--push", "me/steel")
    assert code == 1 and "hf auth login" in error and not (run.run / "export").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [(("--to", "hf", "--push", "steel"), "USER/NAME"), (("--to", "yolo", "--push", "me/steel"), "--to hf")],
)
def test_a_push_that_cannot_be_is_refused_before_the_export(command, run, token, given, words):
    code, _, error = command(*given)
    assert code == 1 and words in error and not (run.run / "export").exists()


def test_a_hub_that_refuses_is_one_sentence_and_the_export_stays(command, run, token, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: Hub(OSError("no way\nin many lines")))
    code, _, error = command("--to", "hf", "--push", "me/steel")
    assert code == 1 and "no way" in error and "many lines" not in error and (run.run / "export" / "hf").is_dir()
