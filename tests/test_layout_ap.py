"""Layout AP in closed form: what is found, missed, shifted, ignored; and the result for no boxes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lib.evaluation.detectors import Detections
from lib.evaluation.metrics.layout import Truth, layout_ap, truth_of_coco

NAMES = ["forklift", "pallet"]
NUMBERS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar", "ar_1", "ar_10")


def truth(*boxes: tuple[float, ...], ignore: tuple[int, ...] = ()) -> Truth:
    """From (label, x0, y0, x1, y1); ignore: numbers of those to ignore."""
    rows = np.array(boxes, np.float64).reshape(-1, 5)
    marks = np.isin(np.arange(len(rows)), ignore)
    return Truth(rows[:, 1:], rows[:, 0].astype(np.int64), marks)


def found(*boxes: tuple[float, ...], scores: tuple[float, ...] | None = None) -> Detections:
    """From (label, x0, y0, x1, y1); of equal scores unless given."""
    rows = np.array(boxes, np.float64).reshape(-1, 5)
    return Detections(rows[:, 1:], np.array(scores or [0.9] * len(rows)), rows[:, 0].astype(np.int64))


SMALL, MEDIUM, LARGE = (0, 10, 10, 30, 30), (1, 50, 50, 110, 110), (0, 200, 200, 350, 350)  # 400, 3600, 22500 pixels²


def test_perfect_detections_score_one_at_every_size():
    result = layout_ap([truth(SMALL, MEDIUM, LARGE)] * 3, [found(SMALL, MEDIUM, LARGE)] * 3, NAMES)
    for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar", "ar_small", "ar_medium", "ar_large"):
        assert result[name] == pytest.approx(1), name
    assert (result["pictures"], result["boxes"], result["ignored"], result["detections"]) == (3, 9, 0, 9)


def test_no_detections_score_nothing():
    result = layout_ap([truth(SMALL, MEDIUM)], [found()], NAMES)
    assert result["ap"] == result["ap50"] == result["ar"] == result["ap_small"] == result["ap_medium"] == 0
    assert result["ap_large"] is None


def test_half_of_the_categories_score_a_half():
    result = layout_ap([truth(SMALL, MEDIUM)] * 2, [found(MEDIUM)] * 2, NAMES)
    assert result["ap"] == pytest.approx(0.5)
    by = result["by_category"]
    assert by["forklift"]["ap"] == 0 and by["pallet"]["ap"] == pytest.approx(1)
    assert by["pallet"]["boxes"] == by["forklift"]["boxes"] == 2


def test_half_of_the_boxes_found_surely_score_half_of_the_recalls():
    result = layout_ap([truth(SMALL, LARGE)], [found(SMALL)], NAMES)
    assert result["ap"] == pytest.approx(51 / 101)  # recalls 0, .01, … .5 of 0 … 1
    assert result["ar"] == pytest.approx(0.5)


def test_a_surer_false_alarm_halves_the_precision_and_one_less_sure_costs_nothing():
    wrong = (0, 100, 10, 120, 30)
    for scores, expected in (((0.5, 0.9), 0.5), ((0.9, 0.5), 1.0)):
        result = layout_ap([truth(SMALL)], [found(SMALL, wrong, scores=scores)], NAMES)
        assert result["ap"] == pytest.approx(expected)


@pytest.mark.parametrize(("shift", "hits"), [(0, 10), (5, 9), (10, 7), (20, 4), (30, 1), (40, 0)])
def test_a_shifted_box_counts_at_the_overlaps_that_it_still_reaches(shift: float, hits: int):
    moved = (0, shift, 0, 100 + shift, 100)
    overlap = (100 - shift) / (100 + shift)
    assert hits == sum(overlap >= limit for limit in np.linspace(0.5, 0.95, 10))
    result = layout_ap([truth((0, 0, 0, 100, 100))], [found(moved)], NAMES)
    assert result["ap"] == pytest.approx(hits / 10)
    assert result["ap50"] == pytest.approx(float(overlap >= 0.5)) and result["ap75"] == pytest.approx(
        float(overlap > 0.75)
    )


def test_the_wrong_category_at_the_right_place_is_a_miss():
    assert layout_ap([truth(SMALL)], [found((1, *SMALL[1:]))], NAMES)["ap"] == 0


def test_the_right_box_in_another_picture_is_a_miss():
    assert layout_ap([truth(SMALL), truth()], [found(), found(SMALL)], NAMES)["ap"] == 0


def test_ignored_boxes_punish_neither_what_is_found_in_them_nor_what_is_not():
    crowd = (0, 100, 100, 300, 300)
    inside = [(0, 110, 110, 150, 150), (0, 200, 200, 260, 260), (0, 100, 100, 300, 300)]
    pictures = [truth(SMALL, crowd, ignore=(1,))]
    for boxes in ([SMALL], [SMALL, *inside]):
        scores = (0.5, *[0.9] * (len(boxes) - 1))
        result = layout_ap(pictures, [found(*boxes, scores=scores)], NAMES)
        assert [result["ap"], result["ar"]] == pytest.approx([1, 1])
    assert (result["boxes"], result["ignored"]) == (1, 1)
    punished = layout_ap([truth(SMALL)], [found(SMALL, *inside, scores=(0.5, 0.9, 0.9, 0.9))], NAMES)
    assert punished["ap"] == pytest.approx(0.25)


def test_the_first_box_of_all_counts():
    """COCOeval takes the id 0 for no match."""
    assert layout_ap([truth(SMALL)], [found(SMALL)], NAMES)["ap"] == pytest.approx(1)


def test_the_size_is_that_of_the_area_where_one_is_given():
    box = truth(LARGE)
    result = layout_ap([Truth(box.boxes, box.labels, box.ignore, np.array([500.0]))], [found(LARGE)], NAMES)
    assert result["ap_large"] is None and result["ap_small"] == pytest.approx(1)


def test_only_the_chosen_categories_are_measured():
    both = [truth(SMALL, MEDIUM)], [found(MEDIUM)], NAMES
    result = layout_ap(*both, only=["pallet"])
    assert result["ap"] == pytest.approx(1)
    assert list(result["by_category"]) == ["pallet"] and result["boxes"] == 1
    for only in (["crate"], []):
        with pytest.raises(ValueError, match="expected some of forklift, pallet"):
            layout_ap(*both, only=only)


@pytest.mark.parametrize(("boxes", "detections"), [([], []), ([truth()], [found()]), ([truth()], [found(SMALL)])])
def test_nothing_to_find_has_no_score(boxes: list[Truth], detections: list[Detections]):
    result = layout_ap(boxes, detections, NAMES)
    assert all(result[name] is None for name in NUMBERS)
    assert result["by_category"]["pallet"] == {"ap": None, "ap50": None, "ap75": None, "ar": None, "boxes": 0}


def test_the_result_is_json_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]):
    json.dumps(layout_ap([truth(SMALL)], [found(SMALL)], NAMES), allow_nan=False)
    output = capsys.readouterr()
    assert output.out == output.err == ""


def test_coco_s_own_figure_for_random_boxes():
    """The same through COCO's own file form, loadRes and summarize."""
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(3)
    notes: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for picture in range(1, 21):
        for _ in range(4):
            x, y, w, h = (float(v) for v in rng.uniform(5, 120, 4))
            category = int(rng.integers(1, 3))
            note = {"image_id": picture, "category_id": category, "bbox": [x, y, w, h], "area": w * h}
            notes.append(note | {"id": len(notes) + 1, "iscrowd": int(rng.random() < 0.1)})
            shaken = [x + rng.normal(0, 4), y + rng.normal(0, 4), w, h]
            results.append({"image_id": picture, "category_id": category, "bbox": shaken, "score": rng.random()})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i} for i in range(1, 21)],
            "categories": [{"id": 1}, {"id": 2}],
            "annotations": notes,
            "info": {},
        }
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(results), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    pictures = [truth_of_coco([n for n in notes if n["image_id"] == i], [1, 2]) for i in range(1, 21)]
    detections = [
        found(
            *[
                (
                    r["category_id"] - 1,
                    r["bbox"][0],
                    r["bbox"][1],
                    r["bbox"][0] + r["bbox"][2],
                    r["bbox"][1] + r["bbox"][3],
                )
                for r in results
                if r["image_id"] == i
            ],
            scores=tuple(r["score"] for r in results if r["image_id"] == i),
        )
        for i in range(1, 21)
    ]
    result = layout_ap(pictures, detections, NAMES)
    sizes = ["small", "medium", "large"]
    names = ["ap", "ap50", "ap75", *(f"ap_{s}" for s in sizes), "ar_1", "ar_10", "ar", *(f"ar_{s}" for s in sizes)]
    np.testing.assert_allclose([result[name] for name in names], run.stats, atol=1e-9)
    assert 0.2 < result["ap"] < 0.9


def test_coco_annotations_become_truth():
    notes = [
        {"bbox": [1, 2, 3, 4], "category_id": 7, "area": 5, "iscrowd": 0},
        {"bbox": [0, 0, 9, 9], "category_id": 3, "iscrowd": True},
        {"bbox": [0, 0, 2, 2], "category_id": 3, "area": None, "ignore": 1},
    ]
    true = truth_of_coco(notes, [3, 7])
    assert true.boxes.tolist() == [[1, 2, 4, 6], [0, 0, 9, 9], [0, 0, 2, 2]]
    assert (true.labels.tolist(), true.ignore.tolist()) == ([1, 0, 0], [False, True, True])
    assert true.area is not None and true.area.tolist() == [5, 81, 4]
    assert truth_of_coco([], [3]).boxes.shape == (0, 4)
    with pytest.raises(ValueError, match="category ids 7 are unknown"):
        truth_of_coco(notes, [3])


@pytest.mark.parametrize(
    ("boxes", "detections", "why"),
    [
        ([truth(SMALL)], [], "the same pictures"),
        ([truth((2, 0, 0, 5, 5))], [found()], "of 2 names"),
        ([truth()], [found((-1, 0, 0, 5, 5))], "of 2 names"),
        ([truth(SMALL)], [found((0, 0, 0, np.nan, 5))], "not finite"),
        ([truth(SMALL)], [found(SMALL, scores=(np.inf,))], "not finite"),
    ],
)
def test_what_does_not_fit_together_is_refused(boxes: list[Truth], detections: list[Detections], why: str):
    with pytest.raises(ValueError, match=why):
        layout_ap(boxes, detections, NAMES)
