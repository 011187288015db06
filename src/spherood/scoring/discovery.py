"""The second pass: which images of all parts to flag, so that few of those flagged are ID.

First the p-values of all parts are counted. Against n held-out images there are only the values j / (n + 1), so n + 1
counts say all, however many images there are, and give the cut that `calibration.discoveries` finds in all p-values at
once. Then every part is written anew with the column `discovery`, aside and renamed. The p-values stay, so a pass made
again is right whatever was there before: flags of another rate, or of a pass that was stopped halfway.
Memory: one part. Source: `calibration.false_discovery`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from spherood.calibration.exceedances import check_count
from spherood.calibration.false_discovery import discovery_cut
from spherood.errors import DataError
from spherood.metrics.fractions import check_fraction
from spherood.progress import progress
from spherood.scoring.parts import COLUMNS, Row, part_files, read_part, write_part

EXACT = 1e-9  # a p-value differs from j / (n + 1) by no more


class Flagged(NamedTuple):
    """What a second pass found."""

    images: int  # with a verdict
    discoveries: int
    cut: float  # the largest p-value flagged; 0 where none is


def flag(out: Path, held_out: int, rate: float) -> Flagged:
    """Write `discovery` into every part of `out`: True, False, or None where there is no verdict.

    held_out: n, of the bundle that gave the p-values; rate: false-discovery rate in (0, 1). DataError where a p-value
    is no multiple of 1 / (n + 1), before any part is written.
    """
    n = check_count("flag", "held-out scores", held_out, least=1)
    check_fraction("flag", "rate", rate)
    parts = part_files(out)
    counts = np.zeros(n + 1, dtype=np.int64)
    with progress("counting p-values", len(parts), "parts") as advance:
        for path in parts:
            for row in read_part(path, ("image", "p_value")):
                if (rank := _rank(path, row, n)) is not None:
                    counts[rank - 1] += 1
            advance(1)
    cut = discovery_cut(counts, rate)
    last = round(cut * (n + 1))
    with progress("flagging discoveries", len(parts), "parts") as advance:
        for path in parts:
            rows = read_part(path)
            for row in rows:
                rank = _rank(path, row, n)
                row["discovery"] = None if rank is None else rank <= last
            write_part(path, rows, tuple(COLUMNS))
            advance(1)
    return Flagged(int(counts.sum()), int(counts[:last].sum()), cut)


def _rank(path: Path, row: Row, n: int) -> int | None:
    """j of the p-value j / (n + 1); None where there is no verdict."""
    p: float | None = row["p_value"]
    if p is None:
        return None
    j = round(p * (n + 1))
    if not 1 <= j <= n + 1 or abs(p - j / (n + 1)) > EXACT:
        raise DataError(
            f"{path}: the p-value {p:g} of {row['image']} is no multiple of 1/{n + 1}, as {n:,} held-out images give. "
            "Was it scored by another bundle? Score anew into an empty folder."
        )
    return j
