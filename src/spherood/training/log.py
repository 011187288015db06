"""metrics.jsonl: one line per logging interval; a resumed run drops the lines written past its checkpoint."""

from __future__ import annotations

import json
import time
from math import isfinite
from pathlib import Path
from typing import Any

from torch import Tensor

from spherood.errors import TrainingError
from spherood.files import write_text
from spherood.losses import Terms
from spherood.training.checkpoint import LAST

FILE = "metrics.jsonl"


def read_log(run: Path, file: str = FILE) -> list[dict[str, Any]]:
    """The rows of a run, oldest first; a last line cut off by a kill is left out."""
    path = run / file
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def cut_log(run: Path, step: int, file: str = FILE) -> None:
    """Keep the rows up to `step` optimiser steps."""
    rows = read_log(run, file)
    if rows or (run / file).exists():
        write_text(run / file, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))


def append_log(run: Path, row: dict[str, Any], file: str = FILE) -> None:
    """Add a row; on disk when this returns."""
    with (run / file).open("a", encoding="utf-8") as whole:
        whole.write(json.dumps(row) + "\n")


class Log:
    """Sums loss terms on the device between two readings; `note` is what a terminal shows."""

    def __init__(self, run: Path) -> None:
        self.run, self.note = run, ""
        self.told = ""  # of the last validation, for the note
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = self.images = 0
        self.since = time.monotonic()

    def add(self, images: int, terms: Terms) -> None:
        """One step more."""
        for name, value in {"loss": terms.total, **terms.parts}.items():
            value = value.detach()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.steps, self.images = self.steps + 1, self.images + images

    def means(self, epoch: int, step: int) -> dict[str, float]:
        """Since the last reading; TrainingError where the loss is no longer finite."""
        means = {name: float(value) / self.steps for name, value in self.sums.items()}
        if not isfinite(means.get("loss", 0.0)):
            last = self.run / LAST
            kept = f"The last good checkpoint stays at {last}." if last.exists() else "There is no checkpoint yet."
            raise TrainingError(
                f"The loss is {means['loss']} in epoch {epoch + 1}, near step {step}. Try a smaller schedule.lr, or "
                f"precision 32-true. {kept}"
            )
        return means

    def row(self, epoch: int, step: int, steps_per_epoch: int, lr: float) -> dict[str, float | int]:
        """The means since the last reading as a row of the log."""
        means = self.means(epoch, step)
        row: dict[str, float | int] = {
            "step": epoch * steps_per_epoch + step,
            "epoch": round(epoch + step / steps_per_epoch, 4),
            **means,
            "lr": lr,
            "images_per_second": round(self.images / max(time.monotonic() - self.since, 1e-9), 1),
        }
        terms = ", ".join(f"{name} {value:.3f}" for name, value in means.items())
        self.note = ", ".join(filter(None, [terms, f"lr {lr:.3g}", self.told]))
        self._reset()
        return row
