"""How many entries of a feature a percentile keeps: n = D - round(D p / 100), halves rounded to even as NumPy does."""

from __future__ import annotations

from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.linear_head import copy_head, rows_under
from spherood.errors import ConfigError, FitError


def check_percentile(detector: Detector, percentile: float, default: int) -> float:
    """p in [0, 100); ConfigError otherwise."""
    if not 0 <= percentile < 100:
        raise ConfigError(f"{detector.name}: percentile must lie in [0, 100), got {percentile}. Try {default}.")
    return percentile


def kept(width: int, percentile: float) -> int:
    """n of a feature with D = width entries."""
    return width - round(width * percentile / 100)


def take_head(
    detector: Detector, percentile: float, x: Features, label: Array | None, classifier: Classifier
) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,) of the classifier, once x was seen to be features that it reads.

    FitError without one, and where nothing is left of a feature.
    """
    weight, bias = copy_head(detector, classifier)
    if kept(weight.shape[1], percentile) < 1:
        raise FitError(
            f"{detector.name}.fit: percentile={percentile} keeps none of {weight.shape[1]} entries. Use a lower one."
        )
    for _ in rows_under(weight, detector, x, label):
        pass  # each batch is checked as it passes
    return weight, bias
