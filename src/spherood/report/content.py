"""What the page says: plain records, filled by whoever ran the experiment.

Shapes: H, W height and width of an image in pixels. Scores: higher = more OOD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spherood.benchmark.result import Evaluation
from spherood.calibration import Expected
from spherood.errors import ShapeError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Example:
    """An image worth looking at. ShapeError where the pixels are not (H, W, 3) bytes."""

    pixels: Pixels  # (H, W, 3)
    caption: str  # "digits/7 no. 12"
    score: float
    p_value: float
    nearest_pixels: Pixels | None  # the nearest training image, (H, W, 3)
    nearest_caption: str

    def __post_init__(self) -> None:
        for pixels in (self.pixels, self.nearest_pixels):
            if pixels is not None and not (pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.dtype == np.uint8):
                raise ShapeError(
                    f"Example {self.caption}: expected pixels (H, W, 3) of uint8, got {pixels.shape}, {pixels.dtype}. "
                    "Use np.repeat(grey[..., None], 3, axis=2) for a grey image."
                )


@dataclass(frozen=True)
class Content:
    """One page."""

    title: str
    lead: str  # one or two sentences
    facts: Sequence[tuple[str, str]]  # ("training images", "648")
    evaluations: Sequence[Evaluation]
    chosen: tuple[str, str]  # (model, score) that the bundle holds; shown first
    ood_like_id: Sequence[Example]  # the OOD images that look most like ID, beside their nearest training image
    id_like_ood: Sequence[Example]  # the ID images that look most OOD
    history: Mapping[str, Sequence[Mapping[str, float]]]  # model -> rows {"epoch": 1.0, "loss": 3.2}; may be empty
    next_steps: Sequence[str]  # commands to type
    expected: Expected | None = None  # the false alarms to expect, where no ID test images measured them
    id_images: str = "ID test images"  # what the ID side of the charts holds
