"""From a picture to the pixels a model expects: one record, stored with every result, so that nothing is guessed later.

Free of torch. Scores that differ between training and production nearly always differ here: in the resize kernel,
the crop, the scaling or the normalisation.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from spherood.schema import Strict

Pixels = NDArray[np.uint8]  # (S, S, 3)
Triple = tuple[float, float, float]


class Preprocess(Strict):
    """Decoder, size, resize rule and normalisation.

    resize="short_side": the short side to `size`, then the centre (OpenOOD's and CIDER's rule);
    "stretch": both sides to `size`. Bilinear, with Pillow's antialiasing. A picture of that size stays untouched.
    mean and std are of pixels in 0..1, per channel.
    """

    size: int = Field(default=32, ge=1)
    resize: Literal["short_side", "stretch"] = "short_side"
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.25, 0.25, 0.25)
    decoder: Literal["pillow"] = "pillow"

    def pixels(self, image: Image.Image) -> Pixels:
        """An RGB picture as uint8 pixels (size, size, 3)."""
        width, height = image.size
        if (width, height) != (self.size, self.size):
            if self.resize == "stretch":
                image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
            else:
                short = min(width, height)
                width, height = self.size * width // short, self.size * height // short
                image = image.resize((width, height), Image.Resampling.BILINEAR)
                left, top = round((width - self.size) / 2), round((height - self.size) / 2)
                image = image.crop((left, top, left + self.size, top + self.size))
        return np.asarray(image, dtype=np.uint8)
