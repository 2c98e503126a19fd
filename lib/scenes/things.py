"""The labelled things of warehouse.py: forklift, pallet, boxes, pallet truck, each built of solids by chance.

To add one: a function like `forklift` that returns its solids around the origin (x forward, y up, metres), and a line
in BUILDERS; its COCO id is its place there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from lib.scenes.solids import RGB, Solid, bar, box, column, disc, extrude, mirrored, moved, pillow

T = TypeVar("T")


class Dice:
    """Draws from random.Random.random alone, the one stream that Python promises to keep across versions."""

    def __init__(self, seed: str) -> None:
        self._draw = random.Random(seed).random

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self._draw()

    def whole(self, low: int, high: int) -> int:
        return min(high, low + int((high - low + 1) * self._draw()))

    def chance(self, probability: float) -> bool:
        return self._draw() < probability

    def pick(self, choices: Sequence[T]) -> T:
        return choices[self.whole(0, len(choices) - 1)]

    def tint(self, colour: RGB, amount: float) -> RGB:
        factor = self.between(1 - amount, 1 + amount)
        r, g, b = (min(255, max(0, round(c * factor))) for c in colour)
        return r, g, b


_PAINTS: dict[str, RGB] = {
    "yellow": (238, 182, 28),
    "orange": (226, 104, 26),
    "red": (190, 38, 34),
    "green": (58, 132, 66),
    "blue": (36, 84, 160),
    "white": (214, 214, 208),
}
_DARK, _STEEL, _RUBBER = (46, 48, 52), (118, 122, 128), (30, 30, 32)
_TO_MIDDLE = 0.42  # metres from where a forklift's parts are measured to the middle of its length


@dataclass(frozen=True)
class Thing:
    """A labelled object, its middle at the origin, or where `stand` put it."""

    category: str  # of BUILDERS
    phrase: str  # "a yellow forklift"
    solids: list[Solid]
    reach: float  # metres from its middle to its farthest corner, on the floor
    at: tuple[float, float] = (0.0, 0.0)  # its middle on the floor, metres: right, away
    load: Thing | None = None  # a labelled object that it carries

    def stand(self, x: float, z: float, turn: float) -> Thing:
        """The thing and its load, turned by `turn` radians (0: forward is right) and put down at x, z."""
        load = self.load.stand(x, z, turn) if self.load else None
        return replace(self, solids=moved(self.solids, x, 0, z, turn), at=(x, z), load=load)


def forklift(dice: Dice) -> Thing:
    """A counterbalance truck, 3.3 m long with its forks; now and then with a pallet on them."""
    name, laden = dice.pick(tuple(_PAINTS)), dice.chance(0.35)
    paint = _PAINTS[name]
    lift = dice.between(0.25, 0.9) if laden else dice.pick([0.08, 0.08, 0.3])
    solids = _forklift_body(paint, dice.pick([_DARK, _DARK, paint])) + _forklift_guard(dice)
    solids += _forklift_mast(lift) + (_operator(dice) if dice.chance(0.7) else [])
    # The middle of truck and forks together is the origin, hence the shift.
    load = _shifted(pallet(dice), 1.52 - _TO_MIDDLE, lift - 0.03) if laden else None
    return Thing("forklift", f"{_a(name)} forklift", moved(solids, -_TO_MIDDLE, 0, 0), 1.78, load=load)


def _shifted(thing: Thing, x: float, y: float) -> Thing:
    """Across the forks, at their height."""
    return replace(thing, solids=moved(thing.solids, x, y, 0, turn=math.pi / 2))


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"


def _forklift_body(paint: RGB, weight: RGB) -> list[Solid]:
    wheels = [
        disc(0.52, 0.47, 0.42, (0.30, 0.44), _DARK),
        disc(0.52, 0.36, 0.36, (0.40, 0.62), _RUBBER),
        disc(0.52, 0.36, 0.20, (0.60, 0.635), (206, 206, 200)),
        disc(0.52, 0.36, 0.07, (0.63, 0.65), _DARK),
        disc(-0.80, 0.29, 0.29, (0.40, 0.57), _RUBBER),
        disc(-0.80, 0.29, 0.16, (0.56, 0.585), (206, 206, 200)),
        disc(-0.80, 0.29, 0.06, (0.58, 0.60), _DARK),
        box((-0.02, 0.20), (0.28, 0.36), (0.40, 0.55), _DARK),  # step
        box((-1.19, -1.13), (0.80, 0.92), (0.30, 0.42), (206, 34, 28)),  # rear lamp
    ]
    hull = [
        box((-0.95, 0.74), (0.16, 0.36), (-0.40, 0.40), _DARK),
        extrude([(-1.22, 0.40), (-1.27, 0.66), (-1.14, 1.00), (-0.62, 1.04), (-0.58, 0.40)], (-0.50, 0.50), weight),
        extrude([(-1.08, 0.34), (-1.08, 0.66), (-0.52, 0.66), (-0.52, 0.34)], (-0.46, 0.46), _DARK),  # rear wheel house
        box((-0.62, 0.02), (0.36, 1.00), (-0.49, 0.49), paint),
        box((-0.58, -0.02), (0.74, 0.82), (-0.495, 0.495), (236, 236, 230) if paint[2] < 190 else (60, 60, 66), 0),
        box((0.02, 0.70), (0.36, 0.50), (-0.44, 0.44), paint),
        extrude([(0.40, 0.50), (0.50, 1.06), (0.68, 1.06), (0.74, 0.50)], (-0.44, 0.44), paint),
        box((-0.56, -0.04), (1.00, 1.10), (-0.26, 0.26), _RUBBER),
        extrude([(-0.58, 1.06), (-0.68, 1.56), (-0.58, 1.58), (-0.44, 1.06)], (-0.24, 0.24), _RUBBER),
        bar((0.56, 1.04, 0), (0.34, 1.24, 0), 0.05, _DARK),
        extrude([(0.24, 1.17), (0.37, 1.33), (0.40, 1.31), (0.27, 1.15)], (-0.16, 0.16), _DARK),  # steering wheel
    ]
    return mirrored(wheels) + hull


def _forklift_guard(dice: Dice) -> list[Solid]:
    side = [
        bar((-0.60, 1.00, 0.45), (-0.50, 2.16, 0.45), 0.075, _DARK),
        bar((0.64, 1.04, 0.41), (0.36, 2.16, 0.45), 0.075, _DARK),
        box((-0.56, 0.42), (2.14, 2.20), (0.42, 0.49), _DARK),
        box((0.45, 0.53), (1.74, 1.88), (0.44, 0.56), (250, 246, 214)),  # head lamp
    ]
    slats = [box((x, x + 0.05), (2.15, 2.19), (-0.46, 0.46), _DARK) for x in np.linspace(-0.56, 0.37, 7)]
    beacon = [column(-0.42, dice.pick([-0.3, 0.3]), 0.06, (2.19, 2.33), (246, 140, 20))]
    return mirrored(side) + slats + beacon


def _forklift_mast(lift: float) -> list[Solid]:
    top = 2.28 + 0.5 * max(0.0, lift - 0.3)  # the inner mast slides out as the forks rise
    blade = [(1.02, lift), (1.02, lift + 0.06), (1.60, lift + 0.055), (2.12, lift + 0.02), (2.12, lift)]
    side = [
        box((0.80, 0.93), (0.08, 2.22), (0.30, 0.39), _DARK),
        box((0.86, 0.97), (0.12 + top - 2.28, top), (0.215, 0.285), (84, 88, 94)),
        column(0.84, 0.13, 0.035, (0.12, top - 0.15), (176, 180, 184), 8),
        box((1.02, 1.07), (lift, lift + 0.56), (0.16, 0.29), (74, 76, 80)),
        extrude(blade, (0.16, 0.29), (96, 98, 102)),
        box((0.97, 1.00), (lift + 0.5, lift + 1.22), (0.42, 0.45), _DARK),
        box((0.97, 1.00), (lift + 0.5, lift + 1.22), (0.15, 0.18), _DARK),
    ]
    across = [
        box((0.80, 0.93), (2.12, 2.22), (-0.39, 0.39), _DARK),
        box((0.80, 0.90), (1.25, 1.33), (-0.39, 0.39), _DARK),
        box((0.86, 0.97), (top - 0.08, top), (-0.285, 0.285), (84, 88, 94)),
        box((0.97, 1.02), (lift + 0.06, lift + 0.15), (-0.48, 0.48), _DARK),
        box((0.97, 1.02), (lift + 0.44, lift + 0.53), (-0.48, 0.48), _DARK),
        box((0.97, 1.00), (lift + 1.19, lift + 1.23), (-0.45, 0.45), _DARK),
    ]
    return mirrored(side) + across


def _operator(dice: Dice) -> list[Solid]:
    vest, trousers = dice.pick([(236, 228, 40), (244, 120, 30)]), (40, 48, 74)
    helmet = dice.pick([(240, 240, 236), (232, 190, 40), (40, 90, 170)])
    limbs = [
        bar((-0.30, 1.16, 0.10), (0.12, 1.14, 0.12), 0.15, trousers),
        bar((0.12, 1.14, 0.12), (0.28, 0.56, 0.12), 0.12, trousers),
        bar((-0.34, 1.54, 0.22), (-0.14, 1.28, 0.24), 0.10, vest),
        bar((-0.14, 1.28, 0.24), (0.26, 1.26, 0.13), 0.08, (206, 158, 128)),
    ]
    body = [
        extrude([(-0.44, 1.10), (-0.50, 1.60), (-0.26, 1.62), (-0.18, 1.10)], (-0.20, 0.20), vest, 0.05),
        box((-0.485, -0.205), (1.30, 1.36), (-0.204, 0.204), (216, 220, 222), 0),  # reflecting band
        column(-0.36, 0, 0.10, (1.62, 1.84), (206, 158, 128), 10),
        column(-0.36, 0, 0.13, (1.80, 1.88), helmet, 12),
        column(-0.36, 0, 0.10, (1.88, 1.93), helmet, 12),
    ]
    return mirrored(limbs) + body


def pallet(dice: Dice) -> Thing:
    """Wooden pallets 1.2 × 0.8 m: one with a load, or a stack of empty ones. What lies on it belongs to it."""
    wood = dice.tint((196, 156, 104), 0.1)
    kind = dice.pick(["empty", "stack", "sacks", "drums", "wrapped"])
    if kind in ("empty", "stack"):
        count = 1 if kind == "empty" else dice.whole(3, 7)
        phrase = "an empty pallet" if kind == "empty" else "a stack of empty pallets"
        solids = []
        for level in range(count):
            shift = 0.02 if count > 1 else 0.0
            offset = dice.between(-shift, shift), 0.146 * level, dice.between(-shift, shift)
            solids += moved(_bare_pallet(dice, wood), *offset)
        return Thing("pallet", phrase, solids, 0.76)
    load, phrase = {"sacks": _sacks, "drums": _drums, "wrapped": _wrapped}[kind](dice)
    return Thing("pallet", phrase, _bare_pallet(dice, wood) + moved(load, 0, 0.146, 0), 0.76)


def _bare_pallet(dice: Dice, wood: RGB) -> list[Solid]:
    rows, posts = (-0.40, -0.05, 0.30), (-0.60, -0.0725, 0.455)
    solids = [box((-0.6, 0.6), (0, 0.024), (z, z + 0.10), dice.tint(wood, 0.06)) for z in rows]
    solids += [
        box((x, x + 0.145), (0.024, 0.10), (z, z + 0.10), dice.tint((150, 112, 70), 0.08)) for x in posts for z in rows
    ]
    solids += [box((x, x + 0.145), (0.10, 0.122), (-0.4, 0.4), dice.tint(wood, 0.06)) for x in posts]
    slats = np.linspace(-0.40, 0.28, 6)
    return solids + [box((-0.6, 0.6), (0.122, 0.146), (z, z + 0.12), dice.tint(wood, 0.08)) for z in slats]


def _sacks(dice: Dice) -> tuple[list[Solid], str]:
    name, colour = dice.pick([("white", (226, 222, 210)), ("brown", (188, 158, 118)), ("grey", (170, 172, 176))])
    print_colour = dice.pick([(60, 110, 170), (180, 60, 50), (70, 130, 80)])
    solids, high = [], 0.15
    for level in range(dice.whole(3, 5)):
        y = level * high * 0.94
        for rank in range(3):
            for row in range(2):
                x, z = -0.58 + 0.39 * rank + dice.between(-0.015, 0.015), -0.39 + 0.395 * row
                solids += pillow((x, x + 0.38), (y, y + high), (z, z + 0.385), dice.tint(colour, 0.06))
                mark = (x + 0.11, x + 0.27), (y + 0.05, y + 0.085)
                solids.append(box(*mark, (z - 0.004, z + 0.389), print_colour, 0))
    return solids, f"a pallet of {name} sacks"


def _drums(dice: Dice) -> tuple[list[Solid], str]:
    name = dice.pick(["blue", "red", "green"])
    paint, solids = dice.tint(_PAINTS[name], 0.1), []
    for x in (-0.395, 0.0, 0.395):
        for z in (-0.2, 0.2):
            solids.append(column(x, z, 0.185, (0, 0.74), paint))
            rings = (0.0, 0.24, 0.48, 0.715)
            solids += [column(x, z, 0.197, (y, y + 0.03), dice.tint(paint, 0.05)) for y in rings]
            solids.append(column(x + 0.08, z, 0.03, (0.745, 0.757), (210, 210, 206), 8))
    return solids, f"a pallet of {name} drums"


def _wrapped(dice: Dice) -> tuple[list[Solid], str]:
    high, film = dice.between(0.7, 1.15), dice.pick([(196, 210, 220), (206, 212, 206), (182, 198, 216)])
    solids = [box((-0.57, 0.57), (0, high), (-0.38, 0.38), film, 0.18)]
    y = 0.02
    while y < high - 0.12:
        band = tuple(min(255, c + dice.whole(6, 26)) for c in film)
        solids.append(box((-0.574, 0.574), (y, y + 0.07), (-0.384, 0.384), (band[0], band[1], band[2]), 0))
        y += dice.between(0.12, 0.17)
    label = (high * 0.62, high * 0.62 + 0.2)
    solids.append(box((-0.12, 0.16), label, (-0.388, 0.388), (246, 246, 242), 0.2))
    solids.append(box((-0.08, 0.12), (label[0] + 0.12, label[0] + 0.16), (-0.391, 0.391), (40, 40, 44), 0))
    return solids, "a pallet wrapped in film"


def boxes(dice: Dice) -> Thing:
    """A stack of cartons on the floor: columns of unequal height, each carton taped and labelled."""
    ranks, rows, levels = dice.whole(1, 3), dice.whole(1, 2), dice.whole(2, 4)
    least = 2 if ranks * rows == 1 else 1  # one box is not a stack
    wide, high, deep = dice.between(0.40, 0.56), dice.between(0.28, 0.38), dice.between(0.38, 0.48)
    brown = dice.tint(dice.pick([(186, 140, 92), (170, 126, 80), (200, 160, 112)]), 0.05)
    solids: list[Solid] = []
    for rank in range(ranks):
        for row in range(rows):
            x, z = (rank + 0.5 - ranks / 2) * wide, (row + 0.5 - rows / 2) * deep
            for level in range(max(least, levels - dice.pick([0, 0, 0, 1, 2]))):
                shrink = dice.between(0.90, 0.97)
                carton = _carton(dice, wide * shrink, high, deep * shrink, brown)
                solids += moved(carton, x, level * high, z, turn=dice.between(-0.06, 0.06))
    return Thing("boxes", "a stack of boxes", solids, math.hypot(ranks * wide, rows * deep) / 2)


def _carton(dice: Dice, wide: float, high: float, deep: float, brown: RGB) -> list[Solid]:
    """One taped carton; what is stuck to it stands 4 mm out, so that the depth buffer shows it."""
    w, d, e, colour = wide / 2, deep / 2, 0.004, dice.tint(brown, 0.07)
    tape = dice.pick([(224, 200, 154), (206, 178, 128)])
    solids = [
        box((-w, w), (0.004, high - 0.004), (-d, d), colour, 0.3),
        box((-w - e, w + e), (high * 0.68, high), (-0.035, 0.035), tape, 0),
    ]
    if dice.chance(0.75):
        x, y = dice.between(-0.7, 0.1) * w, high * dice.between(0.15, 0.4)
        solids.append(box((x, x + 0.5 * w), (y, y + high * 0.34), (-d - e, d + e), (240, 238, 230), 0.1))
        line = (y + high * 0.10, y + high * 0.15)
        solids.append(box((x + 0.06 * w, x + 0.4 * w), line, (-d - 2 * e, d + 2 * e), (60, 60, 64), 0))
    if dice.chance(0.6):
        solids.append(box((-w - e, w + e), (high * 0.48, high * 0.58), (-0.05, 0.05), (96, 68, 40), 0))  # hand hole
    return solids


def pallet_truck(dice: Dice) -> Thing:
    """A hand pallet truck: two forks, a pump, and a tiller to pull it by."""
    name = dice.pick(["yellow", "orange", "red", "blue", "green"])
    paint, lean = _PAINTS[name], dice.between(0.16, 0.42)
    reach = 0.95
    knee = np.array([-0.16, 0.46, 0])
    up = np.array([-math.sin(lean), math.cos(lean), 0])
    grip = knee + reach * up
    aside = np.array([0, 0, 0.13])
    side = [
        extrude([(-0.02, 0.05), (-0.02, 0.15), (1.02, 0.15), (1.20, 0.10), (1.20, 0.05)], (0.10, 0.27), paint, 0.15),
        disc(1.00, 0.055, 0.055, (0.13, 0.24), (70, 70, 72), 10),
        disc(-0.16, 0.11, 0.11, (0.025, 0.10), _RUBBER),
        disc(-0.16, 0.11, 0.06, (0.095, 0.105), (196, 196, 190)),
        bar(grip - 0.14 * up, grip + aside, 0.04, _DARK),
        bar(grip + aside, grip + 0.14 * up + aside, 0.04, _DARK),
    ]
    middle = [
        box((-0.09, 0.03), (0.06, 0.30), (-0.27, 0.27), paint, 0.15),
        extrude([(-0.10, 0.28), (-0.12, 0.52), (-0.04, 0.52), (0.05, 0.28)], (-0.14, 0.14), paint, 0.15),
        column(-0.16, 0, 0.075, (0.16, 0.50), (62, 64, 68), 12),
        column(-0.16, 0, 0.035, (0.50, 0.58), _STEEL, 10),
        bar(knee, grip - 0.12 * up, 0.06, paint),
        bar(grip + 0.14 * up - 1.15 * aside, grip + 0.14 * up + 1.15 * aside, 0.045, _RUBBER),
    ]
    solids = moved(mirrored(side) + middle, -0.42, 0, 0, scale=1.12)
    return Thing("pallet truck", f"{_a(name)} pallet truck", solids, 1.15)


BUILDERS = {"forklift": forklift, "pallet": pallet, "boxes": boxes, "pallet truck": pallet_truck}
