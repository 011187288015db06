"""Tables of the page: one row per (model, score), the best figure of each column marked, every gap explained.

A column says where its figure comes from; `table` does the rest. Figures are percent with one decimal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from itertools import groupby
from typing import Literal

from spherood.benchmark.result import Evaluation, ScoreResult

DASH = "–"


def percent(share: float) -> str:
    """0.0625 -> "6.3": half up, as toFixed(1) of the page's script rounds, so that both show one figure."""
    if not math.isfinite(share):
        return DASH
    return str(Decimal(100 * share).quantize(Decimal("0.1"), ROUND_HALF_UP))


@dataclass(frozen=True)
class Line:
    """One score on one model; where there is no such result, the reason."""

    evaluation: Evaluation
    score: str
    result: ScoreResult | None
    reason: str = ""


@dataclass(frozen=True)
class Cell:
    text: str
    hint: str = ""  # title text
    best: bool = False
    note: int = 0  # number of the footnote; 0 for none


@dataclass(frozen=True)
class Column:
    """`value` gives a share, a finished text, or None where the line has no such figure."""

    over: str  # the upper header, common to its neighbours
    under: str
    value: Callable[[Line], float | str | None]
    better: Literal["higher", "lower", ""] = ""
    gap: Callable[[Line], str] = lambda line: DASH  # what stands where value is None
    under_hint: str = ""


@dataclass(frozen=True)
class Row:
    score: str
    chosen: bool
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    over: list[tuple[str, int]]  # header, how many columns it spans
    under: list[tuple[str, str]]  # header, title text
    groups: list[tuple[str, list[Row]]]  # model, its rows


def lines(evaluations: Sequence[Evaluation], chosen: tuple[str, str]) -> list[Line]:
    """Every (model, score) of any model, the chosen one and its model first, else in the order given."""
    names = list(dict.fromkeys(name for one in evaluations for name in (*one.scores, *one.unavailable)))
    found = [
        Line(one, name, one.scores.get(name), "" if name in one.scores else one.unavailable.get(name, "not asked for"))
        for one in evaluations
        for name in names
    ]
    model, score = chosen
    return sorted(
        found, key=lambda line: (line.evaluation.model != model, line.evaluation.model == model and line.score != score)
    )


def footnotes(rows: Sequence[Line]) -> list[str]:
    """The distinct reasons why a score is missing, in order."""
    return list(dict.fromkeys(line.reason for line in rows if line.reason))


def table(rows: Sequence[Line], columns: Sequence[Column], chosen: tuple[str, str]) -> Table:
    """The best of a column is judged by what is printed: equal figures are equally good; one alone is no best."""
    value = [[None if line.reason else column.value(line) for column in columns] for line in rows]
    best: list[str] = []
    for j, column in enumerate(columns):
        shares = [v for v in (row[j] for row in value) if isinstance(v, float) and math.isfinite(v)]
        judged = column.better != "" and len(shares) > 1
        best.append(percent(max(shares) if column.better == "higher" else min(shares)) if judged else "")
    notes = footnotes(rows)

    def cell(line: Line, j: int, found: float | str | None) -> Cell:
        if line.reason:
            return Cell(DASH, line.reason, note=notes.index(line.reason) + 1)
        if found is None:
            return Cell(columns[j].gap(line))
        text = found if isinstance(found, str) else percent(found)
        return Cell(text, best=text == best[j])

    made = [
        (line.evaluation.model, Row(line.score, (line.evaluation.model, line.score) == chosen,
                                    [cell(line, j, found) for j, found in enumerate(row)]))
        for line, row in zip(rows, value, strict=True)
    ]  # fmt: skip
    return Table(
        over=[(over, len(list(some))) for over, some in groupby(columns, key=lambda column: column.over)],
        under=[(column.under, column.under_hint) for column in columns],
        groups=[(model, [row for _, row in some]) for model, some in groupby(made, key=lambda pair: pair[0])],
    )
