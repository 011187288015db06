"""metrics.jsonl: one line per logging interval; a resumed run drops the lines written past its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spherood.files import write_text

FILE = "metrics.jsonl"


def read_log(run: Path) -> list[dict[str, Any]]:
    """The rows of a run, oldest first; a last line cut off by a kill is left out."""
    path = run / FILE
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def cut_log(run: Path, step: int) -> None:
    """Keep the rows up to `step` optimiser steps."""
    kept = [row for row in read_log(run) if row["step"] <= step]
    write_text(run / FILE, "".join(json.dumps(row) + "\n" for row in kept))


def append_log(run: Path, row: dict[str, Any]) -> None:
    """Add a row; on disk when this returns."""
    with (run / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
