"""A `fit` that reads its batches twice must be able to."""

from __future__ import annotations

from collections.abc import Iterator

from spherood.detectors.detector import Detector, Features
from spherood.errors import FitError


def refuse_generator(detector: Detector, x: Features) -> None:
    """FitError where x can be read only once."""
    if isinstance(x, Iterator):
        raise FitError(
            f"{detector.name}.fit: reads the batches twice, and a generator gives them once. Pass a list of batches, "
            "an array, or an object whose __iter__ starts afresh."
        )
