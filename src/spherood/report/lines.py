"""Small charts of numbers that change over a run: one quantity each, with a sentence that says how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from spherood.report.charts import load_altair
from spherood.report.palette import DASHES, LINES

HALO = {"stroke": "var(--paper)", "strokeWidth": 4, "strokeJoin": "round"}
MOST = 300  # points of a line: the rest would not show

Point = dict[str, float | str]  # {"x", "y", "line"}


@dataclass(frozen=True)
class Panel:
    """A picture, its title, and how to read it."""

    title: str
    says: str
    chart: Any  # altair's, with a height and no style
    width: int | None = None  # pixels; None: as wide as its place


@dataclass(frozen=True)
class Bound:
    """A level worth comparing with, dashed."""

    at: float
    name: str


def thinned(rows: Sequence[Mapping[str, Any]], x: str, y: str) -> list[tuple[float, float]]:
    """(x, y) of the rows that have both, finite; where they are more than MOST, means of equally many neighbours."""
    pairs = [(float(row[x]), float(row[y])) for row in rows if row.get(x) is not None and row.get(y) is not None]
    pairs = [pair for pair in pairs if all(map(isfinite, pair))]
    each = -(-len(pairs) // MOST) or 1
    groups = [pairs[start : start + each] for start in range(0, len(pairs), each)]
    return [(sum(a for a, _ in group) / len(group), sum(b for _, b in group) / len(group)) for group in groups]


def line_chart(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    x: str,
    y: str,
    bound: Bound | None = None,
    height: int = 150,
) -> Any:
    """Lines by name over a common x; their names stand above where there are several; dots where there is room."""
    alt = load_altair()
    points: list[Point] = [{"x": a, "y": b, "line": name} for name, pairs in lines.items() for a, b in pairs]
    heights = {b for pairs in lines.values() for _, b in pairs} | ({bound.at} if bound else set())
    only = next(iter(heights))
    around = abs(only) / 10 or 1.0  # one height alone would get one tick, rounded to nothing
    level = [only - around, only + around] if len(heights) == 1 else alt.Undefined
    room = 14 if bound else 0  # pixels above and below, for the bound's name
    names = list(lines)
    several = len(names) > 1
    legend = alt.Legend(
        orient="bottom",
        title=None,
        columns=2,
        labelLimit=115,
        symbolType="stroke",
        symbolStrokeWidth=2,
        labelColor="var(--ink)",
    )
    colours = [LINES[i % len(LINES)] for i in range(len(names))] if several else ["var(--ink)"]
    base = alt.Chart(alt.InlineData(values=points)).encode(
        x=alt.X("x:Q", title=x, axis=alt.Axis(grid=False, tickCount=5), scale=alt.Scale(zero=True, nice=False)),
        y=alt.Y("y:Q", title=y, scale=alt.Scale(zero=False, domain=level, padding=room), axis=alt.Axis(tickCount=4)),
        color=alt.Color("line:N", sort=names, scale=alt.Scale(domain=names, range=colours),
                        legend=legend if several else None),
        tooltip=[*([alt.Tooltip("line:N", title=" ")] if several else []),
                 alt.Tooltip("x:Q", title=x, format=".5~g"), alt.Tooltip("y:Q", title=y, format=".4~g")],
    )  # fmt: skip
    dashes = alt.Scale(domain=names, range=[DASHES[i % len(DASHES)] for i in range(len(names))])
    crowded = max(map(len, lines.values()), default=0) > 40
    layers = [
        base.mark_line(aria=False, strokeWidth=2).encode(
            strokeDash=alt.StrokeDash("line:N", sort=names, scale=dashes, legend=legend if several else None)
        ),
        base.mark_point(aria=False, filled=True, size=16, opacity=0 if crowded else 1),
        base.mark_point(aria=False, size=300, opacity=0),  # something to point at
    ]
    if bound is not None:
        line = alt.Chart(alt.InlineData(values=[{"y": bound.at, "name": bound.name}]))
        layers += [
            line.mark_rule(aria=False, strokeDash=[3, 3], color="var(--line-strong)").encode(y="y:Q"),
            *(
                line.mark_text(aria=False, align="left", dx=5, dy=-8, fontSize=11, color=colour, **halo).encode(
                    x=alt.value(0), y="y:Q", text="name:N"
                )
                for colour, halo in (("var(--paper)", HALO), ("var(--muted)", {}))
            ),
        ]
    return alt.layer(*layers).properties(height=height)
