"""A family: names to members, imported on first use.

A new member is one file and one line in its family: `"feather": "lib.painting.composites.feather:Feather"`. All
families of classes (painters, captioners, composites, edits, metrics, extractors, detectors, judges) have one shape:

    VERSION         constant: raised whenever the same input would give another result
    Settings        pydantic class, all fields with defaults, so that a bare name is a complete choice
    MODEL, LICENCE  constants, where it needs weights: the published checkpoint (None: not published) and its licence;
                    LICENCES: of others that presets name
    (settings), or (settings, model) where it has a checkpoint: `FAMILY.build(member)` calls it, nothing heavy happens
    batch_size      property, where it works on several items at once: how many
    check()         where it can find within seconds, without its weights, that it cannot be used: raises AugmentError
    identity        property, where results are kept by it: a text that names all that they depend on, and no path

Constants of the class are in capitals; what depends on the settings or on the weights is a property in small letters.
Painters and captioners import numpy, torch and the like inside of functions: a list of members imports them all.
Formats and perceptual networks are families of functions: an entry is the function itself. Trainers are classes that
are not built: `Trainer.objective` makes what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from lib.core.checkpoints import BESIDE, ModelRef, resolve
from lib.core.errors import AugmentError, checked
from lib.core.lazy import Registry
from lib.core.values import Storable


class MemberSettings(Storable):
    """Base of every member's settings: frozen, and unknown names are refused.

    LATER: fields that came after results had been kept by keys. At their defaults they are left out of a member, so
    that those keys stay.
    """

    LATER: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", frozen=True)


# Settings that change where and how fast a member runs, not its results: they are not part of a key.
_NOT_IDENTITY = {"batch_size", "model", "device", "compile", "lora", "controlnet"}
# What stands beside a model, by the setting that names it → settings that count where it is there alone, so that keys
# are as before there was one.
_BESIDE = dict(zip(BESIDE, ({"lora_file", "lora_scale"}, {"hint", "control_scale"}), strict=True))


class Member(BaseModel):
    """A chosen member with its settings, checked, and its pinned checkpoint: small values that can travel."""

    model_config = ConfigDict(frozen=True)
    kind: str
    name: str
    version: int
    settings: dict[str, Any]
    model: ModelRef | None = None
    lora: ModelRef | None = None  # what is added to the model's weights
    controlnet: ModelRef | None = None  # what stands beside the model

    @property
    def beside(self) -> dict[str, ModelRef]:
        """What stands beside the model, by the setting that names it."""
        return {name: ref for name in _BESIDE if (ref := getattr(self, name)) is not None}

    def identity(self) -> dict[str, Any]:
        """What its results depend on; part of their keys."""
        identity: dict[str, Any] = {"name": self.name, "version": self.version}
        left = _NOT_IDENTITY.union(*(own for name, own in _BESIDE.items() if name not in self.beside))
        identity["settings"] = {k: v for k, v in self.settings.items() if k not in left}
        refs = ({"model": self.model} if self.model else {}) | self.beside
        return identity | {name: {"id": ref.id, "revision": ref.revision} for name, ref in refs.items()}


def licence_of(member: Any, model: str) -> str:
    """The licence of a member's checkpoint: of its published one, or of another that it knows; else "not known"."""
    known = {member.MODEL: member.LICENCE} | dict(getattr(member, "LICENCES", {}))
    return str(known.get(model, "not known"))


class Family(Registry[Any]):
    """Lazy registry: `PAINTERS["gligen"]` imports and returns the class; an unknown name lists the known ones."""

    def settings(self, name: str, values: Mapping[str, Any]) -> Any:
        """The member's validated settings; raises AugmentError that names the wrong field and the known ones."""
        return checked(self[name].Settings, values, f"{self.kind} {name!r}, setting")

    def member(
        self, name: str, values: Mapping[str, Any], model: ModelRef | None = None, **beside: ModelRef | None
    ) -> Member:
        """A member by name with its settings checked. beside: of BESIDE."""
        given = self.settings(name, values)
        settings = given.model_dump(mode="json")
        for later in given.LATER:
            if getattr(given, later) == type(given).model_fields[later].default:
                del settings[later]
        return Member(kind=self.kind, name=name, version=self[name].VERSION, settings=settings, model=model, **beside)

    def choose(self, name: str, values: Mapping[str, Any], lock: Mapping[str, str] | None = None) -> Member:
        """`member`, its checkpoint pinned: that of its setting `model`, else the published one, else none.

        lock: as in lib.core.checkpoints.resolve. Raises AugmentError as `member` and `resolve` do.
        """
        model = self.model_of(name, values)
        return self.member(name, values, resolve(model, lock or {}) if model else None)

    def model_of(self, name: str, values: Mapping[str, Any]) -> str | None:
        """The member's checkpoint: that of its setting `model`, else the published one, else None; nothing is loaded.

        Raises AugmentError as `member` does, and for an empty text.
        """
        given = getattr(self.settings(name, values), "model", None)
        if given == "":
            raise AugmentError(f"{self.kind} {name!r}: `model` is empty: give a folder or a hub id, or leave it out")
        model = given or getattr(self[name], "MODEL", None)
        return str(model) if model else None

    def build(self, member: Member) -> Any:
        """The member itself. Nothing heavy happens before its first use."""
        kind, settings = self[member.name], self.settings(member.name, member.settings)
        made = kind(settings) if member.model is None else kind(settings, member.model)
        for name, ref in member.beside.items():
            setattr(made, name, ref)
        return made

    def check(self, member: Member) -> None:
        """Before heavy work: raises AugmentError where the member finds, within seconds, that it cannot be used.

        One without a `check` finds nothing.
        """
        getattr(self.build(member), "check", lambda: None)()
