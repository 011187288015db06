from __future__ import annotations

import torch

from spherood.data import Preprocess
from spherood.data.tensors import normalised

PREPROCESS = Preprocess(size=2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))


def test_pixels_are_scaled_shifted_and_turned_to_channels_first() -> None:
    pixels = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    pixels[0, 0, 1] = torch.tensor([255, 51, 102])
    found = normalised(pixels, PREPROCESS)
    assert (found.shape, found.dtype) == ((1, 3, 2, 2), torch.float32)
    torch.testing.assert_close(found[0, :, 0, 1], torch.tensor([0.9 / 0.5, 0.0, 0.1 / 2]))
    torch.testing.assert_close(found[0, :, 1, 0], torch.tensor([-0.1 / 0.5, -0.2 / 0.25, -0.3 / 2]))
    assert found.is_contiguous(memory_format=torch.channels_last)
