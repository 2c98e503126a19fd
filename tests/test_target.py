"""Targets: painting goes on in rounds until so many painted boxes of each category are accepted."""

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import test_plan
from conftest import PATIENCE, MadeSet

from flows import augment_dataset, cli
from lib.core.errors import AugmentError
from lib.core.keys import key_of
from lib.planning.rounds import PROBE, TRIES, Tally
from lib.planning.statistics import Statistics
from lib.planning.target import (
    Draws,
    Wanted,
    check_target,
    choose_draws,
    count_boxes,
    paintable,
    sources_needed,
    steered,
    wanted_boxes,
)
from lib.records.manifest import to_table
from lib.records.requests import Label, Outcome
from lib.records.rows import OK, ImageRow, ObjectRow, PlanRow
from lib.records.settings import BudgetSettings, TargetSettings
from lib.records.store import Store
from lib.runs.dry_run import dry_run
from lib.runs.outcome import outcome_of
from lib.runs.parameters import check_parameters, resolve_parameters
from lib.runs.preflight import check_run, preflight
from lib.runs.tidy import tidy
from lib.screening.accepted import Accepted

# Without a target


@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        (test_plan.recipe(), "aea82e43880f4134870951e52d2f05f6b39b7f3e2b00eaf92eeec33d14f98b2a"),
        (test_plan.recipe("insert"), "2b0d8857ffe72e8956adff3280065c8600dc5280cccb1a4aa95ede6125ba308b"),
        (test_plan.recipe(category="forklift"), "0a9c136f63ffc8b41efcb6da374afdf81a62cee6c22d17dbf9ff43d333383fdf"),
    ],
)
def test_without_a_target_requests_have_the_keys_of_the_versions_before_targets(recipe, key):
    places = {"forklift": np.array([[0.5, 0.2, 0.2], [0.9, 0.3, 0.25]])}
    rows = test_plan.plan(test_plan.IMAGES[:4], test_plan.BOXES[:4], variants=2, chain=recipe, places=places)
    assert key_of(*[row.key for row in rows]) == key


JOBS = {  # (VERSION, settings, names of inputs) of each stage's jobs, as the versions before targets made them; but for
    # the plan's, which then took all pictures and objects, and now takes the objects of its own pictures
    "select": "c7af1880f1bed1387e5bc224fba7371f42aea2feebe8e70e84bc29aae4899e64",
    # of its version 4, and of version 2 of poisson
    "plan": "864bd52ccf54ca7d133033b5815662a262fd75f5433153f80cdcc58a32700eb8",
    "generate": "c459d9255baa74742778d810f0880971560293a257695b71dfe51ddfb30ec107",
    "screen": "eb2f91eb0f753311ae866da8209d37d047c259d8d702f5dd53340ccc241bffce",
}


def test_without_a_target_jobs_have_the_settings_of_the_versions_before_targets(tmp_path, monkeypatch):
    import tasks.generate
    import tasks.plan
    import tasks.screen
    import tasks.select

    made, seen = tasks.plan.make_job, {}

    def noted(run, stage, version, inputs, settings=None, where=None):
        seen.setdefault(stage, key_of(version, settings, sorted(inputs)))
        return made(run, stage, version, inputs, settings, where)

    for module in (tasks.select, tasks.plan, tasks.generate, tasks.screen):
        monkeypatch.setattr(module, "make_job", noted)
    small = MadeSet(tmp_path / "made", 3)
    augment_dataset(
        dataset=small.dataset,
        workspace=tmp_path / "ws",
        preset="insert",
        limit=2,
        variants=2,
        evaluate={"extractor": None},
    )
    assert seen == JOBS


# What is asked for


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("balance", {"balance": 1.0}),
        ("advice.json", {"advice": Path("advice.json")}),
        ({"name": "balance", "ratio": 2}, {"balance": 1.0, "ratio": 2.0}),
        ({"per_category": {"forklift": 500}}, {"per_category": {"forklift": 500}}),
    ],
)
def test_a_target_has_short_forms(given, expected):
    found = TargetSettings.model_validate(given)
    assert found.model_dump(exclude_unset=True) == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"target": {"per_category": {"forklift": 0}}}, "forklift.*greater than or equal to 1"),
        ({"target": {"per_category": {"forklift": -3}}}, "greater than or equal to 1"),
        ({"target": {"per_category": {}}}, "at least 1 item"),
        ({"target": {"per_categories": {"forklift": 3}}}, "do you mean 'per_category'"),
        ({"target": "balanced"}, "balance, limit, the name of a .json file"),
        ({"target": {"balance": 1, "per_category": {"forklift": 3}}}, "one of per_category, balance, advice and limit"),
        ({"target": "limit"}, "set `limit`"),
        ({"target": "balance", "variants": 2}, "leave variants out"),
        ({"budget": {"pictures": 3}}, "set `target`, or leave budget out"),
        ({"target": "balance", "budget": {"pictures": 0}}, "greater than or equal to 1"),
    ],
)
def test_a_target_that_cannot_be_is_refused_in_a_sentence(values, words):
    with pytest.raises(AugmentError, match=words):
        check_parameters({"dataset": {"images": "."}, **values})


@pytest.mark.parametrize(
    ("target", "preset", "words"),
    [
        ({"per_category": {"forklif": 3}}, "copy-paste", "no category 'forklif' .do you mean 'forklift'"),
        ({"per_category": {"truck": 3}}, "insert", "paints no object of category 'truck' here .it has 0 real boxes"),
        ({"per_category": {"pallet": 3}}, "blend-background", "it paints none with a label"),
        ("balance", "copy-paste", "target balance asks for nothing"),
    ],
)
def test_a_target_that_no_draw_can_bring_is_refused_before_anything_is_written(tmp_path, target, preset, words):
    made = MadeSet(tmp_path / "made", 3)
    made.coco["categories"].append({"id": 9, "name": "truck"})
    made.write()
    chosen: dict[str, Any] = {"preset": preset}
    if preset == "blend-background":
        chosen = {"preset": "gligen-inpainting", "edit": "background", "models": "mini"}
    parameters = check_parameters({"dataset": made.dataset, "target": target, **chosen})
    with pytest.raises(AugmentError, match=words):
        preflight(parameters, tmp_path / "ws")
    assert not (tmp_path / "ws").exists()


def test_an_advice_file_gives_the_numbers_and_others_are_refused_in_a_sentence(tmp_path):
    def resolved(content: str):
        (tmp_path / "advice.json").write_text(content)
        given = {"dataset": {"images": "."}, "target": str(tmp_path / "advice.json")}
        return resolve_parameters(check_parameters(given), tmp_path).target

    assert resolved('{"target": {"per_category": {"forklift": 7}}, "why": "weak"}').per_category == {"forklift": 7}
    for content, words in {
        '{"target": {"per_category": {"forklift": 0}}}': "per_category.forklift.*got 0",
        '{"target": "balance"}': "has no target.per_category",
        '{"per_category": {}}': "has no target.per_category",
        '{"target": {"per_category": {}}}': "at least 1 item",
        "[]": "Expected `object`",
        "forklift": "malformed",
    }.items():
        with pytest.raises(AugmentError, match=words):
            resolved(content)
    (tmp_path / "advice.json").unlink()
    with pytest.raises(AugmentError, match=r"advice\.json cannot be read"):
        check_run(check_parameters({"dataset": {"images": "."}, "target": str(tmp_path / "advice.json")}), tmp_path)


BOXES = {"forklift": 100, "pallet": 60, "truck": 5}


def test_balance_brings_every_category_to_the_most_frequent_one_but_no_more_than_ratio_times_its_boxes():
    able = set(BOXES)
    assert wanted_boxes(TargetSettings(balance=1), BOXES, able) == {"pallet": 40, "truck": 20}
    assert wanted_boxes(TargetSettings(balance=0.5, ratio=100), BOXES, able) == {"truck": 45}
    assert wanted_boxes(TargetSettings(balance=1), BOXES, {"pallet"}) == {"pallet": 40}


@pytest.mark.parametrize(
    ("recipe", "able"),
    [
        (test_plan.recipe(), {"forklift", "pallet", "truck"}),
        (test_plan.recipe(category=["pallet", "van"]), {"pallet"}),  # no van to cut out
        (test_plan.recipe("replace", "sd-inpaint", category=["pallet", "van"]), {"pallet", "van"}),
        (test_plan.recipe("insert", category="truck"), {"truck"}),
        (test_plan.recipe("insert", "sd-inpaint", category="van"), set()),  # no place to learn from
        (test_plan.recipe("occlude", "sd-inpaint"), set()),
        (test_plan.recipe("occlude", "sd-inpaint", occluder_category="truck"), {"truck"}),
        (test_plan.recipe("background", "sd-inpaint"), set()),
    ],
)
def test_it_is_known_which_categories_a_recipe_can_paint(recipe, able):
    assert paintable(recipe, BOXES, None) == able
    assert paintable(test_plan.recipe(), BOXES, {"truck"}) == {"truck"}


def test_a_target_within_what_can_be_painted_passes():
    check_target(TargetSettings(per_category={"truck": 3}), test_plan.recipe(), BOXES, BOXES)


def test_real_boxes_are_counted_in_the_training_split_without_crowds():
    images = [test_plan.image("1"), test_plan.image("2", split="val")]
    boxes = [
        test_plan.box("11", "1", 0, 0, 9, 9),
        test_plan.box("12", "1", 0, 0, 9, 9, "pallet"),
        test_plan.box("13", "1", 0, 0, 9, 9, "pallet", crowd=True),
        test_plan.box("14", "2", 0, 0, 9, 9),
    ]
    assert count_boxes([to_table(images, ImageRow)], [to_table(boxes, ObjectRow)], "train") == {
        "forklift": 1,
        "pallet": 1,
    }


# Which draws bring it


def candidates(*labels: list[str]) -> pd.DataFrame:
    keys = [str(i) for i in range(len(labels))]
    objects = [[f"{key}.{i}" for i in range(len(some))] for key, some in zip(keys, labels, strict=True)]
    return pd.DataFrame({"key": keys, "objects": objects, "labels": [list(some) for some in labels]})


def planned(key: str, variant: int, categories: list[str], reason: str = "no_donor") -> PlanRow:
    """A row whose request paints boxes of some categories; none: a row with a reason."""
    labels = tuple(Label(source=None, painted=True, category=name, bbox=(0, 0, 9, 9)) for name in categories)
    known = {"frame": "upright", "width": 99, "height": 99, "split": "train", "edit": "replace"}
    outcome = Outcome(image_key=key, source="0", variant=variant, painter={}, composite={}, labels=labels, **known)
    status, reason = (OK, "") if categories else ("rejected", reason)
    return PlanRow(f"{key}/{variant}", status, reason, "", key, variant, "", outcome.model_dump_json().encode(), [], 1)


def look_at(some: pd.DataFrame, variant: int, lacking) -> list[PlanRow]:
    """Each paints what its source has of the lacking categories; of pictures, all."""
    rows = zip(some.key, some.labels, strict=True)
    return [planned(key, variant, [name for name in labels if not lacking or name in lacking]) for key, labels in rows]


def draws_of(found: Draws) -> Counter:
    return Counter((key, variant) for group in found.groups for key, all_ in group.draws.items() for variant in all_)


def test_a_round_takes_draws_until_each_category_has_what_it_lacks_and_no_more():
    some = candidates(["a", "b"], ["b"], ["a"], ["a"], ["a", "a"])
    found = choose_draws(some, Wanted(boxes={"a": 2, "b": 1}), 0, look_at, {})
    assert draws_of(found) == {("0", 0): 1, ("2", 0): 1} and (found.at, found.count) == (3, 2)
    assert [group.lacking for group in found.groups] == [["a", "b"], ["a"]]


def test_all_sources_come_before_the_next_variant_and_no_draw_comes_twice():
    some, seen = candidates(["a"], ["a"], ["a"]), Counter[Any]()
    at = 0
    for _ in range(3):
        found = choose_draws(some, Wanted(boxes={"a": 4}), at, look_at, {})
        seen.update(draws_of(found))
        at = found.at
    assert seen == {(key, variant): 1 for key in "012" for variant in range(4)}


def test_a_category_that_no_source_brings_is_given_up_with_the_main_reason_and_the_others_go_on():
    some = candidates(["a"], [], [])
    found = choose_draws(some, Wanted(boxes={"a": 3, "b": 1}), 0, look_at, {})
    assert found.without == {"b": "no_donor"} and found.count == 3 and found.exhausted is None


def test_a_round_has_no_more_pictures_than_it_may():
    found = choose_draws(candidates(["a"], ["a"], ["a"]), Wanted(boxes={"a": 9}, most=2), 0, look_at, {})
    assert found.count == 2


def test_pictures_may_be_the_target_and_those_without_a_plan_do_not_count():
    some = candidates(["a"], [], ["a"], [], ["a"])
    found = choose_draws(some, Wanted(pictures=3), 0, look_at, {})
    assert draws_of(found) == {("0", 0): 1, ("2", 0): 1, ("4", 0): 1}
    assert choose_draws(candidates([], []), Wanted(pictures=3), 0, look_at, {}).exhausted == "no_donor"


def test_without_sources_nothing_is_drawn_and_nothing_hangs():
    found = choose_draws(candidates(), Wanted(boxes={"a": 3}), 0, look_at, {})
    assert not found.groups and found.exhausted == "" and found.without == {"a": ""}


def test_an_edit_is_steered_to_what_is_lacking_where_it_has_a_choice():
    some, places = candidates(["a", "b"], ["b"]), {name: np.ones((1, 3)) for name in "ab"}
    statistics = Statistics(places, [("a", "b"), ("b",)])
    recipe, _, chosen = steered(test_plan.recipe(category=["a", "b"]), statistics, some, ["a"])
    assert recipe.edit.settings["category"] == ["a"] and chosen is some
    _, _, chosen = steered(test_plan.recipe(), statistics, some, ["a"])
    assert chosen.labels.tolist() == [["a"], []] and chosen.objects.tolist() == [["0.0"], []]
    _, drawn_from, _ = steered(test_plan.recipe("insert"), statistics, some, ["a"])
    assert list(drawn_from.places) == ["a"]
    _, drawn_from, _ = steered(test_plan.recipe("layout", "gligen", "none", layouts="sampled"), statistics, some, ["a"])
    assert drawn_from.mixes == [("a", "b")] and list(drawn_from.places) == ["a", "b"]
    same = test_plan.recipe("layout", "gligen", "none"), statistics, some
    assert all(one is two for one, two in zip(steered(*same, ["a"]), same, strict=True))
    same = test_plan.recipe(), statistics, some
    assert all(one is two for one, two in zip(steered(*same, []), same, strict=True))


def test_so_many_sources_are_captioned_as_the_target_is_likely_to_take():
    some = candidates(*[["a"] if i % 10 == 0 else ["b"] for i in range(1000)])
    assert sources_needed(some, test_plan.recipe(), {"a": 10}, 0) == 191 + 64
    assert sources_needed(some, test_plan.recipe("insert"), {"a": 10, "b": 5}, 0) == 30 + 64
    assert sources_needed(some, test_plan.recipe(), {}, 20) == 40 + 64
    assert sources_needed(some, test_plan.recipe(), {"c": 1}, 0) == 1000


# Rounds


def tally(pictures=None, budget=None, **goals) -> Tally:
    return Tally(goals, pictures, BudgetSettings(**budget or {}))


def test_a_round_asks_for_more_where_screening_refused_some_and_for_few_where_it_accepted_none():
    found = tally(a=1000, b=40)
    assert found.next() == Wanted(boxes={"a": PROBE, "b": 40})
    found.add({"a": 60, "b": 40}, {"a": 45, "b": 0}, {"b": {"doubtful": 40}}, (100, 45), 10)
    assert found.next() == Wanted(boxes={"a": 1274, "b": 40})
    found.add({"a": 1274}, {"a": 955}, {}, (1274, 955), 10)
    assert found.next() == Wanted(boxes={"b": 40})
    assert found.document()["boxes"]["a"]["missing"] == 0


def test_a_category_of_which_rounds_accept_nothing_is_given_up_with_the_reason():
    found = tally(a=10, b=10)
    for _ in range(TRIES):
        found.add({"a": 10, "b": 4}, {"b": 2}, {"a": {"not_recognised": 9, "black": 1}, "b": {"black": 2}}, (9, 9), 1)
    assert found.next() == Wanted(boxes={"b": 8})
    found.add({"b": 8}, {"b": 8}, {}, (8, 8), 1)
    assert found.next() is None and not found.reached
    document = found.document()
    assert "most as not recognised" in document["boxes"]["a"]["why"] and document["boxes"]["b"]["why"] == ""
    assert document["boxes"]["a"] == {
        "wanted": 10,
        "accepted": 0,
        "refused": 30,
        "reasons": {"black": 3, "not_recognised": 27},
        "seconds_per_box": None,
        "missing": 10,
        "why": document["boxes"]["a"]["why"],
    }


@pytest.mark.parametrize(
    ("found", "ended"),
    [
        (tally(a=100, budget={"pictures": 20}), "budget of 20 pictures spent"),
        (tally(a=100, budget={"seconds": 5}), "budget of 5 seconds spent"),
        (tally(a=100, pictures=15), "limit of 15 pictures reached"),
    ],
)
def test_a_budget_or_a_limit_ends_the_rounds_and_the_account_says_so(found, ended):
    while (wanted := found.next()) is not None:
        count = min(wanted.most or 99, wanted.boxes["a"])
        found.add({"a": count}, {"a": count // 2 or 1}, {}, (count, count), count / 4)
    assert found.ended == ended and found.document()["boxes"]["a"]["why"] == ended and not found.reached
    assert found.tried <= 20


def test_a_round_has_as_many_pictures_as_the_seconds_that_are_left_are_likely_to_take():
    found = tally(a=1000, budget={"seconds": 100})
    assert found.next().most == 8
    found.add({"a": 8}, {"a": 8}, {}, (8, 8), 16.0)
    assert found.next().most == 42


def test_seconds_are_shared_among_the_boxes_of_a_round():
    found = tally(a=10, b=10)
    found.add({"a": 6, "b": 2, "other": 8}, {"a": 3, "b": 2}, {}, (8, 8), 32)
    boxes = found.document()["boxes"]
    assert (boxes["a"]["seconds_per_box"], boxes["b"]["seconds_per_box"]) == (4.0, 2.0)


def test_draws_that_are_exhausted_end_the_rounds_with_what_is_missing():
    found = tally(a=10)
    found.next()
    found.exhaust(Draws(at=5, without={"a": "no_free_place"}))
    assert found.next() is None
    assert found.document()["boxes"]["a"]["why"] == "no further source gives one, most as no free place"


# What was accepted


def test_boxes_of_pictures_set_aside_and_labels_dropped_or_ignored_are_refused_with_their_reason():
    one, two = (Outcome.model_validate_json(planned(key, 0, ["a", "a", "b"]).request) for key in ("1", "2"))
    verdicts = {"1": ["0:keep:recognised:0.9", "1:drop:not_recognised:0.1", "2:ignore:doubtful:0.4"], "2": []}
    made = Accepted()
    for key, outcome, reason in (("1", one, ""), ("2", two, "black")):
        made.add({key: outcome}, {key: reason}, verdicts, {})
    assert made.planned == 2
    assert made.painted == {"a": 4, "b": 2} and made.accepted == {"a": 1} and made.pictures == 1
    assert made.refused == {"a": {"black": 2, "not_recognised": 1}, "b": {"black": 1, "doubtful": 1}}


def test_the_outcome_names_what_a_target_lacks():
    found = tally(a=10, b=10)
    found.add({"a": 10, "b": 10}, {"a": 10, "b": 4}, {}, (20, 14), 1)
    found.exhaust(Draws(at=5, without={"b": "no_donor"}))
    found.next()
    stage = {"rows": 20, "ok": 20, "painted": 20, "rejected": {}}
    stages = dict.fromkeys(("ingest", "select", "caption", "plan", "generate", "screen"), stage)
    outcome = outcome_of(stages, None, found.document())
    assert outcome["state"] == "less"
    assert outcome["text"].startswith("b: 4 of 10 boxes accepted (no further source gives one, most as no donor)")


def test_a_target_that_is_reached_is_no_less_where_painting_failed_on_the_way():
    found = tally(a=2)
    found.add({"a": 3}, {"a": 2}, {"a": {"painting_failed": 1}}, (3, 2), 1)
    assert found.next() is None
    stage = {"rows": 3, "ok": 3, "painted": 2, "rejected": {}}
    stages = dict.fromkeys(("ingest", "select", "caption", "plan"), stage)
    stages |= dict.fromkeys(("generate", "screen"), stage | {"ok": 2})
    outcome = outcome_of(stages, None, found.document())
    assert (outcome["state"], outcome["text"]) == ("painted", "target reached: 2 pictures: 2 painted, 0 reused")


# Whole runs


def run(workspace: Path, dataset, **parameters):
    """The flow's final state, and its account."""
    from flows.augment import augment

    parameters = {"evaluate": {"extractor": None}, "preset": "insert", **parameters}
    state = augment.fn(dataset=dataset, workspace=workspace, **parameters)
    return state, json.loads((workspace / "status.json").read_bytes())


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refuse_some(monkeypatch, share: float) -> None:
    """Screening sets aside so many of the pictures, by their content."""
    import lib.screening.pictures as pictures

    judge = pictures._judge

    def stricter(pixels, numbers, *rest):
        refused = int(numbers["pixels"][:4], 16) < share * 65536
        return ("black", "for a test") if refused else judge(pixels, numbers, *rest)

    monkeypatch.setattr(pictures, "_judge", stricter)


TARGET = {"per_category": {"forklift": 9, "pallet": 3}}


def test_painting_goes_on_until_the_target_is_accepted_and_a_rerun_paints_nothing(tmp_path, monkeypatch, capsys):
    refuse_some(monkeypatch, 0.5)
    made = MadeSet(tmp_path / "made", 6)
    state, account = run(tmp_path / "ws", made.dataset, target=TARGET)
    target, stages = account["target"], account["stages"]
    assert state.name == "Completed" and target["reached"] and target["rounds"] > 1
    for name, count in TARGET["per_category"].items():
        one = target["boxes"][name]
        assert one["accepted"] >= count and one["refused"] == sum(one["reasons"].values())
        assert one["seconds_per_box"] > 0
    assert stages["screen"]["rejected"]["black"] > 0 and stages["plan"]["rows"] == stages["screen"]["rows"]
    final = json.loads((tmp_path / "ws" / "final" / "annotations.json").read_bytes())
    names = {one["id"]: one["name"] for one in final["categories"]}
    boxes = Counter(names[one["category_id"]] for one in final["annotations"] if one.get("painted"))
    assert boxes == {name: one["accepted"] for name, one in target["boxes"].items()}
    assert account["outcome"]["text"].startswith("target reached: ")
    assert cli.main(["status", str(tmp_path / "ws")]) == 0
    assert "wanted" in capsys.readouterr().out

    before = tree(tmp_path / "ws" / "final")
    tidy(tmp_path / "ws")
    state, again = run(tmp_path / "ws", made.dataset, target=TARGET)
    assert again["outcome"]["state"] == "reused" and all(one["painted"] == 0 for one in again["stages"].values())
    assert again["target"] == target and tree(tmp_path / "ws" / "final") == before


def test_a_run_that_was_ended_between_its_rounds_ends_as_if_it_never_was(tmp_path, monkeypatch):
    import tasks.target

    refuse_some(monkeypatch, 0.5)
    made = MadeSet(tmp_path / "made", 6)
    _, whole = run(tmp_path / "whole", made.dataset, target=TARGET)
    paint, rounds = tasks.target.Rounds.paint, []

    def ended(self):
        rounds.append(self.tally.rounds)
        if len(rounds) == 2:
            raise KeyboardInterrupt
        paint(self)

    with monkeypatch.context() as patch:
        patch.setattr(tasks.target.Rounds, "paint", ended)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "ws", made.dataset, target=TARGET)
    _, account = run(tmp_path / "ws", made.dataset, target=TARGET)
    assert account["stages"]["generate"]["painted"] < whole["stages"]["generate"]["painted"]  # the first round's
    for one in (whole, account):
        one["target"].pop("seconds")
        for category in one["target"]["boxes"].values():
            category.pop("seconds_per_box")
    assert account["target"].pop("keys") != [] and whole["target"].pop("keys") != []
    assert account["target"] == whole["target"]
    assert tree(tmp_path / "ws" / "final") == tree(tmp_path / "whole" / "final")


def test_a_part_of_a_round_is_painted_and_screened_while_another_is_still_planned(tmp_path, monkeypatch):
    import tasks.plan
    import tasks.screen

    plan, measure = tasks.plan.plan_draws, tasks.screen.measure_pictures
    lock, begun, screened = threading.Lock(), [], threading.Event()

    def slow(*rest):
        with lock:
            begun.append(rest)
            first = len(begun) == 1
        assert not first or screened.wait(PATIENCE), "no other part of the round went on"
        return plan(*rest)

    def measured(*rest):
        rows = measure(*rest)
        screened.set()
        return rows

    monkeypatch.setattr(tasks.plan, "plan_draws", slow)
    monkeypatch.setattr(tasks.screen, "measure_pictures", measured)
    made = MadeSet(tmp_path / "made", 80, size=(96, 64))
    _, account = run(tmp_path / "ws", made.dataset, target={"per_category": {"forklift": 30}})
    assert account["target"]["reached"] and account["target"]["rounds"] == 1 and len(begun) == 2


def test_a_round_that_was_ended_in_its_middle_goes_on_there_and_its_seconds_are_counted(tmp_path, monkeypatch):
    import tasks.screen

    made = MadeSet(tmp_path / "made", 6)
    run(tmp_path / "whole", made.dataset, target=TARGET)

    def ended(*rest):
        raise KeyError("for a test")

    with monkeypatch.context() as patch:
        patch.setattr(tasks.screen, "measure_pictures", ended)
        with pytest.raises(KeyError):
            run(tmp_path / "ws", made.dataset, target=TARGET)
    (kept,) = (tmp_path / "ws" / "store" / "round").glob("*/*")
    before = json.loads(Store(tmp_path / "ws" / "store").get("round", kept.name))
    assert before["seconds"] > 0 and before["done"] == []
    _, account = run(tmp_path / "ws", made.dataset, target=TARGET)
    assert account["painted"] == 0 and account["target"]["seconds"] > before["seconds"]
    assert tree(tmp_path / "ws" / "final") == tree(tmp_path / "whole" / "final")


def test_a_target_that_screening_never_accepts_ends_with_what_is_missing_and_exit_code_3(tmp_path, monkeypatch):
    from lib.runs.outcome import exit_code

    refuse_some(monkeypatch, 1)
    made = MadeSet(tmp_path / "made", 3)
    state, account = run(tmp_path / "ws", made.dataset, target={"per_category": {"pallet": 2}})
    assert state.name == "Painted nothing" and exit_code(account) == 3
    assert "pallet: 0 of 2 boxes accepted (none of the last 4 rounds" in account["outcome"]["text"]
    assert account["target"]["rounds"] == 4, "two boxes, two, four, and eight: three rounds alone may be bad luck"


def test_a_budget_ends_a_run_as_painted_less(tmp_path):
    made = MadeSet(tmp_path / "made", 3)
    state, account = run(tmp_path / "ws", made.dataset, target="balance", budget={"pictures": 2}, preset="copy-paste")
    assert state.is_failed() and "target balance asks for nothing" in state.message
    state, account = run(tmp_path / "ws", made.dataset, target=TARGET, budget={"pictures": 2}, preset="copy-paste")
    assert state.name == "Painted less" and account["stages"]["plan"]["rows"] == 2
    assert "budget of 2 pictures spent" in state.message


def test_a_limit_is_topped_up_where_screening_sets_pictures_aside(tmp_path, monkeypatch):
    refuse_some(monkeypatch, 0.5)
    made = MadeSet(tmp_path / "made", 9)
    _, without = run(tmp_path / "without", made.dataset, limit=3)
    state, account = run(tmp_path / "ws", made.dataset, limit=3, target="limit")
    assert without["stages"]["screen"]["ok"] < 3
    assert state.name == "Completed" and account["stages"]["screen"]["ok"] == 3
    assert account["target"]["pictures"]["accepted"] == account["target"]["pictures"]["wanted"] == 3


def test_balance_paints_the_rare_category_alone(tmp_path):
    made = MadeSet(tmp_path / "made", 6)
    pallets = [note for note in made.coco["annotations"] if note["category_id"] == 4]
    made.coco["annotations"] = [note for note in made.coco["annotations"] if note not in pallets[2:]]
    made.write()
    _, account = run(tmp_path / "ws", made.dataset, target="balance")
    assert account["target"]["boxes"].keys() == {"pallet"} and account["target"]["boxes"]["pallet"]["wanted"] == 4
    final = json.loads((tmp_path / "ws" / "final" / "annotations.json").read_bytes())
    assert {one["category_id"] for one in final["annotations"] if one.get("painted")} == {4}


def test_a_dry_run_says_which_boxes_a_target_would_paint(tmp_path):
    made = MadeSet(tmp_path / "made", 6)
    found = dry_run(check_parameters({"dataset": made.dataset, "preset": "insert", "target": TARGET}), tmp_path / "ws")
    assert found.boxes["forklift"] >= 9 and found.boxes["pallet"] >= 3
    assert any("as if screening refused nothing" in note for note in found.notes)
    _, account = run(tmp_path / "ws", made.dataset, target=TARGET)
    assert account["stages"]["plan"]["ok"] == found.pictures
