"""augment advise: the rules with made findings, folds that keep groups whole, and the whole path at tiny sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import MadeSet
from shared import shared

import tasks.advise
from flows import cli
from flows.advise import advise as advise_flow
from lib.core.errors import AugmentError
from lib.datasets.find import find_dataset
from lib.evaluation.detectors import Detections
from lib.evaluation.metrics.layout import Truth, layout_ap
from lib.proof.advice import FREE, HIGH, Advice, advise
from lib.proof.advice_page import advice_markdown, write_advice
from lib.proof.advising import advice_values, check_advice, run_parameters, run_yaml
from lib.proof.errors import CROWDING, KINDS, SIZES, Confusion, ErrorKinds, Gain
from lib.proof.findings import Basis, Cell, ClassFinding, Estimate, Findings, Point, findings_of, slope_of
from lib.proof.folds import FoldSettings, candidates, divide, judged_categories, part_of
from lib.proof.resampling import draws, matched_of
from lib.records.settings import DatasetSettings
from lib.runs.dry_run import dry_run
from lib.runs.parameters import check_parameters, resolve_parameters

# --- rules -----------------------------------------------------------------------------------------------------------


def counts(**given: int) -> dict[str, int]:
    return dict.fromkeys(("right", *KINDS), 0) | given


def errors(classes: list[ClassFinding], gains: dict[str, float], confusions: Any = (), **more: Any) -> ErrorKinds:
    found = counts(right=200, missed=60, background=10)
    return ErrorKinds(
        threshold=0.3,
        boxes=sum(one.boxes for one in classes),
        counts=found,
        by_category={one.name: counts(missed=one.missed) for one in classes},
        by_size=dict.fromkeys(SIZES, found),
        by_crowding=more.get("crowding") or {where: counts(right=50, missed=10) for where in CROWDING},
        confusions=[Confusion(category=a, found_as=b, count=n) for a, b, n in confusions],
        ap=40.0,
        ap50=70.0,
        gains={kind: Gain(ap=gains.get(kind, 0.0), ap50=0.0) for kind in KINDS},
    )


def a_class(name: str, boxes: int = 100, ap: float = 40.0, slope: float = 0.3, **more: Any) -> ClassFinding:
    return ClassFinding(name=name, boxes=boxes, pictures=boxes, ap=ap, slope=slope, **more)


def findings(ap: float = 40.0, doubling: tuple[float, float, float] = (4.0, 1.5, 6.5), **changes: Any) -> Findings:
    classes = changes.pop("classes", [a_class("truck", 200, ap + 5), a_class("fork", 100, ap - 5, missed=40)])
    gains = changes.pop("gains", {"missed": 9.0, "background": 2.0, "badly_placed": 5.0, "wrong_class": 1.0})
    kinds = errors(classes, gains, changes.pop("confusions", ()), crowding=changes.pop("crowding", None))
    value, low, high = doubling
    values = {
        "detector": "compact",
        "steps": 400,
        "folds": 4,
        "pictures": 200,
        "groups": 50,
        "grouped": True,
        "boxes": sum(one.boxes for one in classes),
        "curve": [
            Point(share=0.5, pictures=75, ap=Estimate(value=ap - value)),
            Point(share=1.0, pictures=150, ap=Estimate(value=ap, low=ap - 2, high=ap + 2)),
        ],
        "doubling": Estimate(value=value, low=low, high=high),
        "slope": 0.2,
        "fitted": ap + 30,
        "free": {"C": Estimate(value=0.3, low=-1, high=1.5)},
        "errors": kinds,
        "classes": classes,
    }
    return Findings(**(values | changes))


def test_a_steep_curve_that_nothing_free_gives_is_a_yes():
    advice = advise(findings())
    assert advice.answer == "yes"
    assert advice.sentence.startswith(
        "Yes, painting is likely to pay: twice as many real pictures gave +4.0 AP (1.5 to"
    )
    assert advice.ratio == 1 and advice.instead is None


def test_where_little_is_lacking_it_says_do_not():
    advice = advise(findings(ap=HIGH + 3))
    assert advice.answer == "no"
    assert "Do not paint: little is lacking" in advice.sentence


def test_a_flat_curve_says_do_not():
    advice = advise(findings(doubling=(0.2, -1.0, 1.4)))
    assert advice.answer == "no"
    assert "the learning curve is flat: twice as many real pictures gave +0.2 AP (−1.0 to 1.4)" in advice.sentence


def test_a_flat_curve_that_may_be_steep_is_a_perhaps():
    assert advise(findings(doubling=(0.2, -5.0, 6.0))).answer == "perhaps"
    assert advise(findings(doubling=(3.0, -1.0, 7.0))).answer == "perhaps", "the interval holds 0"


@pytest.mark.parametrize("arm", ["C", "D"])
def test_what_is_free_and_gives_as_much_is_advised_instead(arm):
    advice = advise(findings(free={arm: Estimate(value=3.0, low=1.0, high=5.0)}))
    assert (advice.answer, advice.instead) == ("no", arm)
    assert FREE[arm] in advice.sentence and "use it instead" in advice.sentence


def test_where_copy_paste_surely_gained_nothing_a_steep_curve_is_a_perhaps_that_says_what_would_have_to_help():
    advice = advise(findings(free={"D": Estimate(value=-0.4, low=-2.0, high=0.8)}))
    assert advice.answer == "perhaps"
    assert "copy-paste, which shows the same objects again, gave −0.4 AP" in advice.sentence
    assert advise(findings(free={"D": Estimate(value=-0.4, low=-3.0, high=2.0)})).answer == "yes", "it may have gained"


def test_of_two_free_ones_the_better_is_advised():
    free = {"C": Estimate(value=3.0, low=1.0, high=5.0), "D": Estimate(value=4.0, low=2.0, high=6.0)}
    assert advise(findings(free=free)).instead == "D"


def test_a_detector_that_does_not_fit_its_own_pictures_is_to_be_trained_longer():
    advice = advise(findings(fitted=42.0))
    assert advice.answer == "no"
    assert "train it for more steps" in advice.sentence
    assert advise(findings(fitted=42.0, quick=True)).answer != "no", "so few steps are the quick look's own"


def test_boxes_that_are_badly_placed_are_no_reason_to_paint_where_more_pictures_do_not_surely_help():
    placed = {"badly_placed": 20.0, "missed": 4.0}
    assert advise(findings(gains=placed)).answer == "yes", "more pictures teach it"
    advice = advise(findings(gains=placed, doubling=(3.0, -1.0, 7.0)))
    assert advice.answer == "no"
    assert "placing of boxes" in advice.sentence
    replace = next(one for one in advice.edits if one.edit == "replace")
    assert not replace.fits


def test_the_weak_rare_class_is_the_target():
    classes = [a_class("truck", 300, 60.0), a_class("pallet", 250, 55.0), a_class("fork", 20, 15.0, missed=15)]
    advice = advise(findings(classes=classes))
    assert [one.name for one in advice.classes] == ["fork"]
    assert advice.target == {"per_category": {"fork": 32}}, "20 × ((4/3)^(1/.3) − 1), to two digits"
    assert "rare" in advice.classes[0].why


def test_no_class_gets_more_than_four_new_boxes_a_real_one_and_all_not_more_than_the_ratio():
    flat = [a_class("truck", 300, 60.0, slope=0.01), a_class("fork", 50, 15.0, slope=0.01)]
    assert advise(findings(classes=flat)).target == {"per_category": {"fork": 200}}
    alike = [a_class("a", 100, 30.0, slope=0.01), a_class("b", 100, 30.0, slope=0.01)]
    assert advise(findings(classes=alike)).target == {"per_category": {"a": 100, "b": 100}}
    assert advise(findings(classes=alike, pictures=60)).target == {"per_category": {"a": 200, "b": 200}}


def test_each_new_box_goes_where_it_gains_most_and_not_to_the_weakest_class_alone():
    """The next box of a class gains e b n^b / (n + m)^(b + 1), which is equal for all that get any."""
    classes = [
        a_class("truck", 14, 40.0),
        a_class("pallet", 6, 1.0),
        a_class("fork", 2, 8.0),
        a_class("cart", 400, 60.0),
    ]
    given = {one.name: one.new_boxes for one in advise(findings(classes=classes, pictures=60)).classes}
    assert "cart" not in given, "400 are many"
    assert given["fork"] == 8, "four new ones a real one at most"
    after = {one.name: one.boxes + given.get(one.name, 0) for one in classes}
    gains = {one.name: (100 - one.ap) * one.boxes**0.3 / after[one.name] ** 1.3 for one in classes}
    assert gains["truck"] == pytest.approx(gains["pallet"], rel=0.1)
    assert gains["cart"] < gains["truck"] < gains["fork"], "beyond what it may get"


def test_a_class_of_few_boxes_is_named_before_all_else():
    classes = [a_class("truck", 300, 60.0), a_class("fork", 6, 0.0)]
    advice = advise(findings(classes=classes, quick=True, grouped=False))
    assert advice.cautions[0].startswith("A quick look")
    assert advice.cautions[1] == "Classes with fewer than 10 boxes cannot be measured: fork (6)"
    assert any("dataset.group" in line for line in advice.cautions)
    assert advice.sentence.startswith("A quick look, so a hint: ")


@pytest.mark.parametrize(
    ("changes", "edit"),
    [
        ({"gains": {"missed": 9.0}}, "insert"),
        ({"gains": {"background": 9.0, "missed": 2.0}}, "background"),
        ({"confusions": [("truck", "fork", 30)], "gains": {"wrong_class": 9.0, "missed": 1.0}}, "insert"),
    ],
)
def test_the_edit_fits_what_is_wrong(changes, edit):
    first = advise(findings(**changes)).edits[0]
    assert (first.edit, first.fits) == (edit, True)


def test_crowded_objects_that_are_missed_ask_for_occlusion():
    crowding = {"near others": counts(right=30, missed=30), "apart": counts(right=90, missed=10)}
    occlude = next(one for one in advise(findings(crowding=crowding)).edits if one.edit == "occlude")
    assert occlude.fits and "50 % of 60 near others, 10 % of 100 apart" in occlude.text
    assert not next(one for one in advise(findings()).edits if one.edit == "occlude").fits


# --- folds -----------------------------------------------------------------------------------------------------------


def rows_of(count: int, a_group: int = 1) -> tuple[pd.DataFrame, pd.DataFrame]:
    keys = [str(i) for i in range(count)]
    groups = [f"g{i // a_group}" if a_group > 1 else "" for i in range(count)]
    images = pd.DataFrame({"key": keys, "status": "ok", "reason": "", "split": "train", "group": groups})
    rows = [(key, "ok", name, False) for key in keys for name in ("truck", "fork")]
    return images, pd.DataFrame(rows, columns=["image_key", "status", "category", "crowd"])


def hashes_of(count: int) -> list[np.uint64]:
    rng = np.random.default_rng(0)
    return [np.uint64(rng.integers(2**63)) for _ in range(count)]


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_no_group_is_on_both_sides_and_each_picture_is_judged_once(folds):
    groups = [f"g{i // 4}" for i in range(60)]
    table = np.random.default_rng(1).integers(0, 3, (60, 3))
    found = divide(groups, table, hashes_of(60), FoldSettings(count=folds))
    assert sorted(i for one in found for i in one.held) == list(range(60))
    for one in found:
        assert not {groups[i] for i in one.train} & {groups[i] for i in one.held}


def test_a_rare_class_is_shared_out_over_the_folds():
    table = np.zeros((40, 2), int)
    table[:, 0], table[:4, 1] = 1, 1
    found = divide([str(i) for i in range(40)], table, hashes_of(40), FoldSettings(count=4))
    assert [int(table[one.held, 1].sum()) for one in found] == [1, 1, 1, 1]
    assert {len(one.held) for one in found} == {10}


def test_near_duplicates_of_a_held_picture_are_not_learned_from():
    hashes = hashes_of(20)
    hashes[7] = np.uint64(int(hashes[3]) ^ 0b11)
    found = divide([str(i) for i in range(20)], np.ones((20, 1), int), hashes, FoldSettings(count=4))
    for one in found:
        assert not (3 in one.held and 7 in one.train) and not (7 in one.held and 3 in one.train)
    assert sum(one.near for one in found) in (0, 2)


def test_a_quarter_is_part_of_the_half():
    fold = divide([str(i) for i in range(40)], np.ones((40, 1), int), hashes_of(40), FoldSettings())[0]
    quarter, half = (set(part_of(fold, share)) for share in (0.25, 0.5))
    assert quarter < half < set(fold.train)


def test_too_few_pictures_or_groups_are_one_clear_sentence():
    images, objects = rows_of(7)
    with pytest.raises(
        AugmentError, match="7 readable pictures with boxes of the training split, of 7 in all, are too"
    ):
        candidates(images, objects, FoldSettings())
    with pytest.raises(AugmentError, match="20 pictures are of 2 groups, which cannot be divided into 4 folds"):
        divide(["a"] * 10 + ["b"] * 10, np.ones((20, 1), int), hashes_of(20), FoldSettings())


def test_test_pictures_take_no_part_and_a_class_of_one_group_is_not_judged():
    images, objects = rows_of(30, a_group=3)
    images.loc[:5, "split"] = "test"
    chosen = candidates(images, objects, FoldSettings())
    assert not set(chosen.key) & {str(i) for i in range(6)} and len(chosen) == 24
    objects.loc[objects.image_key.isin(["9", "10", "11"]) & (objects.category == "fork"), "category"] = "crane"
    assert judged_categories(objects, chosen) == (["fork", "truck"], ["crane"])


# --- measures --------------------------------------------------------------------------------------------------------


def scene(seed: int, pictures: int, noise: float) -> tuple[list[Truth], list[Detections]]:
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(pictures):
        n = int(rng.integers(1, 5))
        corners = rng.uniform(0, 200, (n, 2))
        boxes = np.hstack([corners, corners + rng.uniform(15, 80, (n, 2))])
        labels = rng.integers(0, 2, n)
        truth.append(Truth(boxes, labels, rng.random(n) < 0.15))
        every = np.vstack([boxes + rng.normal(0, noise, (n, 4)), rng.uniform(0, 90, (4, 4)) + np.array([0, 0, 90, 90])])
        found.append(Detections(every, rng.random(len(every)), np.append(labels, rng.integers(0, 2, 4))))
    return truth, found


def test_ap_of_a_whole_set_is_that_of_pycocotools():
    truth, found = scene(3, 25, 3.0)
    expected = layout_ap(truth, found, ["truck", "fork"])["by_category"]
    ours = matched_of(truth, found, 2).ap(np.ones((1, 25)))[0]
    assert ours == pytest.approx([100 * expected[name]["ap"] for name in ("truck", "fork")], abs=1e-6)


def test_a_picture_that_counts_twice_is_as_the_picture_twice():
    truth, found = scene(4, 12, 3.0)
    weights = np.ones((1, 12))
    weights[0, 2] = 2
    once = matched_of(truth, found, 2).ap(weights)
    twice = matched_of([*truth, truth[2]], [*found, found[2]], 2).ap(np.ones((1, 13)))
    assert once == pytest.approx(twice, abs=0.5)


def test_groups_are_drawn_whole():
    groups = [f"g{i // 3}" for i in range(24)]
    drawn = draws([i // 12 for i in range(24)], groups, 50)
    assert drawn.shape == (50, 24) and (drawn.reshape(50, 8, 3) == drawn.reshape(50, 8, 3)[:, :, :1]).all()


def test_the_slope_of_a_power_law_is_found_and_never_below_0():
    sizes = [25, 50, 100]
    assert slope_of(sizes, [60 * n**-0.25 for n in sizes]) == pytest.approx(0.25)
    assert slope_of(sizes, [40, 41, 42]) == 0
    assert slope_of([0, 0, 10], [50, 50, 40]) == 0


def test_findings_compare_the_points_of_the_curve_picture_by_picture():
    truth, good = scene(5, 24, 1.0)
    _, poor = scene(5, 24, 8.0)
    basis = Basis(
        names=["truck", "fork"],
        detector="compact",
        steps=3,
        folds=[i % 2 for i in range(24)],
        groups=[str(i) for i in range(24)],
        grouped=False,
    )
    curve = [Cell(0.5, 6, np.array([8.0, 8.0]), poor), Cell(1.0, 12, np.array([16.0, 16.0]), good)]
    found = findings_of(basis, truth, curve, {"C": curve[-1]}, (truth, good))
    assert found.doubling.value == pytest.approx(found.curve[1].ap.value - found.curve[0].ap.value)
    assert found.doubling.low is not None and found.doubling.low > 0
    assert found.free["C"].value == 0 and found.fitted == pytest.approx(found.ap)
    assert sum(one.boxes for one in found.classes) == found.boxes == found.errors.boxes


# --- what it takes and gives -----------------------------------------------------------------------------------------

DATASET = {"images": "pictures", "annotations": "boxes.json"}


def test_parameters_of_a_run_and_of_a_proof_will_both_do():
    run = advice_values({"dataset": DATASET, "preset": "copy-paste", "models": "mini", "limit": 5, "seed": 2})
    assert run == {"dataset": DATASET, "paint": {"preset": "copy-paste", "models": "mini", "seed": 2}}
    proof = {"dataset": DATASET, "split": {"train": 60}, "arms": ["A"], "models": {"models": ["classifier"]}}
    proof |= {"paint": {"preset": "insert", "variants": 4}, "screen": {"boxes": {"judge": "{models}/classifier"}}}
    assert advice_values(proof) == {"dataset": DATASET, "split": {"train": 60}, "paint": {"preset": "insert"}}
    with pytest.raises(AugmentError, match=r"unknown parameter 'detectr'.*do you mean 'detector'"):
        advice_values({"dataset": DATASET, "detectr": "compact"})


def test_a_quick_look_lowers_what_was_given_and_raises_nothing():
    settings = check_advice({"dataset": DATASET, "quick": True, "schedule": {"steps": 20}, "folds": {"count": 6}})
    assert (settings.folds.count, settings.folds.curve, settings.schedule.steps) == (2, 2, 20)
    assert settings.copy_paste == {}


def test_wrong_parameters_are_named():
    with pytest.raises(AugmentError, match=r"paint: .*unknown preset 'insrt'"):
        check_advice({"dataset": DATASET, "paint": {"preset": "insrt"}})
    with pytest.raises(AugmentError, match="unknown detector to train 'yolo'"):
        check_advice({"dataset": DATASET, "detector": "yolo"})


def run_of(made: MadeSet, tmp_path: Path, advice: Advice, **given: Any) -> dict[str, Any]:
    settings = check_advice({"dataset": made.dataset, **given})
    values = run_parameters(advice, settings, DatasetSettings(**made.dataset), 6, tmp_path / "run")
    return yaml.safe_load(run_yaml(advice, values))


def test_the_advised_run_is_one_that_augment_run_takes(made_set, tmp_path):
    classes = [a_class("forklift", 6, 15.0), a_class("pallet", 6, 60.0)]
    advice = advise(findings(classes=classes))
    values = run_of(made_set, tmp_path, advice)
    assert values["target"] == advice.target == {"per_category": {"forklift": 8, "pallet": 2}}
    plan = dry_run(check_parameters(values), tmp_path / "other")
    assert plan.boxes["forklift"] >= 8 and plan.boxes["pallet"] >= 2 and not (tmp_path / "run").exists()


def test_the_target_is_confined_to_what_the_users_own_way_paints_and_the_rest_is_named(made_set, tmp_path):
    advice = advise(findings(classes=[a_class("forklift", 6, 15.0), a_class("pallet", 6, 60.0)]))
    for paint in (
        {"preset": "insert", "edit": {"name": "insert", "category": "forklift"}},
        {"preset": "insert", "select": {"categories": ["forklift"]}},
    ):
        settings = check_advice({"dataset": made_set.dataset, "paint": paint})
        values = run_parameters(advice, settings, DatasetSettings(**made_set.dataset), 6, tmp_path / "run")
        assert values["target"] == {"per_category": {"forklift": 8}}
        assert "does not paint them: pallet (2)" in run_yaml(advice, values)
        assert dry_run(check_parameters(values), tmp_path / "other").boxes["forklift"] >= 8


def test_a_data_set_in_a_bucket_stays_there(tmp_path):
    dataset = DatasetSettings.model_validate({"images": "s3://bucket/photos", "annotations": "s3://bucket/notes.json"})
    values = run_parameters(advise(findings()), check_advice({"dataset": DATASET}), dataset, 6, tmp_path)
    assert values["dataset"] == {"images": "s3://bucket/photos", "annotations": "s3://bucket/notes.json"}


def test_where_very_few_boxes_do_the_most_lacking_class_gets_one():
    few = [a_class("a", 30, 60.0, slope=0.8), a_class("b", 24, 58.0, slope=0.8), a_class("c", 2, 30.0, slope=0.8)]
    target = advise(findings(classes=few, pictures=15)).target["per_category"]
    assert target and min(target.values()) >= 1


def test_a_detector_that_does_not_fit_its_pictures_gives_no_yes():
    advice = advise(findings(fitted=41.0, quick=True))
    assert advice.answer == "perhaps" and "so few steps do not show what pictures give" in advice.sentence


def test_nothing_free_is_advised_by_a_detector_that_has_learned_nothing():
    advice = advise(findings(ap=4.0, free={"C": Estimate(value=4.0, low=3.0, high=5.0)}))
    assert advice.answer == "perhaps" and advice.instead is None


@pytest.mark.parametrize("name", ["paint", "copy_paste"])
def test_a_text_where_parameters_are_expected_is_a_sentence(name):
    with pytest.raises(AugmentError, match=f"parameter '{name}': expected parameters"):
        advice_values({"dataset": DATASET, name: "insert"})


def test_without_half_of_the_pictures_nothing_is_called_a_doubling(dozen, tmp_path, monkeypatch):
    cell = tasks.advise._cell
    monkeypatch.setattr(tasks.advise, "_cell", lambda *given: None if given[3] == 0.5 else cell(*given))
    state = advise_it(tiny(dozen, tmp_path / "w", folds={"count": 2, "curve": 3}))
    assert state.is_failed() and "there is no learning curve" in state.message


def test_the_user_s_own_way_to_paint_is_kept_where_it_paints_objects(made_set, tmp_path):
    advice = advise(findings(classes=[a_class("forklift", 6, 15.0), a_class("pallet", 6, 60.0)]))
    values = run_of(made_set, tmp_path, advice, paint={"preset": "copy-paste", "seed": 3})
    assert (values["preset"], values["seed"], "edit" in values) == ("copy-paste", 3, False)
    values = run_of(made_set, tmp_path, advice, paint={"preset": "insert", "edit": {"count": 3}, "variants": 4})
    assert (values["edit"], "variants" in values) == ({"name": "insert", "count": 3}, False)
    values = run_of(made_set, tmp_path, advice, paint={"preset": "loco-gligen"})
    assert (values["preset"], values["edit"]["name"]) == ("insert", "insert")


def test_where_a_picture_s_classes_are_of_one_kind_new_objects_are_of_that_kind(made_set, tmp_path):
    classes = [a_class("forklift", 6, 15.0, missed=4), a_class("pallet", 6, 60.0)]
    mixed, apart = (advise(findings(classes=classes, alone=alone)) for alone in (0.5, 0.97))
    assert "present" not in run_of(made_set, tmp_path, mixed)["edit"]
    assert run_of(made_set, tmp_path, apart)["edit"]["present"] is True
    assert "present" not in run_of(made_set, tmp_path, advise(findings(classes=classes)))["edit"]
    assert any("97 % of the pictures hold one alone" in one.text for one in apart.edits)
    own = {"preset": "insert", "edit": {"present": False}}
    assert run_of(made_set, tmp_path, apart, paint=own)["edit"]["present"] is False


def test_copy_paste_in_place_of_painting_is_a_run_without_a_target(made_set, tmp_path):
    advice = advise(findings(free={"D": Estimate(value=4.0, low=2.0, high=6.0)}))
    values = run_of(made_set, tmp_path, advice)
    assert values["preset"] == "insert" and "target" not in values
    check_parameters(values)


def test_the_page_opens_with_the_answer_and_the_files_agree(tmp_path):
    found = findings(
        classes=[a_class("truck", 200, 45.0), a_class("f<ork", 40, 20.0)], confusions=[("truck", "f<ork", 9)]
    )
    advice = advise(found)
    document = write_advice(tmp_path, "steel", advice, found, {"dataset": DATASET, "target": advice.target})
    page = (tmp_path / "advice.html").read_text()
    assert page.index(advice.sentence[:40]) < page.index("What cannot be trusted") < page.index("<svg")
    assert page.count("<svg") == 3 and "f&lt;ork" in page and "f<ork" not in page
    assert json.loads((tmp_path / "advice.json").read_bytes()) == document
    assert document["target"] == advice.target and document["findings"]["doubling"]["value"] == 4.0
    with_file = check_parameters({"dataset": DATASET, "target": str(tmp_path / "advice.json")})
    target = resolve_parameters(with_file, tmp_path / "w").target
    assert target is not None and target.per_category == advice.target["per_category"]
    assert advice_markdown("steel", advice, found).startswith(f"## Advice: steel\n\n**{advice.sentence}**")


# --- a folder --------------------------------------------------------------------------------------------------------


def test_a_folder_with_a_coco_file_is_found(made_set):
    found = find_dataset(made_set.folder)
    assert (found.format, found.images, found.annotations) == ("coco", made_set.images, made_set.annotations)


def write_coco(file, pictures):
    """A COCO file with these records of pictures, and the pictures without their bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, **record} for i, record in enumerate(pictures)]
    file.write_text(json.dumps({"images": images, "annotations": [], "categories": []}))


def test_locos_own_json_is_found_as_loco_and_a_path_of_other_tools_is_not(tmp_path):
    records = [{"file_name": f"{i}.jpg", "path": f"/dataset/subset-{i}/{i}.jpg"} for i in (1, 2)]
    for name in ("loco-all-v1", "loco-sub1-v1-val", "loco-sub2-v1-train"):
        write_coco(tmp_path / "a" / f"{name}.json", records)
    for i in (1, 2):
        (tmp_path / "a" / "rgb" / f"subset-{i}").mkdir(parents=True)
        (tmp_path / "a" / "rgb" / f"subset-{i}" / f"{i}.jpg").touch()
    found = find_dataset(tmp_path / "a")
    assert (found.format, found.images) == ("loco", tmp_path / "a" / "rgb")
    assert found.annotations == tmp_path / "a" / "loco-all-v1.json"
    for path in ("/datasets/mine/1.jpg", None, 7):
        write_coco(tmp_path / "b" / "annotations.json", [{"file_name": "1.jpg", "path": path}])
        (tmp_path / "b" / "1.jpg").touch()
        assert find_dataset(tmp_path / "b").format == "coco"


def test_the_pictures_of_a_coco_file_are_looked_for_from_the_first_to_the_last(tmp_path):
    names = [f"train/{i}.jpg" for i in range(3)] + ["val/a.jpg"]
    write_coco(tmp_path / "annotations.json", [{"file_name": name} for name in names])
    for name in (*names[:3], *(f"images/{name}" for name in names)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert find_dataset(tmp_path).images == tmp_path / "images"
    (tmp_path / "images" / "val" / "a.jpg").unlink()
    with pytest.raises(AugmentError, match=rf"names the picture 'val/a\.jpg', which is not in {tmp_path}"):
        find_dataset(tmp_path)


def test_yolo_and_voc_folders_are_found(tmp_path):
    for name in ("y/images", "y/labels", "v/JPEGImages", "v/Annotations", "u/train"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "y" / "labels" / "a.txt").write_text("0 .5 .5 .1 .1")
    (tmp_path / "y" / "classes.txt").write_text("fork")
    (tmp_path / "v" / "Annotations" / "a.xml").write_text("<annotation/>")
    (tmp_path / "u" / "data.yaml").write_text("names: [fork]\ntrain: train")
    found = {name: find_dataset(tmp_path / name) for name in "yvu"}
    assert {name: one.format for name, one in found.items()} == {"y": "yolo", "v": "voc", "u": "yolo"}
    assert found["y"].images == tmp_path / "y" / "images" and found["v"].images == tmp_path / "v" / "JPEGImages"


def test_a_folder_without_annotations_or_with_two_files_says_what_is_expected(tmp_path, made_set):
    with pytest.raises(AugmentError, match=r"no annotations found in .*annotations\.json.*data\.yaml.*XML"):
        find_dataset(tmp_path / "made" / "images")
    (made_set.folder / "other.json").write_bytes(made_set.annotations.read_bytes())
    with pytest.raises(AugmentError, match=r"2 COCO files in .*annotations\.json, other\.json"):
        find_dataset(made_set.folder)


@pytest.mark.parametrize(("name", "format"), [("neu_det", "voc"), ("deep_pcb", "deep-pcb"), ("loco_forklifts", "loco")])
def test_real_folders_are_found(name, format):
    assert find_dataset(shared(name)).format == format


# --- the whole path --------------------------------------------------------------------------------------------------


def tiny(made: MadeSet, workspace: Path, **more: Any) -> dict[str, Any]:
    return {
        "dataset": made.dataset,
        "folds": {"count": 2, "curve": 2},
        "detector": {"name": "compact", "size": 64, "width": 8, "stride": 8},
        "schedule": {"steps": 3, "batch": 2, "warmup": 1},
        "copy_paste": {},
        "workers": 1,  # each is a process, which takes seconds to start; the proof's tests have two
        "workspace": workspace,
        **more,
    }


def advise_it(values: dict[str, Any]) -> Any:
    settings = check_advice(values)
    return advise_flow.fn(**{name: getattr(settings, name) for name in values})


@pytest.fixture(scope="module")
def dozen(tmp_path_factory: pytest.TempPathFactory) -> MadeSet:
    return MadeSet(tmp_path_factory.mktemp("advise") / "made", 12)


def test_the_whole_path_ends_in_an_answer_and_goes_on_from_what_is_trained(dozen, tmp_path):
    state = advise_it(tiny(dozen, tmp_path / "w"))
    assert state.is_completed(), state.message
    document = json.loads((tmp_path / "w" / "advice.json").read_bytes())
    assert document["sentence"] == state.message and document["answer"] in ("yes", "perhaps", "no")
    assert document["findings"]["pictures"] == 12 and document["findings"]["boxes"] == 24
    assert set(document["findings"]["free"]) == {"C"}
    values = yaml.safe_load((tmp_path / "w" / "advice.yaml").read_bytes())
    assert check_parameters(values).target is not None
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "w" / "trainings").glob("*.npz")}
    assert len(trained) == 4, "two folds × two points; classes are balanced, so repeat-factor sampling is the same"
    assert advise_it(tiny(dozen, tmp_path / "w")).is_completed()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "w" / "trainings").glob("*.npz")} == trained


def test_too_few_pictures_end_the_flow_with_one_sentence(made_set, tmp_path):
    state = advise_it(tiny(made_set, tmp_path / "w"))
    assert state.is_failed()
    assert "6 readable pictures with boxes of the training split, of 6 in all, are too few for advice" in state.message


def test_a_name_that_is_nothing_is_one_sentence(capsys, tmp_path):
    assert cli.main(["advise", str(tmp_path / "nothing.yaml")]) == 1
    assert "nothing.yaml not found" in capsys.readouterr().err
    assert cli.main(["advise", "mini"]) == 1
    assert "belongs to the flow train" in capsys.readouterr().err
