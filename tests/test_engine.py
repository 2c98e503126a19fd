"""The choice of an engine: what its settings take, what is refused before a run starts, and what no key depends on."""

import importlib.util
import socket

import pandas as pd
import pytest

from lib.core.compute import available_cores, share_cores
from lib.core.errors import AugmentError
from lib.records.engine_settings import EngineSettings
from lib.records.manifest import to_table
from lib.records.rows import MAY_PASS, STAGES, lost_rows
from lib.runs.engine_checks import check_engine, cluster_class, code_digest
from lib.runs.parameters import check_parameters
from tasks.jobs import Job

DATASET = {"images": "pictures"}


def engine(value) -> EngineSettings:
    return check_parameters({"dataset": DATASET, "engine": value}).engine


def refused(value) -> str:
    with pytest.raises(AugmentError) as error:
        check_engine(engine(value))
    return str(error.value)


def test_without_a_choice_it_is_threads():
    assert check_parameters({"dataset": DATASET}).engine == EngineSettings() == engine("threads")


@pytest.mark.parametrize(
    "value",
    [
        "dask",
        {"name": "dask", "workers": 2, "threads": 1},
        {"name": "dask", "address": "tcp://127.0.0.1:8786"},
        {"name": "dask", "cluster": "dask_jobqueue.SLURMCluster", "arguments": {"cores": 8}, "adapt": {"maximum": 9}},
    ],
    ids=str,
)
def test_a_cluster_is_a_name_or_a_mapping(value):
    assert engine(value).name == "dask"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("dusk", "do you mean 'dask'?"),
        ({"name": "dask", "worker": 2}, "do you mean 'workers'?"),
        ({"workers": 2}, "set name to dask"),
        ({"name": "dask", "address": "10.0.0.1"}, "tcp://host:8786"),
        ({"name": "dask", "address": "tcp://[:1"}, "tcp://host:8786"),
        ({"name": "dask", "address": "tcp://h:1", "workers": 2}, "the one at `address` has its own"),
        ({"name": "dask", "arguments": {"cores": 8}}, "name its class"),
        ({"name": "dask", "cluster": "a.B", "workers": 2}, "takes its own in `arguments`"),
        ({"name": "dask", "cluster": "a.B", "adapt": {"minimum": 3, "maximum": 2}}, "above maximum"),
        ({"name": "dask", "workers": 0}, "greater than or equal to 1"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_by_the_parameters(value, told):
    assert told in refused(value)


def test_an_engine_whose_package_is_absent_names_the_extra(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "prefect_dask" else find(name))
    assert "prefect_dask, which is not installed: pip install 'augment[dask]'" in refused("dask")


def test_an_address_that_nobody_serves_is_refused_before_a_run_starts():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        assert f"engine.address {address}: no Dask scheduler answers there" in refused(
            {"name": "dask", "address": address}
        )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("SLURMCluster", "expected a class with its module"),
        ("dask_nonesuch.Cluster", "pip install dask-nonesuch"),
        ("distributed.LocalClustr", "do you mean 'LocalCluster'?"),
        ("subprocess.Popen", "is not a class of Dask clusters"),
        ("os.system", "is not a class of Dask clusters"),
    ],
)
def test_a_cluster_class_that_is_none_is_refused_and_never_called(name, told):
    assert told in refused({"name": "dask", "cluster": name})


def test_a_cluster_class_is_found_by_its_name():
    assert cluster_class("distributed.LocalCluster").__name__ == "LocalCluster"


def test_the_programs_own_files_have_a_digest():
    assert len(code_digest()) == 64 and code_digest() == code_digest()


@pytest.mark.parametrize(
    ("where", "model"),
    [
        ({"painter": {"name": "copy-paste", "model": None}}, False),
        ({"painter": {"name": "gligen", "model": {"id": "x"}}}, True),
        ({"captioner": {"name": "blip2", "model": {"id": "x"}}}, True),
        ({"judge": {"id": "x"}}, True),
        ({"images": {}}, False),
    ],
    ids=str,
)
def test_a_job_that_runs_a_model_says_so(where, model):
    job = Job(stage="s", key="k", label="l", workspace="w", sources="s", inputs={}, settings={}, where=where)
    assert job.model is model


def test_cores_are_shared_out():
    before = available_cores()
    share_cores(1)
    try:
        assert available_cores() == 1
        share_cores(before + 5)
        assert available_cores() == before  # no more than there are
    finally:
        share_cores(before)


@pytest.mark.parametrize(
    ("source", "stage"),
    [("plan", "generate"), ("select", "caption"), ("generate", "screen"), ("screen", "draw"), ("select", "plan")],
)
def test_rows_of_a_part_that_nobody_can_do_are_set_aside_and_tried_again(source, stage):
    told = {"status": ["ok", "rejected"], "reason": ["", "black"], "detail": ["", ""]}
    rows = pd.DataFrame({"key": ["a", "b"], "image_key": ["1", "2"], "name": ["a.png", "b.png"], **told})
    if source == "select":
        rows = rows.drop(columns=["image_key", "name"])
    lost = lost_rows(rows, STAGES[stage], "worker_died", "4 workers ended")
    (row,) = to_table(lost, STAGES[stage]).to_pylist()
    assert (row["key"], row["status"], row["reason"]) == ("a", "rejected", "worker_died")
    assert row.get("image_key", "1") == ("a" if source == "select" and stage == "plan" else "1")
    assert "worker_died" in MAY_PASS
