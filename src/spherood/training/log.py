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
from spherood.training.checkpoint import LAST

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


class Log:
    """Sums loss terms on the device between two readings, and writes their means."""

    def __init__(self, run: Path, steps_per_epoch: int) -> None:
        self.run, self.steps_per_epoch, self.note = run, steps_per_epoch, ""
        self._reset()

    def _reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = self.images = 0
        self.since = time.monotonic()

    def add(self, images: int, total: Tensor, parts: dict[str, Tensor]) -> None:
        for name, value in {"loss": total, **parts}.items():
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

    def write(self, epoch: int, step: int, lr: float) -> None:
        means = self.means(epoch, step)
        row: dict[str, float | int] = {
            "step": epoch * self.steps_per_epoch + step,
            "epoch": round(epoch + step / self.steps_per_epoch, 4),
            **means,
            "lr": lr,
            "images_per_second": round(self.images / max(time.monotonic() - self.since, 1e-9), 1),
        }
        append_log(self.run, row)
        self.note = f"loss {means['loss']:.3f}"
        self._reset()
