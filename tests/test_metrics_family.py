"""Every registered metric: declared, sane on sets and pairs of pictures, explained in the docs."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from tiny import tiny_clip, tiny_detector

from lib.core.checkpoints import ModelRef
from lib.core.errors import AugmentError
from lib.core.keys import canonical
from lib.core.registry import MemberSettings
from lib.evaluation.evaluate import built, score_sets
from lib.evaluation.features import extractor_of
from lib.evaluation.metrics import METRICS, AnnotatedPicture, Details, Kind, Noted, Number, Pair, listed, numbers_of
from lib.evaluation.results import Evaluation, FeatureSets
from lib.evaluation.sides import Labels
from lib.records.settings import Choice

DOCS = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()
of_sets, of_pairs, of_groups, of_pictures = (
    pytest.mark.parametrize("name", sorted(name for name in METRICS if kind == METRICS[name].OF))
    for kind in get_args(Kind)
)
every = pytest.mark.parametrize("name", sorted(METRICS))
with_model = pytest.mark.parametrize("name", sorted(n for n in METRICS if "model" in METRICS[n].Settings.model_fields))
NAMES = ("forklift", "air duct", "pallet")
BOX = np.array([[20.0, 16.0, 60.0, 48.0]])


def metric(name, **values):
    return METRICS.build(METRICS.member(name, values))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A metric by its name, with tiny models in place of those that it would take; the same one each time."""
    root, kept = tmp_path_factory.mktemp("tiny"), {}

    def made(name):
        fields, values = METRICS[name].Settings.model_fields, {}
        if "model" in fields:
            values["model"] = str(tiny_clip(root / "clip"))
        if "detector" in fields:
            detector = {"model": str(tiny_detector(root / "yolos")), "called": {"pallet": "N/A"}, "threshold": 0}
            values["detector"] = {"name": "transformers", **detector}
        if name not in kept:
            ((_, kept[name]),) = built([Choice(name=name, **values)])
        return kept[name]

    return made


def picture(seed, height=80, width=96):
    return (
        np.random.default_rng(seed).integers(40, 200, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    )


def painted(inside=True):
    """A picture whose box holds something else, and one whose every pixel is a little brighter."""
    source = picture(1)
    output = source.copy()
    if inside:
        output[16:48, 20:60] = picture(2)[16:48, 20:60]
    else:
        output += 3
    return Pair(source, output, BOX)


def scored(pair, name, **values):
    return metric(name, **values).of_pair(pair)


@every
def test_a_member_declares_itself_and_says_what_its_numbers_mean(name):
    member = METRICS[name]
    assert isinstance(member.VERSION, int) and member.OF in get_args(Kind) and member.NUMBERS
    assert issubclass(member.Settings, MemberSettings)
    for number in member.NUMBERS.values():
        assert isinstance(number, Number) and number.better in ("higher", "lower")
        assert len(re.findall(r"[.:]( |$)", number.about)) >= 2 and number.about.endswith(".")  # what it says, and not


@every
def test_the_docs_explain_every_number(name):
    for key, number in METRICS[name].NUMBERS.items():
        assert f"| `{key}` | {number.about} |" in DOCS


def test_no_number_belongs_to_two_metrics_or_is_a_field_of_the_result():
    names = [number for name in METRICS for number in METRICS[name].NUMBERS]
    assert len(names) == len(set(names)) == len(numbers_of())
    fields = {*Evaluation.model_fields, *FeatureSets.model_fields}
    assert not {*names, *METRICS} & fields and not set(names) & {name for name in METRICS if METRICS[name].MORE}


def test_every_metric_is_listed_with_its_kind():
    assert all(re.search(rf"\b{name}\b", listed()) for name in METRICS)


@every
def test_unknown_settings_are_refused(name):
    with pytest.raises(AugmentError, match="'marginz'"):
        METRICS.member(name, {"marginz": 3})


@every
def test_what_its_numbers_depend_on_is_a_text(name, small):
    assert isinstance(small(name).identity, str)


@with_model
def test_a_member_with_a_model_is_built_with_it_pinned(name, small, monkeypatch):
    pinned, model = [], small(name).settings.model  # made before nothing can be made any more
    monkeypatch.setattr(METRICS[name], "__init__", lambda self, settings, model: pinned.append(model))
    built([Choice(name=name, model=model)])
    assert isinstance(pinned[0], ModelRef) and pinned[0].revision.startswith("sha256:")


@with_model
def test_another_model_has_another_identity(name, small):
    (_, mini), *_ = built([name])
    assert mini.identity != small(name).identity


@of_sets
def test_numbers_of_sets_are_those_that_it_declares_and_finite(name):
    random = np.random.default_rng(0)
    found = metric(name).of_sets(random.normal(size=(30, 8)), random.normal(size=(20, 8)), 0)
    assert set(found) <= set(METRICS[name].NUMBERS) and found
    assert all(np.isfinite(value).all() for value in map(np.asarray, found.values()))


@of_sets
def test_as_few_as_it_declares_are_enough(name):
    random, least = np.random.default_rng(0), METRICS[name].LEAST
    assert metric(name).of_sets(random.normal(size=(least, 8)), random.normal(size=(least, 8)), 0)


def test_more_neighbours_take_more_pictures_and_fewer_leave_that_metric_out():
    random, chosen = np.random.default_rng(0), built([Choice(name="overlap", k=8), "fid"])
    features = [random.normal(size=(6, 48)) for _ in range(2)]
    result = score_sets(*features, extractor_of("pixels"), metrics=chosen)
    assert result.left_out == {"overlap": "6 pictures on a side, it takes 9"} and "fid" in result.numbers
    assert all(one.least == type(one).LEAST for _, one in built(["overlap", "fid", "kid", "twins"]))


@of_pairs
def test_numbers_of_a_pair_are_those_that_it_declares_and_finite(name):
    for inside in (True, False):
        found = scored(painted(inside), name)
        assert set(found) <= set(METRICS[name].NUMBERS) and found
        assert all(math.isfinite(value) for value in found.values())


@of_pairs
def test_a_pair_is_not_written_to(name):
    pair, same = painted(), painted()
    scored(pair, name)
    assert np.array_equal(pair.source, same.source) and np.array_equal(pair.output, same.output)


@of_groups
def test_numbers_of_a_group_are_those_that_it_declares_and_finite(name, small):
    found = small(name).of_group([picture(seed) for seed in range(3)])
    assert set(found) <= set(METRICS[name].NUMBERS) and found
    assert all(math.isfinite(value) for value in found.values())


@of_groups
def test_two_pictures_are_a_group_and_what_order_they_are_in_does_not_matter(name, small):
    one, other = picture(1), picture(2)
    assert small(name).of_group([one, other]) == pytest.approx(small(name).of_group([other, one]))


@of_groups
def test_a_group_of_several_sizes_is_a_sentence(name, small):
    with pytest.raises(ValueError, match="one size expected"):
        small(name).of_group([picture(1), picture(2, height=48)])


@of_groups
def test_a_group_is_not_written_to(name, small):
    group = [picture(1), picture(2)]
    small(name).of_group(group)
    assert all(np.array_equal(one, picture(seed)) for seed, one in enumerate(group, 1))


def labelled(seed, *categories, ignore=False):
    """A picture with a box of each category, and a caption."""
    n = len(categories)
    boxes = np.tile([20.0, 16, 60, 48], (n, 1)) + np.arange(n)[:, None]
    flags = {"ignore": np.full(n, ignore), "painted": np.ones(n, bool)}
    labels = Labels(boxes, categories, **flags, caption=f"a scene of {n} things", size=(96, 80))
    return AnnotatedPicture(picture(seed), labels, NAMES)


def noted(member, *pictures):
    """As the one pass notes them and the cache keeps them."""
    return Noted([json.loads(canonical(member.of_picture(one))) for one in pictures], Counter())


SIDES = {
    "real": [(0, "forklift", "pallet"), (1, "air duct"), (2, "pallet")],
    "generated": [(3, "forklift"), (4, "air duct", "forklift"), (4, "pallet")],
}


def sides(member, empty=()):
    return [noted(member, *(() if name in empty else (labelled(*one) for one in SIDES[name]))) for name in SIDES]


@of_pictures
def test_what_is_noted_of_a_picture_survives_the_cache(name, small):
    for one in (
        labelled(1, "forklift", "pallet"),
        labelled(1, "stranger"),
        labelled(1, "pallet", ignore=True),
        labelled(1),
    ):
        note = small(name).of_picture(one)
        assert json.loads(canonical(note)) == note


@of_pictures
def test_the_same_picture_is_noted_the_same_and_not_written_to(name, small):
    one = labelled(1, "forklift", "pallet")
    assert small(name).of_picture(one) == small(name).of_picture(one)
    assert (
        np.array_equal(one.pixels, picture(1))
        and one.labels.boxes.tolist() == labelled(1, "a", "b").labels.boxes.tolist()
    )


@of_pictures
def test_boxes_and_numbers_of_a_note_are_what_people_are_shown(name, small):
    note = small(name).of_picture(labelled(1, "forklift", "pallet"))
    assert set(note.get("numbers", {})) <= set(METRICS[name].NUMBERS)
    for box in note.get("boxes", ()):
        assert set(box) == {"box", "label", "said", "share"} and len(box["box"]) == 4
        assert {box["label"], box["said"]} <= set(NAMES) and 0 <= box["share"] <= 1


@of_pictures
def test_numbers_of_all_pictures_are_declared_and_more_stands_under_its_name(name, small):
    found = small(name).of_all(*sides(small(name)), NAMES, 0)
    assert found and set(found) <= {*METRICS[name].NUMBERS, name}
    assert all(np.isfinite(found[number]).all() for number in found if number != name)
    assert json.loads(canonical(found)) == found and (METRICS[name].MORE is None or name in found)
    if details := METRICS[name].MORE and METRICS[name].MORE.model_validate(found[name]):
        assert isinstance(details, Details) and details.model_dump() == found[name]
        assert all(len(row) == len(table.heads) for table in METRICS[name].tables(details) for row in table.rows)
        assert all(isinstance(line, str) for line in METRICS[name].summary(details) + METRICS[name].notes(details))


@of_pictures
@pytest.mark.parametrize("empty", [("real",), ("generated",), ("real", "generated")])
def test_an_empty_side_is_no_error(name, empty, small):
    found = small(name).of_all(*sides(small(name), empty), NAMES, 0)
    assert set(found) <= {*METRICS[name].NUMBERS, name} and json.loads(canonical(found)) == found


@of_pictures
def test_notes_are_not_written_to(name, small):
    real, generated = sides(small(name))
    before = canonical([real.notes, generated.notes])
    small(name).of_all(real, generated, NAMES, 0)
    assert canonical([real.notes, generated.notes]) == before and not real.skipped and not generated.skipped


@of_pictures
def test_a_metric_says_what_it_needs(name):
    assert METRICS[name].NEEDS in ("", "boxes", "captions")


def test_a_picture_without_a_caption_is_a_sentence(small):
    with pytest.raises(ValueError, match="no caption: a COCO record"):
        small("captions").of_picture(AnnotatedPicture(picture(1), Labels(), NAMES))


def test_a_mirrored_copy_is_one_unless_that_is_switched_off():
    for mirrored, share in ((True, 1.0), (False, 0.0)):
        copies = metric("copies", mirrored=mirrored)
        real = noted(copies, AnnotatedPicture(picture(1), Labels(), ()))
        made = noted(copies, AnnotatedPicture(np.ascontiguousarray(picture(1)[:, ::-1]), Labels(), ()))
        assert copies.of_all(real, made, (), 0) == {"copies": 0.0, "copies_of_real": share}


def test_a_symmetric_picture_is_no_copy_of_itself():
    half, copies = picture(1), metric("copies")
    whole = np.concatenate([half, half[:, ::-1]], axis=1)
    assert copies.of_all(noted(copies), noted(copies, AnnotatedPicture(whole, Labels(), ())), (), 0)["copies"] == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ignore": np.ones(1, bool)}, "crowd"),
        ({"categories": ("stranger",)}, "category_unknown"),
        ({"painted": np.zeros(1, bool)}, "not_painted"),
        ({"boxes": np.array([[0.0, 0, 7, 30]])}, "box_too_small"),
        ({"boxes": np.array([[200.0, 0, 300, 30]])}, "box_too_small"),
    ],
)
def test_boxes_that_are_not_judged_are_counted_by_reason(change, reason, small):
    labels = {"categories": ("pallet",), "ignore": np.zeros(1, bool), "painted": np.ones(1, bool), "boxes": BOX}
    note = small("regions").of_picture(AnnotatedPicture(picture(1), Labels(**{**labels, **change}), NAMES))
    assert note["boxes"] == [] and {name: n for name, n in note["skipped"].items() if n} == {reason: 1}


def test_a_box_outside_of_its_picture_is_never_judged(small):
    regions = METRICS["regions"](METRICS["regions"].Settings(min_side=0), small("regions").judge)
    labels = Labels(np.array([[200.0, 0, 300, 30]]), ("pallet",), np.zeros(1, bool), np.ones(1, bool))
    assert regions.of_picture(AnnotatedPicture(picture(1), labels, NAMES))["boxes"] == []


def test_what_happens_in_the_boxes_leaves_the_background_alone_and_the_other_way_round():
    untouched = {"background_mse": 0.0, "background_ssim": 1.0, "untouched": 1.0}
    assert scored(painted(), "background", margin=0) == untouched
    assert scored(painted(inside=False), "background")["background_psnr"] == pytest.approx(20 * math.log10(255 / 3))
    assert scored(painted(), "inside")["inside_mse"] > 100 > scored(painted(inside=False), "inside")["inside_mse"]


def test_an_even_change_of_light_makes_no_seam_and_a_pasted_box_does():
    assert scored(painted(inside=False), "seam")["seam_edge"] < 0.01 < scored(painted(), "seam")["seam_edge"]


@pytest.mark.parametrize("name", ["background", "inside", "seam"])
def test_without_boxes_there_is_a_sentence(name):
    bare = Pair(picture(1), picture(2), np.zeros((0, 4)))
    with pytest.raises(ValueError, match="no box in the picture: give --boxes"):
        scored(bare, name)


def test_copies_are_twins_and_copies_of_real_ones_are_leaks():
    random = np.random.default_rng(0)
    real, other = random.normal(size=(20, 16)), random.normal(size=(10, 16))
    assert metric("twins").of_sets(real, other, 0) == {"twins": 0.0, "leaks": 0.0}
    assert metric("twins").of_sets(real, np.concatenate([other, other[:5]]), 0)["twins"] == pytest.approx(10 / 15)
    assert metric("twins").of_sets(real, np.concatenate([other, real[:10]]), 0)["leaks"] == pytest.approx(0.5)


def test_features_that_point_into_one_corner_make_no_twins():
    random = np.random.default_rng(0)
    real, other = (10 + random.random((n, 16)) for n in (20, 10))  # their cosines are over .99
    assert metric("twins").of_sets(real, other, 0) == {"twins": 0.0, "leaks": 0.0}


def test_a_detector_without_a_name_is_the_usual_one(monkeypatch):
    calls, values = [], {"threshold": 0.5}
    monkeypatch.setattr("lib.evaluation.metrics.layout.detector_of", lambda name, given: calls.append((name, given)))
    _ = METRICS.build(METRICS.member("layout", {"detector": values})).detector
    assert calls == [("zero-shot", values)]
