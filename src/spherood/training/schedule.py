"""Learning rate: a linear warm-up, then a cosine, by step; never negative.

    cos(t) = low + (peak - low)(1 + cos(pi t / T)) / 2,   low = peak / 1000 unless given
    lr(t) = start + (cos(W) - start) t / W    for t < W,   cos(t) after;   start = min(.001, peak)

t: step from 0; T: steps of the whole run; W: steps of the warm-up, at most half of the run. The released code counts
epochs from 0 in a formula made for epochs from 1, so that its first epoch climbs the gradient; this one does not,
unless `rule` asks for it by name (training/released_schedule.py).
Source: Khosla et al.'s code for the shape; CIDER and ReweightOOD train with it. OpenOOD's cross-entropy runs have lr
.1, no warm-up and lowest 1e-6.
"""

from __future__ import annotations

from math import cos, pi
from typing import Literal

from pydantic import Field

from spherood.schema import Strict
from spherood.training import released_schedule


class Schedule(Strict):
    """Peak learning rate and length of the warm-up in epochs (a fraction is fine, 0 for none).

    lowest: where the cosine ends, a thousandth of the peak by default. rule: `cosine`, or the released code of
    one of the papers as it is, negative rates included.
    """

    lr: float = Field(default=0.5, gt=0)
    warmup_epochs: float = Field(default=10, ge=0)
    lowest: float | None = Field(default=None, ge=0)
    rule: Literal["cosine", "cider-as-released", "openood-as-released", "palm-as-released"] = "cosine"

    def at(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """Learning rate of step 0..steps-1 of a run."""
        match self.rule:
            case "cider-as-released":
                return released_schedule.cider(step, steps, steps_per_epoch, self.lr, self.warmup_epochs, 0)
            case "openood-as-released":
                return released_schedule.cider(step, steps, steps_per_epoch, self.lr, self.warmup_epochs, 1)
            case "palm-as-released":
                return released_schedule.palm(step, steps, steps_per_epoch, self.lr, self.warmup_epochs)
        warmup = self.warmup_steps(steps, steps_per_epoch)
        if step >= warmup:
            return self._cosine(step, steps)
        start = min(1e-3, self.lr)
        return start + (self._cosine(warmup, steps) - start) * step / warmup

    def warmup_steps(self, steps: int, steps_per_epoch: int) -> int:
        """W: as many as asked for, but at most half of the run."""
        return min(self._asked(steps_per_epoch), steps // 2)

    def shortened(self, steps: int, steps_per_epoch: int) -> str:
        """What to say where the run is too short for the warm-up; empty where it is not."""
        warmup = self.warmup_steps(steps, steps_per_epoch)
        if self.rule != "cosine" or warmup == self._asked(steps_per_epoch):
            return ""
        return (
            f"schedule.warmup_epochs={self.warmup_epochs:g} is more than half of the run: the warm-up takes "
            f"{warmup:,} of {steps:,} steps."
        )

    def _asked(self, steps_per_epoch: int) -> int:
        return round(self.warmup_epochs * steps_per_epoch)

    def _cosine(self, step: int, steps: int) -> float:
        low = self.lr / 1000 if self.lowest is None else self.lowest
        return low + (self.lr - low) * (1 + cos(pi * step / steps)) / 2
