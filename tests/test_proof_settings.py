"""Parameters of proofs and of advice, as they are checked."""

from pathlib import Path

import pytest

from lib.core.errors import AugmentError
from lib.proof.advising import check_advice
from lib.proof.settings import check_proof, quick

DATA = {"dataset": {"images": "pictures"}}


@pytest.mark.parametrize("check", [check_proof, check_advice])
@pytest.mark.parametrize(
    ("detector", "rate"),
    [
        ("compact", 0.002),
        ({"name": "faster-rcnn", "backbone": "resnet18"}, 0.002),
        ({"name": "faster-rcnn", "backbone": "efficientnet-lite0", "backbone_weights": "imagenet"}, 0.0005),
        ({"name": "compact", "weights": "detector.safetensors"}, 0.0005),
    ],
)
def test_a_detector_that_starts_from_weights_learns_more_slowly(check, detector, rate):
    assert check(DATA | {"detector": detector}).schedule.rate == rate


@pytest.mark.parametrize("check", [check_proof, check_advice])
def test_a_rate_that_is_given_stays(check):
    detector = {"name": "faster-rcnn", "backbone_weights": "imagenet", "backbone": "efficientnet-lite0"}
    assert check(DATA | {"detector": detector, "schedule": {"rate": 0.003}}).schedule.rate == 0.003


@pytest.mark.parametrize("paint", [{}, {"variants": 4}])
@pytest.mark.parametrize("target", ["balance", {"per_category": {"forklift": 8}}])
def test_a_target_decides_itself_how_many_pictures_of_each_source_arm_t_has(paint, target):
    given = {"paint": {"preset": "insert"} | paint, "targeted": {"target": target}, "ratios": [3]}
    settings = check_proof(DATA | given)
    runs = {
        pool: settings.painting(one, settings.dataset, Path("proof")) for pool, (_, one) in settings.pool_runs().items()
    }
    assert runs["targeted"].target is not None and runs["targeted"].variants == 1
    assert {runs[pool].variants for pool in ("all", "screened")} == {paint.get("variants", 3)}
    assert runs["copy"].variants == 3 and runs["copy"].target is None


def test_a_run_that_cannot_be_made_is_refused_by_the_name_of_its_parameter():
    with pytest.raises(AugmentError, match=r"^targeted: variants is 2: with a target"):
        check_proof(DATA | {"targeted": {"target": "balance", "variants": 2}})
    with pytest.raises(AugmentError, match=r"^screen: parameter 'screen\.boxs' is not known"):
        check_proof(DATA | {"screen": {"boxs": {}}})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"models": {"modles": ["classifier"]}}, "models: parameter 'modles' is not known"),
        ({"models": {"models": ["classifer"]}}, "models: unknown trainer 'classifer'"),
        ({"models": {"output": "elsewhere"}}, r"models\.output is set by the proof itself"),
        ({"paint": {"preset": "insrt"}}, "paint: unknown preset 'insrt'"),
        ({"paint": {"preset": "insert", "painter": {"hues": 3}}}, r"paint: .*hues"),
        ({"paint": {"screen": {"blank": 0}}}, r"paint\.screen is set by the proof itself, by `screen` for arm F"),
        ({"contrasts": ["C@1 > A"]}, "arm C has no ratios: write C"),
    ],
)
def test_what_would_fail_after_hours_is_refused_at_once(given, said):
    with pytest.raises(AugmentError, match=said):
        check_proof(DATA | given)


def test_a_claim_that_is_written_twice_or_is_a_check_anyway_is_tested_once():
    claims = check_proof(DATA | {"contrasts": ["F > A", "F>A", "A > X"]}).claims()
    assert list(map(str, claims)) == ["F > A", "A > X", "Y > A"]


def test_a_quick_look_leaves_out_what_is_claimed_of_other_ratios():
    values = DATA | {"ratios": [12], "contrasts": ["F@12 > A", "F > A"]}
    assert [str(one) for one in check_proof(quick(values)).claims()] == ["F > A", "A > X"]
