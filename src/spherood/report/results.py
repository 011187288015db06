"""Which tables the page shows, and the plain words beside each figure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from spherood.benchmark.result import Evaluation, Kind, ScoreResult
from spherood.report.table import DASH, Column, Line, Row, Table, footnotes, lines, percent, table

Direction = Literal["higher", "lower"]
KINDS: tuple[Kind, ...] = ("near", "far")

# field of Metrics -> header, which way is better, what it means
MEASURES: dict[str, tuple[str, Direction, str]] = {
    "auroc": (
        "AUROC",
        "higher",
        "How often a random OOD image scores higher than a random ID image. 50 is guessing, 100 is a clean separation.",
    ),
    "fpr_ood_at_id95": (
        "OOD let through at 95 % ID kept",
        "lower",
        "Choose the threshold so that 95 % of the ID images pass: this share of the OOD images passes with them. "
        "It is the “FPR95” of the CIDER papers.",
    ),
    "fpr_id_at_ood95": (
        "ID rejected at 95 % OOD caught",
        "lower",
        "Choose the threshold so that 95 % of the OOD images are caught: this share of the ID images is rejected with "
        "them. It is the “FPR95” of OpenOOD 1.5.",
    ),
    "caught": (
        "OOD caught at the calibrated threshold",
        "higher",
        "What the calibrated detector catches on these sets. It is a measurement, not a promise.",
    ),
    "aupr_in": ("AUPR, ID positive", "higher", "Area under precision over recall, with ID as the class looked for."),
    "aupr_out": ("AUPR, OOD positive", "higher", "The same with OOD as the class looked for."),
}


@dataclass(frozen=True)
class Titled:
    """A table with what is said about it."""

    title: str
    says: str
    table: Table


@dataclass(frozen=True)
class Results:
    summary: Titled
    per_set: list[Titled]
    full: Titled
    accuracy: Titled | None
    missing: list[str]  # sentences about absent sets
    footnotes: list[str]


def sets(evaluations: Iterable[Evaluation]) -> dict[str, Kind]:
    """Every OOD set of any evaluation, present ones first, each with its kind."""
    known: dict[str, Kind] = {}
    for one in evaluations:
        known = {**known, **one.kinds}
    for one in evaluations:
        known = {**known, **{name: kind for name, kind in one.absent.items() if name not in known}}
    return known


def absent_by_kind(evaluations: Sequence[Evaluation]) -> dict[Kind, list[str]]:
    """For each kind that the protocol knows, the sets that some evaluation lacks: there the mean is incomplete."""
    found = [pair for one in evaluations for pair in one.absent.items()]
    kinds = sets(evaluations).values()
    return {kind: list(dict.fromkeys(name for name, k in found if k == kind)) for kind in KINDS if kind in kinds}


def measure_column(field: str, key: str, over: str, under: str, hint: str = "") -> Column:
    """A field of Metrics on one OOD set, or on the mean "near" / "far"."""

    def value(line: Line) -> float | None:
        metrics = line.result.metrics.get(key) if line.result else None
        return None if metrics is None else float(getattr(metrics, field))

    def gap(line: Line) -> str:
        absent = line.evaluation.absent
        return "absent" if key in absent or key in absent.values() else DASH

    return Column(over, under, value, MEASURES[field][1], gap, hint)


def promise(result: ScoreResult) -> str:
    """at most 5 %, with 95 % confidence"""
    rate, confidence = (percent(share).removesuffix(".0") for share in (result.false_alarm_rate, result.confidence))
    return f"at most {rate} %, with {confidence} % confidence"


def verdict(result: ScoreResult) -> str:
    """How the measured false-alarm rate stands to the promised one, its interval considered."""
    if math.isnan(result.achieved.value):
        return "not tested"
    if result.achieved.value <= result.false_alarm_rate:
        return "kept"
    return "within chance" if result.achieved.low <= result.false_alarm_rate else "exceeded"


def alarm_columns() -> list[Column]:
    def achieved(line: Line) -> str | None:
        if line.result is None:
            return None
        rate = line.result.achieved
        if math.isnan(rate.value):
            return DASH
        return f"{percent(rate.value)} ({percent(rate.low)}–{percent(rate.high)})"

    over = "False alarms"
    return [
        Column(over, "achieved (95 % interval)", achieved),
        Column(over, "promised", lambda line: f"≤ {percent(line.result.false_alarm_rate)}" if line.result else None),
        Column(over, "promise was", lambda line: verdict(line.result) if line.result else None),
    ]


def mean_name(kind: Kind, absent: Mapping[Kind, list[str]]) -> str:
    return f"{kind} mean, incomplete" if absent[kind] else f"{kind} mean"


def mean_columns(field: str, absent: Mapping[Kind, list[str]]) -> list[Column]:
    return [
        measure_column(
            field, kind, MEASURES[field][0], mean_name(kind, absent), f"without {', '.join(names)}" if names else ""
        )
        for kind, names in absent.items()
    ]


def full_table(
    rows: Sequence[Line], known: Mapping[str, Kind], absent: Mapping[Kind, list[str]], chosen: tuple[str, str]
) -> Table:
    """Every measure on every set: a group per (model, score), a row per set, so that it stays narrow."""
    label: dict[str, str] = {kind: mean_name(kind, absent) for kind in absent}
    label |= {name: f"{name} ({kind})" for name, kind in known.items()}
    width = len(MEASURES)
    wide = table(rows, [measure_column(field, key, key, field) for key in label for field in MEASURES], chosen)

    def by_set(row: Row) -> list[Row]:
        return [Row(name, False, row.cells[k * width : (k + 1) * width]) for k, name in enumerate(label.values())]

    return Table(
        over=[("Percent", width)],
        under=[(header, says) for header, _, says in MEASURES.values()],
        groups=[(f"{model} · {row.score}", by_set(row)) for model, some in wide.groups for row in some],
    )


def accuracy_table(evaluations: Sequence[Evaluation], ways: Sequence[str], chosen: tuple[str, str]) -> Table:
    """A row per model, in one group without a header."""

    def column(way: str) -> Column:
        return Column("Read by", way, lambda line: line.evaluation.accuracy.get(way), "higher")

    first = sorted(evaluations, key=lambda one: one.model != chosen[0])
    made = table([Line(one, one.model, None) for one in first], [column(way) for way in ways], ("", ""))
    return replace(made, groups=[("", [row for _, some in made.groups for row in some])])


def results(evaluations: Sequence[Evaluation], chosen: tuple[str, str]) -> Results:
    """All tables; the chosen row first in each."""
    rows, known = lines(evaluations, chosen), sets(evaluations)
    absent = absent_by_kind(evaluations)
    headline = ("auroc", "fpr_ood_at_id95", "fpr_id_at_ood95", "caught")
    summary = [column for field in headline for column in mean_columns(field, absent)]
    per_set = [
        Titled(
            MEASURES[field][0],
            f"{MEASURES[field][2]} {MEASURES[field][1].capitalize()} is better.",
            table(
                rows,
                [
                    measure_column(field, name, "OOD" if kind == "extra" else f"{kind} OOD", name)
                    for kind in (*absent, "extra")
                    for name, its_kind in known.items()
                    if its_kind == kind
                ],
                chosen,
            ),
        )
        for field in headline
    ]
    ways = list(dict.fromkeys(way for one in evaluations for way in one.accuracy))
    return Results(
        summary=Titled("Means and false alarms", "", table(rows, summary + alarm_columns(), chosen)),
        per_set=per_set,
        full=Titled("Every figure", "", full_table(rows, known, absent, chosen)),
        accuracy=Titled("ID accuracy", "", accuracy_table(evaluations, ways, chosen)) if ways else None,
        missing=[
            f"{name} ({kind} OOD) is absent: it was not read"
            + (f" for {', '.join(where)}" if len(where) < len(evaluations) else "")
            + f". The {kind} mean is incomplete without it."
            for name, kind in known.items()
            if (where := [one.model for one in evaluations if name in one.absent])
        ],
        footnotes=footnotes(rows),
    )
