from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from spherood.data import Preprocess
from spherood.errors import ConfigError
from spherood.schema import parse

BILINEAR = Image.Resampling.BILINEAR


def drawn(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


# Sizes worked out by hand: the long side is 8 * long / short, cut to an integer; the crop starts at half of what is
# over, rounded to the even neighbour as torchvision's CenterCrop does.
@pytest.mark.parametrize(
    ("width", "height", "resized", "corner"),
    [
        (16, 12, (10, 8), (1, 0)),
        (12, 16, (8, 10), (0, 1)),
        (11, 8, (11, 8), (2, 0)),  # 1.5 -> 2
        (8, 11, (8, 11), (0, 2)),
        (9, 8, (9, 8), (0, 0)),  # .5 -> 0
        (13, 8, (13, 8), (2, 0)),  # 2.5 -> 2
        (8, 15, (8, 15), (0, 4)),  # 3.5 -> 4
        (5, 3, (13, 8), (2, 0)),  # enlarged
        (100, 30, (26, 8), (9, 0)),
        (20, 20, (8, 8), (0, 0)),
    ],
)
def test_the_short_side_is_resized_and_the_centre_cropped(
    width: int, height: int, resized: tuple[int, int], corner: tuple[int, int]
) -> None:
    image, (left, top) = drawn(width, height), corner
    expected = np.asarray(image.resize(resized, BILINEAR))[top : top + 8, left : left + 8]
    assert np.array_equal(Preprocess(size=8).pixels(image), expected)


@pytest.mark.parametrize(("width", "height"), [(16, 12), (12, 16), (5, 3), (3, 5), (8, 20)])
def test_stretching_resizes_both_sides(width: int, height: int) -> None:
    image = drawn(width, height)
    expected = np.asarray(image.resize((8, 8), BILINEAR))
    assert np.array_equal(Preprocess(size=8, resize="stretch").pixels(image), expected)


@pytest.mark.parametrize("resize", ["short_side", "stretch"])
def test_a_picture_of_that_size_stays_untouched(resize: Literal["short_side", "stretch"]) -> None:
    image = drawn(8, 8)
    found = Preprocess(size=8, resize=resize).pixels(image)
    assert np.array_equal(found, np.asarray(image))
    assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 0}, "size: Input should be greater than or equal to 1"),
        ({"resize": "strech"}, "resize: Input should be 'short_side', 'stretch' or 'none'"),
        ({"sise": 8}, "there is no key 'sise' here. Did you mean 'size'?"),
        ({"mean": [0.5]}, "mean"),
    ],
)
def test_a_setting_without_meaning_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as told:
        parse(Preprocess, settings, "recipe.yaml")
    assert message in str(told.value)
