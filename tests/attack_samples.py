"""A small valid data set of every format, for attacks to damage. A new format needs a line in SAMPLES."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (96, 72)  # width, height of every picture, pixels
NAMES = ("ätzend cat", "dog")  # categories: not only ASCII
_SQUARE = ((8, 10, 40, 44), (50, 20, 84, 60))  # xyxy


def picture(path: Path, number: int) -> str:
    """A textured picture with an object in each square; its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(number)
    pixels = random.integers(40, 215, (SIZE[1] // 4, SIZE[0] // 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    for x0, y0, x1, y1 in _SQUARE:
        pixels[y0:y1, x0:x1] = random.integers(0, 256, 3)
        pixels[y0 + 8 : y0 + 16, x0 + 4 : x1 - 4] = random.integers(0, 256, 3)
    Image.fromarray(pixels).save(path)
    return path.name


def coco_document(images: list[dict[str, Any]], first: int = 1, **top: Any) -> dict[str, Any]:
    """Two boxes a picture, one with an outline, one with runs."""
    notes = []
    for image in images:
        for k, (x0, y0, x1, y1) in enumerate(_SQUARE):
            outline = [[x0, y0, x1, y0, x1, y1, x0 + 3, y1]]
            runs = {"size": [SIZE[1], SIZE[0]], "counts": [x0 * SIZE[1], 20, SIZE[0] * SIZE[1] - x0 * SIZE[1] - 20]}
            notes.append(
                {
                    "id": first + len(notes),
                    "image_id": image["id"],
                    "category_id": 1 + k,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                    "segmentation": runs if k and image["id"] % 2 else outline,
                    "attributes": {"text": "a note"},
                }
            )
    categories = [{"id": i, "name": name, "supercategory": "thing"} for i, name in enumerate(NAMES, 1)]
    info = {"description": "a sample", "version": 1.5, "year": 2020}
    return {"info": info, "images": images, "annotations": notes, "categories": categories} | top


def _records(folder: Path, count: int = 3, **fields: Any) -> list[dict[str, Any]]:
    width, height = SIZE
    names = [picture(folder / f"p{i}.png", i) for i in range(count)]
    return [
        {"id": i, "file_name": name, "width": width, "height": height, "license": 1, "video": "v", **fields}
        for i, name in enumerate(names, 1)
    ]


def _coco(folder: Path) -> dict[str, Any]:
    document = coco_document(_records(folder / "images"), licenses=[{"id": 1, "name": "any", "url": ""}])
    (folder / "ann.json").write_text(json.dumps(document, ensure_ascii=False), "utf-8")
    return {"images": folder / "images", "annotations": folder / "ann.json"}


def _coco_stuff(folder: Path) -> dict[str, Any]:
    records = _records(folder / "images")
    (folder / "ann").mkdir()
    categories = [{"id": 92, "name": "sky"}, {"id": 93, "name": "sea"}]
    stuff = coco_document(records, 100, categories=categories)
    for note in stuff["annotations"]:
        note["category_id"] += 91
    (folder / "ann" / "instances_x.json").write_text(json.dumps(coco_document(records)))
    (folder / "ann" / "stuff_x.json").write_text(json.dumps(stuff))
    return {"images": folder / "images", "annotations": folder / "ann"}


def _deep_pcb(folder: Path) -> dict[str, Any]:
    for number in range(3):
        group = folder / "group12000" / "12000"
        for kind in ("test", "temp"):
            picture(group / f"12000{number:03}_{kind}.png", number)
            (group / f"12000{number:03}_{kind}.png").rename(group / f"12000{number:03}_{kind}.jpg")
        labels = group.with_name("12000_not") / f"12000{number:03}.txt"
        labels.parent.mkdir(exist_ok=True)
        labels.write_text("".join(f"{x0} {y0} {x1} {y1} {k}\n" for k, (x0, y0, x1, y1) in enumerate(_SQUARE, 3)))
    return {"images": folder}


def _loco(folder: Path) -> dict[str, Any]:
    for record in (records := _records(folder)):
        record["path"] = f"/dataset/subset-2/{record['file_name']}"
    (folder / "loco-all-v1.json").write_text(json.dumps(coco_document(records)))
    return {"images": folder}


def _loco_csv(folder: Path) -> dict[str, Any]:
    lines = ["id,image_id,category_id,bbox,area,iscrowd,segmentation,width,height,file_name,path"]
    for i in range(3):
        name = picture(folder / f"p{i}.png", i)
        for k, (x0, y0, x1, y1) in enumerate(_SQUARE):
            box = f'"[{x0}, {y0}, {x1 - x0}, {y1 - y0}]"'
            lines.append(f"{2 * i + k},{i},{(5, 7)[k]},{box},100,False,[],{SIZE[0]},{SIZE[1]},{name},/dataset/{name}")
    (folder / "annotations.csv").write_text("\n".join(lines))
    return {"images": folder}


def _triples(folder: Path) -> dict[str, Any]:
    for i in range(3):
        picture(folder / f"p{i}.png", i)
        mask = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
        mask[10:44, 8:40] = 0
        Image.fromarray(mask).save(folder / f"p{i}.mask.png")
        (folder / f"p{i}.txt").write_text("a red cup\n")
    return {"images": folder}


def _voc(folder: Path) -> dict[str, Any]:
    for i in range(3):
        name = picture(folder / "JPEGImages" / f"p{i}.png", i)
        objects = "".join(
            f"<object><name>{NAMES[k]}</name><pose>Left</pose><difficult>0</difficult><bndbox><xmin>{x0}</xmin>"
            f"<ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
            for k, (x0, y0, x1, y1) in enumerate(_SQUARE)
        )
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        (folder / "Annotations").mkdir(exist_ok=True)
        (folder / "Annotations" / f"p{i}.xml").write_text(
            f"<annotation><filename>{name}</filename>{size}{objects}</annotation>", "utf-8"
        )
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "train.txt").write_text("p0\np1\n")
    (folder / "ImageSets" / "Main" / "val.txt").write_text("p2\n")
    return {"images": folder / "JPEGImages", "annotations": folder / "Annotations"}


def _vott(folder: Path) -> dict[str, Any]:
    assets = {}
    for i in range(3):
        name = picture(folder / f"p{i}.png", i)
        regions = [
            {
                "id": f"r{i}{k}",
                "type": "RECTANGLE",
                "tags": [NAMES[k]],
                "boundingBox": {"left": x0, "top": y0, "width": x1 - x0, "height": y1 - y0},
                "points": [{"x": x0, "y": y0}, {"x": x1, "y": y0}, {"x": x1, "y": y1}, {"x": x0, "y": y1}],
            }
            for k, (x0, y0, x1, y1) in enumerate(_SQUARE)
        ]
        size = {"width": SIZE[0], "height": SIZE[1]}
        asset = {"id": f"a{i}", "name": name, "path": f"file:C:/x/{name}", "size": size}
        assets[f"a{i}"] = {"asset": asset, "regions": regions, "version": "2.1.0"}
    tags = [{"name": name, "color": "#123456"} for name in NAMES]
    (folder / "p-export.json").write_text(json.dumps({"name": "p", "tags": tags, "assets": assets}))
    return {"images": folder}


def _vott_csv(folder: Path) -> dict[str, Any]:
    lines = ['"image","xmin","ymin","xmax","ymax","label"']
    for i in range(3):
        name = picture(folder / f"p{i}.png", i)
        lines += [f'"{name}",{x0},{y0},{x1},{y1},"{NAMES[k]}"' for k, (x0, y0, x1, y1) in enumerate(_SQUARE)]
    (folder / "p-export.csv").write_text("\r\n".join(lines), "utf-8")
    return {"images": folder}


def _yolo_lines() -> str:
    width, height = SIZE
    boxes = [
        f"{k} {(x0 + x1) / 2 / width} {(y0 + y1) / 2 / height} {(x1 - x0) / width} {(y1 - y0) / height}\n"
        for k, (x0, y0, x1, y1) in enumerate(_SQUARE)
    ]
    return "".join(boxes) + "0 0.1 0.2 0.5 0.2 0.5 0.8\n"


def _yolo(folder: Path) -> dict[str, Any]:
    for i in range(3):
        split = "val" if i == 2 else "train"
        picture(folder / "images" / split / f"p{i}.png", i)
        (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
        (folder / "labels" / split / f"p{i}.txt").write_text(_yolo_lines())
    names = f"names: {{0: {NAMES[0]}, 1: {NAMES[1]}}}\n"
    (folder / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/val\nnc: 2\n{names}", "utf-8")
    return {"images": folder / "images"}


def _yolo_bare(folder: Path) -> dict[str, Any]:
    for i in range(3):
        picture(folder / f"p{i}.png", i)
        (folder / f"p{i}.txt").write_text(_yolo_lines())
    (folder / "classes.txt").write_text("\n".join(NAMES), "utf-8")
    return {"images": folder}


def _darknet(folder: Path) -> dict[str, Any]:
    for i in range(3):
        picture(folder / "data" / f"p{i}.png", i)
        (folder / "data" / f"p{i}.txt").write_text(_yolo_lines())
    (folder / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    (folder / "data" / "obj.names").write_text("\n".join(NAMES), "utf-8")
    (folder / "data" / "train.txt").write_text("".join(f"data/p{i}.png\n" for i in range(3)))
    return {"images": folder, "annotations": folder / "obj.data"}


Sample = Callable[[Path], dict[str, Any]]  # writes into an empty folder; returns DatasetSettings without the format

SAMPLES: dict[str, list[Sample]] = {
    "coco": [_coco],
    "coco-stuff": [_coco_stuff],
    "deep-pcb": [_deep_pcb],
    "deep-pcb-layout": [_deep_pcb],
    "loco": [_loco, _loco_csv],
    "triples": [_triples],
    "voc": [_voc],
    "vott": [_vott, _vott_csv],
    "yolo": [_yolo, _yolo_bare, _darknet],
}


def write_sample(format: str, number: int, folder: Path) -> dict[str, Any]:
    """The format's sample `number` (they go round); returns DatasetSettings as plain values."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = SAMPLES.get(format) or [one for group in SAMPLES.values() for one in group]
    return {"format": format} | samples[number % len(samples)](folder)
