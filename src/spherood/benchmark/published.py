"""Published figures to stand beside one's own: tables of papers and READMEs, and the OpenOOD leaderboard.

published.json holds only what was read in the source that each table names, in percent; nothing is computed or
rounded. "FPR95" is two quantities: protocol openood-1.5 gives our `fpr_id_at_ood95`, cider our `fpr_ood_at_id95`. Never
compare across protocols.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from spherood.benchmark.result import Kind
from spherood.errors import ConfigError, nearest

Figure = tuple[float, float | None]  # value and standard deviation over runs, where one is stated; percent
LEADERBOARD = "OpenOOD leaderboard"  # how the source of its rows begins


@dataclass(frozen=True)
class PublishedRow:
    """One line of a published table: one method with one score on one ID set."""

    method: str
    score: str
    arch: str | None
    runs: int | None
    note: str | None
    source: str
    where: str  # in the source
    protocol: str  # "openood-1.5", "openood-1.0", "cider"
    setting: str  # "ood", "fsood" (shifted ID images are ID as well), "ood-unsupervised"
    id_dataset: str
    figures: dict[str, dict[str, Figure]]  # OOD set, or "near", "far", "average", "" (no OOD set: ACC) -> metric


@cache
def all_rows() -> tuple[PublishedRow, ...]:
    """Every row, in the order of the file, which is read once."""
    content = json.loads(files("spherood.benchmark").joinpath("published.json").read_text(encoding="utf-8"))
    found = []
    for table in content["tables"]:
        for row in table.pop("rows"):
            figures: dict[str, dict[str, Figure]] = {}
            for ood_dataset, metric, value, std in row.pop("figures"):
                figures.setdefault(ood_dataset or "", {})[metric] = (value, std)
            found.append(PublishedRow(**table, **row, figures=figures))
    return tuple(found)


def published_rows(protocol: str, setting: str, id_dataset: str, methods: Sequence[str] = ()) -> list[PublishedRow]:
    """Rows of papers and READMEs, all or those of `methods` in any case; none where nothing is published.

    ConfigError for a method without a row there. The leaderboard is not among them. Runs of users are: `note` says so.
    """
    place = (protocol, setting, id_dataset)
    papers = [row for row in all_rows() if not row.source.startswith(LEADERBOARD)]
    found = [row for row in papers if _place(row) == place]
    names = {row.method for row in found}
    for method in methods:
        if not found:
            hint = nearest(" / ".join(place), {" / ".join(_place(row)) for row in papers})
            raise ConfigError(f"Nothing is published for {' / '.join(place)}. {hint}")
        if method.lower() not in {name.lower() for name in names}:
            raise ConfigError(f"'{method}' has no published row for {' / '.join(place)}. {nearest(method, names)}")
    wanted = {method.lower() for method in methods}
    return [row for row in found if not wanted or row.method.lower() in wanted]


def leaderboard(setting: str, id_dataset: str) -> list[PublishedRow]:
    """Rows of the OpenOOD leaderboard, in its own order, which is no ranking; none where it has no such table."""
    return [
        row
        for row in all_rows()
        if row.source.startswith(LEADERBOARD) and (row.setting, row.id_dataset) == (setting, id_dataset)
    ]


def leaderboard_date(rows: Sequence[PublishedRow]) -> str:
    """The day of the leaderboard that these rows were copied from, as YYYY-MM-DD; ConfigError where none is stated."""
    for row in rows:
        stated = re.search(r"\d{4}-\d{2}-\d{2}", row.source)
        if stated:
            return stated[0]
    raise ConfigError(f"leaderboard_date: no date in {len(rows)} rows. Give it the rows of leaderboard().")


def position(value: float, rows: Sequence[PublishedRow], kind: Kind) -> tuple[int, int]:
    """Rank that an AUROC in percent would have among the N rows with such a figure, and N; a tie takes the better rank.

    The value itself is not counted, so the rank of one that all N surpass is N + 1.
    """
    others = [row.figures[kind]["AUROC"][0] for row in rows if "AUROC" in row.figures.get(kind, {})]
    return 1 + sum(other > value for other in others), len(others)


def _place(row: PublishedRow) -> tuple[str, str, str]:
    return row.protocol, row.setting, row.id_dataset
