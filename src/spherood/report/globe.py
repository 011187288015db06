"""Embeddings on a sphere one can look at: three directions of many, turned so that most points face the viewer.

    p = R B^T z / |B^T z|     B: three directions that hold most of the class means' squared length, then of the rows';
                              R: a rotation, third axis towards the viewer

Orthographic: x to the right, y up, and z > 0 in front. Nothing is centred: a collapsed embedding is one spot. Of a
simplex of C classes three directions hold 3 / (C - 1), so clusters that overlap in the picture may be far apart in
space: `share` is the part of the rows' squared length that lies in those three.
Shapes: N rows, K marks, d dimension.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin

import numpy as np

from spherood.report.projection import Vectors, directions
from spherood.report.run import Sample

CANDIDATES = 500  # viewpoints that are tried, evenly over the sphere
TILT = 20.0  # degrees by which the pole of the grid leans towards the viewer
STEP = 30  # degrees between two lines of the grid


@dataclass(frozen=True)
class Globe:
    """Points on the unit sphere as the viewer sees them."""

    rows: Vectors  # (N, 3)
    marks: Vectors  # (K, 3)
    share: float  # 0..1


@dataclass(frozen=True)
class Line:
    """A piece of the grid that lies wholly in front or wholly behind."""

    points: Vectors  # (P, 3)
    front: bool


def globe(sample: Sample) -> Globe:
    """The picture's points; a row without a component in the three directions stays in the centre."""
    marks, _ = sample.marks
    basis = three_directions(sample)
    seen = sample.embedding @ basis
    rows = _unit(seen)
    turn = facing(rows)
    return Globe(rows @ turn.T, _unit(marks @ basis) @ turn.T, float((seen**2).sum() / (sample.embedding**2).sum()))


def three_directions(sample: Sample) -> Vectors:
    """(d, 3), orthonormal: of the class means; where they span fewer, of what they leave of the rows; then 0."""
    means = np.stack([sample.embedding[sample.label == c].mean(axis=0) for c in np.unique(sample.label)])
    basis, _ = directions(means, 3)
    lacking = int((~basis.any(axis=0)).sum())
    if lacking:
        rest = sample.embedding - sample.embedding @ basis @ basis.T
        if np.abs(rest).max() > 1e-9:
            basis[:, 3 - lacking :] = directions(rest, lacking)[0]
    return basis


def facing(points: Vectors) -> Vectors:
    """Rotation (3, 3) after which most of the points (N, 3) have z > 0; among equals the greatest mean z decides."""
    mean = points.mean(axis=0)
    views = np.concatenate([_unit(mean[None]), _spiral(CANDIDATES)])
    height = points @ views.T  # (N, candidates)
    best = np.lexsort((-height.mean(axis=0).round(9), -(height > 0).sum(axis=0)))[0]
    towards = views[best] if views[best].any() else np.array([0.0, 0.0, 1.0])
    right = np.eye(3)[np.abs(towards).argmin()]  # the axis that is seen best lies level
    right = right - right @ towards * towards
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(towards, right), towards])


def grid() -> list[Line]:
    """Meridians and parallels every STEP degrees, cut where they pass behind."""
    tilt = np.radians(TILT)
    lean = np.array([[1, 0, 0], [0, cos(tilt), -sin(tilt)], [0, sin(tilt), cos(tilt)]])
    along = np.radians(np.arange(0, 361, 5))
    curves = []
    for longitude in np.radians(np.arange(STEP / 2, 180, STEP)):  # each a whole circle through both poles
        curves.append(np.stack([np.cos(along) * cos(longitude), np.sin(along), np.cos(along) * sin(longitude)], axis=1))
    for latitude in np.radians(np.arange(-90 + STEP, 90, STEP)):
        ring = [cos(latitude) * np.sin(along), np.full(len(along), sin(latitude)), cos(latitude) * np.cos(along)]
        curves.append(np.stack(ring, axis=1))
    return [line for curve in curves for line in _cut(curve @ lean.T)]


def _cut(curve: Vectors) -> list[Line]:
    """Pieces of a curve (P, 3) by the sign of z; neighbours share a point, so that no gap shows."""
    front = curve[:, 2] >= 0
    change = np.flatnonzero(front[1:] != front[:-1]) + 1
    starts, ends = [0, *change.tolist()], [*change.tolist(), len(curve)]
    return [Line(curve[max(a - 1, 0) : b], bool(front[a])) for a, b in zip(starts, ends, strict=True)]


def _spiral(count: int) -> Vectors:
    """Directions (count, 3) spread evenly: equal steps in height, turned by the golden angle."""
    z = 1 - (2 * np.arange(count) + 1) / count
    angle = np.arange(count) * pi * (3 - 5**0.5)
    radius = np.sqrt(1 - z**2)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), z], axis=1)


def _unit(points: Vectors) -> Vectors:
    unit: Vectors = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    return unit
