"""The arithmetic of crop, resize and flip, against Pillow's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from spherood.data.views import Plan, apply

STORED = np.random.default_rng(0).integers(0, 256, (6, 20, 24, 3), dtype=np.uint8)
BOXES = [(0, 0, 20, 24), (3, 5, 16, 16), (7, 2, 5, 9), (0, 10, 20, 3), (19, 23, 1, 1), (4, 0, 9, 17)]  # as Plan's
TWO_ROUNDINGS = 1.05 / 255  # Pillow rounds to uint8 after the rows and after the columns


def planned(boxes: list[tuple[int, int, int, int]], flip: list[bool] | None = None) -> Plan:
    """Only crop and flip."""
    rows = len(boxes)
    return Plan(
        box=np.array(boxes, dtype=np.int64),
        flip=np.array(flip or [False] * rows),
        factor=np.tile([1.0, 1.0, 1.0, 0.0], (rows, 1)),
        order=np.tile(np.arange(4), (rows, 1)),
        grey=np.zeros(rows, dtype=bool),
    )


def tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [4, 9, 16, 31])
def test_crops_are_pillows_when_shrinking_and_when_enlarging(size: int, flip: bool) -> None:
    found = apply(tensor(STORED), planned(BOXES, [flip] * 6), size)
    for view, stored, (top, left, height, width) in zip(found, STORED, BOXES, strict=True):
        image = Image.fromarray(stored).crop((left, top, left + width, top + height))
        expected = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)).astype(float) / 255
        expected = expected[:, ::-1] if flip else expected
        assert np.abs(view.permute(1, 2, 0).numpy() - expected).max() <= TWO_ROUNDINGS


def test_each_image_of_a_batch_is_flipped_by_its_own_draw() -> None:
    same = tensor(STORED[:1].repeat(3, axis=0))[:, :, :20, :20]
    found = apply(same, planned([(0, 0, 20, 20)] * 3, [False, True, False]), 20)
    assert torch.equal(found[1], found[0].flip(2))
    assert torch.equal(found[2], found[0])
    assert torch.equal(found, torch.stack([same[0], same[0].flip(2), same[0]]) / 255)


@pytest.mark.parametrize("flip", [False, True])
def test_a_shift_moves_pixels_exactly_and_leaves_black_borders(flip: bool) -> None:
    stored = tensor(STORED[:, :20, :20])[:, :, 4:, 4:]  # 16 x 16
    shifts = [(-3, 2), (4, 4), (0, -1), (-2, -2), (0, 0), (3, 0)]
    found = apply(stored, planned([(top, left, 16, 16) for top, left in shifts], [flip] * 6), 16)
    padded = torch.nn.functional.pad(stored / 255, (4, 4, 4, 4))
    expected = [padded[i, :, 4 + top : 20 + top, 4 + left : 20 + left] for i, (top, left) in enumerate(shifts)]
    assert torch.equal(found, torch.stack([x.flip(2) if flip else x for x in expected]))
