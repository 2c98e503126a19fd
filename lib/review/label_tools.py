"""Label tools: all pictures of a review go out with their boxes, verdicts and decisions, and decisions come back in.

    write_review(session, "label-studio", folder)               # tasks.json, config.xml, images/
    read_review(session, Path("project-1-at-….json"), "ann")     # what differs from what went out becomes decisions

Label Studio: a picture's boxes are a prediction with its score; where somebody decided, they are an annotation with the
choice keep or reject too. CVAT: annotations.xml, the decision is a tag. Both know a box by its id, so that one that
comes back elsewhere was moved, one that does not come back was rejected, and one without an id was drawn anew.
"""

from __future__ import annotations

import hashlib
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote

import msgspec

from lib.core.documents import decode_xml
from lib.core.errors import AugmentError
from lib.core.images import plain_path
from lib.datasets.export.folder import replaced
from lib.datasets.export.voc import element, number, xml_bytes
from lib.records.kept import FAULTS
from lib.records.requests import XYXY
from lib.review.catalogue import Item, ReviewedRun
from lib.review.session import Post, Session, cut
from lib.screening.decisions import BoxMark, Change, Mark, Reviewed, Shape, Status

TOOLS = ("label-studio", "cvat")
_STATUS = get_args(Status)
_MOST = 500_000_000  # bytes of a file that is read


@dataclass(frozen=True)
class _Box:
    id: str
    category: str
    xywh: XYXY
    learned: bool
    score: float | None
    said: str


def _boxes(item: Item, state: Reviewed) -> list[_Box]:
    """The boxes of a picture as they stand after the decisions."""
    found = []
    for box in item.boxes:
        mark, shape = state.boxes.get(box.id), state.shapes.get(box.id)
        learned = mark != "reject" and (mark == "keep" or shape is not None or box.fate == "keep")
        category, xywh = (shape.category, shape.xywh) if shape else (box.category, box.xywh)
        found.append(_Box(box.id, category, xywh, learned, box.score, box.said))
    for id, shape in state.shapes.items():
        if id.startswith("new-") and state.boxes.get(id) != "reject":
            found.append(_Box(id, shape.category, shape.xywh, True, None, ""))
    return found


# --- out ---------------------------------------------------------------------------------------------------------


def write_review(session: Session, tool: str, out: Path) -> dict[str, Any]:
    """Write pictures, boxes and decisions into the folder `out`; returns counts and how the tool is started.

    Raises AugmentError where `out` holds anything else, and where the session has several runs.
    """
    run = _only(session)
    lost = 0
    with replaced(out, f"review-{tool}", lambda count: None) as files:
        shown = []
        for key, item in run.items.items():
            data = run.store.get("picture", key)
            if data is None:
                lost += 1
                continue
            if plain_path(item.name) != item.name:  # a manifest may be a stranger's
                raise AugmentError(f"picture {item.name!r:.200} leads out of its folder: run again")
            files.write(f"images/{item.name}", data)
            shown.append((item, run.log.of(key, item.sha256)))
        if tool == "label-studio":
            tasks = [_task(item, state) for item, state in shown]
            files.write("tasks.json", b"[\n" + b",\n".join(map(msgspec.json.encode, tasks)) + b"\n]\n")
            files.write("config.xml", xml_bytes(_config(run)))
        else:
            files.write("annotations.xml", xml_bytes(_document(run, shown)))
    return {"folder": str(out), "pictures": len(shown), "lost": lost, "use": _USE[tool].format(folder=out)}


_USE = {
    "label-studio": "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={folder} "
    "label-studio, with a local storage of {folder}/images, config.xml as labeling interface, then import of "
    "tasks.json; back with Export, JSON, and `augment review RUN --from FILE`",
    "cvat": "a CVAT task of the pictures in {folder}/images with the labels of annotations.xml, then Upload "
    "annotations, CVAT 1.1; back with Export, CVAT for images 1.1, and `augment review RUN --from annotations.xml`",
}


def _task(item: Item, state: Reviewed) -> dict[str, Any]:
    boxes = _boxes(item, state)
    result = [_result(box, item) for box in boxes]
    scores = [box.score for box in boxes if box.score is not None]
    task: dict[str, Any] = {
        "data": {
            "image": f"/data/local-files/?d={quote(f'images/{item.name}')}",
            "picture": item.key,
            "sha256": item.sha256,
            "source": item.source_name,
            "painter": item.painter,
            "review": state.status or "",
            "note": state.note,
        },
        "predictions": [
            {"model_version": f"{item.edit} {item.painter}", "score": min(scores, default=1.0), "result": result}
        ],
    }
    if state.status or state.boxes or state.shapes:
        choice = {"id": "review", "type": "choices", "from_name": "review", "to_name": "image"}
        chosen = [{**choice, "value": {"choices": [state.status]}}] if state.status else []
        task["annotations"] = [
            {"result": [one for box, one in zip(boxes, result, strict=True) if box.learned] + chosen}
        ]
    return task


def _result(box: _Box, item: Item) -> dict[str, Any]:
    sides = (item.width, item.height) * 2
    percent = {k: 100 * v / s for k, v, s in zip(("x", "y", "width", "height"), box.xywh, sides, strict=True)}
    texts = [text for text in ("" if box.learned else "not learned", box.said) if text]
    return {
        "id": f"box-{box.id}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": item.width,
        "original_height": item.height,
        "image_rotation": 0,
        "value": {**percent, "rotation": 0, "rectanglelabels": [box.category]},
        **({"score": box.score} if box.score is not None else {}),
        **({"meta": {"text": texts}} if texts else {}),
    }


def _config(run: ReviewedRun) -> ET.Element:
    view = ET.Element("View")
    ET.SubElement(view, "Image", name="image", value="$image")
    labels = ET.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in run.categories:
        ET.SubElement(labels, "Label", value=name)
    choices = ET.SubElement(view, "Choices", name="review", toName="image", choice="single")
    for status in _STATUS:
        ET.SubElement(choices, "Choice", value=status)
    return view


def _document(run: ReviewedRun, shown: list[tuple[Item, Reviewed]]) -> ET.Element:
    root = element("annotations", version="1.1")
    task = ET.SubElement(ET.SubElement(root, "meta"), "task")
    task.append(element("size", len(shown)))
    labels = ET.SubElement(task, "labels")
    for name in run.categories:
        label = _label(labels, name, "rectangle")
        attributes = ET.SubElement(label, "attributes")
        for attribute in ("box", "said"):
            _attribute(attributes, attribute)
    for status in _STATUS:
        _label(labels, f"review: {status}", "tag")
    for place, (item, state) in enumerate(shown):
        size = {"width": str(item.width), "height": str(item.height)}
        image = ET.SubElement(root, "image", {"id": str(place), "name": item.name, **size})
        for box in _boxes(item, state):
            if not box.learned and (state.status or state.boxes):
                continue  # a decision that stands
            _cvat_box(image, box)
        if state.status:
            ET.SubElement(image, "tag", label=f"review: {state.status}", source="file")
    return root


def _label(labels: ET.Element, name: str, kind: str) -> ET.Element:
    label = element("label", name=name, type=kind)
    labels.append(label)
    return label


def _attribute(attributes: ET.Element, name: str) -> None:
    facts = {"mutable": "False", "input_type": "text", "default_value": "", "values": ""}
    attributes.append(element("attribute", name=name, **facts))


def _cvat_box(image: ET.Element, box: _Box) -> None:
    x, y, w, h = box.xywh
    corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), map(number, (x, y, x + w, y + h)), strict=True))
    node = ET.SubElement(
        image, "box", {"label": box.category, "occluded": "0", "source": "file", **corners, "z_order": "0"}
    )
    for name, text in (("box", box.id), ("said", box.said if box.learned else f"not learned; {box.said}")):
        ET.SubElement(node, "attribute", name=name).text = text


# --- back in -----------------------------------------------------------------------------------------------------


@dataclass
class _Back:
    """A picture as the tool gives it back."""

    status: str | None
    boxes: list[tuple[str | None, str, XYXY]]  # id that it went out with, category, xywh
    by: str = ""


@dataclass
class Taken:
    """What came of a file."""

    pictures: int = 0  # whose decisions changed
    same: int = 0
    strange: list[str] = field(default_factory=list)  # names that this run does not have
    unknown: Counter[str] = field(default_factory=Counter)  # category that the data set lacks → boxes not taken in


def read_review(session: Session, file: Path, reviewer: str) -> Taken:
    """Take in the JSON of Label Studio or the XML of CVAT: what differs from the decisions so far is appended to them.

    Raises AugmentError for a file that is neither, or that cannot be read.
    """
    run, taken = _only(session), Taken()
    by_name = {item.name: item for item in run.items.values()}
    by_key = dict(run.items)
    for name, key, back in _read(file):
        item = by_key.get(key) if key else by_name.get(_undone(name))
        if item is None:
            taken.strange.append(name)
            continue
        changes = list(_differences(run, item, back, taken.unknown))
        if changes:
            id = hashlib.sha256(
                msgspec.json.encode([item.key, [msgspec.to_builtins(one) for one in changes]])
            ).hexdigest()
            now = run.log.version
            session.decide(Post(run=0, id=f"tool-{now}-{id[:24]}", by=back.by or reviewer, changes=changes))
        taken.pictures += bool(changes)
        taken.same += not changes
    return taken


def _undone(name: str) -> str:
    """The name without folders, and without what Label Studio puts before the names of uploads."""
    return re.sub(r"^[0-9a-f]{8}-(?=.*__)", "", name.rpartition("/")[2])


def _read(file: Path) -> Iterator[tuple[str, str, _Back]]:
    try:
        if file.stat().st_size > _MOST:
            raise AugmentError(f"{file} has more than {_MOST} bytes: export less at once")
        data = file.read_bytes()
    except OSError as error:
        raise AugmentError(f"{file} cannot be read ({error.strerror or error}): give a label tool's export") from None
    text = data.lstrip(b"\xef\xbb\xbf \t\r\n")
    yield from _from_cvat(file, data) if text.startswith(b"<") else _from_label_studio(file, data)


def _from_label_studio(file: Path, data: bytes) -> Iterator[tuple[str, str, _Back]]:
    try:
        tasks = msgspec.json.decode(data, type=list[dict[str, Any]])
        for task in tasks:
            made = [one for one in task.get("annotations") or () if not one.get("was_cancelled")]
            if not made:
                continue
            facts, last = task["data"], made[-1]
            name = str(facts.get("image", "")).rpartition("/")[2]
            yield name, str(facts.get("picture", "")), _of_annotation(last)
    except (*FAULTS, KeyError, TypeError, AttributeError, IndexError, ZeroDivisionError) as error:
        raise AugmentError(
            f"{file} is no export of Label Studio ({type(error).__name__}: {error}): choose JSON"
        ) from None


def _of_annotation(annotation: Mapping[str, Any]) -> _Back:
    status, boxes = None, []
    for one in annotation["result"]:
        value = one["value"]
        if one["type"] == "choices" and one.get("from_name") == "review":
            status = str(value["choices"][0])
        elif one["type"] == "rectanglelabels":
            sides = (float(one["original_width"]), float(one["original_height"])) * 2
            x, y, w, h = (float(value[k]) / 100 * s for k, s in zip(("x", "y", "width", "height"), sides, strict=True))
            id = str(one.get("id", ""))
            boxes.append(
                (
                    id.removeprefix("box-") if id.startswith("box-") else None,
                    str(value["rectanglelabels"][0]),
                    (x, y, w, h),
                )
            )
    who = annotation.get("completed_by")
    by = who.get("email", "") if isinstance(who, dict) else ""
    return _Back(status, boxes, str(by)[:100])


def _from_cvat(file: Path, data: bytes) -> Iterator[tuple[str, str, _Back]]:
    try:
        root = decode_xml(data, _MOST)
        for image in root.iter("image"):
            tags = [tag.get("label", "") for tag in image.findall("tag")]
            status = next((tag.removeprefix("review: ") for tag in reversed(tags) if tag.startswith("review: ")), None)
            yield image.attrib["name"], "", _Back(status, [_of_cvat(box) for box in image.findall("box")])
    except (ET.ParseError, KeyError, ValueError) as error:
        raise AugmentError(f"{file} is no CVAT for images 1.1 ({type(error).__name__}: {error}): choose that") from None


def _of_cvat(box: ET.Element) -> tuple[str | None, str, XYXY]:
    x0, y0, x1, y1 = (float(box.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
    ids = [one.text for one in box.findall("attribute") if one.get("name") == "box" and one.text]
    return ids[0] if ids else None, box.attrib["label"], (x0, y0, x1 - x0, y1 - y0)


def _differences(run: ReviewedRun, item: Item, back: _Back, unknown: Counter[str]) -> Iterator[Change]:
    """Changes that make of the decisions on a picture what came back. unknown: boxes of categories that the data set
    lacks are counted there; one that went out stays as it was."""
    state = run.log.of(item.key, item.sha256)
    if back.status in _STATUS and back.status != state.status:
        yield Mark(picture=item.key, status=back.status)  # type: ignore[arg-type]
    now = {box.id: box for box in _boxes(item, state)}
    seen = set()
    for id, category, (x, y, w, h) in back.boxes:
        if w <= 0 or h <= 0:
            continue
        if category not in run.categories:
            unknown[category] += 1
            seen.add(id)
            continue
        xywh = (round(x, 3), round(y, 3), round(w, 3), round(h, 3))
        if id is None or id not in now:
            key = hashlib.sha256(msgspec.json.encode([category, xywh])).hexdigest()[:16]
            if f"new-{key}" not in now:
                yield Shape(picture=item.key, box=f"new-{key}", category=category, xywh=xywh)
            seen.add(f"new-{key}")
            continue
        seen.add(id)
        if category != now[id].category or _moved(xywh, now[id].xywh, item):
            yield Shape(picture=item.key, box=id, category=category, xywh=xywh)
    for id, box in now.items():
        if id not in seen and box.learned:
            yield BoxMark(picture=item.key, box=id, status="reject")


_SAME = 0.05  # pixels: tools round


def _moved(one: XYXY, other: XYXY, item: Item) -> bool:
    """Do two boxes differ in the picture? What sticks out of it is cut off when it is decided on, and by some tools."""
    return max(abs(a - b) for a, b in zip(cut(one, item), cut(other, item), strict=True)) > _SAME


def _only(session: Session) -> ReviewedRun:
    if len(session.runs) != 1:
        raise AugmentError("label tools take the pictures of one run: name one")
    return session.runs[0]
