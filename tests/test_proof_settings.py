"""Parameters of proofs and of advice, as they are checked."""

import pytest

from lib.proof.advising import check_advice
from lib.proof.settings import check_proof

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
