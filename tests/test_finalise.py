"""Where data leaves: originals as they were, new ones with ids of their own, and nothing outside the folder."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib.core.errors import AugmentError
from lib.core.images import encode_png
from lib.core.keys import key_of
from lib.datasets.finalise import Made, finalise
from lib.datasets.formats import read_dataset
from lib.datasets.ids import Given, Ids
from lib.datasets.ingest import check_pictures, settle_objects
from lib.datasets.names import FinalNames
from lib.datasets.write_coco import Sources
from lib.records.kept import write_lines
from lib.records.manifest import to_table
from lib.records.requests import Label, Request
from lib.records.rle import encode_rle
from lib.records.rows import OK, FinalRow, ReviewRow
from lib.records.settings import DatasetSettings, FinaliseSettings
from lib.records.store import Store

WIDTH, HEIGHT = 40, 30
INT64, UINT64 = 2**63 - 1, 2**64 - 1


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


class Folder:
    """A source data set, its workspace, and what the stages before finalise would have made of it."""

    def __init__(self, root: Path) -> None:
        self.root, self.pictures = root, root / "source"
        self.store, self.final = Store(root / "store"), root / "ws" / "final"
        self.coco = {"info": {"year": 2024}, "images": [], "annotations": [], "categories": [{"id": 3, "name": "cat"}]}
        self.written: Callable[[str], str] = str  # the text of the annotations as it is in the file
        self.dataset: dict[str, str] = {}
        self.reviewed: list[ReviewRow] = []
        self.requests: dict[str, Request] = {}
        self.known: pd.DataFrame | None = None

    def add(self, id, name="", note_ids=(), file=None, **fields):
        """One picture (a file of `name`, or of `file` where the record names it oddly) and its annotations."""
        name = name or f"{id}.png"
        path = self.pictures / (file or name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(len(self.coco["images"]))).save(path)
        record = {"id": id, "file_name": name, "width": WIDTH, "height": HEIGHT}
        self.coco["images"].append(record | fields)
        for note_id in note_ids:
            self.note(note_id, id)

    def note(self, id, image_id, bbox=(4, 5, 20, 10), **fields):
        record = {
            "id": id,
            "image_id": image_id,
            "category_id": 3,
            "bbox": bbox and list(bbox),
            "area": 200,
            "iscrowd": 0,
        }
        self.coco["annotations"].append(record | fields)

    def ingest(self) -> Sources:
        """The rows of the ingest stage."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        path = self.root / "source.json"
        path.write_text(self.written(json.dumps(self.coco)))
        parsed = read_dataset(DatasetSettings(images=self.pictures, annotations=path, **self.dataset))
        images = check_pictures(parsed.images.to_pandas(), self.pictures, 10**6)
        objects = settle_objects(images, parsed.objects)
        return Sources(images, objects.to_pandas(), parsed.envelope, self.pictures)

    def paint(self, id, *labels, variant=0, **changes):
        """A synthetic picture of the source picture `id`; its request's key."""
        values = {
            "image_key": json.dumps(id),
            "source": "d",
            "frame": "upright",
            "width": WIDTH,
            "height": HEIGHT,
            "split": "train",
            "variant": variant,
            "edit": "replace",
            "painter": {"name": "p"},
            "composite": {"name": "c"},
            "passes": (),
            "labels": labels,
        }
        request = Request(**(values | changes))
        key = key_of(request)
        sha256 = self.store.put("picture", key, encode_png(picture(1000 + variant)))
        name = f"{key[:12]}.png"
        self.reviewed.append(ReviewRow(key, OK, "", "", request.image_key, key, sha256, name))
        self.requests[key] = request
        return key

    def finish(self, **values) -> list[FinalRow]:
        """The finalise stage."""
        sources = self.ingest()
        reviewed = to_table(self.reviewed, ReviewRow).to_pandas()
        rows = [
            *finalise(
                self.final,
                sources,
                Made(reviewed, self.requests),
                Ids.read(self.root / "ws" / "ids.jsonl"),
                FinaliseSettings(**values),
                self.store,
                None if self.known is None else [self.known],
            )
        ]
        self.known = to_table(rows, FinalRow).to_pandas()
        return rows

    def result(self, name="annotations.json"):
        return json.loads((self.final / name).read_bytes())

    def files(self):
        """Every file below the root but the sources, the store, ids and the note of what is ours."""
        inside = [p for p in self.root.rglob("*") if p.is_file() and self.store.root not in p.parents]
        names = {p.relative_to(self.root).as_posix() for p in inside if self.pictures not in p.parents}
        return names - {"source.json", "ws/.final.jsonl", "ws/ids.jsonl"}


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def kept(id):
    return Label(source=json.dumps(id), painted=False)


def redrawn(id):
    box = (6.0, 7.0, 10.0, 5.0)
    polygon = (6.0, 7.0, 16.0, 7.0, 16.0, 12.0)
    return Label(source=json.dumps(id), painted=True, bbox=box, segmentation=(polygon,), area=25.0)


def unique(records):
    return len({record["id"] for record in records}) == len(records)


# Ids


@pytest.fixture
def ids_file(tmp_path):
    return tmp_path / "ids.jsonl"


def assigned(path, requests, image_ids, annotation_ids):
    """Ids for all these requests, in their order, as finalise gives them."""
    ids = Ids.read(path)
    ids.clear_of(image_ids, annotation_ids)
    for key, request in requests.items():
        ids.give(key, len(request.labels))
    ids.write()
    return {given.key: given for given in Ids.read(path).records()}


def assign(path, known=None, keys=(), originals=()):
    """Ids of pictures without labels."""
    write_lines(path, [Given(key, id, []) for key, id in (known or {}).items()])
    found = assigned(path, dict.fromkeys(keys, Bare()), originals, [])
    return {key: given.image for key, given in found.items() if given.image is not None}


class Bare:
    labels = ()


def test_ids_start_above_the_largest_of_the_originals(ids_file):
    assert assign(ids_file, keys=["a", "b"], originals=["5", "12", "3"]) == {"a": 13, "b": 14}


def test_without_originals_ids_start_at_one(ids_file):
    assert assign(ids_file, keys=["a"]) == {"a": 1}


def test_ids_are_remembered_whatever_comes_later(ids_file):
    known = assign(ids_file, keys=["a", "b"], originals=["5"])
    assert assign(ids_file, known, ["c", "b", "a"], ["5"]) == {"a": 6, "b": 7, "c": 8}


def test_an_id_of_a_picture_that_went_away_is_not_given_to_another(ids_file):
    known = assign(ids_file, keys=["a", "b"], originals=["5"])
    assert assign(ids_file, known, ["c"], ["5"])["c"] == 8


def test_an_id_that_an_original_now_uses_is_given_anew(ids_file):
    assert assign(ids_file, {"a": 6, "b": 7}, ["a", "b"], ["5", "6"]) == {"b": 7, "a": 8}


def test_ids_that_are_text_do_not_count(ids_file):
    assert assign(ids_file, keys=["a"], originals=['"900"', '"x"', "5", '"7#2"', "5#2", "#4"]) == {"a": 6}


@pytest.mark.parametrize("number", ["900.0", "9e2", "899.5"])  # all JSON numbers
def test_ids_that_are_fractions_count_as_the_numbers_that_readers_see(number, ids_file):
    assert assign(ids_file, keys=["a"], originals=["5", number])["a"] == 901


def test_a_remembered_id_equal_to_an_originals_fraction_is_given_anew(ids_file):
    assert assign(ids_file, {"a": 6}, ["a"], ["6.0"])["a"] == 7


def test_negative_ids_are_ids(ids_file):
    assert assign(ids_file, keys=["a"], originals=["-4", "-9"]) == {"a": 1}


@pytest.mark.parametrize("largest", [INT64, UINT64, 10**30])
def test_an_id_beyond_64_bits_is_still_counted_up(largest, ids_file):
    assert assign(ids_file, keys=["a"], originals=[str(largest)]) == {"a": largest + 1}
    assert assign(ids_file, {"a": largest + 1}, ["a", "b"], [str(largest)]) == {"a": largest + 1, "b": largest + 2}
    assert assign(ids_file, {"a": largest + 1}, ["a"], [str(largest + 1)]) == {"a": largest + 2}


def test_annotations_have_an_id_per_label(ids_file):
    ids = assigned(ids_file, {"a": Request.model_construct(labels=("x", "y"))}, ["1"], ["40"])
    assert ids["a"].annotations == [41, 42]


def test_ids_read_back_as_written(ids_file):
    ids = assigned(ids_file, {"b": Request.model_construct(labels=("x", "y")), "a": Bare()}, ["1"], ["40"])
    assert ids == {"a": Given("a", 3, []), "b": Given("b", 2, [41, 42])}
    ids = Ids.read(ids_file)
    ids.clear_of(["1"], ["40"])
    assert (ids.image("b"), ids.annotation("b", 1), ids.image("a")) == (2, 42, 3)


def test_a_labels_id_that_an_original_now_uses_is_given_anew(ids_file):
    write_lines(ids_file, [Given("a", 2, [41, 42])])
    ids = assigned(ids_file, {"a": Request.model_construct(labels=("x", "y"))}, ["1"], ["41"])
    assert ids["a"] == Given("a", 2, [43, 42])


def test_ids_of_a_former_version_stay(ids_file):
    former = ids_file.with_suffix(".json")
    former.write_text(json.dumps({"images": {"a": 3, "b": 4}, "annotations": {"b:1": 8, "b:0": 9}}))
    ids = assigned(ids_file, {"c": Bare()}, ["1"], ["1"])
    assert ids == {"a": Given("a", 3, []), "b": Given("b", 4, [9, 8]), "c": Given("c", 5, [])}
    assert not former.exists()


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([["a", 3, []], ["b", 3, []]], "id 3 appears twice among its images"),
        ([["a", 3, [7, 7]]], "id 7 appears twice among its annotations"),
        ([["a", 3, [10**30]], ["b", 4, [10**30]]], f"id {10**30} appears twice among its annotations"),
        ([["a", 0, []]], ">= 1"),
        ([["a", 1, [-3]]], ">= 1"),
        ([["a", 1.5, []]], "float"),
        ([["a", True, []]], "bool"),
        ([["a", 1]], "length"),
        ([["a", 1, [], 2]], "length"),
        ([{}], "array"),
    ],
)
def test_impossible_ids_are_reported_with_file_and_remedy(ids_file, lines, fault):
    write_lines(ids_file, lines)
    match = rf"ids\.jsonl is damaged \(.*{fault}.*\): restore it, or remove it: all .* new ids"
    with pytest.raises(AugmentError, match=match):
        Ids.read(ids_file)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ({"images": {"a": 3, "b": 3}, "annotations": {}}, "id 3 appears twice among its images"),
        ({"images": {}, "annotations": {"a:0": 7, "a:1": 7}}, "id 7 appears twice among its annotations"),
        ({"images": {"a": 0}, "annotations": {}}, ">= 1"),
        ({"images": {"a": -3}, "annotations": {}}, ">= 1"),
        ({"images": {"a": 1.5}, "annotations": {}}, "float"),
        ({"images": {"a": True}, "annotations": {}}, "bool"),
        ({"images": {"a": 1}, "annotations": {"a:x": 1}}, "'a:x' is no label"),
        ({"images": {}}, "annotations"),
        ({"images": {}, "annotations": {}, "more": {}}, "more"),
        ([], "array"),
    ],
)
def test_impossible_ids_of_a_former_version_are_reported_with_file_and_remedy(ids_file, content, fault):
    ids_file.with_suffix(".json").write_text(json.dumps(content))
    with pytest.raises(
        AugmentError, match=rf"ids\.json is damaged \(.*{fault}.*\): restore it, or remove it: all .* new ids"
    ):
        Ids.read(ids_file)


def test_without_a_file_no_ids_are_remembered(ids_file):
    assert not [*Ids.read(ids_file).records()]


KEYS = st.lists(st.text("abc", min_size=1, max_size=3), unique=True, max_size=8)
ORIGINALS = st.lists(st.integers(-5, 40).map(str) | st.text("xy", max_size=2).map(json.dumps), max_size=10)


@given(st.lists(st.tuples(KEYS, ORIGINALS), min_size=1, max_size=5))
def test_over_any_runs_ids_stay_unique_clear_of_originals_and_change_only_for_them(tmp_path_factory, runs):
    ids_file = tmp_path_factory.getbasetemp() / "any.jsonl"
    known: dict[str, int] = {}
    for keys, originals in runs:
        after = assign(ids_file, known, keys, originals)
        numbers = {int(o) for o in originals if not o.startswith('"')}
        assert set(keys) <= set(after) and len(set(after.values())) == len(after)
        assert not numbers & set(after.values())
        assert all(after[key] == id for key, id in known.items() if id not in numbers and key in after)
        known = after


# Names


def names(*pairs):
    rows = pd.DataFrame([{"key": str(i), "file_name": n, "path": p} for i, (n, p) in enumerate(pairs)])
    return named(rows)


def named(rows, yolo=False):
    """One row at a time, as many a data set comes in pieces."""
    with tempfile.TemporaryDirectory() as folder:
        pieces = [rows.iloc[[i]] for i in range(len(rows))]
        names = FinalNames(lambda: pieces, Path(folder), yolo)
        return [name for piece in pieces for name in names.of(piece)]


def test_a_picture_keeps_its_name():
    assert names(("a.png", "a.png"), ("b c,d.é.png", "b c,d.é.png")) == ["a.png", "b c,d.é.png"]


def test_pictures_of_one_name_go_by_their_paths():
    pairs = [("a.png", "x/a.png"), ("a.png", "y/a.png"), ("b.png", "x/b.png")]
    assert names(*pairs) == ["x/a.png", "y/a.png", "b.png"]


def test_names_that_differ_only_in_case_go_by_their_paths():
    assert names(("A.png", "x/A.png"), ("a.png", "y/a.png")) == ["x/A.png", "y/a.png"]


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "x/../../a.png", "", ".", "a\0.png"])
def test_an_unsafe_name_goes_by_its_path(name):
    assert names((name, "x/a.png")) == ["x/a.png"]


@pytest.mark.parametrize("name", ["./a.png", "x//a.png", "x/./a.png"])
def test_a_roundabout_name_stays(name):
    assert names((name, PurePosixPath(name).as_posix())) == [name]


def test_a_name_that_is_anothers_path_does_not_take_its_place():
    assert names(("a.png", "x/a.png"), ("a.png", "y/a.png"), ("x/a.png", "z/a.png")) == [
        "x/a.png",
        "y/a.png",
        "z/a.png",
    ]


def test_roundabout_and_plain_names_of_two_pictures_do_not_meet():
    assert names(("./a.png", "a.png"), ("a.png", "x/a.png")) == ["a.png", "x/a.png"]


@pytest.mark.parametrize(
    ("name", "path", "expected"),
    [
        ("x\\a.png", "x/a.png", "x/a.png"),
        ("x\\a.png", "x\\a.png", "x%5Ca.png"),  # a file may have one in its name
        ("a\nb.png", "a\nb.png", "a%0Ab.png"),
        ("a\r\nb.png", "sub/a\r\nb.png", "sub/a%0D%0Ab.png"),
        ("a\tb\x7f\x85\u2028.png", "a\tb\x7f\x85\u2028.png", "a%09b%7F%C2%85%E2%80%A8.png"),
        ("100%.png", "100%.png", "100%.png"),
    ],
)
def test_a_name_has_no_backslash_and_no_line_break(name, path, expected):
    assert names((name, path)) == [expected]


def test_an_encoded_name_does_not_take_the_place_of_another():
    written = names(("a%0Ab.png", "a%0Ab.png"), ("a\nb.png", "a\nb.png"), ("A\nb.png", "A\nb.png"))
    assert written[0] == "a%0Ab.png" and len({name.casefold() for name in written}) == 3
    assert written == names(("a%0Ab.png", "a%0Ab.png"), ("a\nb.png", "a\nb.png"), ("A\nb.png", "A\nb.png"))


def test_one_odd_file_under_two_records_has_one_name():
    assert names(("a\nb.png", "a\nb.png"), ("a\nb.png", "a\nb.png")) == ["a%0Ab.png"] * 2


PARTS = st.lists(st.sampled_from(["a", "A", "b", ".", "..", "", "c.png"]), min_size=1, max_size=4).map("/".join)


@given(st.lists(PARTS, max_size=6), st.data())
def test_final_names_are_unique_and_stay_inside(file_names, data):
    pairs = [(name, f"{i}/p.png") for i, name in enumerate(file_names)]
    written = names(*pairs) if pairs else []
    assert len({str(PurePosixPath(name)).casefold() for name in written}) == len(written)
    assert not any(".." in PurePosixPath(name).parts or name.startswith("/") for name in written)


# Originals


def test_without_synthetic_pictures_the_final_set_is_the_source(folder):
    folder.add(1, "a.png", [10, 11], license=2, captured="noon")
    folder.add(2, "b/c.png")
    folder.note(12, 2, bbox=[1.25, 2.5, 3.125, 4], segmentation=[[1, 2, 3, 4, 5, 6]], score=1e-7)
    folder.finish()
    assert folder.result() == folder.coco
    for name in ("a.png", "b/c.png"):
        assert (folder.final / "images" / name).read_bytes() == (folder.pictures / name).read_bytes()


FIELD_NAMES = st.text(st.characters(codec="utf-8"), max_size=8)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), UINT64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELD_NAMES, inner, max_size=3),
    max_leaves=6,
)
TAKEN = {"id", "image_id", "category_id", "bbox", "iscrowd", "segmentation", "file_name", "width", "height"}
EXTRA = st.dictionaries(FIELD_NAMES.filter(lambda n: n not in TAKEN), PLAIN, max_size=3)
ID = st.integers(-(2**63), UINT64) | st.text(st.characters(codec="utf-8"), max_size=5)
NUMBER = st.floats(-50, 80) | st.integers(-50, 80)


@st.composite
def cocos(draw):
    image_ids = draw(st.lists(ID, unique=True, min_size=1, max_size=3))
    note_ids = draw(st.lists(ID, unique=True, max_size=5))
    images = [draw(EXTRA) | {"id": i, "file_name": f"{n}.png"} for n, i in enumerate(image_ids)]
    notes = [
        draw(EXTRA)
        | {"id": i, "image_id": draw(st.sampled_from(image_ids)), "category_id": 3}
        | {"bbox": draw(st.lists(NUMBER, min_size=4, max_size=4)), "iscrowd": draw(st.sampled_from([0, 1, False]))}
        for i in note_ids
    ]
    return draw(EXTRA.filter(lambda e: not {"images", "annotations", "categories"} & set(e))) | {
        "images": images,
        "categories": [{"id": 3, "name": "cat"} | draw(EXTRA.filter(lambda e: "name" not in e))],
        "annotations": notes,
    }


@given(cocos())
@settings(max_examples=40)
def test_any_coco_file_comes_out_as_it_went_in(coco):
    root = Path(tempfile.mkdtemp())
    try:
        made = Folder(root)
        made.pictures.mkdir()
        for image in coco["images"]:
            Image.fromarray(picture(1)).save(made.pictures / image["file_name"])
        made.coco = coco
        made.finish()
        assert made.result() == coco and list(made.result()) == list(coco)
    finally:
        shutil.rmtree(root)


def test_records_are_copied_byte_for_byte(folder):
    folder.add("x", "a.png")
    folder.coco = {}
    odd = b'{ "id" : "x",\n"file_name":"a.png", "f": 1.0e+2, "u": "\\u00e9", "big": 123456789012345678901234567890 }'
    note = b'{"image_id": "x", "id": 7,   "category_id": 3, "bbox": [1.50, 2, 3E0, 4], "iscrowd": false}'
    document = b'{"images": [' + odd + b'], "annotations": [' + note + b'], "categories": [{"id": 3, "name": "cat"}]}'
    path = folder.root / "source.json"
    path.write_bytes(document)
    parsed = read_dataset(DatasetSettings(images=folder.pictures, annotations=path))
    images = check_pictures(parsed.images.to_pandas(), folder.pictures, 10**6)
    sources = Sources(images, settle_objects(images, parsed.objects).to_pandas(), parsed.envelope, folder.pictures)
    none = to_table([], ReviewRow).to_pandas()
    list(
        finalise(
            folder.final,
            sources,
            Made(none, {}),
            Ids(folder.root / "ids.jsonl"),
            FinaliseSettings(),
            folder.store,
            None,
        )
    )
    written = (folder.final / "annotations.json").read_bytes()
    assert odd in written and note in written


def test_boxes_that_cannot_be_edited_stay(folder):
    folder.add(1, note_ids=[10])
    folder.note(11, 1, bbox=[5, 5, 0, 4])
    folder.note(12, 1, bbox=[500, 5, 9, 4])
    folder.note(13, 1, bbox=[5, 5])
    folder.note(14, 1, category_id=99)
    folder.finish()
    assert folder.result() == folder.coco


def test_a_picture_of_another_size_than_annotated_stays(folder):
    folder.add(1, note_ids=[10], width=WIDTH + 1)
    folder.finish()
    assert folder.result() == folder.coco


def test_a_missing_picture_goes_with_its_boxes_and_the_rest_stays(folder):
    folder.add(1, note_ids=[10])
    folder.add(2, note_ids=[20])
    (folder.pictures / "1.png").unlink()
    folder.finish()
    assert [i["id"] for i in folder.result()["images"]] == [2]
    assert [a["id"] for a in folder.result()["annotations"]] == [20]


def test_of_colliding_ids_the_first_stays(folder):
    folder.add(1, "a.png", [10, 10])
    folder.add(1, "b.png")
    folder.finish()
    written = folder.result()
    assert [i["file_name"] for i in written["images"]] == ["a.png"] and len(written["annotations"]) == 1


def test_a_source_that_changed_since_ingest_is_a_row_and_its_boxes_are_left_out(folder, monkeypatch):
    folder.add(1, note_ids=[10])
    folder.add(2, note_ids=[20])
    sources = folder.ingest()
    Image.fromarray(picture(77)).save(folder.pictures / "1.png")
    monkeypatch.setattr(folder, "ingest", lambda: sources)
    rows = folder.finish()
    assert [(row.key, row.reason) for row in rows] == [("original:1", "image_changed"), ("original:2", "")]
    assert [a["id"] for a in folder.result()["annotations"]] == [20]
    assert folder.files() == {"ws/final/annotations.json", "ws/final/images/2.png"}


@pytest.mark.parametrize(("originals", "expected"), [("all", [1, 2]), ("selected", [2]), ("none", [])])
def test_which_originals_join_is_a_setting(folder, originals, expected):
    folder.add(1, note_ids=[10])
    folder.add(2, note_ids=[20])
    folder.paint(2, kept(20))
    folder.finish(originals=originals)
    written = folder.result()
    assert [i["id"] for i in written["images"] if "source_image_id" not in i] == expected
    assert len(written["images"]) == len(expected) + 1 and len(written["annotations"]) == len(expected) + 1


# Synthetic pictures


def test_a_synthetic_picture_records_where_it_comes_from(folder):
    folder.add(7, "deep/a.png", [10], license=2)
    folder.paint(7, redrawn(10), variant=3, regions=((2, 3, 9, 7), (4, 4, 5, 6)))
    folder.finish()
    image = folder.result()["images"][-1]
    assert image == {
        "id": 8,
        "file_name": folder.reviewed[0].name,
        "width": WIDTH,
        "height": HEIGHT,
        "license": 2,
        "source_image_id": 7,
        "source_file_name": "deep/a.png",
        "edit": "replace",
        "painter": "p",
        "composite": "c",
        "variant": 3,
        "regions": [[2, 3, 7, 4], [4, 4, 1, 2]],
    }


def test_an_edited_box_has_its_new_shape_and_the_sources_other_fields(folder):
    folder.add(7)
    folder.note(10, 7, segmentation=[[1, 2, 3, 4, 5, 6]], attributes={"b": [1], "a": None}, score=0.5)
    folder.paint(7, redrawn(10))
    folder.finish()
    changed = {"id": 11, "image_id": 8, "bbox": [6, 7, 10, 5], "area": 25, "source_annotation_id": 10}
    changed |= {"segmentation": [[6, 7, 16, 7, 16, 12]], "painted": True}
    assert folder.result()["annotations"][-1] == folder.coco["annotations"][0] | changed


def test_a_kept_box_is_its_sources_record_byte_for_byte_but_for_ids(folder):
    folder.add(7)
    folder.note(10, 7, segmentation={"size": [30, 40], "counts": "abc"}, u="é", nested={"b": 1, "a": [1.50]})
    folder.paint(7, kept(10))
    folder.finish()
    written = msgspec.json.decode((folder.final / "annotations.json").read_bytes(), type=dict[str, msgspec.Raw])
    one, two = msgspec.json.decode(written["annotations"], type=list[dict[str, msgspec.Raw]])
    ids = {"id": b"11", "image_id": b"8", "source_annotation_id": b"10"}
    assert {name: bytes(value) for name, value in two.items()} == {
        name: bytes(value) for name, value in one.items()
    } | ids
    assert list(two)[:-1] == list(one)


def test_a_hidden_box_stays_as_a_crowd_that_detectors_look_away_from(folder):
    from pycocotools.coco import COCO

    folder.add(7)
    folder.note(10, 7, segmentation=[[4, 5, 24, 5, 24, 15]])
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:15, 4:24] = True
    shape = {"bbox": (4, 5, 20, 10), "segmentation": encode_rle(mask), "area": 200.0}
    folder.paint(7, Label(source="10", painted=False, visible=0.1, ignored="occluded", **shape))
    folder.finish()
    note = folder.result()["annotations"][-1]
    assert (note["iscrowd"], note["ignore"], note["ignored"], note["visible"]) == (1, 1, "occluded", 0.1)
    assert note["segmentation"]["size"] == [HEIGHT, WIDTH] and "painted" not in note
    coco = COCO(folder.final / "annotations.json")
    np.testing.assert_array_equal(coco.annToMask(coco.anns[note["id"]]).astype(bool), mask)


def test_a_box_that_is_cut_has_its_new_shape_and_is_not_called_painted(folder):
    folder.add(7, note_ids=[10])
    cut = {"bbox": (4.0, 5.0, 20.0, 5.0), "segmentation": ((4.0, 5.0, 24.0, 5.0, 24.0, 10.0),), "area": 50.0}
    folder.paint(7, Label(source="10", painted=False, visible=0.5, **cut))
    folder.finish()
    note = folder.result()["annotations"][-1]
    assert (note["bbox"], note["area"], note["visible"], note["iscrowd"]) == ([4, 5, 20, 5], 50, 0.5, 0)
    assert "painted" not in note and "ignore" not in note


def test_a_label_that_was_dropped_has_no_record_and_the_others_keep_their_ids(folder):
    folder.add(7, note_ids=[10, 11])
    key = folder.paint(7, redrawn(10), redrawn(11))
    folder.finish()
    before = folder.result()["annotations"]
    request = folder.requests[key]
    first = request.labels[0].model_copy(update={"dropped": "not_recognised"})
    folder.requests[key] = request.model_copy(update={"labels": (first, *request.labels[1:])})
    rows = folder.finish()
    assert folder.result()["annotations"] == [note for note in before if note["id"] != 12]
    assert rows[-1].annotations == 1


def test_a_new_object_has_a_record_of_its_own(folder):
    folder.coco["categories"].append({"id": 9, "name": "box"})
    folder.add(7)
    folder.note(10, 7, segmentation=[[4, 5, 24, 5, 24, 15]])
    shape = {"bbox": (6.0, 7.0, 10.0, 5.0), "segmentation": ((6.0, 7.0, 16.0, 7.0, 16.0, 12.0),), "area": 25.0}
    folder.paint(7, kept(10), Label(source=None, painted=True, category="box", **shape))
    folder.finish(yolo=True)
    assert folder.result()["annotations"][-1] == {
        "iscrowd": 0,
        "id": 12,
        "image_id": 8,
        "category_id": 9,
        "bbox": [6, 7, 10, 5],
        "area": 25,
        "segmentation": [[6, 7, 16, 7, 16, 12]],
        "painted": True,
    }


def test_what_was_true_of_the_old_object_alone_is_not_kept_for_the_new_one(folder):
    folder.add(7)
    folder.note(10, 7, keypoints=[1, 2, 2], num_keypoints=1, visible=0.4, ignore=1, ignored="occluded", score=0.5)
    folder.paint(7, redrawn(10))
    folder.finish()
    old, new = folder.result()["annotations"]
    assert old["keypoints"] == [1, 2, 2] and new["score"] == 0.5
    assert not {"keypoints", "num_keypoints", "visible", "ignore", "ignored"} & set(new)


def test_an_object_of_another_kind_has_that_kinds_category(folder):
    folder.coco["categories"].append({"id": "b", "name": "box"})
    folder.add(7, note_ids=[10])
    folder.paint(7, redrawn(10).model_copy(update={"category": "box"}))
    folder.finish()
    assert [note["category_id"] for note in folder.result()["annotations"]] == [3, "b"]


def test_what_a_source_says_of_being_painted_stays_with_it(folder):
    folder.add(7)
    for number, painted in enumerate((True, False, "by hand")):
        folder.note(10 + number, 7, painted=painted)
    folder.paint(7, kept(10), redrawn(11), kept(12))
    folder.finish()
    notes = folder.result()["annotations"]
    assert notes[:3] == folder.coco["annotations"]
    assert [note.get("painted") for note in notes[3:]] == [None, True, None]


# Masks


def cut(id):
    shape = {"bbox": (4.0, 5.0, 20.0, 5.0), "segmentation": ((4.0, 5.0, 24.0, 5.0, 24.0, 10.0),), "area": 50.0}
    return Label(source=json.dumps(id), painted=False, visible=0.5, **shape)


def hidden(id):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:15, 4:24] = True
    shape = {"bbox": (4, 5, 20, 10), "segmentation": encode_rle(mask), "area": 200.0}
    return Label(source=json.dumps(id), painted=False, visible=0.1, ignored="occluded", **shape)


def new():
    return redrawn(0).model_copy(update={"source": None, "category": "cat"})


def paint_all_kinds(folder, **fields):
    """A picture of four boxes, with `fields` in their records, and a synthetic one: painted, cut, hidden, kept, new."""
    folder.add(7)
    for number in (10, 11, 12, 13):
        folder.note(number, 7, **fields)
    folder.paint(7, redrawn(10), cut(11), hidden(12), kept(13), new())


def test_boxes_alone_in_means_boxes_alone_out_whatever_the_plan_cut(folder):
    paint_all_kinds(folder)
    folder.finish(s3_pair=True)
    for name in ("annotations.json", "selected_ann.json"):
        notes = folder.result(name)["annotations"]
        assert len(notes) >= 5 and not any("segmentation" in note for note in notes)
    (crowd,) = (note for note in notes if note["iscrowd"])
    assert (crowd["bbox"], crowd["ignored"]) == ([4, 5, 20, 10], "occluded")
    boxes = [note["bbox"] for note in notes[-5:]]
    assert boxes == [[6, 7, 10, 5], [4, 5, 20, 5], [4, 5, 20, 10], [4, 5, 20, 10], [6, 7, 10, 5]]


@pytest.mark.parametrize("nothing", [[], [[]], None, {}, ""])
def test_an_annotation_without_a_mask_says_so_as_the_sources_do(folder, nothing):
    paint_all_kinds(folder, segmentation=nothing)
    folder.finish()
    shapes = [note["segmentation"] for note in folder.result()["annotations"]]
    assert shapes == [nothing] * 8 + [[]]


def test_one_mask_in_the_source_and_new_annotations_have_theirs(folder):
    paint_all_kinds(folder)
    folder.coco["annotations"][0]["segmentation"] = [[4, 5, 24, 5, 24, 15]]
    folder.finish()
    painted, partly, ignored, *_ = folder.result()["annotations"][4:]
    assert painted["segmentation"] == [[6, 7, 16, 7, 16, 12]] and partly["segmentation"] == [[4, 5, 24, 5, 24, 10]]
    assert ignored["segmentation"]["size"] == [HEIGHT, WIDTH]


def test_a_crowds_mask_alone_is_no_mask_of_an_object(folder):
    paint_all_kinds(folder)
    folder.coco["annotations"][3] |= {"iscrowd": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, 1200]}}
    folder.finish()
    assert not any(note.get("segmentation") for note in folder.result()["annotations"] if not note["iscrowd"])


@pytest.mark.parametrize("mask", [None, [[4, 5, 24, 5, 24, 15]]])
def test_torchvision_reads_boxes_of_every_set_and_masks_of_one_that_has_them(folder, mask):
    datasets = pytest.importorskip("torchvision.datasets", reason="torchvision is not installed")
    paint_all_kinds(folder, **({"segmentation": mask} if mask else {}))
    folder.finish()
    keys = ("boxes", "labels", *(["masks"] if mask else []))
    plain = datasets.CocoDetection(folder.final / "images", folder.final / "annotations.json")
    pairs = list(datasets.wrap_dataset_for_transforms_v2(plain, target_keys=keys))
    assert [target["boxes"].tolist()[0] for _, target in pairs] == [[4, 5, 24, 15], [6, 7, 16, 12]]
    assert [len(target["boxes"]) for _, target in pairs] == [4, 5]
    if mask:
        assert [tuple(target["masks"].shape) for _, target in pairs] == [(4, HEIGHT, WIDTH), (5, HEIGHT, WIDTH)]


# What was done


def test_info_says_in_a_sentence_what_was_done_and_keeps_what_it_had(folder):
    paint_all_kinds(folder)
    folder.finish()
    assert folder.result()["info"] == {
        "year": 2024,
        "augment": "1 synthetic picture with 2 painted objects was made from this data set (replace × p × c); "
        "annotations have boxes alone, as no annotation of the source has a mask.",
    }


def test_a_set_without_info_gets_one_at_its_head(folder):
    del folder.coco["info"]
    paint_all_kinds(folder, segmentation=[[4, 5, 24, 5, 24, 15]])
    folder.paint(7, redrawn(10), variant=1)
    folder.finish()
    written = folder.result()
    assert next(iter(written)) == "info" and list(written["info"]) == ["augment"]
    assert written["info"]["augment"] == (
        "2 synthetic pictures with 3 painted objects were made from this data set (replace × p × c); "
        "the mask of a painted object whose outline is not known is its box."
    )


def test_an_info_that_is_no_object_stays(folder):
    for info in ("by hand", [1], 7, None):
        folder.coco["info"] = info
        folder.paint(7, kept(10)) if folder.requests else paint_all_kinds(folder)
        folder.finish()
        assert folder.result()["info"] == info or info is None


def test_what_an_earlier_run_did_is_said_first(folder):
    folder.coco["info"] = {"augment": "5 synthetic pictures were made."}
    paint_all_kinds(folder)
    folder.finish()
    assert folder.result()["info"]["augment"].startswith("5 synthetic pictures were made. 1 synthetic picture with 2")


def test_ids_that_are_text_survive_and_new_ones_are_numbers(folder):
    folder.add("seven", "a.png", ["ten", 'q"uote'])
    folder.paint("seven", kept("ten"), redrawn('q"uote'))
    folder.finish()
    written = folder.result()
    assert {name: written[name][:-n] for name, n in (("images", 1), ("annotations", 2))} == {
        name: folder.coco[name] for name in ("images", "annotations")
    }
    assert written["images"][-1]["id"] == 1 and written["images"][-1]["source_image_id"] == "seven"
    assert [(a["id"], a["image_id"], a["source_annotation_id"]) for a in written["annotations"][-2:]] == [
        (1, 1, "ten"),
        (2, 1, 'q"uote'),
    ]


@pytest.mark.parametrize("largest", [2**53 + 1, INT64, UINT64])
def test_ids_of_64_bits_survive_to_the_last_digit(folder, largest):
    folder.add(largest, "a.png", [largest - 1])
    folder.paint(largest, kept(largest - 1))
    folder.finish()
    written = folder.result()
    assert [i["id"] for i in written["images"]] == [largest, largest + 1]
    assert written["images"][1]["source_image_id"] == largest
    assert [a["source_annotation_id"] for a in written["annotations"][1:]] == [largest - 1]


def test_ids_that_are_fractions_stay_apart_from_new_ones(folder):
    folder.add(1, note_ids=[1.0, 2.0])
    folder.paint(1, kept(1.0), redrawn(2.0))
    folder.finish()
    assert unique(folder.result()["annotations"])


def test_ids_stay_when_pictures_and_variants_come_and_go(folder):
    folder.add(1, note_ids=[10])
    first = folder.paint(1, kept(10), variant=0)
    folder.finish()
    before = folder.result()["images"][-1]["id"]
    folder.paint(1, kept(10), variant=1)
    folder.reviewed.reverse()
    folder.finish()
    after = {i["file_name"]: i["id"] for i in folder.result()["images"]}
    assert after[f"{first[:12]}.png"] == before and unique(folder.result()["images"])


def test_a_new_original_with_a_synthetic_ones_id_keeps_it(folder):
    folder.add(1, note_ids=[10])
    folder.paint(1, kept(10))
    folder.finish()
    folder.add(2, note_ids=[11])
    folder.finish()
    written = folder.result()
    assert unique(written["images"]) and unique(written["annotations"])
    assert [i["id"] for i in written["images"] if "source_image_id" not in i] == [1, 2]
    assert written["annotations"][-1]["image_id"] == written["images"][-1]["id"] == 3


def test_a_picture_that_left_the_store_is_a_row_and_not_in_the_set(folder):
    folder.add(1, note_ids=[10])
    key = folder.paint(1, kept(10))
    folder.store.path("picture", key).unlink()
    rows = folder.finish()
    assert [(row.key, row.reason) for row in rows] == [("original:1", ""), (f"synthetic:{key}", "picture_lost")]
    assert folder.result() == folder.coco


def test_a_damaged_picture_is_a_row_and_not_in_the_set(folder):
    folder.add(1, note_ids=[10])
    key = folder.paint(1, kept(10))
    path = folder.store.path("picture", key)
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    assert folder.finish()[-1].reason == "picture_lost"
    assert folder.files() == {"ws/final/annotations.json", "ws/final/images/1.png"}


def test_a_jpeg_is_written_where_it_is_requested(folder):
    folder.add(1, note_ids=[10])
    key = folder.paint(1, kept(10))
    folder.finish(format="jpeg")
    path = folder.final / "images" / f"{key[:12]}.jpg"
    assert path.read_bytes()[:2] == b"\xff\xd8" and folder.result()["images"][-1]["file_name"] == path.name


def test_with_several_splits_a_synthetic_picture_is_in_its_sources(folder):
    folder.dataset = {"split": "official"}
    folder.add(1, note_ids=[10], split="train")
    folder.add(2, note_ids=[20], split="val")
    folder.paint(1, kept(10))
    folder.finish()
    assert folder.result()["images"][-1]["split"] == "train"
    assert [i["id"] for i in folder.result("annotations-train.json")["images"]] == [1, 3]
    assert [i["id"] for i in folder.result("annotations-val.json")["images"]] == [2]


def test_a_record_that_could_not_be_read_makes_no_second_split(folder):
    folder.dataset = {"split": "official"}
    folder.add(1, note_ids=[10], split="train")
    folder.coco["images"].append({"id": 2})
    folder.paint(1, kept(10))
    folder.finish()
    assert "split" not in folder.result()["images"][-1]
    assert not list(folder.final.glob("annotations-*.json"))


def test_the_s3_pair_holds_the_new_pictures_and_their_sources(folder):
    folder.add(1, note_ids=[10])
    folder.add(2, note_ids=[20, 21])
    folder.paint(2, redrawn(20), kept(21))
    folder.finish(s3_pair=True)
    new, old = folder.result("selected_ann.json"), folder.result("original_selected_ann.json")
    assert [i["source_image_id"] for i in new["images"]] == [2] and len(new["annotations"]) == 2
    assert old == folder.coco | {"images": folder.coco["images"][1:], "annotations": folder.coco["annotations"][1:]}


# Files


def test_every_row_names_the_file_that_exists(folder):
    folder.add(1, note_ids=[10])
    folder.paint(1, kept(10))
    for row in folder.finish():
        path = folder.final / "images" / row.file_name
        assert row.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (row.size, row.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)


def test_a_second_time_nothing_is_written(folder):
    folder.add(1, note_ids=[10])
    folder.paint(1, kept(10))
    settings = {"yolo": True, "s3_pair": True}
    folder.finish(**settings)
    before = {p: p.stat().st_mtime_ns for p in folder.final.rglob("*") if p.is_file()}
    folder.finish(**settings)
    assert {p: p.stat().st_mtime_ns for p in folder.final.rglob("*") if p.is_file()} == before


def test_what_does_not_belong_to_the_set_is_removed(folder):
    folder.add(1, note_ids=[10], split="train")
    folder.paint(1, kept(10))
    folder.add(2, "old/er/2.png", [20], split="val")
    folder.dataset = {"split": "official"}
    folder.finish(yolo=True, s3_pair=True)
    assert len(folder.files()) == 12
    folder.reviewed, folder.requests, folder.dataset = [], {}, {}
    del folder.coco["images"][1]
    folder.finish()
    assert folder.files() == {"ws/final/annotations.json", "ws/final/images/1.png"}
    assert not (folder.final / "images" / "old").exists() and not (folder.final / "labels").exists()


STRANGE = ("images/mine.png", "images/old/mine.png", "labels/mine.txt", "annotations-mine.json", "notes.json", "a.txt")


@pytest.mark.parametrize("originals", ["all", "selected", "none"])
def test_files_that_no_run_wrote_stay(folder, originals):
    folder.add(1, note_ids=[10])
    folder.paint(1, kept(10))
    strange = {folder.final / name: name.encode() for name in STRANGE}
    for path, data in strange.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for yolo in (True, False):
        folder.finish(originals=originals, yolo=yolo, s3_pair=yolo)
        assert {path: path.read_bytes() for path in strange} == strange


@pytest.mark.parametrize("name", ["annotations.json", "images/1.png", "selected_ann.json", "classes.txt"])
def test_a_file_that_no_run_wrote_is_not_written_over_however_often_it_is_tried(folder, name):
    folder.add(1, note_ids=[10])
    folder.paint(1, kept(10))
    path = folder.final / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    for _ in range(2):
        with pytest.raises(AugmentError, match=rf"{path} was not written by a run.*move it away"):
            folder.finish(yolo=True, s3_pair=True)
        assert path.read_bytes() == b"mine"
    path.unlink()
    folder.finish(yolo=True, s3_pair=True)
    assert path.is_file()


def test_a_file_that_holds_what_is_to_be_written_is_no_strangers(folder):
    folder.add(1, note_ids=[10])
    folder.paint(1, kept(10))
    folder.finish(yolo=True)
    before = {p: p.read_bytes() for p in folder.final.rglob("*") if p.is_file()}
    (folder.final.parent / ".final.jsonl").unlink()
    folder.known = None
    folder.finish(yolo=True)
    assert {p: p.read_bytes() for p in folder.final.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    "note", [None, b"", b'["images', b'{"a": 1}', b"\xff\xfe", b'{"files": ["images/x.png"], "sha256": "0"}']
)
def test_of_a_version_without_a_note_the_files_that_its_rows_name_are_ours(folder, note):
    folder.add(1, note_ids=[10])
    folder.paint(1, kept(10))
    folder.finish(yolo=True, s3_pair=True)
    place = folder.final.parent / ".final.jsonl"
    place.unlink() if note is None else place.write_bytes(note)
    (folder.final / "images" / "mine.png").write_bytes(b"mine")
    folder.reviewed, folder.requests = [], {}
    folder.coco["info"] = {"year": 2025}
    folder.finish()
    files = {"ws/final/annotations.json", "ws/final/images/1.png", "ws/final/images/mine.png"}
    assert folder.files() == files and folder.result()["info"]["year"] == 2025


def test_what_a_former_version_noted_is_ours(folder):
    folder.add(1, note_ids=[10])
    folder.finish()
    (folder.final.parent / ".final.jsonl").unlink()
    note_down(folder, ["annotations.json", "images/1.png"], former=True)
    folder.finish(originals="none")
    assert folder.files() == {"ws/final/annotations.json"}


def test_what_a_killed_run_had_begun_to_write_is_ours(folder, monkeypatch):
    folder.add(1, note_ids=[10])
    folder.add(2, note_ids=[20])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lib.datasets.finalise._write_annotations", interrupted)
        folder.finish(originals="all")
    assert len(folder.files()) == 2
    folder.finish(originals="none")
    assert folder.files() == {"ws/final/annotations.json"}


def interrupted(*args):
    raise KeyboardInterrupt


def note_down(folder, names, former):
    """What is ours, as this version or a former one notes it."""
    place = folder.final.parent / ".final.jsonl"
    if former:
        place.with_suffix(".json").write_text(json.dumps({"files": names}))
    else:
        write_lines(place, names)


@pytest.mark.parametrize("former", [False, True])
@pytest.mark.parametrize("names", [["../../source/1.png"], ["../../../source/1.png", "/etc/hostname", "", ".", ".."]])
def test_a_note_that_leads_elsewhere_removes_nothing_there(folder, names, former):
    folder.add(1, note_ids=[10])
    folder.final.mkdir(parents=True)
    note_down(folder, [*names, f"{folder.pictures}/1.png"], former)
    folder.finish(originals="none")
    assert (folder.pictures / "1.png").is_file()


@pytest.mark.parametrize("former", [False, True])
def test_through_a_link_in_the_final_folder_nothing_is_written_or_removed(folder, former):
    folder.add(1, "sub/1.png", [10])
    (folder.root / "mine").mkdir()
    (folder.root / "mine" / "9.png").write_bytes(b"mine")
    (folder.final / "images").mkdir(parents=True)
    (folder.final / "images" / "sub").symlink_to(folder.root / "mine")
    note_down(folder, ["images/sub/9.png"], former)
    with pytest.raises(AugmentError, match="is a link to elsewhere"):
        folder.finish()
    folder.finish(originals="none")
    assert [path.name for path in (folder.root / "mine").iterdir()] == ["9.png"]


def test_a_link_in_the_place_of_a_picture_becomes_the_picture_and_what_it_led_to_stays(folder):
    folder.add(1, note_ids=[10])
    folder.finish()
    path, mine = folder.final / "images" / "1.png", folder.root / "mine.png"
    mine.write_bytes(b"mine")
    path.unlink()
    path.symlink_to(mine)
    folder.finish()
    assert not path.is_symlink() and path.read_bytes() == (folder.pictures / "1.png").read_bytes()
    assert mine.read_bytes() == b"mine"


@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(b"other")])
def test_a_lost_or_changed_file_is_written_again(folder, damage):
    folder.add(1, note_ids=[10])
    folder.paint(1, kept(10))
    folder.finish()
    before = {p: p.read_bytes() for p in folder.final.rglob("*") if p.is_file()}
    for path in before:
        damage(path)
    folder.finish()
    assert {p: p.read_bytes() for p in folder.final.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("name", ["./a.png", "x//a.png", "x/./a.png", "x\\a.png", "ünï, cö.dé.png", "a\nb.png"])
def test_an_odd_name_still_leads_to_its_picture(folder, name):
    file = name.replace("\\", "/")
    folder.add(1, name, [10], file=file)
    folder.finish(yolo=True)
    (image,) = folder.result()["images"]
    path = folder.final / "images" / image["file_name"]
    assert path.read_bytes() == (folder.pictures / file).read_bytes()


@pytest.mark.parametrize(
    "name", ["../a.png", "../../../a.png", "/tmp/absolute.png", "x/../../a.png", "..\\a.png", "C:\\a.png"]
)
def test_a_name_that_leads_outside_writes_nothing_outside(folder, name):
    folder.add(1, "good.png", [10])
    folder.coco["images"].append({"id": 2, "file_name": name, "width": WIDTH, "height": HEIGHT})
    for place in (folder.root / "a.png", folder.pictures / "a.png"):
        Image.fromarray(picture(5)).save(place)
    folder.finish(yolo=True, s3_pair=True)
    assert all(file.startswith("ws/final/") for file in folder.files() - {"a.png"})


def test_a_synthetic_picture_whose_name_leads_outside_is_a_row_and_writes_nothing_there(folder):
    """As a manifest of somebody else may have it."""
    folder.add(1, "good.png", [10])
    folder.paint(1, redrawn(10))
    folder.reviewed = [replace(row, name="../../../stolen.png") for row in folder.reviewed]
    rows = folder.finish()
    assert [row.reason for row in rows] == ["", "picture_lost"] and "leads out" in rows[1].detail
    assert not list(folder.root.parent.rglob("stolen.png"))


@pytest.mark.parametrize(
    "split", ["../../evil", "x/../../../evil", "/tmp/evil", "a/b", "", "..", "val 2017", "é", "a\nb"]
)
def test_a_split_of_any_name_writes_one_file_in_the_folder(folder, split):
    folder.dataset = {"split": "official"}
    folder.add(1, note_ids=[10], split="train")
    folder.add(2, note_ids=[20], split=split or " ")
    folder.finish()
    files = {file for file in folder.files() if file.endswith(".json")}
    assert len(files) == 3 and all(PurePosixPath(file).parent.as_posix() == "ws/final" for file in files)


# YOLO


def lines(folder, name):
    return [line.split() for line in (folder.final / "labels" / name).read_text().splitlines()]


def test_yolo_lines_are_class_and_box_as_shares_of_the_picture(folder):
    folder.coco["categories"] = [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]
    folder.add(1, "deep/a.png")
    folder.note(10, 1, bbox=[4, 6, 20, 12])
    folder.finish(yolo=True)
    assert lines(folder, "deep/a.txt") == [["1", "0.350000", "0.400000", "0.500000", "0.400000"]]
    assert (folder.final / "classes.txt").read_text() == "dog\ncat\n"


def test_a_category_is_one_line_of_classes_and_keeps_its_name_in_coco(folder):
    called = ["fork\nlift", "", "a\u2028b", " \r\n ", "plain", "tab\tbed\x85"]
    folder.coco["categories"] = [{"id": i + 3, "name": name} for i, name in enumerate(called)]
    folder.add("a\nb", "a\nb.png", [10])
    folder.finish(yolo=True)
    text = (folder.final / "classes.txt").read_text()
    assert (
        text.splitlines()
        == text.split("\n")[:-1]
        == ["fork lift", "category 4", "a b", "category 6", "plain", "tab bed"]
    )
    assert [category["name"] for category in folder.result()["categories"]] == called
    assert (folder.final / "labels" / "a%0Ab.txt").is_file() and (folder.final / "images" / "a%0Ab.png").is_file()


def test_a_yolo_box_is_cut_to_its_picture(folder):
    folder.add(1)
    folder.note(10, 1, bbox=[-10, -10, 30, 100])
    folder.finish(yolo=True)
    assert lines(folder, "1.txt") == [["0", "0.250000", "0.500000", "0.500000", "1.000000"]]


def test_crowds_and_boxes_that_are_none_have_no_yolo_line(folder):
    folder.add(1)
    for id, fields in enumerate([{"iscrowd": 1}, {"bbox": [1, 1, 0, 5]}, {"bbox": [99, 99, 5, 5]}, {"bbox": None}]):
        folder.note(id, 1, **fields)
    folder.note(90, 1, category_id=77)
    folder.finish(yolo=True)
    assert lines(folder, "1.txt") == []


@pytest.mark.parametrize(
    "bbox", ['["x", 1, 2, 3]', "[{}, 1, 2, 3]", f"[1, 2, 3, {'9' * 400}]", "[1, 2, 3, 1e999]", "[1, 2, [3], 4]", "7"]
)
def test_a_box_of_anything_costs_no_other_its_yolo_line(folder, bbox):
    folder.add(1, note_ids=[10])
    folder.note(11, 1, None)
    odd = f'"bbox": {bbox}', '"x": {"y": [-1e999]}, "categories"'
    folder.written = lambda text: text.replace('"bbox": null', odd[0]).replace('"categories"', odd[1])
    folder.finish(yolo=True)
    assert len(lines(folder, "1.txt")) == 1 and bbox in (folder.final / "annotations.json").read_text()


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "\n" * 120 + ".png", "a/" + "ä" * 140 + ".png", "." + "y" * 300])
def test_a_name_that_no_disk_takes_is_cut_and_stays_distinct(name):
    pair = pd.DataFrame({"key": ["1", "2"], "file_name": [name, "z" + name], "path": [name, "z" + name]})
    names = named(pair, yolo=True)
    assert len(set(names)) == 2 and all(len(os.fsencode(part)) <= 251 for n in names for part in n.split("/"))
    assert [PurePosixPath(n).suffix for n in names] == [PurePosixPath(name).suffix] * 2


def test_a_picture_without_boxes_has_an_empty_yolo_file(folder):
    folder.add(1)
    folder.finish(yolo=True)
    assert lines(folder, "1.txt") == []


def test_a_synthetic_pictures_yolo_lines_are_its_own(folder):
    folder.add(1, note_ids=[10])
    key = folder.paint(1, redrawn(10))
    folder.finish(yolo=True)
    assert lines(folder, f"{key[:12]}.txt") == [["0", "0.275000", "0.316667", "0.250000", "0.166667"]]


def test_a_yolo_line_needs_no_size_in_the_record(folder):
    folder.add(1, note_ids=[10])
    del folder.coco["images"][0]["width"], folder.coco["images"][0]["height"]
    folder.finish(yolo=True)
    assert len(lines(folder, "1.txt")) == 1


def test_pictures_that_differ_in_their_suffix_keep_their_own_yolo_lines(folder):
    folder.add(1, "a.png", [10])
    folder.add(2, "a.bmp", [20, 21])
    folder.finish(yolo=True)
    for image, count in zip(folder.result()["images"], (1, 2), strict=True):
        assert len(lines(folder, PurePosixPath(image["file_name"]).with_suffix(".txt"))) == count


@given(st.tuples(*[st.floats(-20, 60)] * 2, *[st.floats(0.1, 60)] * 2))
def test_yolo_shares_lie_in_the_picture_and_read_back_as_the_box(bbox):
    from lib.datasets.write_yolo import _yolo_line

    line = _yolo_line(0, list(bbox), (WIDTH, HEIGHT))
    x0, y0 = max(bbox[0], 0), max(bbox[1], 0)
    x1, y1 = min(bbox[0] + bbox[2], WIDTH), min(bbox[1] + bbox[3], HEIGHT)
    if x1 <= x0 or y1 <= y0:
        assert line == ""
        return
    cx, cy, w, h = (float(v) for v in line.split()[1:])
    assert all(0 <= v <= 1 for v in (cx, cy, w, h))
    back = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]) * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    np.testing.assert_allclose(back, [x0, y0, x1, y1], atol=1e-4)
