"""Points on a square, coloured by class, with marks and the names that fit: the projection and the sphere.

Shapes: N points, K marks. Pixels: 0..SIDE, x to the right, y downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spherood.report.charts import load_altair
from spherood.report.globe import Globe, grid
from spherood.report.lines import HALO
from spherood.report.names import HEIGHT, placed, short
from spherood.report.palette import colour, shape
from spherood.report.projection import Plane, Vectors
from spherood.report.run import Sample

SIDE = 480  # pixels of the square
MANY = 20  # marks, from which on they are drawn smaller
ROOM = 1.18  # half the square's side in radii of the sphere: names stand beside it

Labels = NDArray[np.int64]
Chosen = NDArray[np.bool_]


@dataclass(frozen=True)
class Frame:
    """Which part of the plane the square shows: its middle, half of its side, and titles of its axes (None: none)."""

    middle: tuple[float, float]
    half: float
    titles: tuple[str, str] | None

    def place(self, marks: Any) -> Any:
        """A chart of rows {x, y} in this frame. Axes have no figures: they would mean nothing."""
        alt = load_altair()
        x, y = (
            {
                "scale": alt.Scale(domain=[m - self.half, m + self.half], nice=False, zero=False),
                "axis": None
                if self.titles is None
                else alt.Axis(labels=False, ticks=False, grid=False, title=self.titles[k]),
            }
            for k, m in enumerate(self.middle)
        )
        return marks.encode(x=alt.X("x:Q", **x), y=alt.Y("y:Q", **y))

    def pixels(self, points: Vectors) -> Vectors:
        """Points (N, 2) of the plane as pixels."""
        x, y = ((points[:, :2] - self.middle) / self.half).T
        return np.stack([(1 + x) * SIDE / 2, (1 - y) * SIDE / 2], axis=1)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """A pixel as a point of the plane."""
        return (
            self.middle[0] + (2 * x / SIDE - 1) * self.half,
            self.middle[1] + (1 - 2 * y / SIDE) * self.half,
        )


def on_plane(sample: Sample, plane: Plane) -> Any:
    """The projection: equal steps on both axes."""
    everything = np.concatenate([plane.rows, plane.marks])
    low, high = everything.min(axis=0), everything.max(axis=0)
    x, y = ((low + high) / 2).tolist()
    titles = ("", "")
    if plane.shares is not None:
        a, b = (f"direction {k + 1}: {100 * share:.1f} % of the variance" for k, share in enumerate(plane.shares))
        titles = (a, b)
    frame = Frame((x, y), max(float((high - low).max()) / 2, 1e-9) * 1.06, titles)
    every, all_marks = np.ones(len(plane.rows), dtype=bool), np.ones(len(plane.marks), dtype=bool)
    return _square(
        _points(sample, plane.rows, frame, every, 0.6),
        _marks(sample, plane.marks, frame, all_marks, 1.0),
        *_names(sample, plane.marks, frame, all_marks),
    )


def on_globe(sample: Sample, seen: Globe) -> Any:
    """The sphere: what lies behind is pale, and is named where the front leaves room."""
    alt = load_altair()
    frame = Frame((0.0, 0.0), ROOM, None)
    disc = alt.Chart(alt.InlineData(values=[{"x": 0, "y": 0}])).mark_point(
        aria=False, shape="circle", size=(SIDE / ROOM) ** 2, filled=True, opacity=1, fill="var(--panel)",
        stroke="var(--line-strong)", strokeWidth=1,
    )  # fmt: skip
    pieces = [
        {"x": round(x, 4), "y": round(y, 4), "line": number, "i": i, "front": piece.front}
        for number, piece in enumerate(grid())
        for i, (x, y) in enumerate(piece.points[:, :2].tolist())
    ]
    lines = frame.place(
        alt.Chart(alt.InlineData(values=pieces)).mark_line(aria=False, strokeWidth=1, color="var(--line-strong)")
    ).encode(detail="line:N", order="i:Q")
    front, ahead = seen.rows[:, 2] >= 0, seen.marks[:, 2] >= 0
    return _square(
        frame.place(disc),
        lines.transform_filter("!datum.front").encode(opacity=alt.value(0.15)),
        _points(sample, seen.rows, frame, ~front, 0.22),
        _marks(sample, seen.marks, frame, ~ahead, 0.3),
        lines.transform_filter("datum.front").encode(opacity=alt.value(0.4)),
        _points(sample, seen.rows, frame, front, 0.75),
        _marks(sample, seen.marks, frame, ahead, 1.0),
        *_names(sample, seen.marks, frame, ahead),
    )


def _points(sample: Sample, where: Vectors, frame: Frame, chosen: Chosen, opacity: float) -> Any:
    size = float(np.clip(16_000 / max(len(where), 1), 10, 34))
    return _coloured(sample, where, sample.label, frame, chosen, "image of").mark_point(
        aria=False, filled=True, size=size, opacity=opacity
    )


def _marks(sample: Sample, where: Vectors, frame: Frame, chosen: Chosen, opacity: float) -> Any:
    many = len(where) > MANY
    return _coloured(sample, where, sample.marks[1], frame, chosen, "direction of").mark_point(
        aria=False, filled=True, size=90 if many else 190, opacity=opacity, stroke="var(--ink)",
        strokeWidth=1.2 if many else 1.8,
    )  # fmt: skip


def _coloured(sample: Sample, where: Vectors, label: Labels, frame: Frame, chosen: Chosen, what: str) -> Any:
    alt = load_altair()
    values = [
        {"x": round(x, 4), "y": round(y, 4), "class": sample.classes[c], "colour": colour(c), "shape": shape(c)}
        for (x, y), c in zip(where[chosen, :2].tolist(), label[chosen].tolist(), strict=True)
    ]
    return frame.place(alt.Chart(alt.InlineData(values=values))).encode(
        color=alt.Color("colour:N", scale=None, legend=None),
        shape=alt.Shape("shape:N", scale=None, legend=None),
        tooltip=alt.Tooltip("class:N", title=what),
    )


def _names(sample: Sample, where: Vectors, frame: Frame, ahead: Chosen) -> list[Any]:
    """Class names at the marks, one for each class, with a halo that lifts them off the points."""
    alt = load_altair()
    names = [short(sample.classes[c]) for c in sample.marks[1].tolist()]
    once = [k for k in range(len(names)) if k < len(sample.classes)]  # further prototypes of a class have none
    places = placed(frame.pixels(where), names, sorted(once, key=lambda k: not ahead[k]), SIDE)
    values = []
    for k, (left, top) in places.items():
        x, y = frame.point(left, top + HEIGHT / 2)
        values.append({"x": x, "y": y, "name": names[k], "opacity": 1.0 if ahead[k] else 0.5})
    text = frame.place(alt.Chart(alt.InlineData(values=values))).encode(
        text="name:N", opacity=alt.Opacity("opacity:Q", scale=None, legend=None)
    )
    style: dict[str, Any] = {
        "aria": False, "align": "left", "baseline": "middle", "fontSize": 12, "fontWeight": "bold",
    }  # fmt: skip
    return [text.mark_text(**style, **HALO), text.mark_text(**style)]


def _square(*layers: Sequence[Any]) -> Any:
    return load_altair().layer(*layers).properties(width=SIDE, height=SIDE)
