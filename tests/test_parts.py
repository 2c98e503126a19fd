"""A change of the data set makes the parts run that it touches, and no others."""

import json
from collections import Counter

import pytest
from conftest import MadeSet, final_set

import tasks.sizing
from flows.python import augment_dataset
from lib.records.parts import LARGE_PART, LEAST_PART, PARTS_A_WORKER, TASK_SHARE, fits, part_count, sized_count
from tasks.engine import Engine

COST = 0.255  # seconds of three tasks on a cluster
STAGES = ("caption", "plan", "generate", "screen", "draw")
PICTURES = 130  # four parts


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


# How many parts


@pytest.mark.parametrize("rows", [0, 1, 63, 64, 1000, 4096, 118_000, 1_000_000])
def test_their_number_is_a_power_of_two_and_a_part_has_no_more_pictures_than_memory_is_planned_for(rows):
    for count in (part_count(rows), sized_count(rows, 60.0, 8, COST), sized_count(rows, 1e-4, 8, COST)):
        assert count.bit_count() == 1 and rows / count <= LARGE_PART


@pytest.mark.parametrize("seconds", [0.06, 0.2, 1.0, 12.0, 60.0, 3600.0])
@pytest.mark.parametrize("rows", [1_000, 10_000, 118_000])
@pytest.mark.parametrize("workers", [1, 8, 64])
def test_what_the_tasks_of_a_part_cost_is_less_than_a_hundredth_of_its_work(rows, seconds, workers):
    count = sized_count(rows, seconds, workers, COST)
    fewer = count / 2  # would be too large for the memory, or leave workers without work
    needed = rows / fewer > LARGE_PART or fewer < 2 * workers
    assert TASK_SHARE * seconds * rows / count >= COST or needed


def test_pictures_that_take_long_have_few_beside_them_and_cheap_ones_many():
    counts = [sized_count(10_000, seconds, 8, COST) for seconds in (0.001, 0.1, 1.0, 60.0)]
    assert counts == [32, 32, 256, 512]
    assert counts[-1] <= PARTS_A_WORKER * 8
    assert 20 / sized_count(20, 60.0, 8, COST) >= LEAST_PART / 2


@pytest.mark.parametrize("workers", [1, 7, 33, 64, 200])
def test_no_worker_is_without_a_part_where_there_are_pictures_for_all(workers):
    assert part_count(10_000, 2 * workers) >= 2 * workers
    assert sized_count(10_000, 1e-4, workers, COST) >= 2 * workers


def test_a_number_of_parts_fits_until_it_is_four_times_off():
    assert [count for count in (1, 2, 4, 8, 16, 32, 64) if fits(count, 8)] == [4, 8, 16]


# Their number from what the first pictures cost, as on a cluster


@pytest.fixture
def sized(monkeypatch):
    """A set of 40 pictures; threads that split as one worker of a cluster, into parts that are as small as may be."""
    monkeypatch.setattr(Engine, "parts", 2)
    monkeypatch.setattr(Engine, "cost", 1e-9)


def test_a_run_that_was_ended_while_the_first_are_painted_paints_none_of_them_twice(tmp_path, sized, ran, monkeypatch):
    made, real, painted = MadeSet(tmp_path / "made", 40, size=(96, 64)), tasks.sizing.run_parts, Counter()

    def ended(*rest):
        real(*rest)
        painted.update(path.name for path in (tmp_path / "ws").glob("store/picture/*/*"))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tasks.sizing, "run_parts", ended)
        with pytest.raises(KeyboardInterrupt):
            run(made, tmp_path / "ws")
    assert len(painted) == 4
    run(made, tmp_path / "ws")
    account = json.loads((tmp_path / "ws" / "status.json").read_bytes())
    assert account["painted"] == account["stages"]["plan"]["ok"] - 4 and ran["plan"] == (8, 8)
    monkeypatch.undo()
    run(made, tmp_path / "whole")
    assert final_set(tmp_path / "ws") == final_set(tmp_path / "whole")


def test_a_workspace_that_has_parts_is_not_measured(tmp_path, sized, ran, monkeypatch):
    made = MadeSet(tmp_path / "made", 40, size=(96, 64))
    with monkeypatch.context() as patch:
        patch.setattr(tasks.sizing, "_WORTH", 1000)
        run(made, tmp_path / "ws")
    before = ran["plan"][1]
    run(made, tmp_path / "ws")
    assert [ran[stage] for stage in STAGES] == [(0, before)] * len(STAGES)


def test_another_painting_is_measured_anew_and_a_damaged_record_costs_no_painting(tmp_path, sized, ran):
    made, size = MadeSet(tmp_path / "made", 40, size=(96, 64)), tmp_path / "ws" / "parts" / "size.json"
    run(made, tmp_path / "ws")
    first = json.loads(size.read_bytes())
    augment_dataset(dataset=made.dataset, workspace=tmp_path / "ws", variants=2, evaluate={"extractor": None})
    assert json.loads(size.read_bytes())["work"] != first["work"]
    for text in ("{", json.dumps({"work": first["work"], "seconds": 1.0, "parts": 3})):
        size.write_text(text)
        run(made, tmp_path / "ws")
        assert json.loads((tmp_path / "ws" / "status.json").read_bytes())["painted"] == 0
