"""A change of the data set makes the parts run that it touches, and no others."""

import json

import pytest
from conftest import MadeSet

from flows.python import augment_dataset
from tasks import stages

STAGES = ("caption", "plan", "generate", "screen", "draw")
PICTURES = 130  # four parts


@pytest.fixture
def ran(monkeypatch):
    """Stage → (jobs that ran, all jobs) of the last run."""
    found, real = {}, stages.close_stage

    def close_stage(run, stage, done, *more, **named):
        found[stage.work.name] = sum(fresh for _, fresh in done), len(done)
        return real(run, stage, done, *more, **named)

    monkeypatch.setattr(stages, "close_stage", close_stage)
    return found


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """(data set, workspace) after a run."""
    folder = tmp_path_factory.mktemp("grown")
    made = MadeSet(folder / "made", PICTURES, size=(96, 64))
    return made, folder / "ws", run(made, folder / "ws")


def run(made, workspace):
    result = augment_dataset(dataset=made.dataset, workspace=workspace, evaluate={"extractor": None})
    return result.rows("plan").set_index("image_key")


def donors(plan):
    """Image key → annotations whose objects its request pastes."""
    ok = plan[plan.status == "ok"]
    return {
        key: {step["donor"]["annotation"] for step in json.loads(request)["passes"]}
        for key, request in ok.request.items()
    }


def test_one_added_picture_runs_one_part_of_each_stage_and_one_that_lost_a_donor_is_planned_anew(grown, ran):
    made, workspace, before = grown
    made.add(PICTURES, (96, 64))
    made.write()
    after = run(made, workspace)
    assert [ran[stage] for stage in STAGES] == [(1, 4)] * len(STAGES)
    new = str(10 + PICTURES)
    assert after.drop(index=new).key.to_dict() == before.key.to_dict()  # also those whose donors come from anywhere

    used = donors(after)
    victim = next(key for key, names in used.items() if key != new)
    gone = sorted(used[victim])[0]
    touched = {key for key, names in used.items() if gone in names}
    source = next(one["image_id"] for one in made.coco["annotations"] if str(one["id"]) == gone)
    made.coco["annotations"] = [one for one in made.coco["annotations"] if str(one["id"]) != gone]
    made.write()
    last = run(made, workspace)
    assert gone not in set().union(*donors(last).values())
    changed = {key for key in last.index if last.key[key] != after.key[key]}
    assert changed == touched | {str(source)}
    assert ran["plan"][0] <= len(changed)
    run(made, workspace)
    assert [ran[stage] for stage in STAGES] == [(0, 4)] * len(STAGES)
