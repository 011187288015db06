"""From a picture to the pixels a model expects: one record, stored with every result, so that nothing is guessed later.

Free of torch. Scores that differ between training and production nearly always differ here: in the resize kernel,
the crop, the scaling or the normalisation.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator

from spherood.errors import ImageError
from spherood.schema import Strict

Pixels = NDArray[np.uint8]  # (S, S, 3)
Triple = tuple[float, float, float]


KERNELS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class Preprocess(Strict):
    """Decoder, size, resize rule and normalisation.

    resize="short_side": the short side to `short_side` pixels (`size`, if None), then the centre of `size` (OpenOOD's
    and CIDER's rule); "stretch": both sides to `size`; "none": the picture must have that size. `kernel` with Pillow's
    antialiasing; a picture that has the size already is not resampled. mean and std: of pixels in 0..1, per channel.
    """

    size: int = Field(default=32, ge=1)
    resize: Literal["short_side", "stretch", "none"] = "short_side"
    short_side: int | None = None
    kernel: Literal["bilinear", "bicubic"] = "bilinear"
    mean: Triple = (0.5, 0.5, 0.5)
    std: Triple = (0.25, 0.25, 0.25)
    decoder: Literal["pillow"] = "pillow"

    @model_validator(mode="after")
    def _short_side_holds_the_crop(self) -> Preprocess:
        if self.short_side is not None and self.short_side < self.size:
            raise ValueError(f"short_side {self.short_side} is smaller than size {self.size}. Make it at least that.")
        return self

    @property
    def rule(self) -> str:
        """The resize rule in words: "short side to 256 px, centre 224 px, bilinear"."""
        if self.resize == "none":
            return f"as they are, {self.size} px"
        if self.resize == "stretch":
            return f"both sides to {self.size} px, {self.kernel}"
        return f"short side to {self.short_side or self.size} px, centre {self.size} px, {self.kernel}"

    def pixels(self, image: Image.Image) -> Pixels:
        """An RGB picture as uint8 pixels (size, size, 3).

        ImageError where "none" meets another size, and where a long narrow picture, resized by its short side, would
        have more than PIL.Image.MAX_IMAGE_PIXELS pixels.
        """
        width, height = image.size
        short_side = self.short_side or self.size
        if self.resize == "none":
            if (width, height) != (self.size, self.size):
                raise ImageError(
                    f"a picture of {width} x {height}, expected {self.size} x {self.size} as it is. Use a resize rule."
                )
        elif self.resize == "stretch":
            if (width, height) != (self.size, self.size):
                image = image.resize((self.size, self.size), KERNELS[self.kernel])
        else:
            short = min(width, height)
            if short != short_side:
                width, height = short_side * width // short, short_side * height // short
                if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
                    raise ImageError(
                        f"a picture of {image.width} x {image.height} would become {width} x {height} before the "
                        "centre is cut out, too much for memory. Crop it first."
                    )
                image = image.resize((width, height), KERNELS[self.kernel])
            if (width, height) != (self.size, self.size):
                left, top = round((width - self.size) / 2), round((height - self.size) / 2)
                image = image.crop((left, top, left + self.size, top + self.size))
        return np.asarray(image, dtype=np.uint8)
