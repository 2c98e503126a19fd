"""Convex solids drawn into a depth buffer: the small 3-D kit below warehouse.py.

    canvas = Canvas(camera, light)
    canvas.draw([box((0, 1), (0, 1), (5, 6), (200, 160, 100))])     # metres: x right, y up, z away
    cells = canvas.draw_object(1, solids)                           # the same, and who owns which cell

An object's own axes: x forward, y up, z sideways, its middle at the origin on the floor; `moved` brings it into the
world. Every solid is convex and lies between two polygons of equal length, so that one drawing routine does for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

SUPERSAMPLE = 4  # cells per pixel and axis

RGB = tuple[int, int, int]
Span = tuple[float, float]  # from, to
Array = NDArray[Any]


class Solid(NamedTuple):
    """The convex body between two polygons: boxes, wheels, bars and drums are all of this kind."""

    lower: Array  # (n, 3) metres
    upper: Array  # (n, 3)
    colour: RGB
    edge: float = 0.0  # how much darker its edges are drawn, 0 .. 1


def extrude(profile_xy: Sequence[Span] | Array, z: Span, colour: RGB, edge: float = 0.12) -> Solid:
    """A convex outline in the side view, drawn out sideways."""
    lower, upper = (np.column_stack([profile_xy, np.full(len(profile_xy), value)]) for value in z)
    return Solid(lower, upper, colour, edge)


def box(x: Span, y: Span, z: Span, colour: RGB, edge: float = 0.12) -> Solid:
    return extrude([(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1])], z, colour, edge)


def disc(x: float, y: float, radius: float, z: Span, colour: RGB, corners: int = 18) -> Solid:
    """A wheel: its axle lies along z."""
    return extrude(_circle(corners) * radius + [x, y], z, colour, 0)


def column(x: float, z: float, radius: float, y: Span, colour: RGB, corners: int = 14) -> Solid:
    """An upright cylinder."""
    ring = _circle(corners) * radius + [x, z]
    lower, upper = (np.insert(ring, 1, value, axis=1) for value in y)
    return Solid(lower, upper, colour)


def bar(start: Sequence[float] | Array, end: Sequence[float] | Array, thick: float, colour: RGB) -> Solid:
    """A square bar between two points."""
    p, q = np.asarray(start, dtype=float), np.asarray(end, dtype=float)
    along = (q - p) / np.linalg.norm(q - p)
    across = np.cross(along, [0, 0, 1] if abs(along[2]) < 0.9 else [1, 0, 0])
    across *= thick / 2 / np.linalg.norm(across)
    other = np.cross(along, across)
    ring = np.stack([across + other, across - other, -across - other, -across + other])
    return Solid(p + ring, q + ring, colour)


def pillow(x: Span, y: Span, z: Span, colour: RGB) -> list[Solid]:
    """A filled sack: two frusta that meet at their wide side."""
    inset = 0.28 * (y[1] - y[0])
    belly = np.array([(x[0], 0, z[0]), (x[1], 0, z[0]), (x[1], 0, z[1]), (x[0], 0, z[1])])
    narrow = belly + np.array([(inset, 0, inset), (-inset, 0, inset), (-inset, 0, -inset), (inset, 0, -inset)])
    low, middle, high = (np.array([0, level, 0]) for level in (y[0], 0.55 * y[0] + 0.45 * y[1], y[1]))
    return [Solid(narrow + low, belly + middle, colour, 0.06), Solid(belly + middle, narrow + high, colour, 0.06)]


def mirrored(solids: Sequence[Solid]) -> list[Solid]:
    """The solids and their mirror images on the other side (z → −z)."""
    flip = np.array([1, 1, -1])
    return [*solids, *(s._replace(lower=s.lower * flip, upper=s.upper * flip) for s in solids)]


def turned(points: Array, x: float, y: float, z: float, turn: float = 0.0, scale: float = 1.0) -> Array:
    """(n, 3) points scaled, turned about the vertical by `turn` radians (0: forward is right, π/2: away) and moved."""
    c, s = math.cos(turn) * scale, math.sin(turn) * scale
    moved_points: Array = points @ np.array([[c, 0, s], [0, scale, 0], [-s, 0, c]]) + np.array([x, y, z])
    return moved_points


def moved(solids: Sequence[Solid], x: float, y: float, z: float, turn: float = 0.0, scale: float = 1.0) -> list[Solid]:
    """Solids, each `turned`."""
    polygons = iter(np.split(turned(corners_of(solids), x, y, z, turn, scale), _ends(solids))) if solids else iter(())
    return [Solid(next(polygons), next(polygons), solid.colour, solid.edge) for solid in solids]


def _ends(solids: Sequence[Solid]) -> Array:
    return np.cumsum([len(polygon) for solid in solids for polygon in (solid.lower, solid.upper)])


def corners_of(solids: Sequence[Solid]) -> Array:
    """(n, 3) all corners."""
    return np.concatenate([polygon for solid in solids for polygon in (solid.lower, solid.upper)])


def _circle(corners: int) -> Array:
    turns = np.arange(corners) * (2 * math.pi / corners)
    return np.column_stack([np.cos(turns), np.sin(turns)])


@dataclass(frozen=True)
class Camera:
    """A level pinhole camera above the origin that looks along z, its horizon at any row; pixels of the picture."""

    width: int
    height: int
    focal: float  # pixels
    horizon: float  # row, pixels
    above: float  # metres above the floor

    def project(self, points: Array) -> Array:
        """(..., 3) metres → (..., 2) x, y pixels. Points must lie in front of the camera."""
        scale = self.focal / points[..., 2]
        x = self.width / 2 + points[..., 0] * scale
        return np.stack([x, self.horizon + (self.above - points[..., 1]) * scale], axis=-1)

    def bounds(self, points: Array) -> Array:
        """(4,) xyxy, pixels, of (n, 3) points, beyond the frame too."""
        xy = self.project(points)
        return np.concatenate([xy.min(axis=0), xy.max(axis=0)])

    def enlarged(self, factor: int) -> Camera:
        """The same view in a frame `factor` times as large."""
        return replace(
            self,
            width=self.width * factor,
            height=self.height * factor,
            focal=self.focal * factor,
            horizon=self.horizon * factor,
        )


class _Faces(NamedTuple):
    """The faces, of one number of corners, that look at the camera."""

    corners: Array  # (n, k, 2) int32, cells
    normals: Array  # (n, 3), unit
    reach: Array  # (n,) normal · (face − camera), metres
    colours: Array  # (n, 3) 0 .. 255
    edges: Array  # (n,)


class Canvas:
    """Colour, depth and owner of every cell, SUPERSAMPLE cells per pixel and axis."""

    def __init__(self, camera: Camera, light: Array) -> None:
        """light: unit vector towards the light."""
        self.camera = camera.enlarged(SUPERSAMPLE)
        self.light = light
        shape = self.camera.height, self.camera.width
        self.pixels: NDArray[np.uint8] = np.zeros((*shape, 3), np.uint8)
        self.owners: NDArray[np.uint8] = np.zeros(shape, np.uint8)
        self._nearness = np.zeros(shape, np.float32)  # 1 / metres along z
        self._alone: Array | None = None  # cells of the object being drawn, whatever stands before it

    def draw_object(self, index: int, solids: Sequence[Solid]) -> int:
        """Draw an object that owns its cells as `index`; the number of cells that it would have alone."""
        self._alone = np.zeros(self.owners.shape, np.uint8)
        self.draw(solids, index)
        alone, self._alone = self._alone, None
        return int(np.count_nonzero(alone))

    def draw(self, solids: Sequence[Solid], owner: int = 0) -> None:
        """Draw solids, in any order: the depth buffer decides who is in front."""
        for group in _by_corners(solids):
            for faces in self._facing(group):
                for face in zip(*faces, strict=True):
                    self._fill(*face, owner)

    def _facing(self, solids: Sequence[Solid]) -> Iterator[_Faces]:
        """Caps, then sides. All solids have the same number of corners."""
        rings = np.stack([np.stack([s.lower, s.upper]) for s in solids])  # (n, 2, k, 3)
        onward = np.roll(rings, -1, axis=2)
        sides = np.stack([rings[:, 0], onward[:, 0], onward[:, 1], rings[:, 1]], axis=2)  # (n, k, 4, 3)
        colours, edges = np.array([s.colour for s in solids]), np.array([s.edge for s in solids])
        middles = rings.mean(axis=(1, 2))[:, None]
        for faces in (rings, sides):
            normals = np.cross(faces, np.roll(faces, -1, axis=2)).sum(axis=2)  # Newell's: right for any flat polygon
            centres = faces.mean(axis=2)
            normals *= np.sign((normals * (centres - middles)).sum(axis=-1, keepdims=True))
            normals /= np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-12
            reach = (normals * (centres - [0, self.camera.above, 0])).sum(axis=-1)
            solid, face = np.nonzero(reach < -1e-9)
            normal = normals[solid, face]
            yield _Faces(
                np.round(self.camera.project(faces[solid, face])).astype(np.int32),
                normal,
                reach[solid, face],
                _lit(colours[solid], normal, self.light),
                edges[solid],
            )

    def _fill(self, corners: Array, normal: Array, reach: float, colour: Array, edge: float, owner: int) -> None:
        """One convex polygon, where it is nearer than the pixels drawn before."""
        (x0, y0), (x1, y1) = np.maximum(corners.min(axis=0), 0), corners.max(axis=0) + 1
        x1, y1 = min(x1, self.camera.width), min(y1, self.camera.height)
        if x0 >= x1 or y0 >= y1:
            return
        corners = corners - [x0, y0]
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillConvexPoly(mask, corners, 1)
        # On a plane 1/z is linear in the picture: normal · (ray of the cell) / normal · (any of its points).
        along_x = normal[0] * (np.arange(x0, x1, dtype=np.float32) + 0.5 - self.camera.width / 2)
        along_y = normal[1] * (self.camera.horizon - 0.5 - np.arange(y0, y1, dtype=np.float32))
        step = 1 / (self.camera.focal * reach)
        nearness = (along_x * step + normal[2] / reach).astype(np.float32) + (along_y * step).astype(np.float32)[
            :, None
        ]
        window = np.s_[y0:y1, x0:x1]
        visible = (nearness > self._nearness[window]) & (mask > 0)
        np.copyto(self._nearness[window], nearness, where=visible)
        self.pixels[window][visible] = colour
        if owner or self._alone is not None:
            self.owners[window][visible] = owner
        if edge:
            rim = np.zeros_like(mask)
            cv2.polylines(rim, [corners], True, 1, thickness=SUPERSAMPLE - 1)
            self.pixels[window][visible & (rim > 0)] = colour * (1 - edge)
        if self._alone is not None:
            self._alone[window] |= mask


def _by_corners(solids: Sequence[Solid]) -> list[list[Solid]]:
    groups: dict[int, list[Solid]] = {}
    for solid in solids:
        groups.setdefault(len(solid.lower), []).append(solid)
    return list(groups.values())


def _lit(colours: Array, normals: Array, light: Array) -> Array:
    """Lambert's law over a bright hall's even light: (n, 3), 0 .. 255."""
    return np.clip(colours * (0.58 + 0.5 * np.maximum(0, normals @ light))[:, None], 0, 255)
