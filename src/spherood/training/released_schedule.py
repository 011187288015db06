"""The learning rates of the released code, defects included, for runs that must repeat it to the digit.

CIDER, and OpenOOD's trainers of CIDER, ReweightOOD and NPOS after it: a cosine by epoch e, overwritten in a warm-up by

    lr(e, s) = .001 + (s + (e - 1) S) / (W S) (cos(W) - .001)    for e <= W

The formula was made for epochs from 1 and is used with epochs from 0: W + 1 epochs warm up, and the first of them runs
below .001, with a large peak below 0, so that it climbs the gradient. Steps s count from 0 in CIDER's repository and
from 1 in OpenOOD's. PALM sets the rate after the step: the first step has the full rate, the second none.
Shapes: S steps an epoch, W epochs of warm-up. Source: deeplearning-wisc/cider, Jingkang50/OpenOOD, jeff024/PALM.
"""

from __future__ import annotations

from math import cos, pi


def cider(step: int, steps: int, steps_per_epoch: int, lr: float, warmup_epochs: float, first: int) -> float:
    """Rate of step 0.. of a run; `first`: what the first step of an epoch counts as, 0 or 1."""
    epoch, within = divmod(step, steps_per_epoch)
    epochs = steps / steps_per_epoch
    if warmup_epochs and epoch <= warmup_epochs:
        share = (within + first + (epoch - 1) * steps_per_epoch) / (warmup_epochs * steps_per_epoch)
        return 1e-3 + share * (_cosine(warmup_epochs / epochs, lr) - 1e-3)
    return _cosine(epoch / epochs, lr)


def palm(step: int, steps: int, steps_per_epoch: int, lr: float, warmup_epochs: float) -> float:
    """Rate of step 0.. of a run."""
    before, warmup = step - 1, warmup_epochs * steps_per_epoch
    if before < 0:
        return lr
    return lr * before / warmup if before < warmup else _cosine((before - warmup) / (steps - warmup), lr)


def _cosine(share: float, lr: float) -> float:
    return lr / 1000 + (lr - lr / 1000) * (1 + cos(pi * share)) / 2
