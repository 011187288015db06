"""How many entries of a feature a percentile keeps: n = D - round(D p / 100), halves rounded to even as NumPy does."""

from __future__ import annotations

from torch import Tensor

from spherood.detectors.detector import Detector
from spherood.errors import ConfigError, FitError


def check_percentile(detector: Detector, percentile: float, default: int) -> float:
    """p in [0, 100); ConfigError otherwise."""
    if not 0 <= percentile < 100:
        raise ConfigError(f"{detector.name}: percentile must lie in [0, 100), got {percentile}. Try {default}.")
    return percentile


def kept(width: int, percentile: float) -> int:
    """n of a feature with D = width entries."""
    return width - round(width * percentile / 100)


def check_kept(detector: Detector, weight: Tensor, percentile: float) -> None:
    """FitError where nothing is left of the features that weight (C, D) reads."""
    if kept(weight.shape[1], percentile) < 1:
        raise FitError(
            f"{detector.name}.fit: percentile={percentile} keeps none of {weight.shape[1]} entries. Use a lower one."
        )
