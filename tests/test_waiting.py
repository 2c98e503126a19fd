"""The review policies of a run: it waits for a reviewer, or goes on when the time is over; a sample is reported."""

from __future__ import annotations

import logging
import re
import threading
import time
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from browser import settings_of, small_run

from flows import augment_dataset
from lib.review.session import Post, Session
from lib.screening.decisions import Submit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("waiting")
    small_run(folder, pictures=2, variants=1)
    return folder


def submit(root: Path) -> None:
    Session([root], "ann").decide(Post(run=0, id=uuid4().hex, by="ann", changes=[Submit(undecided="keep")]))


def test_a_run_serves_the_page_and_goes_on_when_it_is_submitted(folder, caplog):
    said: list[str] = []

    class Hears(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler = Hears()
    logging.getLogger("augment.review").addHandler(handler)
    thread = threading.Thread(target=augment_dataset, kwargs={**settings_of(folder), "review": "wait"})
    thread.start()
    while not said:
        time.sleep(0.05)
    logging.getLogger("augment.review").removeHandler(handler)
    link = re.search(r"http://127\.0\.0\.1:\d+/\S+/", said[0])
    assert link is not None and httpx.get(link[0]).status_code == 200
    assert thread.is_alive()
    submit(folder / "mine")
    thread.join(120)
    assert not thread.is_alive()
    augment_dataset(**settings_of(folder), review="wait")  # these pictures are submitted: it waits no more


def test_a_run_goes_on_when_its_time_is_over(folder, tmp_path, caplog):
    settings = settings_of(folder, tmp_path / "short")
    account = augment_dataset(**settings, review={"pick": "wait", "seconds": 0.1}).account
    assert account["state"] == "completed" and account["stages"]["finalise"]["ok"] == 4
    assert "nobody submitted the review in 0.1 s: the run goes on" in caplog.text


def test_a_sample_is_reported_with_its_interval(folder, tmp_path):
    account = augment_dataset(
        **settings_of(folder, tmp_path / "sample"), review={"pick": "sample", "sample": 1}
    ).account
    assert account["stages"]["review"] | {"sample": 1, "sample checked": 0} == account["stages"]["review"]


def test_a_deployments_run_gives_its_process_back_and_goes_on_when_it_is_submitted(folder, tmp_path, prefect_server):
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow

    from flows.augment import augment
    from tasks.waiting import WAITING, resume

    root = tmp_path / "deployed"
    values = {**settings_of(folder, root), "review": {"pick": "wait", "seconds": 3600.0}}
    values["workspace"] = str(root)
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow(augment)
        deployment = client.create_deployment(flow_id, name=f"waits-{uuid4().hex[:8]}", parameters=values)
        made = client.create_flow_run_from_deployment(deployment)

        def go() -> str:
            found = client.read_flow_run(made.id)
            state = run_flow(augment, flow_run=found, parameters=found.parameters, return_type="state")
            return str(state.name)

        assert go() == WAITING
        waiting = client.read_flow_run(made.id)
        assert waiting.state.name == WAITING and waiting.state.is_scheduled()
        assert 3000 < (waiting.state.state_details.scheduled_time - waiting.state.timestamp).total_seconds() <= 3600
        from lib.runs.account import read_account

        assert read_account(root / "status.json")["state"] == "waiting"
        submit(root)
        assert resume(root)
        assert client.read_flow_run(made.id).state.name == "Scheduled"
        assert not resume(root)
        assert go() == "Completed"
        assert read_account(root / "status.json")["state"] == "completed"
        assert not resume(root)


def test_a_deployments_run_that_is_told_to_run_goes_on_without_a_review(folder, tmp_path, prefect_server):
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    from prefect.states import Scheduled

    from flows.augment import augment

    root = tmp_path / "told"
    values = {**settings_of(folder, root), "review": "wait", "workspace": str(root)}
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(augment), name=f"told-{uuid4().hex[:8]}")
        made = client.create_flow_run_from_deployment(deployment, parameters=values)
        for expected in ("Waiting for review", "Completed"):
            found = client.read_flow_run(made.id)
            assert run_flow(augment, flow_run=found, parameters=values, return_type="state").name == expected
            if expected != "Completed":
                client.set_flow_run_state(made.id, Scheduled(), force=True)  # as Run now does
