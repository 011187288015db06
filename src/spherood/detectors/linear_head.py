"""The model's last layer inside a score: z = W h + b, so that the score reads the feature alone.

Shapes: B batch, C classes, D dimension.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.errors import ShapeError
from spherood.sphere import float64


def copy_head(detector: Detector, classifier: Classifier) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,), copied: training on must not change a fitted score. FitError without one."""
    weight, bias = detector.head(classifier)
    return weight.clone(), bias.clone()


def rows_under(
    weight: Tensor, detector: Detector, x: Features, label: Array | None
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """`detector.batches`, on the device of weight (C, D); ShapeError where the rows have not its D columns."""
    for rows, part_label in detector.batches(x, label):
        if rows.shape[1] != weight.shape[1]:
            raise ShapeError(
                f"{detector.name}.fit: features have {rows.shape[1]} columns, the classifier reads {weight.shape[1]}. "
                "Pass features and classifier of one model."
            )
        yield rows.to(weight.device), None if part_label is None else part_label.to(weight.device)


def grand_mean(batches: Iterator[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Mean of all rows, (D,), float64."""
    total, count = torch.zeros(()), 0
    for rows, _ in batches:
        row_sum = float64(rows).sum(dim=0)
        total, count = row_sum + total.to(row_sum), count + len(rows)
    return total / count


def logits(feature: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Feature (B, D) to z (B, C), float64: in float32 an energy of 30 is off by 1e-5, and sure answers tie."""
    h = float64(feature)
    return F.linear(h, weight.to(h), bias.to(h))


def free_energy(feature: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """-log sum_c exp(z_c), (B,), float64: grows as the classifier finds less evidence for any class."""
    return -logits(feature, weight, bias).logsumexp(dim=1)
