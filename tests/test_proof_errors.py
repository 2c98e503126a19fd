"""Kinds of errors in closed form, and whole pictures let pass or refused."""

import numpy as np
import pytest

from lib.evaluation.detectors import Detections
from lib.evaluation.metrics.layout import Truth, layout_ap
from lib.proof.errors import KINDS, ErrorKinds, error_table, errors_of, rates, threshold_at

NAMES = ["crack", "dent"]
BOX = (0, 0, 0, 100, 100)  # label, then xyxy


def truth(*boxes, ignore=()):
    rows = np.array(boxes, np.float64).reshape(-1, 5)
    return Truth(rows[:, 1:], rows[:, 0].astype(np.int64), np.isin(np.arange(len(rows)), ignore))


def found(*boxes, scores=None):
    rows = np.array(boxes, np.float64).reshape(-1, 5)
    return Detections(rows[:, 1:], np.array(scores or [0.9] * len(rows)), rows[:, 0].astype(np.int64))


def kinds(labels, some, threshold=0.0):
    return error_table([labels], [some], NAMES, threshold)["kind"].tolist()


@pytest.mark.parametrize(
    ("detections", "expected"),
    [
        ([BOX], ["right"]),
        ([], ["missed"]),
        ([(1, 0, 0, 100, 100)], ["wrong_class"]),
        ([(0, 50, 0, 150, 100)], ["badly_placed"]),  # IoU 1/3
        ([(1, 50, 0, 150, 100)], ["wrong_class_and_place", "missed"]),
        ([(0, 300, 300, 400, 400)], ["background", "missed"]),
        ([(0, 90, 0, 190, 100)], ["background", "missed"]),  # IoU 1/19
        ([BOX, BOX], ["right", "double"]),
        ([BOX, (1, 0, 0, 100, 100)], ["right", "wrong_class"]),
        ([BOX, (0, 40, 0, 140, 100)], ["right", "badly_placed"]),  # IoU 3/7, of a box that is found already
    ],
)
def test_each_kind_is_known_by_class_and_overlap(detections, expected):
    assert kinds(truth(BOX), found(*detections)) == expected


def test_a_picture_without_labels_has_only_background_errors():
    assert kinds(truth(), found(BOX, (1, 0, 0, 5, 5))) == ["background", "background"] and kinds(truth(), found()) == []


def test_detections_below_the_threshold_do_not_count():
    assert kinds(truth(BOX), found(BOX, scores=[0.4]), threshold=0.5) == ["missed"]
    assert kinds(truth(BOX), found(BOX, scores=[0.5]), threshold=0.5) == ["right"]


def test_the_surest_detection_takes_the_box_in_whatever_order_they_come():
    table = error_table([truth(BOX)], [found(BOX, BOX, scores=[0.2, 0.8])], NAMES, 0)
    assert table["kind"].tolist() == ["right", "double"] and table["score"].tolist() == [0.8, 0.2]


def test_finding_or_missing_an_ignored_box_is_no_error():
    crowd = truth((0, 0, 0, 400, 400), ignore=[0])
    assert kinds(crowd, found()) == [] and kinds(crowd, found(BOX, (0, 200, 200, 300, 300))) == []
    assert kinds(crowd, found((1, 0, 0, 100, 100))) == ["background"]  # of another class, as COCOeval has it


def test_errors_are_counted_by_category_size_and_crowding():
    labels = truth(BOX, (0, 110, 0, 210, 100), (1, 600, 600, 620, 620))
    some = found(BOX, (1, 110, 0, 210, 100), (0, 900, 900, 930, 930))
    errors = errors_of([labels], [some], NAMES, 0.5)
    assert errors.boxes == 3 and errors.counts == dict.fromkeys(KINDS, 0) | {
        "right": 1,
        "wrong_class": 1,
        "background": 1,
        "missed": 1,
    }
    assert errors.by_category["dent"]["missed"] == 1 and errors.by_category["crack"]["wrong_class"] == 1
    assert errors.by_size["large"]["right"] == 1 and errors.by_size["small"]["background"] == 1
    assert errors.by_crowding["near others"]["right"] == 1 and errors.by_crowding["apart"]["missed"] == 1
    assert [(one.category, one.found_as, one.count) for one in errors.confusions] == [("crack", "dent", 1)]
    for parts in (errors.by_category, errors.by_size, errors.by_crowding):
        assert {kind: sum(part[kind] for part in parts.values()) for kind in errors.counts} == errors.counts


def test_the_sizes_are_those_of_coco():
    sides = [31, 32, 96, 97]
    table = error_table([truth(*[(0, 200 * i, 0, 200 * i + s, s) for i, s in enumerate(sides)])], [found()], NAMES, 0)
    assert table["size"].tolist() == ["small", "medium", "medium", "large"]


def test_mending_the_only_error_gains_all_that_was_lacking():
    other = (1, 300, 300, 380, 380)
    cases = {
        "missed": found(other),
        "wrong_class": found((1, 0, 0, 100, 100), other, scores=[0.95, 0.9]),
        "badly_placed": found((0, 50, 0, 150, 100), other),
        "background": found((0, 500, 500, 600, 600), BOX, other, scores=[0.99, 0.9, 0.9]),
    }
    for kind, some in cases.items():
        errors = errors_of([truth(BOX, other)], [some], NAMES, 0.5)
        assert errors.ap50 < 100 and errors.gains[kind].ap50 == pytest.approx(100 - errors.ap50), kind
        rest = [one for one in KINDS if one != kind]
        assert all(errors.gains[one].ap50 == pytest.approx(0) for one in rest), kind


def test_a_surer_double_of_one_box_costs_precision_at_another():
    boxes = (BOX, (0, 300, 300, 400, 400))
    some = found(BOX, BOX, boxes[1], scores=[0.9, 0.8, 0.7])
    errors = errors_of([truth(*boxes)], [some], NAMES, 0.5)
    assert errors.gains["double"].ap50 == pytest.approx(100 - errors.ap50) and errors.ap50 < 100


def test_the_gains_count_all_detections_whatever_the_threshold():
    low = errors_of([truth(BOX)], [found((0, 50, 0, 150, 100), scores=[0.1])], NAMES, 0.0)
    high = errors_of([truth(BOX)], [found((0, 50, 0, 150, 100), scores=[0.1])], NAMES, 0.9)
    assert low.gains == high.gains and low.counts != high.counts


def test_the_right_ones_are_those_of_average_precision():
    rng = np.random.default_rng(0)
    labels, some = [], []
    for _ in range(20):
        corners = rng.uniform(0, 200, (5, 2))
        rows = np.hstack([rng.integers(0, 2, (5, 1)), corners, corners + rng.uniform(20, 80, (5, 2))])
        labels.append(truth(*rows))
        noisy = rows + np.hstack([np.zeros((5, 1)), rng.normal(0, 8, (5, 4))])
        noisy[:, 0] = np.where(rng.random(5) < 0.2, 1 - noisy[:, 0], noisy[:, 0])
        some.append(found(*noisy, scores=rng.random(5).tolist()))
    errors = errors_of(labels, some, NAMES, 0.0)
    by = layout_ap(labels, some, NAMES)["by_category"]
    assert errors.ap50 == pytest.approx(50 * sum(one["ap50"] for one in by.values()))
    assert errors.counts["right"] > 20 and errors.gains["wrong_class"].ap50 > 0
    assert ErrorKinds.model_validate_json(errors.model_dump_json()) == errors


def test_without_boxes_there_is_no_precision_and_no_gain():
    errors = errors_of([truth()], [found(BOX)], NAMES, 0.5)
    assert errors.ap is None and errors.gains == {} and errors.counts["background"] == 1


def test_pictures_that_escape_and_that_are_refused_are_counted_whole():
    labels = [truth(BOX), truth(BOX), truth(), truth(), truth(), truth(BOX, ignore=[0])]
    some = [found(BOX), found(BOX, scores=[0.3]), found(BOX), found(), found(BOX, scores=[0.3]), found(BOX)]
    one = rates(labels, some, 0.5)
    assert (one.escapes, one.with_objects) == (0.5, 2) and (one.false_rejects, one.without) == (pytest.approx(1 / 3), 3)


def test_rates_of_pictures_that_do_not_exist_are_none():
    assert (
        rates([truth(BOX)], [found()], 0.5).false_rejects is None and rates([truth()], [found()], 0.5).escapes is None
    )


def test_the_threshold_is_the_lowest_that_refuses_no_more_than_allowed():
    labels, some = [truth()] * 20, [found(BOX, scores=[0.01 * i]) for i in range(20)]
    one = threshold_at(labels, some, 0.1)
    assert rates(labels, some, one.score).false_rejects == 0.1 and "10 % of 20 pictures" in one.rule
    assert rates(labels, some, one.score - 1e-6).false_rejects > 0.1
    assert threshold_at(labels, [found()] * 20).score == 0


def test_without_empty_pictures_the_threshold_has_the_best_f1():
    labels = [truth(BOX)] * 4
    some = [found(BOX, scores=[0.9]), found(BOX, scores=[0.8]), found(BOX, scores=[0.7]), found((0, 300, 0, 310, 9))]
    some[3] = found((0, 300, 0, 310, 9), scores=[0.6])
    one = threshold_at(labels, some)
    assert one.score == 0.7 and "F1" in one.rule
    assert threshold_at(labels, [found()] * 4).score == 0.5
