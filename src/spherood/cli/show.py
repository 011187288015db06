"""Evaluations as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spherood.benchmark.result import Evaluation


def show(evaluations: Sequence[Evaluation], *, every_set: bool) -> None:
    """The summary on stdout; with `every_set` also AUROC and both FPRs of each OOD set."""
    from rich.console import Console
    from rich.table import Table

    from spherood.benchmark import table

    console = Console()
    width = None if console.is_terminal else 200  # a log must not be wrapped to 80 columns
    console = Console(width=width, markup=False, emoji=False)  # a name may hold [brackets]
    summary = Table(title=f"{table.title(evaluations[0])}, in percent", title_justify="left")
    for number, column in enumerate(table.header(evaluations)):
        summary.add_column(column, justify="left" if number < 2 else "right", overflow="fold")
    for row in table.rows(evaluations):
        summary.add_row(*row)
    console.print(summary)
    if every_set:
        sets = Table(title="per set, in percent: " + " / ".join(table.TITLES.values()), title_justify="left")
        names = list(evaluations[0].kinds)
        for column in ("model", "score", *names):
            sets.add_column(column, justify="left" if column in ("model", "score") else "right", overflow="fold")
        for evaluation in evaluations:
            for text, result in evaluation.scores.items():
                cells = [
                    " / ".join(table.percent(getattr(result.metrics[name], metric)) for metric in table.TITLES)
                    for name in names
                ]
                sets.add_row(evaluation.model, text, *cells)
        console.print(sets)
    for line in table.notes(evaluations):
        console.print(line, style="dim", highlight=False)
