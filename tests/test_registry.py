"""A family: names to members, checked settings, and identities that keys are made of."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field

from lib.captioning.captioners import CAPTIONERS
from lib.core.checkpoints import ModelRef
from lib.core.errors import AugmentError
from lib.core.registry import Family, MemberSettings
from lib.evaluation.detectors import DETECTORS
from lib.evaluation.features import EXTRACTORS
from lib.evaluation.metrics import METRICS
from lib.judges import JUDGES
from lib.painting.composites import COMPOSITES
from lib.painting.painters import PAINTERS
from lib.planning.edits import EDITS
from lib.proof.detectors import TRAINABLE

FAMILIES = [EDITS, PAINTERS, COMPOSITES, CAPTIONERS, EXTRACTORS, METRICS, DETECTORS, JUDGES, TRAINABLE]
REF = ModelRef("org/name", "0" * 40, Path("/somewhere"))
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.kind)


class Brush:
    VERSION = 3

    class Settings(MemberSettings):
        width: int = Field(2, ge=1)
        folder: Path = Path("here")
        batch_size: int = 4

    def __init__(self, settings, model=None):
        self.settings, self.model = settings, model


@pytest.fixture
def brushes():
    return Family("brush", {"round": f"{__name__}:Brush", "flat": f"{__name__}:Brush"})


@every_family
def test_an_unknown_name_lists_the_known_ones(family):
    with pytest.raises(AugmentError) as error:
        family["nonesuch"]
    assert f"unknown {family.kind} 'nonesuch'" in str(error.value)
    assert all(name in str(error.value) for name in family)


@every_family
def test_a_name_is_in_the_family_or_not(family):
    assert all(name in family for name in family)
    assert "nonesuch" not in family


@every_family
def test_every_member_has_the_shape_that_all_families_share(family):
    for name in family:
        member = family[name]
        assert isinstance(member.VERSION, int) and issubclass(member.Settings, MemberSettings), name
        built = family.build(family.member(name, {}, REF if takes_model(member) else None))
        assert built.settings == member.Settings(), name
        assert not [field for field in dir(member) if field.isupper() and isinstance(getattr(member, field), property)]
        if "batch_size" in member.Settings.model_fields:
            assert 1 <= built.batch_size <= built.settings.batch_size, name  # a CPU takes some one by one


def takes_model(member):
    """A second argument without a default."""
    parameters = list(inspect.signature(member.__init__).parameters.values())
    return len(parameters) > 2 and parameters[2].default is inspect.Parameter.empty


@every_family
def test_every_setting_has_a_default_and_says_what_it_means(family):
    for name in family:
        settings = family[name].Settings
        settings()
        assert all(field.description for field in settings.model_fields.values()), name


@every_family
def test_every_member_refuses_a_setting_that_it_has_not(family):
    for name in family:
        with pytest.raises(AugmentError, match=r"'no_such_setting'.*known are: "):
            family.settings(name, {"no_such_setting": 1})


@every_family
def test_settings_cannot_be_changed_afterwards(family):
    for name in family:
        made = family.settings(name, {})
        for field in type(made).model_fields:
            with pytest.raises(ValueError, match="frozen"):
                setattr(made, field, 1)


def test_naming_the_members_imports_none_of_them():
    code = (
        "import sys, lib.painting.painters as p, lib.captioning.captioners as c; list(p.PAINTERS), list(c.CAPTIONERS)\n"
    )
    code += "print([m for m in ('torch', 'diffusers', 'transformers', 'prefect', 'cv2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_wrong_value_names_member_setting_and_value(brushes):
    with pytest.raises(AugmentError, match=r"^brush 'round', setting 'width': .*\(got 0\)$"):
        brushes.settings("round", {"width": 0})


def test_an_unknown_setting_names_member_and_the_known_settings(brushes):
    with pytest.raises(AugmentError, match=r"^brush 'round', setting 'widht' .*'width'.*: width, folder, batch_size$"):
        brushes.settings("round", {"widht": 3})


def test_a_member_travels_as_json_and_builds_the_same(brushes):
    member = brushes.member("flat", {"width": 5, "folder": "there"})
    again = type(member).model_validate_json(member.model_dump_json())
    assert again == member
    assert brushes.build(again).settings == Brush.Settings(width=5, folder=Path("there"))


def test_a_member_with_a_checkpoint_is_built_with_it(brushes):
    assert brushes.build(brushes.member("round", {}, REF)).model == REF
    assert brushes.build(brushes.member("round", {})).model is None


def test_the_identity_holds_name_version_settings_and_the_pinned_checkpoint(brushes):
    assert brushes.member("round", {"width": 5}, REF).identity() == {
        "name": "round",
        "version": 3,
        "settings": {"width": 5, "folder": "here"},
        "model": {"id": "org/name", "revision": "0" * 40},
    }


def test_where_the_checkpoint_lies_and_how_many_at_once_are_not_part_of_the_identity(brushes):
    elsewhere = ModelRef(REF.id, REF.revision, Path("/another/place"))
    one, two = brushes.member("round", {"batch_size": 1}, REF), brushes.member("round", {"batch_size": 9}, elsewhere)
    assert one.identity() == two.identity()


def test_defaults_given_or_left_out_are_one_identity(brushes):
    assert brushes.member("round", {"width": 2}).identity() == brushes.member("round", {}).identity()


def test_a_member_is_added_for_a_while_and_gone_afterwards(brushes):
    with brushes.adding("broad", f"{__name__}:Brush"):
        assert brushes.build(brushes.member("broad", {"width": 7})).settings.width == 7
    assert list(brushes) == ["round", "flat"] and "broad" not in brushes


def test_a_member_is_gone_after_an_error_and_a_taken_name_is_refused(brushes):
    with pytest.raises(RuntimeError), brushes.adding("broad", f"{__name__}:Brush"):
        raise RuntimeError
    with pytest.raises(ValueError, match="'round' is registered already"), brushes.adding("round", "x:Y"):
        pass
    assert list(brushes) == ["round", "flat"] and brushes["round"] is Brush
