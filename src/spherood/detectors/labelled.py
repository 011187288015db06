"""What `fit` reads where every row needs a label, and every class a row.

Shapes: B rows of a batch, D dimension, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Detector, Features
from spherood.errors import FitError


def labelled(detector: Detector, x: Features, label: Array | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches (rows (B, D), label (B,)). FitError without labels and, at the end, for a class without a row."""
    count = torch.zeros(0, dtype=torch.int64)
    for rows, part_label in detector.batches(x, label):
        if part_label is None:
            raise FitError(f"{detector.name}.fit: needs labels. Call fit(feature, label).")
        grown = torch.bincount(part_label, minlength=len(count)).cpu()
        grown[: len(count)] += count
        count = grown
        yield rows, part_label
    for absent in (count == 0).nonzero().flatten().tolist():
        raise FitError(f"{detector.name}.fit: class {absent} has no sample. Labels must run 0..C-1 without gaps.")
