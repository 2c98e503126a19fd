"""Screening box by box: limits from real boxes, verdicts on painted ones, what becomes of their labels."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import tree
from test_journey import run

from lib.core.errors import AugmentError
from lib.core.images import PictureError, encode_png
from lib.core.keys import key_of
from lib.judges.clip import RegionScorer
from lib.painting.painters import PAINTERS
from lib.records.requests import Label, Outcome, Request
from lib.records.rows import OK, REJECTED, ScreenRow
from lib.records.settings import BoxScreenSettings
from lib.records.store import Store
from lib.runs.tidy import tidy
from lib.screening import labels as fates
from lib.screening import verdicts as reasons
from lib.screening.boxes import judge_pictures, learn_rules, painted_keys, real_boxes, rule_keys
from lib.screening.labels import BoxVerdict, count_verdicts, judged_labels

RED, GREEN, GREY = (250, 0, 0), (0, 250, 0), (128, 128, 128)
NAMES = ["green", "red"]
OBJECTS = {"1": ("red", (10.0, 10.0, 20.0, 20.0)), "2": ("green", (50.0, 10.0, 20.0, 20.0))}


class ColourJudge:
    """Sees red and green, and the background in neither; counts the crops that it scores."""

    size, identity = 16, "colours 1"

    def __init__(self):
        self.scored = 0

    def score(self, crops, names):
        self.scored += len(crops)
        rows = []
        for crop in crops:
            red, green, _ = crop[4:12, 4:12].mean(axis=(0, 1)) / 255
            shares = {"red": max(red - green, 0), "green": max(green - red, 0)}
            rows.append([shares.get(name, 1 - abs(red - green)) for name in names])
        return np.array(rows) / np.sum(rows, axis=1, keepdims=True)


def painted(*boxes, width=100, height=60):
    """A grey picture with ((x, y, w, h), colour) in it."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    for (x, y, w, h), colour in boxes:
        pixels[int(y) : int(y + h), int(x) : int(x + w)] = colour
    return pixels


def outcome_of(*labels):
    fields = {"image_key": "7", "source": "d", "frame": "upright", "width": 100, "height": 60, "split": "train"}
    return Outcome(
        **fields, variant=0, edit="replace", painter={"name": "p"}, composite={"name": "c"}, labels=tuple(labels)
    )


def new(source, bbox=None, **more):
    return Label(source=source, painted=True, bbox=bbox, **more)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def objects_of(count, **changes):
    """ObjectRows of pictures 0 .. count − 1: a red and a green box each."""
    rows = [
        {"key": f"{category}{i}", "status": OK, "image_key": str(i), "category": category, "crowd": False}
        | dict(zip("xywh", OBJECTS[key][1], strict=True))
        for i in range(count)
        for key, category in (("1", "red"), ("2", "green"))
    ]
    return pd.DataFrame(rows).assign(**changes)


def images_of(count, **changes):
    rows = [
        {"key": str(i), "status": OK, "split": "train", "digest": f"d{i}", "frame": "upright"} for i in range(count)
    ]
    return pd.DataFrame(rows).assign(width=100, height=60).assign(**changes)


def load(digest, frame):
    return painted(*((OBJECTS[k][1], colour) for k, colour in (("1", RED), ("2", GREEN))))


def learned(store, judge=None, count=30, load=load, **settings):
    real = real_boxes([(objects_of(count), images_of(count))], "train", 8)
    return learn_rules(real, NAMES, BoxScreenSettings(**settings), judge or ColourJudge(), load, store)


def row_of(store, pixels, key="r"):
    picture = hashlib.sha256(key.encode()).hexdigest()
    sha256 = store.put("picture", picture, encode_png(pixels))
    return ScreenRow(key, OK, "", "", "7", picture, sha256, f"{key}.png", 9, 9, "")


def judged(store, pixels, *labels, judge=None, **settings):
    rules = learned(store, **settings)
    (row,) = judge_pictures(
        [row_of(store, pixels)], {"r": outcome_of(*labels)}, OBJECTS, rules, judge or ColourJudge(), store
    )
    return row


def entries(row):
    return [(verdict.position, verdict.action, verdict.reason) for verdict in map(BoxVerdict.parse, row.boxes)]


# Real boxes


def test_real_boxes_are_those_of_the_split_that_can_be_seen():
    images = images_of(4)
    images.loc[1, "split"], images.loc[2, "status"] = "val", REJECTED
    objects = objects_of(4)
    objects.loc[objects.key == "red0", "crowd"] = True
    objects.loc[objects.key == "red3", "status"] = REJECTED
    objects.loc[objects.key == "green3", "x"] = 95.0  # 5 of its 20 pixels are inside
    (row,) = real_boxes([(objects, images)], "train", 8).itertuples(index=False)
    assert (row.digest, row.category, row.x0, row.x1) == ("d0", "green", 50, 70)


def test_of_many_real_boxes_a_fixed_choice_is_taken_that_one_more_picture_hardly_moves():
    few, more = (real_boxes([(objects_of(n), images_of(n))], "train", 8, most=10) for n in (60, 61))
    assert few.category.value_counts().to_dict() == {"red": 10, "green": 10}
    both = few.merge(more)
    assert len(both) >= 18


def test_real_boxes_are_the_same_however_the_pictures_come():
    objects, images = objects_of(60), images_of(60)
    some = [(objects[objects.image_key.isin(few.key)], few) for few in (images[40:], images[:1], images[1:40])]
    whole = real_boxes([(objects, images)], "train", 8, most=10)
    assert len(whole) == 20 and real_boxes(some, "train", 8, most=10).equals(whole)


def test_no_real_boxes_are_no_rows_and_hold_nothing_back(store):
    empty = real_boxes([(objects_of(1).iloc[:0], images_of(1))], "train", 8)
    rules = learn_rules(empty, NAMES, BoxScreenSettings(), ColourJudge(), load, store)
    assert len(empty) == 0 and not rules.known and set(rules.keep) == {0}


def test_limits_are_learned_once_and_applied_to_new_pictures_only(store):
    judge = ColourJudge()
    rules = learned(store, judge)
    assert rules.known and rules.names == ("green", "red", "background") and rules.boxes == (30, 30, 0)
    assert judge.scored == 60 and learned(store, judge) == rules and judge.scored == 60
    learned(store, judge, count=31)
    assert judge.scored == 62


def test_other_percentiles_ask_the_judge_of_nothing(store):
    judge = ColourJudge()
    assert learned(store, judge, most=1) != learned(store, judge, most=0.4) and judge.scored == 60


def test_pictures_that_cannot_be_read_are_left_out_and_tried_again(store):
    def gone(digest, frame):
        if digest == "d3":
            raise PictureError("image_missing", "moved away")
        return load(digest, frame)

    assert learned(store, load=gone).boxes == (29, 29, 0)
    assert learned(store).boxes == (30, 30, 0)


def test_a_judge_with_nothing_to_choose_from_is_refused(store):
    real, settings = real_boxes([(objects_of(1), images_of(1))], "train", 8), BoxScreenSettings(others=[])
    with pytest.raises(AugmentError, match=r"screen\.boxes\.others"):
        learn_rules(real, ["red"], settings, ColourJudge(), load, store)


def test_percentiles_the_wrong_way_round_are_refused():
    with pytest.raises(ValueError, match="no more than keep"):
        BoxScreenSettings(keep=1, drop=5)


# Verdicts


def test_what_was_drawn_is_kept_and_what_was_not_is_dropped(store):
    pixels = painted((OBJECTS["1"][1], RED), (OBJECTS["2"][1], GREY))
    row = judged(store, pixels, new("1", OBJECTS["1"][1]), new("2"))
    assert entries(row) == [(0, "keep", "recognised"), (1, "drop", "not_recognised")] and row.status == OK


def test_what_is_less_clear_than_real_boxes_is_ignored(store):
    row = judged(store, painted((OBJECTS["1"][1], (190, 60, 60))), new("1", OBJECTS["1"][1]), most=1)
    assert entries(row) == [(0, "ignore", "doubtful")] and row.status == OK


class Somewhere(ColourJudge):
    """Recognises a colour that is anywhere in the middle of the crop: in a half, where a half is shown."""

    identity = "somewhere 1"

    def score(self, crops, names):
        return super().score([np.full_like(crop, self._clearest(crop)) for crop in crops], names)

    @staticmethod
    def _clearest(crop):
        rows = crop[4:12, 4:12].reshape(-1, 3).astype(int)
        return rows[np.abs(rows[:, 0] - rows[:, 1]).argmax()]


@pytest.mark.parametrize("side", ["left", "right", "upper", "lower"])
def test_a_box_of_which_one_half_is_empty_is_ignored_where_that_is_asked(store, side):
    x, y, w, h = box = (40.0, 10.0, 32.0, 32.0)
    half = {
        "left": (x, y, 14, h), "right": (x + 18, y, 14, h), "upper": (x, y, w, 14), "lower": (x, y + 18, w, 14)
    }[side]  # fmt: skip
    pixels, judge = painted((half, RED)), Somewhere()
    given = {"store": store, "judge": judge}
    rules, asked = learned(**given), learned(**given, filled=2)
    assert rules.filled == () and "filled" not in rules.identity() and len(asked.filled) == len(asked.names)
    row, outcomes = row_of(store, pixels), {"r": outcome_of(new("1", box))}
    found = [judge_pictures([row], outcomes, OBJECTS, one, judge, store)[0] for one in (rules, asked)]
    assert [entries(one) for one in found] == [[(0, "keep", "recognised")], [(0, "ignore", "not_filled")]]


def test_real_boxes_fill_themselves_and_what_is_painted_like_them_is_kept(store):
    row = judged(store, painted((OBJECTS["1"][1], RED)), new("1", OBJECTS["1"][1]), filled=2)
    assert entries(row) == [(0, "keep", "recognised")]


def test_the_keys_of_halves_are_found_too(store):
    row, real = judged(store, painted(), new("1"), filled=2), real_boxes([(objects_of(30), images_of(30))], "train", 8)
    of_judge = NAMES, BoxScreenSettings(filled=2), ColourJudge.identity
    limits, shares = rule_keys(real, *of_judge)
    shares += painted_keys(row, outcome_of(new("1")), OBJECTS, *of_judge)
    kept = {item for item in store.items() if item[0] != "picture"}
    assert kept == {("limits", limits), *(("shares", key) for key in shares)} and len(kept) == 2 * 31 + 1


def test_a_picture_of_which_nothing_is_recognised_is_set_aside(store):
    row = judged(store, painted(), new("1"), new("2"))
    assert (row.status, row.reason) == (REJECTED, "nothing_recognised")
    assert "green, red" in row.detail and {entry[1] for entry in entries(row)} == {"drop"}


def test_only_labels_that_were_painted_and_are_to_be_learned_are_judged(store):
    judge = ColourJudge()
    kept, hidden = Label(source="1", painted=False), new("2", OBJECTS["2"][1], ignored="occluded")
    assert judged(store, painted(), kept, hidden, judge=judge).boxes == [] and judge.scored == 0


def test_new_objects_and_other_categories_are_judged_by_what_they_are_now(store):
    box = (80.0, 30.0, 15.0, 20.0)
    pixels = painted((OBJECTS["1"][1], GREEN), (box, RED))
    row = judged(store, pixels, new("1", category="green"), new(None, box, category="red"))
    assert [entry[1] for entry in entries(row)] == ["keep", "keep"]


def test_boxes_that_are_too_small_are_kept_unjudged(store):
    judge = ColourJudge()
    labels = new("1", (10.0, 10.0, 7.0, 30.0)), new("1", (95.0, 10.0, 20.0, 20.0)), new("2", (-30.0, 0.0, 20.0, 20.0))
    row = judged(store, painted(), *labels, judge=judge)
    assert {entry[1:] for entry in entries(row)} == {("keep", "too_small_to_judge")} and judge.scored == 0


def test_a_picture_is_judged_once_and_not_read_again(store):
    pixels, judge = painted((OBJECTS["1"][1], RED)), ColourJudge()
    before = judged(store, pixels, new("1"), judge=judge)
    store.path("picture", before.picture).unlink()
    (again,) = judge_pictures(
        [replace(before, boxes=[])], {"r": outcome_of(new("1"))}, OBJECTS, learned(store), judge, store
    )
    assert again == before and judge.scored == 1


def test_the_keys_of_what_is_kept_are_found_without_a_judge(store):
    too_small = new("1", (95.0, 10.0, 20.0, 20.0))
    row, real = judged(store, painted(), new("1"), too_small), real_boxes([(objects_of(30), images_of(30))], "train", 8)
    of_judge = NAMES, BoxScreenSettings(), ColourJudge.identity
    limits, shares = rule_keys(real, *of_judge)
    shares += painted_keys(row, outcome_of(new("1"), too_small), OBJECTS, *of_judge)
    kept = {item for item in store.items() if item[0] != "picture"}
    assert kept == {("limits", limits), *(("shares", key) for key in shares)} and len(kept) == 32
    assert painted_keys(row, outcome_of(too_small), OBJECTS, *of_judge) == []


def test_a_picture_that_left_the_store_is_a_reason(store):
    row = row_of(store, painted())
    store.path("picture", row.picture).unlink()
    (judged_row,) = judge_pictures([row], {"r": outcome_of(new("1"))}, OBJECTS, learned(store), ColourJudge(), store)
    assert (judged_row.status, judged_row.reason, judged_row.boxes) == (REJECTED, "picture_lost", [])


def test_a_judge_that_fails_costs_the_picture_that_it_failed_at(store):
    class Broken(ColourJudge):
        def score(self, crops, names):
            raise RuntimeError("CUDA error: misaligned address")

    row = judged(store, painted(), new("1"), judge=Broken())
    assert (row.status, row.reason) == (REJECTED, "model_failed")


def test_rows_set_aside_before_pass_as_they_are_and_progress_is_reported(store):
    row, steps = ScreenRow("x", REJECTED, "black", "", "7", "", "", "x.png", 0, 0, ""), []
    assert judge_pictures([row], {}, OBJECTS, learned(store), ColourJudge(), store, steps.append) == [row]
    assert steps == [1]


# Labels


def test_labels_are_ignored_with_their_box_as_runs_and_dropped_in_their_place():
    outcome = outcome_of(new("1", OBJECTS["1"][1]), new("2"), new("2"))
    outcome = judged_labels(
        outcome, ["0:drop:not_recognised:0.01", "1:ignore:doubtful:0.3", "2:keep:recognised:1"], OBJECTS
    )
    dropped, unsure, kept = outcome.labels
    assert (dropped.dropped, dropped.ignored) == ("not_recognised", "") and kept == outcome.labels[2]
    assert (unsure.ignored, unsure.bbox, unsure.area) == ("doubtful", OBJECTS["2"][1], 400)
    assert unsure.segmentation.size == (60, 100)


def test_without_verdicts_the_outcome_is_itself():
    outcome = outcome_of(new("1"))
    assert judged_labels(outcome, [], OBJECTS) is outcome


def test_what_becomes_of_a_label_is_not_part_of_a_requests_key():
    request = Request(**outcome_of(new("1")).model_dump(), passes=())
    marked = request.model_copy(update={"labels": (new("1", dropped="not_recognised"),)})
    assert key_of(marked) == key_of(request) and "dropped" not in request.model_dump_json()


@pytest.mark.parametrize(
    "verdict", [BoxVerdict(3, "drop", "not_recognised", 0.25), BoxVerdict(0, "keep", "small", None)]
)
def test_a_verdict_is_its_text(verdict):
    assert BoxVerdict.parse(str(verdict)) == verdict


def test_verdicts_are_counted_by_action_and_reason():
    rows = pd.DataFrame({"boxes": [["0:drop:not_recognised:0.1", "1:keep:recognised:1"], [], ["0:keep:recognised:1"]]})
    assert count_verdicts([rows]) == {"boxes dropped: not_recognised": 1, "boxes kept: recognised": 2}


def test_every_reason_stands_in_the_docs():
    page = (Path(__file__).parents[1] / "docs" / "workspace.md").read_text()
    words = set(re.findall(r"`([a-z_]+)`", page))
    names = ("RECOGNISED", "TOO_SMALL", "TOO_FEW_REAL", "DOUBTFUL", "NOT_FILLED", "NOT_RECOGNISED")
    assert {getattr(reasons, name) for name in names} | set(fates._DONE) | {
        "nothing_recognised",
        fates.UNLABELLED,
    } <= words


# The journey

DEMO = Path(__file__).parents[1] / "data" / "demo"
DATASET = {"images": str(DEMO / "images"), "annotations": str(DEMO / "annotations.json")}


@pytest.fixture
def grey():
    with PAINTERS.adding("grey", "plain_painters:Grey"):
        yield


def journey(workspace, painter="copy-paste", **boxes):
    return run(workspace, DATASET, limit=4, painter=painter, screen={"boxes": {"judge": "mini:clip", **boxes}})


def painted_in(workspace):
    final = json.loads((workspace / "final" / "annotations.json").read_bytes())
    return [note for note in final["annotations"] if note.get("painted")]


def test_real_donors_are_kept_and_a_rerun_or_other_limits_ask_and_paint_nothing(tmp_path, monkeypatch):
    account = journey(tmp_path / "ws")
    counts, labels = account["stages"]["screen"], len(painted_in(tmp_path / "ws"))
    assert counts["ok"] == 4 and counts["boxes kept: recognised"] == labels == 11
    assert account["limits"]["boxes"]["boxes"] == 30 and account["judge"].startswith("clip mini:clip")
    before = tree(tmp_path / "ws" / "final")
    monkeypatch.setattr(RegionScorer, "score", None)
    account = journey(tmp_path / "ws")
    assert all(stage["painted"] == 0 for stage in account["stages"].values())
    account = journey(tmp_path / "ws", keep=0, drop=0)
    assert account["painted"] == 0 and tree(tmp_path / "ws" / "final") == before
    groups = {group.name: group for group in tidy(tmp_path / "ws")}
    assert (groups["store/limits"].kept, groups["store/limits"].removed) == (1, 1)  # of the former percentiles
    assert groups["store/shares"].removed == groups["store/verdict"].removed == 0
    assert journey(tmp_path / "ws", keep=0, drop=0)["painted"] == 0


def test_pictures_of_nothing_are_set_aside(tmp_path, grey):
    account = journey(tmp_path / "ws", "grey")
    assert account["stages"]["screen"]["rejected"] == {"nothing_recognised": 4}
    assert account["stages"]["screen"]["boxes dropped: not_recognised"] == 11 and not painted_in(tmp_path / "ws")


def test_labels_in_doubt_reach_the_final_set_marked_and_those_dropped_do_not(tmp_path, grey):
    account = journey(tmp_path / "ws", "grey", drop=0)  # nothing is below the lowest score
    notes = painted_in(tmp_path / "ws")
    assert account["stages"]["finalise"]["boxes ignored: doubtful"] == 11 == len(notes)
    assert {(note["iscrowd"], note["ignore"], note["ignored"]) for note in notes} == {(1, 1, "doubtful")}
    ids = [note["id"] for note in notes]
    sheet = (tmp_path / "ws" / "contact_sheet.jpg").read_bytes()
    some = journey(tmp_path / "ws", "grey", others=[])["stages"]
    left = painted_in(tmp_path / "ws")
    assert some["generate"]["painted"] == 0 and 0 < some["screen"]["boxes dropped: not_recognised"] < 11
    assert {note["id"] for note in left} <= set(ids) and 0 < len(left) < 11
    assert (tmp_path / "ws" / "contact_sheet.jpg").read_bytes() != sheet
