"""Presets and explicit values, merged; and a clear word where they do not go together."""

from pathlib import Path

import pytest

from lib.captioning.captioners import CAPTIONERS
from lib.core.checkpoints import NOT_PUBLISHED
from lib.core.errors import AugmentError
from lib.core.registry import licence_of
from lib.painting.composites import COMPOSITES
from lib.painting.painters import PAINTERS
from lib.planning.edits import EDITS
from lib.planning.recipe import check_triple
from lib.records.settings import SelectSettings
from lib.runs.listing import model_rows, preset_rows
from lib.runs.parameters import Parameters, check_parameters, resolve_parameters
from lib.runs.presets import PRESETS

DATASET = {"images": "pictures"}
every_preset = pytest.mark.parametrize("preset", sorted(PRESETS))


def resolve(**values):
    return resolve_parameters(check_parameters({"dataset": DATASET, **values}), Path("data/runs/x"))


def name_and_values(choice):
    return choice.name, choice.values


def refused(**values):
    """The error's text."""
    with pytest.raises(AugmentError) as error:
        resolve(**values)
    return str(error.value)


# Every preset


@every_preset
def test_a_preset_resolves_to_members_that_are_there_and_take_its_values(preset):
    settings = resolve(preset=preset)
    families = EDITS, PAINTERS, COMPOSITES, CAPTIONERS
    choices = settings.edit, settings.painter, settings.composite, settings.captioner
    for family, choice in zip(families, choices, strict=True):
        family.member(choice.name, choice.values)


@every_preset
def test_a_presets_painter_serves_its_edit(preset):
    settings = resolve(preset=preset)
    check_triple(settings.edit.name, settings.painter.name, settings.composite.name)


@every_preset
def test_a_preset_says_what_it_is_about_and_what_its_models_licences_are(preset):
    (row,) = [row for row in preset_rows() if row["preset"] == preset]
    assert row["about"] and row["checkpoints"]
    painter = PAINTERS[row["painter"]]
    if painter.MODEL:
        model = PRESETS[preset]["painter"].get("model", painter.MODEL)
        assert f"{model} ({licence_of(painter, model)}" in row["checkpoints"] and "not known" not in row["checkpoints"]
        assert model == NOT_PUBLISHED or " GB of memory on a GPU)" in row["checkpoints"]


@every_preset
def test_a_preset_is_not_changed_by_its_use(preset):
    before = resolve(preset=preset)
    resolve(
        preset=preset, select={"max_objects": 99}, painter={"tone": 0.1} if preset == "copy-paste" else {"steps": 2}
    )
    assert resolve(preset=preset) == before


def test_s3s_limits_belong_to_its_presets_alone():
    assert resolve(preset="copy-paste").select == SelectSettings()
    assert resolve(preset="coco-gligen-generation").select.max_objects == 6


def test_without_a_preset_it_is_copy_paste():
    assert resolve() == resolve(preset="copy-paste")


def test_an_unknown_preset_lists_the_known_ones():
    text = refused(preset="nonesuch")
    assert "'nonesuch'" in text and all(name in text for name in PRESETS)


# Merging


GLIGEN = "coco-gligen-generation"


def test_an_explicit_value_overrides_the_presets_and_the_others_stay():
    assert name_and_values(resolve(preset=GLIGEN, painter={"name": "gligen", "steps": 7}).painter) == (
        "gligen",
        {"steps": 7, "guidance": 7.5, "grounding": 1.0},
    )


def test_values_without_a_name_are_for_the_presets_member():
    assert resolve(preset=GLIGEN, painter={"steps": 7}) == resolve(
        preset=GLIGEN, painter={"name": "gligen", "steps": 7}
    )


def test_a_bare_name_is_that_member_with_its_defaults():
    assert name_and_values(resolve(preset=GLIGEN, painter="gligen").painter) == ("gligen", {})


def test_another_member_takes_none_of_the_presets_values():
    settings = resolve(preset="coco-gligen-inpainting", painter={"name": "copy-paste", "tone": 0})
    assert name_and_values(settings.painter) == ("copy-paste", {"tone": 0})


@pytest.mark.parametrize("choice", ["paste", {"name": "paste"}])
def test_each_of_the_three_is_chosen_alone(choice):
    settings = resolve(preset=GLIGEN, composite=choice)
    assert settings.composite.name == "paste" and settings.painter == resolve(preset=GLIGEN).painter


def test_one_explicit_rule_leaves_the_presets_other_rules():
    select = resolve(preset=GLIGEN, select={"max_objects": 9}).select
    assert (select.max_objects, select.max_categories, select.require_objects) == (9, 1, True)


def test_a_default_given_explicitly_overrides_the_preset():
    assert resolve(preset=GLIGEN, select={"max_objects": None}).select.max_objects is None


def test_the_presets_captioner_and_rules_are_taken():
    settings = resolve(preset=GLIGEN)
    assert settings.captioner.name == "blip2" and settings.caption.rules == "s3"


def test_mini_models_come_with_the_values_that_they_were_made_for():
    mini = PAINTERS["gligen"].MINI
    for painter in (None, "gligen", {"name": "gligen"}):
        values = resolve(preset="coco-gligen-generation", painter=painter, models="mini").painter.values
        assert {name: values[name] for name in mini} == dict(mini)
    assert resolve(preset="gligen-generation").painter.values == {}
    assert resolve(preset="coco-gligen-generation").painter.values["grounding"] == 1.0
    assert resolve(preset="gligen-generation", models="mini").captioner.values == dict(CAPTIONERS["blip2"].MINI)


def test_an_explicit_value_overrides_what_a_mini_model_was_made_for():
    assert resolve(preset="gligen-generation", models="mini", painter={"size": 64}).painter.values["size"] == 64


def test_members_are_made_for_settings_that_they_have():
    for family in (PAINTERS, CAPTIONERS):
        for name in family:
            family.settings(name, getattr(family[name], "MINI", {}))


def test_an_explicit_captioner_leaves_the_presets_rules():
    settings = resolve(preset=GLIGEN, caption={"captioner": "template"})
    assert settings.captioner.name == "template" and settings.caption.rules == "s3"


def test_values_without_a_name_are_for_the_presets_captioner():
    settings = resolve(preset=GLIGEN, caption={"captioner": {"batch_size": 2}})
    assert name_and_values(settings.captioner) == ("blip2", {"batch_size": 2})


def test_values_without_a_name_are_for_the_default_captioner_where_the_preset_has_none():
    assert resolve(caption={"captioner": {"some": 2}}).captioner.name == "template"


def test_plain_parameters_are_taken_as_given():
    settings = resolve(seed=7, variants=3, limit=5, models="mini", workspace="here")
    assert (settings.seed, settings.variants, settings.limit, settings.models) == (7, 3, 5, "mini")
    assert settings.workspace == Path("here")


def test_without_a_workspace_it_is_the_runs_own():
    assert resolve().workspace == Path("data/runs/x")


def test_what_was_resolved_reads_back_the_same():
    settings = resolve(preset=GLIGEN, painter={"steps": 7}, select={"categories": ["cat"]})
    assert type(settings).model_validate_json(settings.model_dump_json()) == settings


# Errors


def test_a_missing_parameter_is_named():
    with pytest.raises(AugmentError, match="parameter 'dataset': Field required"):
        check_parameters({})
    assert "'dataset.images': Field required" in refused(dataset={"format": "coco"})


def test_an_unknown_parameter_lists_the_known_ones():
    text = refused(paint="copy-paste")
    assert "'paint'" in text and all(name in text for name in Parameters.model_fields)


def test_an_unknown_setting_lists_the_known_ones_of_its_place():
    text = refused(select={"max_object": 6})
    assert "'select.max_object'" in text and all(name in text for name in SelectSettings.model_fields)


def test_an_unknown_member_lists_the_known_ones():
    text = refused(painter="gligan")
    assert "unknown painter 'gligan' (do you mean 'gligen'?)" in text and all(name in text for name in PAINTERS)


@pytest.mark.parametrize(
    ("values", "place", "value"),
    [
        ({"variants": 0}, "'variants'", "got 0"),
        ({"limit": 0}, "'limit'", "got 0"),
        ({"models": "tiny"}, "'models'", "'tiny'"),
        ({"seed": "x"}, "'seed'", "'x'"),
        ({"select": {"min_box": -1}}, "'select.min_box'", "got -1"),
        ({"review": {"pick": "some"}}, "'review.pick'", "'some'"),
        ({"select": 5}, "'select'", "got 5"),
        ({"painter": 3}, "'painter'", "got 3"),
        ({"painter": {"name": 3}}, "'painter.name'", "got 3"),
        ({"caption": {"rules": 3}}, "'caption.rules'", "got 3"),
        ({"caption": {"captioner": 3}}, "'caption.captioner'", "got 3"),
    ],
    ids=str,
)
def test_a_wrong_value_is_told_with_its_place(values, place, value):
    text = refused(**values)
    assert f"parameter {place}" in text and value in text


def test_a_painter_that_does_not_serve_the_edit_is_refused_with_who_does():
    text = refused(edit="layout")
    assert "'copy-paste' does not serve edit 'layout'" in text and "gligen" in text


def test_models_that_come_with_the_project_are_listed_with_the_terms_of_their_data():
    terms = {row["model"]: row["terms"] for row in model_rows()}
    assert terms["data/models/mini/vae"] == "Apache-2.0" and terms["data/models/pcb/stay"].startswith("research only")
