"""FID, KID, precision and recall in one pass, beside pytorch-fid's command and a second pass for KID. Asserts no times.

.venv/bin/pytest -m benchmark -s tests/benchmarks/test_evaluation_speed.py

The same pictures, the same network (pytorch-fid's Inception with random weights), the same threads.
"""

import time
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from lib.evaluation import features
from lib.evaluation.evaluate import evaluate
from lib.evaluation.features import Inception
from lib.evaluation.metrics.distances import kid
from lib.records.store import Store

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3000)]

COUNT = 100  # pictures a side


def network():
    from pytorch_fid import inception
    from torchvision.models import Inception3

    with (
        mock.patch.object(inception, "load_state_dict_from_url", return_value={}),
        mock.patch.object(Inception3, "load_state_dict", lambda self, _: None),
    ):
        return inception.InceptionV3().eval().requires_grad_(False)


@pytest.mark.filterwarnings("ignore")  # scipy's, on singular covariances of few pictures
def test_one_pass_beside_two(tmp_path):
    from pytorch_fid import fid_score

    torch.manual_seed(0)
    inception = network()
    for side, light in (("real", 0), ("made", 20)):
        (tmp_path / side).mkdir()
        for i in range(COUNT):
            random = np.random.default_rng(i)
            pixels = random.integers(40, 200, (16, 16, 3), np.uint8).repeat(16, 0).repeat(16, 1) + np.uint8(light)
            Image.fromarray(pixels).save(tmp_path / side / f"{i}.png")
    paths = [str(tmp_path / "real"), str(tmp_path / "made")]

    def peer_fid():
        with mock.patch.object(fid_score, "InceptionV3", lambda *_: inception) as made:
            made.BLOCK_INDEX_BY_DIM = {2048: 3}
            return fid_score.calculate_fid_given_paths(paths, 32, "cpu", 2048, num_workers=0)

    def peer_kid():
        files = [sorted((tmp_path / side).glob("*.png")) for side in ("real", "made")]
        both_sides = [
            fid_score.get_activations(list(map(str, names)), inception, 32, 2048, "cpu", 0) for names in files
        ]
        return kid(*both_sides)

    extractor = Inception(Inception.Settings(device="cpu"))
    extractor._network = inception
    extractor.check = lambda: None
    options = {"metrics": ["fid", "kid", "overlap"], "cache": Store(tmp_path / "kept")}
    seconds, results = {}, {}
    for name, run in {
        "pytorch-fid": peer_fid,
        "and a second pass for KID": peer_kid,
        "this project: FID, KID, interval, floor, precision, recall": lambda: evaluate(
            tmp_path / "real", tmp_path / "made", extractor, **options
        ),
        "this project again, nothing new": lambda: evaluate(tmp_path / "real", tmp_path / "made", extractor, **options),
    }.items():
        start = time.perf_counter()
        results[name] = run()
        seconds[name] = time.perf_counter() - start
    both, ours, again = sum(list(seconds.values())[:2]), *list(seconds.values())[2:]
    print(f"\n{COUNT} pictures of 256×256 a side, {torch.get_num_threads()} threads, {features.Inception.name}")
    for name, taken in seconds.items():
        print(f"| {name} | {taken:.1f} s |")
    print(
        f"ratio of one pass to the peer's two {ours / both:.2f}; the second evaluation to the first {again / ours:.3f}"
    )
    scores = list(results.values())
    numbers = scores[2].numbers
    print(f"FID {scores[0]:.6g} and {numbers['fid']:.6g}; KID {scores[1]:.6g} and {numbers['kid']:.6g}")
