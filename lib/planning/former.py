"""What an earlier plan pasted, and where: choices that still fit stay as they were."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from lib.core.geometry import IntBox

Identity = tuple[str, str]  # digest of a donor's picture, key of its annotation


@dataclass(frozen=True)
class Former:
    """What a pass of an earlier plan pasted, and where."""

    identity: Identity
    box: IntBox
    around: bool


def former_donors(requests: Iterable[bytes]) -> dict[int, Former]:
    """The donor that each pass of an earlier plan took, by the pass's seed. requests: of PlanRows that are ok."""
    passes = [step for request in requests for step in _FORMER.decode(request).passes]
    return {
        step.seed: Former((step.donor.digest, step.donor.annotation), step.region[0], step.donor.around)
        for step in passes
        if step.donor is not None and step.region
    }


class _FormerDonor(msgspec.Struct):
    digest: str
    annotation: str
    around: bool = False


class _FormerPass(msgspec.Struct):
    seed: int
    region: list[IntBox]
    donor: _FormerDonor | None = None


class _FormerRequest(msgspec.Struct):
    passes: list[_FormerPass]


_FORMER = msgspec.json.Decoder(_FormerRequest)
