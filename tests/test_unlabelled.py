"""Objects that no label names: found by a detector in what was painted, set aside or proposed as labels."""

import json
import sys
import types
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import MadeSet, tree
from test_journey import run
from test_judging import OBJECTS, new, outcome_of, painted, row_of

from lib.core.errors import AugmentError
from lib.core.files import digest
from lib.evaluation.detectors import DETECTORS, Base, Detections, DetectorSettings
from lib.records.manifest import read_manifest
from lib.records.requests import Label
from lib.records.rows import OK, REJECTED, ScreenRow
from lib.records.settings import UnlabelledSettings
from lib.records.store import Store
from lib.runs.parameters import check_parameters
from lib.runs.preflight import preflight
from lib.runs.tidy import tidy
from lib.screening.labels import Proposal, count_verdicts, judged_labels
from lib.screening.unlabelled import Sought, find_unlabelled

REGION = (0, 0, 60, 60)


class Finds:
    """A detector that finds the same everywhere, and counts the pictures."""

    identity = "finds 1"

    def __init__(self, *found):
        self.found, self.seen = found, 0

    def detect(self, pictures, names):
        self.seen += len(pictures)
        boxes, scores, labels = (np.array(part) for part in zip(*self.found, strict=True))
        return [SimpleNamespace(boxes=boxes.astype(float), scores=scores, labels=labels) for _ in pictures]


def searched(tmp_path, *found, labels=(), boxes=(), **limits):
    """The row of a picture painted in REGION in which a detector finds (xyxy, score, number of "green", "red")."""
    settings = UnlabelledSettings(detector="zero-shot", **limits).model_dump(
        include={"do", "score", "overlap", "inside"}
    )
    sought = Sought(detector=Finds.identity, names=("green", "red"), **settings)
    store, detector = Store(tmp_path), Finds(*found)
    row = row_of(store, painted())
    row.boxes.extend(boxes)
    outcome = outcome_of(*labels).model_copy(update={"regions": (REGION,)})
    (one,) = find_unlabelled([row], {"r": outcome}, OBJECTS, sought, detector, store)
    (again,) = find_unlabelled([row], {"r": outcome}, OBJECTS, sought, detector, store)
    assert one == again and detector.seen == 1
    return one


AT = (30, 30, 50, 50)


def test_an_object_that_no_label_names_sets_its_picture_aside_and_is_named(tmp_path):
    row = searched(tmp_path, (AT, 0.9, 1), labels=[new("1")])
    assert (row.status, row.reason) == (REJECTED, "unlabelled_object")
    assert row.detail == "red (0.90) at 30, 30, 20, 20" and row.boxes == []


@pytest.mark.parametrize(
    ("found", "labels", "limits"),
    [
        ((AT, 0.5, 1), [], {}),  # not above the score
        (((70, 30, 90, 50), 0.9, 1), [], {}),  # outside of what was painted
        (((50, 30, 80, 50), 0.9, 1), [], {}),  # for the most part
        (((10, 10, 30, 30), 0.9, 0), [new("1")], {}),  # on a label, whatever its category
        (((10, 10, 30, 27), 0.9, 1), [new("1")], {}),
        (((12, 12, 20, 20), 0.9, 1), [new("1", ignored="crowd")], {}),  # in an ignored label
        (((10, 10, 30, 30), 0.9, 1), [Label(source="1", painted=False)], {}),
        (((50, 30, 80, 50), 0.9, 1), [], {"inside": 0.6}),
    ],
)
def test_what_is_unsure_or_not_painted_or_labelled_is_no_such_object(tmp_path, found, labels, limits):
    assert searched(tmp_path, found, labels=labels, **limits).status == OK


def test_an_object_within_a_label_is_one_unless_that_label_is_ignored(tmp_path):
    assert searched(tmp_path, ((12, 12, 20, 20), 0.9, 1), labels=[new("1")]).status == REJECTED


def test_what_the_judge_dropped_names_nothing(tmp_path):
    at = (10, 10, 30, 30)
    row = searched(tmp_path, (at, 0.9, 1), labels=[new("1")], boxes=["0:drop:not_recognised:0.1"])
    assert row.reason == "unlabelled_object" and row.boxes == ["0:drop:not_recognised:0.1"]


def test_proposed_objects_become_labels_to_ignore_after_those_of_the_request_each_object_once(tmp_path):
    found = [(AT, 0.9, 1), ((31, 30, 50, 50), 0.8, 0), ((2, 40, 12, 55), 0.7, 0)]
    row = searched(tmp_path, *found, labels=[new("1")], do="propose")
    assert row.status == OK and [Proposal.parse(text) for text in row.boxes] == [
        Proposal("red", (30, 30, 20, 20), 0.9),
        Proposal("green", (2, 40, 10, 15), 0.7),
    ]
    labels = judged_labels(outcome_of(new("1")), row.boxes, OBJECTS).labels
    assert labels[0] == new("1") and [label.ignored for label in labels[1:]] == ["proposed", "proposed"]
    assert labels[1].category == "red" and labels[1].bbox == (30, 30, 20, 20) and not labels[1].painted
    rows = SimpleNamespace(boxes=[row.boxes, ["0:keep:recognised:0.5"]])
    assert count_verdicts([rows]) == {"boxes kept: recognised": 1, "boxes proposed: unlabelled_object": 2}


def test_a_detector_that_fails_costs_the_picture_that_it_failed_at(tmp_path, monkeypatch):
    def fail(self, pictures, names):
        raise RuntimeError("CUDA error: misaligned address")

    monkeypatch.setattr(Finds, "detect", fail)
    store = Store(tmp_path)
    sought = Sought(detector=Finds.identity, names=("green",), do="reject", score=0.5, overlap=0.5, inside=0.5)
    (row,) = find_unlabelled([row_of(store, painted())], {"r": outcome_of()}, OBJECTS, sought, Finds(), store)
    assert (row.reason, row.detail) == ("model_failed", "RuntimeError: CUDA error: misaligned address")


def test_a_picture_that_is_set_aside_already_is_not_searched(tmp_path):
    row = ScreenRow("r", REJECTED, "black", "", "7", "p", "s", "r.png", 0, 0, "")
    sought = Sought(detector="d", names=("red",), do="reject", score=0.5, overlap=0.5, inside=0.5)
    assert find_unlabelled([row], {}, OBJECTS, sought, Finds(), Store(tmp_path)) == [row]


# Whole runs


class Grid(Base):
    """Finds small pallets everywhere, and is sure of them in about half of the pictures."""

    VERSION, MODEL, LICENCE, Settings = 1, None, "none needed", DetectorSettings
    seen = 0
    known = ("pallet",)

    def knows(self, names):
        return [name in self.known for name in names]

    def detect(self, pictures, names):
        Grid.seen += len(pictures)
        return [self._grid(picture, list(names).index("pallet")) for picture in pictures]

    def _grid(self, picture, number):
        sure = int(digest(picture.tobytes())[:8], 16) % 2
        x, y = (part.ravel() for part in np.meshgrid(np.arange(0, 150, 12), np.arange(0, 110, 12)))
        boxes = np.stack([x, y, x + 8, y + 8], axis=1).astype(np.float64)
        return Detections(boxes, np.full(len(boxes), 0.9 if sure else 0.3), np.full(len(boxes), number))


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """The detector `grid`, with a folder as its checkpoint: the setting that chooses it."""
    module = types.ModuleType("grid_of_a_test")
    module.Grid = Grid  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "grid_of_a_test", module)
    monkeypatch.setattr(Grid, "seen", 0)
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model.safetensors").write_bytes(b"none")
    with DETECTORS.adding("grid", "grid_of_a_test:Grid"):
        yield {"name": "grid", "model": str(tmp_path / "checkpoint")}


def reasons(workspace):
    rows = read_manifest(workspace / "manifests" / "screen.parquet", ScreenRow)
    return Counter(rows.reason)


def test_a_run_sets_such_pictures_aside_and_other_limits_ask_the_detector_nothing(tmp_path, grid):
    made, ws = MadeSet(tmp_path / "made", 8), tmp_path / "ws"
    given = {"evaluate": {"extractor": None}}
    run(ws, made.dataset, **given)
    assert reasons(ws) == {"": 8} and Grid.seen == 0
    run(ws, made.dataset, screen={"unlabelled": {"detector": grid}}, **given)
    assert 0 < reasons(ws)["unlabelled_object"] < 8 and Grid.seen == 8
    account = run(ws, made.dataset, screen={"unlabelled": {"detector": grid, "score": 0.2}}, **given)
    assert reasons(ws) == {"unlabelled_object": 8} and Grid.seen == 8
    assert account["detector"]["names"] == ["forklift", "pallet"]
    tidy(ws)
    account = run(ws, made.dataset, screen={"unlabelled": {"detector": grid}}, **given)
    assert Grid.seen == 8 and account["stages"]["generate"]["painted"] == 0
    assert run(ws, made.dataset, **given)["stages"]["screen"]["rejected"] == {}


def test_a_run_proposes_labels_that_detectors_ignore_and_a_rerun_is_the_same(tmp_path, grid):
    made, ws = MadeSet(tmp_path / "made", 6), tmp_path / "ws"
    given = {"evaluate": {"extractor": None}, "screen": {"unlabelled": {"detector": grid, "do": "propose"}}}
    account = run(ws, made.dataset, **given)
    assert reasons(ws) == {"": 6}
    final = json.loads((ws / "final" / "annotations.json").read_bytes())
    proposed = [note for note in final["annotations"] if note.get("ignored") == "proposed"]
    assert len(proposed) == account["stages"]["finalise"]["boxes proposed: unlabelled_object"] > 0
    assert {(note["category_id"], note["iscrowd"], note["ignore"]) for note in proposed} == {(4, 1, 1)}
    assert not any("painted" in note or "source_annotation_id" in note for note in proposed)
    assert len({note["id"] for note in final["annotations"]}) == len(final["annotations"])
    before = tree(ws / "final")
    run(ws, made.dataset, **given)
    assert tree(ws / "final") == before


def test_towards_a_target_pictures_with_such_objects_are_replaced(tmp_path, grid):
    made, ws = MadeSet(tmp_path / "made", 6), tmp_path / "ws"
    screen = {"unlabelled": {"detector": grid}}
    target = {"per_category": {"pallet": 6}}
    account = run(ws, made.dataset, preset="insert", screen=screen, target=target, evaluate={"extractor": None})
    one = account["target"]["boxes"]["pallet"]
    assert one["accepted"] >= 6 and one["reasons"]["unlabelled_object"] > 0


# Bad input


@pytest.mark.parametrize(
    ("unlabelled", "words"),
    [
        ({"detector": "zero-shoot"}, "unknown detector 'zero-shoot' .do you mean 'zero-shot'"),
        ({"detector": "torchvision"}, "has no published checkpoint"),
        ({"detector": {"name": "torchvision", "modell": "x"}}, "do you mean 'model'"),
        ({"detector": "zero-shot", "do": "ask"}, "'reject' or 'propose'"),
        ({"detector": {"model": "x"}}, "unknown detector ''"),
        ({"detector": "grid", "do": "propose", "categories": ["palet"]}, "no category 'palet' .do you mean 'pallet'"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_before_anything_is_written(tmp_path, grid, unlabelled, words):
    made = MadeSet(tmp_path / "made", 2)
    if unlabelled.get("detector") == "grid":
        unlabelled = unlabelled | {"detector": grid}
    with pytest.raises(AugmentError, match=words):
        given = check_parameters({"dataset": made.dataset, "screen": {"unlabelled": unlabelled}})
        preflight(given, tmp_path / "ws")
    assert not (tmp_path / "ws").exists()


def test_a_detector_that_knows_none_of_the_names_ends_the_run_before_anything_is_painted(tmp_path, grid, monkeypatch):
    from flows.augment import augment

    monkeypatch.setattr(Grid, "known", ())
    made = MadeSet(tmp_path / "made", 2)
    screen = {"unlabelled": {"detector": grid}}
    state = augment.fn(dataset=made.dataset, workspace=tmp_path / "ws", screen=screen)
    assert state.is_failed() and "knows none of forklift, pallet" in state.message
    assert not (tmp_path / "ws" / "store" / "picture").exists()
