from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from spherood.data import Preprocess
from spherood.errors import ConfigError, ImageError
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


# By hand: the long side is 12 * long / short, cut to an integer; the crop of 8 starts at half of what is over.
@pytest.mark.parametrize(
    ("width", "height", "resized", "corner"),
    [
        (24, 18, (16, 12), (4, 2)),
        (18, 25, (12, 16), (2, 4)),  # 16.67 -> 16
        (13, 12, (13, 12), (2, 2)),  # 2.5 -> 2
        (8, 8, (12, 12), (2, 2)),  # of the model's size, and still resized and cropped
        (12, 12, (12, 12), (2, 2)),
        (5, 7, (12, 16), (2, 4)),  # enlarged
    ],
)
def test_a_longer_short_side_is_resized_first_and_the_crop_is_smaller(
    width: int, height: int, resized: tuple[int, int], corner: tuple[int, int]
) -> None:
    image, (left, top) = drawn(width, height), corner
    expected = np.asarray(image.resize(resized, BILINEAR))[top : top + 8, left : left + 8]
    assert np.array_equal(Preprocess(size=8, short_side=12).pixels(image), expected)


def test_a_short_side_equal_to_the_size_changes_nothing() -> None:
    for image in (drawn(8, 8), drawn(11, 8), drawn(20, 13)):
        assert np.array_equal(Preprocess(size=8, short_side=8).pixels(image), Preprocess(size=8).pixels(image))


@pytest.mark.parametrize("resize", ["short_side", "stretch"])
def test_the_kernel_may_be_bicubic(resize: Literal["short_side", "stretch"]) -> None:
    image = drawn(20, 20)
    found = Preprocess(size=8, resize=resize, kernel="bicubic").pixels(image)
    assert np.array_equal(found, np.asarray(image.resize((8, 8), Image.Resampling.BICUBIC)))
    assert not np.array_equal(found, Preprocess(size=8, resize=resize).pixels(image))


def test_without_resizing_a_picture_of_that_size_stays_untouched_and_another_is_refused() -> None:
    as_is = Preprocess(size=8, resize="none")
    assert np.array_equal(as_is.pixels(drawn(8, 8)), np.asarray(drawn(8, 8)))
    for width, height in ((8, 9), (9, 8), (16, 16)):
        with pytest.raises(ImageError, match=rf"{width} x {height}, expected 8 x 8 as it is\. Use a resize rule\."):
            as_is.pixels(drawn(width, height))


def test_the_rule_is_told_in_words() -> None:
    assert Preprocess(size=224, short_side=256).rule == "short side to 256 px, centre 224 px, bilinear"
    assert Preprocess(size=32, kernel="bicubic").rule == "short side to 32 px, centre 32 px, bicubic"
    assert Preprocess(size=32, resize="stretch").rule == "both sides to 32 px, bilinear"
    assert Preprocess(size=32, resize="none").rule == "as they are, 32 px"


def test_a_short_side_below_the_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"short_side 7 is smaller than size 8\. Make it at least that\."):
        parse(Preprocess, {"size": 8, "short_side": 7}, "recipe.yaml")
    with pytest.raises(ConfigError, match="kernel: Input should be 'bilinear' or 'bicubic'"):
        parse(Preprocess, {"kernel": "lanczos"}, "recipe.yaml")


@pytest.mark.parametrize(("size", "resized"), [(224, (33_600, 224)), (32, (4_800, 32))])
@pytest.mark.parametrize("upright", [False, True])
def test_a_picture_of_thirty_thousand_pixels_gives_its_centre(
    size: int, resized: tuple[int, int], upright: bool
) -> None:
    """By hand: the long side is size * 30,000 / 200. Grey grows along it, so the centre is half bright."""
    ramp = np.repeat(np.linspace(0, 255, 30_000).astype(np.uint8)[None, :, None], 200, axis=0).repeat(3, axis=2)
    image = Image.fromarray(ramp.swapaxes(0, 1) if upright else ramp)
    found = Preprocess(size=size).pixels(image)
    assert found.shape == (size, size, 3)
    assert np.abs(found.astype(int) - 127).max() <= 1 + 128 * size // resized[0]


@pytest.mark.parametrize(
    ("width", "height", "resized"),
    [(30_000, 2, "3360000 x 224"), (2, 30_000, "224 x 3360000"), (1, 1_784, "224 x 399616")],
)
def test_a_long_narrow_picture_is_refused_before_it_is_enlarged_beyond_memory(
    width: int, height: int, resized: str
) -> None:
    with pytest.raises(ImageError) as told:
        Preprocess(size=224).pixels(Image.new("RGB", (width, height)))
    assert str(told.value) == (
        f"a picture of {width} x {height} would become {resized} before the centre is cut out, too much for memory. "
        "Crop it first."
    )


def test_the_limit_is_pillows_and_lies_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    image = drawn(9, 3)  # becomes 24 x 8, 192 pixels
    expected = Preprocess(size=8).pixels(image)
    for limit in (192, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert np.array_equal(Preprocess(size=8).pixels(image), expected)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 191)
    with pytest.raises(ImageError, match="a picture of 9 x 3 would become 24 x 8 before"):
        Preprocess(size=8).pixels(image)
