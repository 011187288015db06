"""Tables of a comparison: one per metric, or exactly the rows and columns of the two papers' READMEs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spherood.benchmark.comparison import Figure, Row
from spherood.benchmark.protocol import Protocol
from spherood.benchmark.result import MEANS
from spherood.errors import ConfigError

Layout = Literal["cider", "openood"]

METRICS = {  # field of Metrics -> title with its rule, and whether higher is better
    "auroc": ("AUROC", True),
    "fpr_ood_at_id95": ("FPR: OOD let through at 95 % ID kept (CIDER's papers)", False),
    "fpr_id_at_ood95": ("FPR: ID rejected at 95 % OOD caught (OpenOOD v1.5)", False),
    "aupr_in": ("AUPR, ID positive, trapezoids (OpenOOD)", True),
    "aupr_out": ("AUPR, OOD positive, trapezoids (OpenOOD)", True),
    "average_precision": ("AUPR, ID positive, average precision (CIDER)", True),
    "fpr_ood_at_id95_cider": ("FPR: OOD let through at the ID recall nearest to 95 % (CIDER's code)", False),
    "fpr_id_at_ood95_openood": ("FPR: ID rejected at 95 % OOD caught, thinned curve (OpenOOD's code)", False),
    "caught": ("OOD caught at the calibrated threshold", True),
}
COLUMNS: dict[Layout, dict[str, str]] = {
    "cider": {"FPR95": "fpr_ood_at_id95_cider", "AUROC": "auroc", "AUPR": "average_precision"},
    "openood": {
        "FPR@95": "fpr_id_at_ood95_openood",
        "AUROC": "auroc",
        "AUPR_IN": "aupr_in",
        "AUPR_OUT": "aupr_out",
    },
}


@dataclass(frozen=True)
class Cell:
    text: str
    bold: bool = False


@dataclass(frozen=True)
class Table:
    """A title, a header and rows; the first `words` columns are text, the others figures."""

    title: str
    header: list[str]
    rows: list[list[Cell]]
    words: int = 1


def by_metric(rows: Sequence[Row], protocol: Protocol, wanted: Sequence[str] = ()) -> list[Table]:
    """A table per metric: sets and means as columns, the best of a column in bold, a star at incomplete means."""
    present = [name for name in protocol.ood if any(name in row.figures for row in rows)]
    means = [kind for kind in MEANS if any(kind in row.figures for row in rows)]
    tables = []
    for metric, (title, higher) in METRICS.items():
        if wanted and metric not in wanted:
            continue
        columns = [name for name in [*present, *means] if any(_has(row, name, metric) for row in rows)]
        if not columns:
            continue
        best = {name: _best(rows, name, metric, higher) for name in columns}
        body = []
        for row in rows:
            if not any(_has(row, name, metric) for name in columns):
                continue
            cells = [Cell(row.name), Cell(row.score), Cell("" if row.runs is None else str(row.runs))]
            for name in columns:
                if not _has(row, name, metric):
                    cells.append(Cell("–"))
                    continue
                figure, starred = row.figures[name][metric], _incomplete(row, name)
                bold = not starred and round(100 * figure.mean, 2) == best[name]
                cells.append(Cell(show(figure) + "*" * starred, bold))
            body.append(cells)
        tables.append(Table(f"{title}, percent", ["model", "score", "runs", *columns], body, words=3))
    return tables


def as_published(row: Row, layout: Layout, protocol: Protocol) -> Table:
    """The README's table of one row: an OOD set a line, an absent one with dashes, and the means where it has them.

    ConfigError where the row has figures by other rules than the layout's.
    """
    columns = COLUMNS[layout]
    lines: list[tuple[str, str]] = []
    for kind in MEANS:
        members = [(name, name) for name in protocol.ood if kind in (row.kinds.get(name), row.absent.get(name))]
        mean = "AVG" if layout == "cider" else f"{kind}ood"
        measured = kind in row.figures or kind in row.absent.values()
        lines += [*members, (mean, kind)] if members and measured else members
    fpr = next(iter(columns.values()))  # AUROC is one under every rule and tells nothing
    if not any(_has(row, key, fpr) for _, key in lines):
        raise ConfigError(
            f"{row.name}, {row.score}: no figures of layout {layout} by {protocol.name}. Try the other layout."
        )
    body = []
    for title, key in lines:
        mark = "*" * _incomplete(row, key)
        found = row.figures.get(key, {})
        cells = [show(found[field_], intervals=False) if field_ in found else "–" for field_ in columns.values()]
        body.append([Cell(title + mark), *(Cell(text) for text in cells)])
    head = "OOD" if layout == "cider" else "datasets"
    return Table(f"{row.name}, {row.score}", [head, *columns], body)


def show(figure: Figure, *, intervals: bool = True) -> str:
    """89.64 ± 0.08 over seeds, 89.64 [89.20, 90.07] of one run over images, 89.64 alone."""
    if not math.isfinite(figure.mean):
        return "–"
    if figure.std is not None:
        return f"{100 * figure.mean:.2f} ± {100 * figure.std:.2f}"
    if intervals and figure.interval is not None:
        low, high = figure.interval
        return f"{100 * figure.mean:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
    return f"{100 * figure.mean:.2f}"


def _has(row: Row, name: str, metric: str) -> bool:
    figure = row.figures.get(name, {}).get(metric)
    return figure is not None and math.isfinite(figure.mean)


def _incomplete(row: Row, name: str) -> bool:
    return name in MEANS and name in row.absent.values()


def _best(rows: Sequence[Row], name: str, metric: str, higher: bool) -> float | None:
    """Of at least two rows, published ones included; an incomplete mean competes with none."""
    values = [
        round(100 * row.figures[name][metric].mean, 2)
        for row in rows
        if _has(row, name, metric) and not _incomplete(row, name)
    ]
    return (max(values) if higher else min(values)) if len(values) > 1 else None
