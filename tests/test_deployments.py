"""prefect.yaml: what it deploys is what its flow takes, and nothing in it belongs to one machine."""

import subprocess
import sys
from pathlib import Path, PurePath
from typing import Any

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule
from prefect.events import DeploymentEventTrigger
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools import validate

from lib.core.errors import AugmentError
from lib.proof.settings import check_proof, quick
from lib.records.settings import CompareSettings, TrainSettings
from lib.runs.parameters import Parameters, check_parameters, resolve_parameters
from lib.training.train import check_training

CHECKOUT = Path(__file__).parents[1]
DECLARED = yaml.safe_load((CHECKOUT / "prefect.yaml").read_text("utf-8"))


def named(one: dict[str, Any]) -> str:
    """Its name, with its flow's where another flow may have one of that name."""
    flow = one["entrypoint"].rpartition(":")[2]
    return f"{flow}/{one['name']}" if flow in ("evaluate", "prove") else one["name"]


DEPLOYMENTS: dict[str, dict[str, Any]] = {named(one): one for one in DECLARED["deployments"]}

every_deployment = pytest.mark.parametrize("name", sorted(DEPLOYMENTS))


FLOWS = {
    entrypoint: load_flow_from_entrypoint(str(CHECKOUT / entrypoint))
    for entrypoint in sorted({one["entrypoint"] for one in DEPLOYMENTS.values()})
}


@pytest.fixture(scope="module")
def flow():
    return FLOWS["flows/augment.py:augment"]


def strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in strings(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in strings(inner)]
    return [value] if isinstance(value, str) else []


def form_errors(flow, parameters: dict[str, Any]) -> list[Any]:
    """What the server holds against the parameters of a run."""
    return validate(parameters, parameter_schema(flow).model_dump_for_openapi())


def test_demo_loco_a_template_and_the_mini_models_are_deployed():
    assert {"demo", "loco", "coco", "mini"} <= set(DEPLOYMENTS)
    assert [flow.name for flow in FLOWS.values()] == ["augment", "evaluate", "prove", "train"]
    assert DEPLOYMENTS["mini"]["entrypoint"] == "flows/train.py:train"


@every_deployment
def test_parameters_are_what_its_flow_takes(name):
    parameters, flow = DEPLOYMENTS[name]["parameters"], FLOWS[DEPLOYMENTS[name]["entrypoint"]]
    if flow.name == "train":
        check_training(parameters)
    elif flow.name == "prove":
        check_proof(parameters)
        check_proof(quick(parameters))
    elif flow.name == "evaluate":
        CompareSettings.model_validate(parameters)
    else:
        resolve_parameters(check_parameters(parameters), Path("unused"))
    flow.validate_parameters(parameters)
    assert form_errors(flow, parameters) == []


@every_deployment
def test_each_has_a_workspace_of_its_own_and_its_runs_queue(name):
    workspace = {"evaluate/loco": "loco-evaluation"}.get(name, name.replace("/", "-"))
    assert DEPLOYMENTS[name]["parameters"]["workspace"] == f"data/runs/{workspace}"
    assert DEPLOYMENTS[name]["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


@every_deployment
def test_the_pool_is_the_one_that_serve_makes(name):
    from flows.serve import POOL

    assert DEPLOYMENTS[name]["work_pool"]["name"] == POOL


def test_no_path_belongs_to_one_machine():
    assert not [text for text in strings(DECLARED) if PurePath(text).is_absolute() or text.startswith("~")]


def test_the_demo_set_lies_in_the_checkout():
    dataset = DEPLOYMENTS["demo"]["parameters"]["dataset"]
    assert (CHECKOUT / dataset["images"]).is_dir() and (CHECKOUT / dataset["annotations"]).is_file()


def test_loco_has_a_schedule_that_is_paused():
    (schedule,) = DEPLOYMENTS["loco"]["schedules"]
    assert schedule.pop("active") is False
    CronSchedule(**schedule)


def test_loco_is_started_by_its_update():
    (trigger_fields,) = DEPLOYMENTS["loco"]["triggers"]
    trigger = DeploymentEventTrigger(**trigger_fields)
    assert trigger.enabled and trigger.expect == {"dataset.updated"}
    assert trigger.match.matches({"prefect.resource.id": "dataset.loco"})
    assert not trigger.match.matches({"prefect.resource.id": "dataset.coco"})


@pytest.mark.parametrize(
    "given",
    [
        {"painter": "copy-paste"},
        {"painter": {"name": "copy-paste"}},
        {"edit": {"name": "replace"}, "composite": "feather"},
        {"dataset": {"images": "elsewhere", "format": "loco"}},
        {"select": {"max_objects": 6}, "limit": 3, "models": "mini"},
    ],
    ids=str,
)
def test_one_parameter_can_be_overridden_alone_in_the_run_form(flow, given):
    parameters = {**DEPLOYMENTS["loco"]["parameters"], **given}
    assert form_errors(flow, parameters) == []
    flow.validate_parameters(parameters)
    check_parameters(parameters)


@pytest.mark.parametrize("given", [{"dataset": {"imagez": "x"}}, {"limit": "many"}, {"modelz": "mini"}], ids=str)
def test_a_wrong_parameter_is_refused_before_a_run_starts(flow, given):
    parameters = {**DEPLOYMENTS["loco"]["parameters"], **given}
    with pytest.raises(AugmentError, match=next(iter(given))):
        check_parameters(parameters)
    if "modelz" not in given:  # names at the top are checked beside the form
        assert form_errors(flow, parameters)


@pytest.mark.parametrize(("name", "settings"), [("augment", Parameters), ("train", TrainSettings)])
def test_every_parameter_of_a_flow_is_in_its_form_and_in_its_settings(name, settings):
    form = parameter_schema(FLOWS[f"flows/{name}.py:{name}"]).properties
    assert set(form) == set(settings.model_fields)
    assert all(one.get("description") for one in form.values())


@pytest.mark.parametrize(
    "given",
    [{"models": ["vae"]}, {"settings": {"vae": {"steps": 9}}}, {"size": 96, "seed": 4}, {"start": "data/models/mini"}],
    ids=str,
)
def test_one_parameter_of_a_training_can_be_overridden_alone_in_the_run_form(given):
    parameters = {**DEPLOYMENTS["mini"]["parameters"], **given}
    assert form_errors(FLOWS["flows/train.py:train"], parameters) == []
    check_training(parameters)


def test_flows_are_imported_without_torch():
    """As `make serve` does for every deployment, and a worker for every run that then waits for another."""
    modules = sorted({PurePath(one["entrypoint"].partition(":")[0]).stem for one in DEPLOYMENTS.values()})
    code = f"import sys; from flows import {', '.join(modules)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert len(modules) > 2 and done.stdout.strip() == "False"
