"""A chain of stages: a part waits for nobody else's; what fails begins nothing later; what uses a model comes first."""

import threading
from pathlib import Path

import pytest
from conftest import PATIENCE

from lib.records.rows import PlanRow
from tasks.engine import Engine, working_on
from tasks.jobs import make_job, stage_task
from tasks.stages import Link, Stage, run_chain

STAGES = ("plan", "generate", "screen")


class Progress:
    def start(self, stage, total): ...

    def finish(self, stage): ...


class Work:
    """What a chain needs of a run."""

    def __init__(self, root: Path) -> None:
        self.root, self.sources, self.progress = root, root, Progress()


class Chain:
    """Three stages whose work is `does(stage, part)`; keeps the order of what begins, and of what is closed."""

    def __init__(self, root, monkeypatch, does=lambda stage, part: None, models=()):
        self.run, self.does, self.models = Work(root), does, models
        self.begun, self.closed, self.lock = [], [], threading.Lock()
        monkeypatch.setattr("tasks.stages.close_stage", self.close)

    def close(self, run, stage, done, seconds, release):
        name = stage.work.name
        assert all(fresh for _, fresh in done)
        self.closed.append((name, release))
        return [Path(ref.path).read_bytes() for ref, _ in done]

    def link(self, name):
        @stage_task(name)
        def work(job):
            part = job.settings["part"]
            with self.lock:
                self.begun.append((name, part))
            self.does(name, part)
            return job.write([], PlanRow, f"{name} {part}".encode())

        def job(part, made):
            where = {"judge": True} if name in self.models else {}
            inputs = {str(number): ref for number, ref in enumerate(made)}
            return make_job(self.run, name, 1, inputs, {"part": part}, where)

        return Link(Stage(work, PlanRow, ("plan", PlanRow)), job)

    def start(self, count):
        return run_chain(self.run, [self.link(name) for name in STAGES], count)


def test_a_part_goes_on_while_another_is_still_at_an_earlier_stage(tmp_path, monkeypatch):
    through = threading.Event()

    def does(stage, part):
        if (stage, part) == ("plan", 0):
            assert through.wait(PATIENCE), "no part went on"
        if stage == "screen" and part == 1:
            through.set()

    chain = Chain(tmp_path, monkeypatch, does)
    made = chain.start(2)
    assert [[b"plan 0" in one for one in stage] for stage in made[:1]] == [[True, False]]  # in the order of the parts
    assert chain.closed == [("plan", False), ("generate", False), ("screen", True)]
    assert set(chain.begun) == {(stage, part) for stage in STAGES for part in range(2)}


def test_no_parts_are_no_work_and_every_stage_is_closed(tmp_path, monkeypatch):
    chain = Chain(tmp_path, monkeypatch)
    assert chain.start(0) == [[], [], []] and chain.begun == []
    assert [name for name, _ in chain.closed] == list(STAGES)


def test_where_a_part_fails_its_stage_ends_for_the_others_and_no_later_one_begins(tmp_path, monkeypatch):
    def does(stage, part):
        if (stage, part) == ("generate", 0):
            raise ValueError("cannot be painted")

    class Narrow(Engine):
        room = 1  # one after the other: what begins is certain

    chain = Chain(tmp_path, monkeypatch, does, models=("generate",))
    with working_on(Narrow()), pytest.raises(ValueError, match="cannot be painted"):
        chain.start(3)
    assert {part for stage, part in chain.begun if stage == "generate"} == {0, 1, 2}
    assert {part for stage, part in chain.begun if stage == "plan"} == {0, 1, 2}
    assert not [part for stage, part in chain.begun if stage == "screen"]
    assert chain.closed == [("plan", False)]


def test_what_uses_a_model_begins_before_what_was_ready_earlier(tmp_path, monkeypatch):
    class Narrow(Engine):
        room = 1

    chain = Chain(tmp_path, monkeypatch, models=("generate",))
    with working_on(Narrow()):
        chain.start(3)
    assert chain.begun[:4] == [("plan", 0), ("generate", 0), ("plan", 1), ("generate", 1)]
    assert chain.begun[-3:] == [("screen", part) for part in range(3)]


def test_without_a_model_a_part_goes_to_the_end_before_another_begins(tmp_path, monkeypatch):
    """Its pictures are decoded for one stage, and at hand for the next."""

    class Narrow(Engine):
        room = 1

    chain = Chain(tmp_path, monkeypatch)
    with working_on(Narrow()):
        chain.start(2)
    assert chain.begun == [(stage, part) for part in range(2) for stage in STAGES]


def test_no_more_than_two_parts_hold_a_thread_for_one_model(tmp_path, monkeypatch):
    """One has the model, the next waits for it; the threads that are left plan and screen."""
    painting, most, planned = [], [], threading.Event()

    def does(stage, part):
        if stage == "plan" and part == 7:
            planned.set()
        if stage == "generate":
            painting.append(part)
            most.append(len(painting))
            assert planned.wait(PATIENCE), "painting held every thread"
            painting.remove(part)

    class Four(Engine):
        room = 4

    chain = Chain(tmp_path, monkeypatch, does, models=("generate",))
    with working_on(Four()):
        chain.start(8)
    assert most[:2] == [1, 2]
    assert chain.begun.index(("plan", 7)) < [stage for stage, _ in chain.begun].index("screen")
