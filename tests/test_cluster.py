"""The engine `dask`: the same bytes as threads, counts that arrive, ends and deaths in the middle, bad clusters."""

import json
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from conftest import PATIENCE, MadeSet, final_set
from distributed import LocalCluster
from forked import kill_when, ready, start_flow
from seats import Slow

import tasks.cluster
from flows import augment_dataset
from lib.core.errors import AugmentError
from lib.core.stopping import Stopped
from lib.records.engine_settings import EngineSettings
from lib.records.manifest import read_manifest
from lib.records.rows import PictureRow
from tasks.engine import step
from tasks.progress import Progress

SMALL = {"size": 64, "steps": 2}
MINI = {"preset": "gligen-inpainting", "models": "mini", "painter": SMALL, "edit": {"min_window": 64}, "limit": 3}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> MadeSet:
    return MadeSet(tmp_path_factory.mktemp("sets"), 10)


@pytest.fixture(scope="module")
def threads(made, tmp_path_factory) -> dict[str, bytes]:
    """The final set of a run on threads."""
    workspace = tmp_path_factory.mktemp("threads") / "ws"
    run(made, workspace, "threads")
    return final_set(workspace)


@pytest.fixture(scope="module")
def cluster(prefect_server):
    """One worker; tests may let it grow. Its processes are forked: many are killed, and imports take seconds."""
    ready(prefect_server)
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        LocalCluster(
            1,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=logging.CRITICAL,
            scheduler_kwargs={"allowed_failures": 0},
        ) as one,
    ):
        yield one


@pytest.fixture
def engine(cluster) -> dict[str, str]:
    return {"name": "dask", "address": cluster.scheduler_address}


@pytest.fixture
def slow(cluster):
    """Puts a plugin into the cluster's workers, until the test's end."""
    with cluster.get_client() as client:
        yield client.register_plugin
        if "slow" in client.run(lambda dask_worker: list(dask_worker.plugins)).popitem()[1]:
            client.unregister_worker_plugin("slow")


def run(made: MadeSet, workspace: Path, engine: Any, **more: Any) -> dict[str, Any]:
    """Its account."""
    given = {"dataset": made.dataset, "workspace": workspace, "variants": 2, "evaluate": {"extractor": None}, **more}
    return augment_dataset(engine=engine, **given).account


def images(final: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in final.items() if name.startswith("images/")}


def pictures(workspace: Path) -> list[Path]:
    return [path for path in workspace.glob("store/picture/*/*") if not path.name.startswith(".tmp")]


def grow(cluster: LocalCluster, workers: int) -> None:
    cluster.scale(workers)
    deadline = time.monotonic() + PATIENCE
    while len(cluster.scheduler_info["workers"]) != workers and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_makes_the_same_bytes(made, threads, cluster, engine, tmp_path, workers):
    grow(cluster, workers)
    assert run(made, tmp_path / "ws", engine)["state"] == "completed"
    assert final_set(tmp_path / "ws") == threads


def test_rounds_of_a_target_make_the_same_bytes_on_workers(made, cluster, engine, tmp_path):
    target = {"preset": "insert", "variants": 1, "target": {"per_category": {"forklift": 12, "pallet": 3}}}
    for name, one in {"dask": engine, "threads": "threads"}.items():
        assert run(made, tmp_path / name, one, **target)["target"]["reached"]
    assert final_set(tmp_path / "dask") == final_set(tmp_path / "threads")


def test_counts_come_from_the_workers_one_by_one(made, cluster, engine, tmp_path):
    seen: list[tuple[str, int, int]] = []
    run(made, tmp_path / "ws", engine, watch=lambda *counts: seen.append(counts))
    for stage in ("ingest", "screen", "draw"):
        done = [done for name, done, _ in seen if name == stage]
        assert done == sorted(done) and len(set(done)) > 2, (stage, done)


def test_a_model_is_loaded_once_by_each_worker_that_painted(made, cluster, engine, tmp_path):
    account = run(made, tmp_path / "dask", engine, **MINI)
    run(made, tmp_path / "threads", "threads", **MINI)
    assert final_set(tmp_path / "dask") == final_set(tmp_path / "threads")
    painter = account["models"]["painter"]
    assert painter["loads"] == painter["processes"] and 1 <= painter["processes"] <= 3


def test_a_flow_on_a_server_ends_completed_with_its_task_runs(made, threads, cluster, engine, tmp_path, prefect_server):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, FlowRunFilter, FlowRunFilterId

    from flows.augment import augment

    given = {"dataset": made.dataset, "workspace": tmp_path / "ws", "variants": 2, "evaluate": {"extractor": None}}
    state = augment(engine=engine, **given, return_state=True)
    assert state.is_completed(), state.message
    assert final_set(tmp_path / "ws") == threads
    with get_client(sync_client=True) as client:
        ours = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:  # the server records what it is told a little later
            runs = client.read_task_runs(flow_run_filter=ours)
            if runs and all(one.state is not None and one.state.is_final() for one in runs):
                break
            time.sleep(0.2)
        assert {one.state.name for one in runs} == {"Completed"}
        assert {"generate", "screen", "draw"} <= {one.name.partition("-")[0] for one in runs}
        shown = client.read_artifacts(artifact_filter=ArtifactFilter(), flow_run_filter=ours)
    assert {one.data for one in shown if one.type == "progress"} == {100.0}


def test_a_stopped_run_ends_between_two_pictures_and_goes_on_where_it_was(
    made, threads, cluster, engine, slow, tmp_path
):
    slow(Slow(seconds=0.3))
    main, workspace = threading.main_thread().ident, tmp_path / "ws"

    def stop() -> None:
        deadline = time.monotonic() + PATIENCE
        while len(pictures(workspace)) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        signal.pthread_kill(main, signal.SIGINT)

    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=stop).start()
        with pytest.raises((KeyboardInterrupt, Stopped)):
            run(made, workspace, engine)
    finally:
        signal.signal(signal.SIGINT, former)
    assert json.loads((workspace / "status.json").read_bytes())["state"] == "stopped"
    left = len(pictures(workspace))
    assert 2 <= left < 20
    time.sleep(1)
    assert len(pictures(workspace)) == left, "a worker went on"
    slow(Slow())
    account = run(made, workspace, engine)
    assert final_set(workspace) == threads and account["painted"] + account["reused"] == 20


def test_a_worker_that_is_killed_costs_nothing_but_its_picture(made, threads, cluster, engine, slow, tmp_path):
    slow(Slow(seconds=0.05))
    cluster.scheduler.allowed_failures, workspace = 3, tmp_path / "ws"
    victim = cluster.workers[0].pid

    def kill() -> None:
        deadline = time.monotonic() + PATIENCE
        while len(pictures(workspace)) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(victim, signal.SIGKILL)

    try:
        killer = threading.Thread(target=kill)
        killer.start()
        assert run(made, workspace, engine)["state"] == "completed"
        killer.join()
    finally:
        cluster.scheduler.allowed_failures = 0
    assert final_set(workspace) == threads


def test_a_part_that_ends_every_worker_is_set_aside_and_made_by_the_next_run(
    made, threads, cluster, engine, slow, tmp_path
):
    workspace = tmp_path / "ws"
    slow(Slow(deadly="10"))
    account = run(made, workspace, engine)
    assert account["outcome"]["state"] == "less" and "worker" in account["outcome"]["text"]
    rows = read_manifest(workspace / "manifests" / "generate.parquet", PictureRow)
    lost = rows[rows.reason == "worker_died"]
    assert 2 <= len(lost) < len(rows) == 20 and "10" in set(lost.image_key)
    assert lost.detail.str.contains("ended in the middle").all()
    slow(Slow())
    assert run(made, workspace, engine)["outcome"]["state"] == "painted"
    assert images(final_set(workspace)) == images(threads)  # those that came later have later ids


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("code_digest", lambda: "another", "has another version of this program"),
        ("atomic_write", lambda path, data: None, "does not see the workspace"),
        ("_some_picture", lambda images: ("/nowhere/a.png", 9), "does not see the picture /nowhere/a.png"),
    ],
)
def test_workers_that_cannot_work_for_the_run_are_refused(
    made, cluster, engine, tmp_path, monkeypatch, name, value, told
):
    monkeypatch.setattr(tasks.cluster, name, value)
    with pytest.raises(AugmentError, match=told):
        run(made, tmp_path / "ws", engine)
    assert not list((tmp_path / "ws").glob(".probe*"))


def test_a_killed_run_leaves_no_worker_behind_and_goes_on_where_it_was(made, threads, tmp_path, prefect_server):
    workspace = tmp_path / "ws"
    given = {"dataset": made.dataset, "workspace": workspace, "variants": 2, "evaluate": {"extractor": None}}
    process = start_flow(prefect_server, "augment", given | {"engine": {"name": "dask", "workers": 1}})
    workers: list[psutil.Process] = []

    def painted() -> bool:
        if not pictures(workspace):
            return False
        workers.extend(psutil.Process(process.pid).children(recursive=True))
        return True

    kill_when(process, painted)
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE)
    assert workers and not alive
    run(made, workspace, "threads")
    assert final_set(workspace) == threads


def test_workers_of_this_machine_keep_memory_that_a_painter_wants_again():
    with tasks.cluster._started(EngineSettings(name="dask", workers=1)) as own, own.get_client() as client:
        client.wait_for_workers(1)
        (found,) = client.run(lambda: os.environ.get("MALLOC_TRIM_THRESHOLD_")).values()
    assert found is None


@step(name="note")
def note(path: str, name: str, seconds: float) -> None:
    with Path(path).open("a") as file:
        print(name, file=file, flush=True)
    time.sleep(seconds)


def test_work_with_a_model_and_then_of_a_higher_priority_begins_first(cluster, engine, tmp_path):
    grow(cluster, 1)
    (tmp_path / "images").mkdir()
    with tasks.cluster.dask_engine(EngineSettings(**engine), tmp_path, tmp_path / "images", Progress()) as dask:
        first = [dask.submit(note, [str(tmp_path / "order"), "first", 1.0])]
        rest = [
            dask.submit(note, [str(tmp_path / "order"), name, 0.0], model=model, priority=priority)
            for name, model, priority in (
                ("second", False, 0),  # handed to the worker while it is busy, before the scheduler knows the others
                ("screen", False, -2),
                ("plan", False, 0),
                ("paint", True, -1),
            )
        ]
        dask.wait(first + rest)
    assert (tmp_path / "order").read_text().split() == ["first", "second", "paint", "plan", "screen"]


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> MadeSet:
    return MadeSet(tmp_path_factory.mktemp("many"), 40, size=(96, 64))


def test_parts_are_sized_by_what_the_first_pictures_cost_and_stay_so(
    many, cluster, engine, slow, tmp_path, ran, monkeypatch
):
    """Also on another engine, and where pictures cost something else by then."""
    grow(cluster, 1)
    slow(Slow(seconds=0.05))
    monkeypatch.setattr(tasks.cluster._Dask, "cost", 1e-6)  # so that parts are as small as they may be
    chain, workspace = ("plan", "generate", "screen"), tmp_path / "ws"
    first = run(many, workspace, engine)
    assert {ran[stage] for stage in chain} == {(8, 8)}
    assert first["painted"] == 80 and first["reused"] == 0  # those that were painted to see what one costs, too
    run(many, tmp_path / "threads", "threads")
    assert final_set(workspace) == final_set(tmp_path / "threads")

    slow(Slow())
    monkeypatch.setattr(tasks.cluster._Dask, "cost", 100.0)
    for one in (engine, "threads"):
        assert run(many, workspace, one)["painted"] == 0
        assert {ran[stage] for stage in chain} == {(0, 8)}
    monkeypatch.setattr(tasks.cluster._Dask, "cost", 1e-6)
    many.add(40, (96, 64))
    many.write()
    assert run(many, workspace, engine)["painted"] == 2
    assert {ran[stage] for stage in chain} == {(1, 8)}
