"""What a bucket costs beside a folder: requests and seconds per picture, first, again, and without a working copy.

    pytest -m benchmark -s tests/benchmarks/test_bucket.py

The bucket is moto's on loopback: requests are what a real one gets, seconds are mostly moto's own. With the latency of
a real store (20 ms a request, say) multiply by the requests that wait for one another: reads of the run's own thread.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from buckets import NAME, BucketServer, objects, use_bucket
from conftest import tree

from flows.python import augment_dataset

DEMO = Path(__file__).resolve().parent.parent.parent / "data" / "demo"
CHOICES = {"preset": "copy-paste", "variants": 2, "evaluate": {"extractor": None}}


@pytest.mark.benchmark
def test_the_journey_in_a_bucket_beside_a_folder(tmp_path, monkeypatch):
    server = BucketServer()
    use_bucket(monkeypatch, server.url, tmp_path / "cache")
    here = {"images": str(DEMO / "images"), "annotations": str(DEMO / "annotations.json")}
    there = {"images": f"s3://{NAME}/demo/images", "annotations": f"s3://{NAME}/demo/annotations.json"}
    with server.empty() as files:
        files.put(str(DEMO), f"{NAME}/demo", recursive=True)
        print(
            f"\n{'':34}{'seconds':>9}{'painted':>9}{'GET':>7}{'HEAD':>7}{'PUT':>7}{'LIST':>7}  a picture: reads, writes"
        )
        folder = _shown("a folder", server, here, tmp_path / "run")
        _shown("a folder, again", server, here, tmp_path / "run")
        _shown("a bucket", server, there, f"s3://{NAME}/run")
        assert objects(files, "run/final") == tree(folder / "final")
        _shown("a bucket, again", server, there, f"s3://{NAME}/run")
        shutil.rmtree(tmp_path / "cache")
        _shown("a bucket, again, no working copy", server, there, f"s3://{NAME}/run")
        server.failing(one_in=20)
        _shown("a bucket, 5 % fail or are slow", server, there, f"s3://{NAME}/other")
        server.mood = lambda request, number: ""
        assert objects(files, "other/final") == tree(folder / "final")
    server.close()


def _shown(title: str, server: BucketServer, dataset: dict[str, str], workspace: object) -> Path:
    server.requests.clear()
    start = time.monotonic()
    result = augment_dataset(dataset=dataset, workspace=str(workspace), **CHOICES)
    seconds = time.monotonic() - start
    pictures, count = int(result.counts.ok["generate"]), server.requests
    gets = count["GET"] - count["LIST"]
    print(
        f"{title:34}{seconds:9.1f}{result.account['painted']:9}{gets:7}{count['HEAD']:7}{count['PUT']:7}"
        f"{count['LIST']:7}  {(gets + count['HEAD']) / pictures:.1f}, {count['PUT'] / pictures:.1f} of {pictures}"
    )
    return result.workspace
