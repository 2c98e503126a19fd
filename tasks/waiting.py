"""wait: a run whose review policy is `wait` goes on once a reviewer has submitted, or its time is over.

A deployment's run gives its process back: it is scheduled for the end of its time, under the name WAITING, and goes
through its stages again then, which find everything done. Submitting schedules it for now (`resume`, which the command
`augment review` calls), and so does "Run now" in the UI. Any other run waits in its process, and serves the page.
"""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import prefect.runtime
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateDetails, StateType
from prefect.states import Scheduled

from lib.core.places import shown
from lib.core.stopping import check_stop
from lib.records.manifest import read_manifest
from lib.records.rows import OK, ScreenRow
from lib.runs.account import former_account
from lib.screening.decisions import NAME, DecisionLog, digest_of, submitted
from tasks.artifacts import only_shown
from tasks.engine import in_flow, log
from tasks.run import Run
from tasks.stages import Staged

WAITING = "Waiting for review"
_LOOK = 0.5  # seconds between two looks for a submission


def wait_for_reviewer(run: Run, screened: Staged) -> State[None] | None:
    """None once the review of these pictures is submitted or its time is over; else the state that the flow ends in."""
    if run.settings.review.pick != "wait":
        return None
    rows = read_manifest(screened.manifest.file, ScreenRow, ("status", "picture", "sha256"))
    rows = rows[rows.status == OK]
    shown = digest_of(zip(rows.picture, rows.sha256, strict=True))
    decisions = DecisionLog(run.root / NAME)
    if rows.empty or submitted(decisions.refresh(), shown):
        return None
    if prefect.runtime.deployment.id and in_flow():
        return _suspended(run)
    _wait_here(run, decisions, shown)
    return None


def _wait_here(run: Run, decisions: DecisionLog, shown: str) -> None:
    """Serve the page until the submission, or the end of the time. Raises Stopped where the run is to end."""
    from lib.review.serve import served
    from lib.review.session import Session, account_name

    seconds = run.settings.review.seconds
    session = Session([run.root], account_name(), lambda by: f"{by}, thank you: the run goes on.")
    end = time.monotonic() + seconds
    with served(session, run.root) as link:
        text = f"the run waits for a review, {_spoken(seconds)} at most; this link opens it: {link}"
        logging.getLogger("augment.review").warning(text)
        _show(run, f"[Open the review]({link}), which is a password to it.")
        while not submitted(decisions.refresh(), shown):
            if time.monotonic() > end:
                log().warning("nobody submitted the review in %s: the run goes on", _spoken(seconds))
                return
            check_stop()
            time.sleep(_LOOK)
        time.sleep(_LOOK)  # the page hears of it before its server ends


def _suspended(run: Run) -> State[None] | None:
    """The state of a deployment's run that waits; None where it has waited: it was submitted, told to run, or its time
    is over."""
    flow_run = UUID(str(prefect.runtime.flow_run.id))
    with get_client(sync_client=True) as client:
        former = client.read_flow_run_states(flow_run)
    if any(state.name == WAITING for state in former):
        log().warning("the run goes on without a submitted review, by the decisions so far")
        return None
    end = datetime.now(UTC) + timedelta(seconds=run.settings.review.seconds)
    until, command = f"{end:%Y-%m-%d %H:%M} UTC", f"augment review {shown(run.root)}"
    text = f"`{command}` opens the review, on a machine with this workspace. The run goes on when it is submitted"
    _show(run, f"{text}, or at {until}.")
    log().warning("waiting for a review until %s: %s", until, command)
    run.save(waiting={"flow_run": str(flow_run), "until": end.isoformat()})
    details, message = StateDetails(scheduled_time=end), f"{command} opens the review"
    return State(type=StateType.SCHEDULED, name=WAITING, message=message, state_details=details)


def resume(root: Path) -> bool:
    """Let the deployment's run that waits in this workspace go on now; False where none waits. Raises what the client
    raises where Prefect's server does not answer."""
    waiting: Any = former_account(root).get("waiting")
    if not isinstance(waiting, dict) or not isinstance(waiting.get("flow_run"), str):
        return False
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(UUID(waiting["flow_run"]))
        if flow_run.state is None or flow_run.state.name != WAITING:
            return False
        client.set_flow_run_state(flow_run.id, Scheduled(message="the review was submitted"), force=True)
    return True


def _show(run: Run, text: str) -> None:
    """An artifact with the way to the review."""
    if in_flow():
        with only_shown("the link to the review in the UI"):
            create_markdown_artifact(text, key="review", description=f"{run.name}: a person is to review")


def _spoken(seconds: float) -> str:
    return f"{seconds / 3600:g} h" if seconds >= 3600 else f"{seconds:g} s"
