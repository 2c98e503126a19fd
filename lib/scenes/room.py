"""The room of a drawn scene: what stands around the things, none of it labelled, and floor, wall and shadows.

room = furnish(dice)                             # racks, doors, lines, light
pixels = paint_room(dice, camera, room)          # floor and wall
lit = shadow_map(camera, room, things)           # what is to be multiplied with them
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from lib.scenes.solids import RGB, SUPERSAMPLE, Array, Camera, Solid, bar, box, corners_of, moved
from lib.scenes.things import Dice, Thing


@dataclass(frozen=True)
class Room:
    """Metres; x to the right, y up, z away from the camera."""

    name: str  # for the caption
    light_name: str  # of LIGHTS
    light: Array  # unit vector towards the light
    wall_at: float  # metres from the camera
    wall: RGB
    floor: RGB
    markings: list[Solid]  # flat on floor and wall, drawn below the shadows
    racks: list[list[Solid]]

    @property
    def solids(self) -> list[Solid]:
        return [solid for rack in self.racks for solid in rack]


LIGHTS = {"cool": (0.96, 1.0, 1.05), "neutral": (1.0, 1.0, 0.99), "warm": (1.05, 1.0, 0.91)}  # gain of R, G, B


def furnish(dice: Dice) -> Room:
    """An aisle, a hall or a loading dock, by chance."""
    wall_at = dice.between(12, 14)
    kind = dice.pick(["aisle", "hall", "dock"])
    if kind == "aisle":
        wall_at += 6
        racks = [moved(_rack(dice, 5), s * dice.between(5.4, 6.4), 0, wall_at - 7.5, math.pi / 2) for s in (-1, 1)]
    elif kind == "hall":
        racks = [moved(_rack(dice, 4), dice.between(-3, 3), 0, wall_at - 0.8)]
    else:
        racks = [moved(_rack(dice, 3), dice.pick([-1, 1]) * dice.between(5.2, 6), 0, wall_at - 5, math.pi / 2)]
    markings = _floor_lines(dice, wall_at)
    if kind == "dock" or (kind == "aisle" and dice.chance(0.6)):
        markings += _dock_doors(dice, wall_at)
    light = np.array([dice.pick([-0.45, 0.45]), 0.8, -0.55])
    return Room(
        name={"aisle": "a warehouse aisle", "hall": "a warehouse", "dock": "a warehouse at the loading dock"}[kind],
        light_name=dice.pick(tuple(LIGHTS)),
        light=light / np.linalg.norm(light),
        wall_at=wall_at,
        wall=dice.tint(dice.pick([(196, 200, 202), (176, 186, 196), (204, 198, 184), (150, 160, 164)]), 0.05),
        floor=dice.tint(dice.pick([(158, 156, 150), (136, 140, 142), (168, 160, 148), (120, 128, 124)]), 0.06),
        markings=markings,
        racks=racks,
    )


def _floor_lines(dice: Dice, wall_at: float) -> list[Solid]:
    """Expansion joints, and the painted borders of the lane."""
    paint, lane = dice.pick([(226, 186, 40), (226, 186, 40), (224, 224, 218)]), dice.between(2.4, 4.2)
    flat, joint = (-0.02, 0.001), (112, 110, 106)
    solids = [box((x - 0.012, x + 0.012), flat, (2.6, wall_at), joint, 0) for x in (-7.5, -2.5, 2.5, 7.5)]
    solids += [box((-14, 14), flat, (z, z + 0.024), joint, 0) for z in np.arange(4.0, wall_at, 3.5)]
    sides = (-lane, lane)
    return solids + [box((x - 0.06, x + 0.06), (-0.02, 0.002), (2.6, wall_at - 1.6), paint, 0) for x in sides]


def _dock_doors(dice: Dice, wall_at: float) -> list[Solid]:
    """Rolling doors between striped posts."""
    solids = []
    for place in (-6.4, -1.6, 3.2):
        x = place + dice.between(-0.3, 0.3)
        colour = dice.pick([(206, 208, 210), (120, 140, 160), (198, 196, 186)])
        solids.append(box((x - 0.22, x + 3.02), (0, 3.5), (wall_at - 0.06, wall_at), (58, 60, 64)))
        leaf = (wall_at - 0.1, wall_at - 0.05)
        solids += [box((x, x + 2.8), (y, y + 0.36), leaf, colour, 0.25) for y in np.arange(0.02, 3.2, 0.36)]
        for post in ((x - 0.22, x - 0.04), (x + 2.84, x + 3.02)):
            for i in range(8):
                stripe = (232, 192, 30) if i % 2 else (34, 34, 36)
                solids.append(box(post, (0.15 * i, 0.15 * i + 0.15), (wall_at - 0.14, wall_at - 0.05), stripe, 0))
    return solids


def _rack(dice: Dice, bays: int) -> list[Solid]:
    """Pallet racking along x, front at z = −0.5: blue posts, orange beams, totes and crates that carry no label."""
    bay, solids = 2.6, []
    levels = (0.08, 1.75, 3.3)
    posts = (np.arange(bays + 1) - bays / 2) * bay
    blue, orange = dice.tint(dice.pick([(38, 74, 140), (58, 96, 84)]), 0.1), dice.tint((222, 106, 34), 0.08)
    for x in posts:
        for z in (-0.5, 0.42):
            solids.append(box((x - 0.05, x + 0.05), (0, 5.0), (z, z + 0.08), blue))
        solids.append(box((x - 0.08, x + 0.08), (0, 0.42), (-0.56, -0.5), (232, 192, 30)))
        solids += [bar((x, y, -0.46), (x, y + 0.8, 0.46), 0.04, blue) for y in (0.3, 1.9, 3.5)]
    for left in posts[:-1]:
        for y in levels:
            solids.append(box((left, left + bay), (y, y + 0.11), (-0.49, -0.43), orange, 0.15))
            solids.append(box((left, left + bay), (y + 0.08, y + 0.11), (-0.43, 0.46), (128, 130, 132), 0))
            solids += moved(_rack_goods(dice, bay - 0.3), left + 0.15, y + 0.11, 0)
    return solids


def _rack_goods(dice: Dice, room: float) -> list[Solid]:
    """Plastic totes, bins and dark crates: nothing that a person would call one of CATEGORIES."""
    solids, x = [], 0.0
    while x < room - 0.55:
        wide, high = dice.between(0.5, 0.8), dice.between(0.3, 0.42)
        wide = min(wide, room - x)
        colour = dice.pick([(52, 86, 130), (94, 100, 106), (130, 44, 42), (64, 104, 84), (178, 182, 184)])
        for level in range(dice.pick([0, 1, 2, 2, 3])):
            tint, y = dice.tint(colour, 0.12), level * high
            solids.append(box((x, x + wide - 0.05), (y, y + high - 0.06), (-0.38, 0.38), tint, 0.15))
            solids.append(box((x - 0.015, x + wide - 0.035), (y + high - 0.07, y + high), (-0.4, 0.4), tint, 0.3))
        x += wide
    return solids


def paint_room(dice: Dice, camera: Camera, room: Room) -> Array:
    """Floor and back wall, (4H, 4W, 3) uint8: smooth, so computed per pixel and enlarged."""
    rows = (np.arange(camera.height, dtype=np.float32) + 0.5)[:, None]
    columns = (np.arange(camera.width, dtype=np.float32) + 0.5)[None]
    foot = camera.horizon + camera.focal * camera.above / room.wall_at  # row where wall and floor meet
    depth = np.where(rows > foot, camera.focal * camera.above / np.maximum(rows - camera.horizon, 1), room.wall_at)
    across = (columns - camera.width / 2) * depth / camera.focal  # metres to the right
    lamps = np.cos(across * dice.between(0.5, 0.9) + dice.between(0, 6)) * np.cos(depth * 0.9)
    floor = 0.97 + 0.6 * _stains(dice, across, depth) + 0.07 * lamps - 0.012 * np.abs(depth - 7)
    up = camera.above + (camera.horizon - rows) * room.wall_at / camera.focal  # metres above the floor
    wall = 0.82 + 0.035 * np.clip(up, 0, 6) + 0.02 * np.cos(across * 2 * math.pi / 0.6)  # corrugated
    wall = np.where(up < 0.25, 0.5, np.where(up < 1.3, wall * 0.86, wall))
    shade = np.where(rows > foot, floor, wall).astype(np.float32)[..., None]
    paint = np.where(rows[..., None] > foot, np.array(room.floor), np.array(room.wall))
    return _enlarged(np.clip(shade * paint, 0, 255).astype(np.uint8))


def _stains(dice: Dice, across: Array, depth: Array) -> Array:
    """Cloudy noise fixed to the floor, about −0.1 .. 0.1."""
    rng = np.random.default_rng(dice.whole(0, 2**31))
    total = np.zeros(across.shape, np.float32)
    for cell, weight in ((1.6, 0.12), (0.45, 0.07), (0.12, 0.05)):  # metres
        tile = rng.random((64, 64), dtype=np.float32) - 0.5
        at_x, at_y = ((np.broadcast_to(v, total.shape) / cell % 64).astype(np.float32) for v in (across, depth))
        total += weight * cv2.remap(tile, at_x, at_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return total


def shadow_map(camera: Camera, room: Room, things: Sequence[Thing]) -> Array:
    """(4H, 4W) uint8, 255 = lit: what the solids keep from the floor, soft as under many lamps."""
    lit = np.ones((camera.height, camera.width), np.float32)
    for thing in things:
        points = corners_of(thing.solids)
        scale = camera.focal / max(thing.at[1], 1)  # pixels a metre
        height = points[:, 1:2]
        if height.min() < 0.1:
            _darken(lit, camera, points[height[:, 0] < 0.5], 0.03 * scale, 0.45)
        _darken(lit, camera, points - room.light * height / room.light[1] * 0.4, 0.12 * scale, 0.4)
    for rack in room.racks:
        _darken(lit, camera, corners_of(rack), 0.25 * camera.focal / room.wall_at, 0.4)
    return _enlarged((lit * 255).astype(np.uint8))


def _darken(lit: Array, camera: Camera, points: Array, blur: float, strength: float) -> None:
    """Take light from the floor below the points' hull; its rim is `blur` pixels soft."""
    ground = points * [1, 0, 1]
    ground[:, 2] = np.maximum(ground[:, 2], 1.0)  # stay in front of the camera
    hull = cv2.convexHull(np.round(camera.project(ground)).astype(np.int32))
    reach = math.ceil(3 * blur) + 1
    x, y, wide, high = cv2.boundingRect(hull)
    x0, y0 = max(x - reach, 0), max(y - reach, 0)
    window = lit[y0 : max(y + high + reach, 0), x0 : max(x + wide + reach, 0)]
    if window.size:
        patch = np.zeros(window.shape, np.float32)
        cv2.fillConvexPoly(patch, hull - [x0, y0], 1.0)
        window *= 1 - strength * cv2.GaussianBlur(patch, (0, 0), max(blur, 0.4))


def _enlarged(image: Array) -> Array:
    size = image.shape[1] * SUPERSAMPLE, image.shape[0] * SUPERSAMPLE
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
