"""Where images come from, and how they become pixels. Free of torch but for `views` and `tensors`."""

from spherood.data.image_set import ImageSet
from spherood.data.preprocess import Preprocess
from spherood.data.source import Source

__all__ = ["ImageSet", "Preprocess", "Source"]
