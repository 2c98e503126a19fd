"""A workspace in a bucket, and a cluster whose workers are on several machines: each has a working copy of its own."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import dask
import pytest
from buckets import NAME, BucketServer, forget_clients, objects, use_bucket
from conftest import PATIENCE, MadeSet, final_set, tree
from distributed import Nanny, Scheduler, SpecCluster
from forked import ready
from seats import Slow

from flows.python import augment_dataset
from lib.core.errors import AugmentError
from lib.core.places import CACHE

COUNT = 16  # pictures, in four parts
WORKSPACE = f"s3://{NAME}/runs/one"
DATASET = {"images": f"s3://{NAME}/set/images", "annotations": f"s3://{NAME}/set/annotations.json"}


@pytest.fixture(scope="module")
def server():
    server = BucketServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return MadeSet(tmp_path_factory.mktemp("sets"), COUNT)


@pytest.fixture(scope="module")
def threads(made, tmp_path_factory):
    """The workspace of a run on threads, in a folder."""
    workspace = tmp_path_factory.mktemp("threads") / "ws"
    run(made.dataset, workspace)
    return workspace


@pytest.fixture
def files(server, made, monkeypatch, tmp_path):
    """A bucket with the data set; the run's own machine is `tmp_path / "run"`."""
    use_bucket(monkeypatch, server.url, tmp_path / "run")
    with server.empty() as files:
        for name, data in tree(made.folder).items():
            files.pipe_file(f"{NAME}/set/{name}", data)
        yield files


@pytest.fixture
def cluster(files, tmp_path, prefect_server):
    """Two workers, on machines of their own as far as their working copies go."""
    ready(prefect_server)
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}

    def worker(number):
        options = {"host": "127.0.0.1", "nthreads": 1, "memory_limit": 0, "dashboard": False}
        return {
            "cls": Nanny,
            "options": options | {"env": variables | {CACHE: str(machine(tmp_path, number))}},
        }

    scheduler = {"host": "127.0.0.1", "port": 0, "dashboard": False, "allowed_failures": 3}
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        SpecCluster(
            workers={number: worker(number) for number in (1, 2)},
            scheduler={"cls": Scheduler, "options": scheduler},
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        yield cluster


def machine(tmp_path: Path, number: int) -> Path:
    """Where a worker's working copies lie."""
    return tmp_path / f"machine {number}"


def copy(tmp_path: Path, number: int) -> Path:
    """A worker's working copy of the workspace."""
    return machine(tmp_path, number) / "s3" / NAME / "runs" / "one"


def run(dataset, workspace, engine="threads", **more):
    given = {"preset": "copy-paste", "evaluate": {"extractor": "pixels"}, "finalise": {"originals": "all"}, **more}
    return augment_dataset(dataset=dataset, workspace=workspace, engine=engine, **given)


def on(cluster):
    return {"name": "dask", "address": cluster.scheduler_address}


def made_by(folder: Path, stage: str) -> set[str]:
    """Parts whose records lie in a working copy."""
    return {path.stem for path in folder.glob(f"parts/{stage}/{'?' * 32}.json")}


def test_workers_of_two_machines_make_the_bytes_of_threads_in_a_folder(cluster, files, threads, tmp_path):
    result = run(DATASET, WORKSPACE, on(cluster))

    assert result.account["painted"] == COUNT
    assert objects(files, "runs/one/final") == final_set(threads)
    assert objects(files, "runs/one/drawn") == tree(threads / "drawn")
    for stage in ("caption", "plan", "generate", "screen", "draw"):
        each = [made_by(copy(tmp_path, number), stage) for number in (1, 2)]
        there = {name for name in objects(files, f"runs/one/parts/{stage}") if name != "donors.json"}
        assert {f"{name}{end}" for name in set.union(*each) for end in (".json", ".parquet")} == there, stage
        assert not set.intersection(*each), stage
    assert all(made_by(copy(tmp_path, number), "generate") for number in (1, 2)), "one worker did it all"
    numbers = json.loads((threads / "report" / "metrics.json").read_bytes())["features"]
    assert json.loads(files.cat_file(f"{NAME}/runs/one/report/metrics.json"))["features"] == numbers

    again = run(DATASET, WORKSPACE, on(cluster))

    assert again.account["painted"] == 0
    assert all(stage["painted"] == 0 for stage in again.account["stages"].values())


def test_a_flow_on_a_server_with_a_judge_and_a_target_makes_the_bytes_of_threads(cluster, files, made, tmp_path):
    from flows.augment import augment

    given = {
        "preset": "insert",
        "variants": 1,
        "target": {"per_category": {"forklift": 12, "pallet": 3}},
        "screen": {"boxes": {"judge": "mini:clip", "least": 2}},
        "evaluate": {"extractor": None},
    }
    augment_dataset(dataset=made.dataset, workspace=tmp_path / "ws", **given)

    state = augment(dataset=DATASET, workspace=WORKSPACE, engine=on(cluster), **given, return_state=True)

    assert state.is_completed(), state.message
    account = json.loads(files.cat_file(f"{NAME}/runs/one/status.json"))
    assert account["models"]["judge"]["processes"] >= 1 and account["target"]["rounds"] >= 1
    assert objects(files, "runs/one/final") == final_set(tmp_path / "ws")


def test_a_worker_that_is_killed_costs_its_picture_and_the_other_machine_goes_on(cluster, files, threads, tmp_path):
    victim = cluster.workers[1].pid

    def kill() -> None:
        deadline = time.monotonic() + PATIENCE
        while not list(copy(tmp_path, 1).glob("store/picture/*/*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)

    with cluster.get_client() as client:
        client.register_plugin(Slow(seconds=0.1))
        killer = threading.Thread(target=kill)
        killer.start()
        run(DATASET, WORKSPACE, on(cluster))
        killer.join()
        assert victim not in client.run(os.getpid).values()
    assert objects(files, "runs/one/final") == final_set(threads)


def test_what_earlier_runs_left_on_a_machine_counts_by_its_digest_alone(cluster, files, threads, tmp_path):
    run(DATASET, WORKSPACE, on(cluster))
    files.rm(f"{NAME}/runs/one", recursive=True)
    shutil.rmtree(tmp_path / "run")
    left = [path for number in (1, 2) for path in machine(tmp_path, number).rglob("*") if path.is_file()]
    whole = [path for path in left if "/store/picture/" in str(path)]
    for path in set(left) - set(whole):
        if not path.name.startswith("."):
            path.write_bytes(path.read_bytes()[::-1])
    forget_clients()

    result = run(DATASET, WORKSPACE, on(cluster))

    assert objects(files, "runs/one/final") == final_set(threads)
    assert objects(files, "runs/one/drawn") == tree(threads / "drawn")
    assert {path.name for path in whole} == {Path(name).name for name in objects(files, "runs/one/store/picture")}
    assert result.account["painted"] < COUNT, "whole pictures that lay on the machine were painted again"


def test_pinned_places_and_the_former_plan_are_the_buckets(cluster, files, made, tmp_path):
    choices = {"preset": "insert", "composite": "feather", "evaluate": {"extractor": None}}
    for variants in (1, 2):
        run(made.dataset, tmp_path / "ws", variants=variants, **choices)
        run(DATASET, WORKSPACE, on(cluster), variants=variants, **choices)
        pinned = [copy(tmp_path, number) / "places.json" for number in (1, 2)]
        assert all(path.is_file() for path in pinned)
        for path in pinned:
            path.write_bytes(b"{}")
    assert files.cat_file(f"{NAME}/runs/one/places.json") == (tmp_path / "ws" / "places.json").read_bytes()
    assert all((copy(tmp_path, number) / "manifests" / "plan.parquet").is_file() for number in (1, 2))
    assert objects(files, "runs/one/final") == final_set(tmp_path / "ws")


def test_a_worker_that_does_not_reach_the_bucket_is_refused(cluster, files):
    with cluster.get_client() as client:
        client.run(lambda: os.environ.update(AWS_ENDPOINT_URL="http://127.0.0.1:1"))
    with pytest.raises(AugmentError, match=rf"a worker on .* s3://{NAME}/runs/one/.probe\S* cannot be reached"):
        run(DATASET, WORKSPACE, on(cluster))
