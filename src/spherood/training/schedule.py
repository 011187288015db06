"""Learning rate: a linear warm-up, then a cosine, by step; never negative.

    cos(t) = low + (peak - low)(1 + cos(pi t / T)) / 2,   low = peak / 1000
    lr(t) = start + (cos(W) - start) t / W    for t < W,   cos(t) after;   start = min(.001, peak)

t: step from 0; T: steps of the whole run; W: steps of the warm-up, at most half of the run. The released code counts
epochs from 0 in a formula made for epochs from 1, so that its first epoch climbs the gradient; this one does not.
Source: Khosla et al.'s code for the shape; CIDER and ReweightOOD train with it.
"""

from __future__ import annotations

from math import cos, pi

from pydantic import Field

from spherood.schema import Strict


class Schedule(Strict):
    """Peak learning rate and length of the warm-up in epochs (a fraction is fine, 0 for none)."""

    lr: float = Field(default=0.5, gt=0)
    warmup_epochs: float = Field(default=10, ge=0)

    def at(self, step: int, steps: int, steps_per_epoch: int) -> float:
        """Learning rate of step 0..steps-1 of a run."""
        warmup = min(round(self.warmup_epochs * steps_per_epoch), steps // 2)
        if step >= warmup:
            return self._cosine(step, steps)
        start = min(1e-3, self.lr)
        return start + (self._cosine(warmup, steps) - start) * step / warmup

    def _cosine(self, step: int, steps: int) -> float:
        low = self.lr / 1000
        return low + (self.lr - low) * (1 + cos(pi * step / steps)) / 2
