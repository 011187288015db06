from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spherood.data.decode import SUFFIXES, read_rgb
from spherood.errors import ImageError

GREY = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def save(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path


def test_a_colour_picture_comes_as_it_was_saved(tmp_path: Path) -> None:
    found = read_rgb(save(Image.fromarray(COLOUR), tmp_path / "a.png"))
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), COLOUR)


def test_a_grey_picture_comes_with_three_equal_channels(tmp_path: Path) -> None:
    found = np.asarray(read_rgb(save(Image.fromarray(GREY), tmp_path / "a.png")))
    assert np.array_equal(found, np.stack([GREY] * 3, axis=2))


def test_a_palette_picture_comes_in_its_colours(tmp_path: Path) -> None:
    image = Image.fromarray(GREY % 3, mode="P")
    image.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    found = np.asarray(read_rgb(save(image, tmp_path / "a.png")))
    assert np.array_equal(found, np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]], dtype=np.uint8)[GREY % 3])


def test_transparency_is_dropped_and_the_colour_stays(tmp_path: Path) -> None:
    found = read_rgb(save(Image.fromarray(np.dstack([COLOUR, GREY])), tmp_path / "a.png"))
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), COLOUR)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_suffix_that_folders_look_for_can_be_read(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(GREY) if suffix == ".pgm" else Image.fromarray(COLOUR)
    found = read_rgb(save(image, tmp_path / f"a{suffix}"))
    assert (found.mode, found.size) == ("RGB", (7, 5))


def test_a_file_that_is_no_picture_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(ImageError) as told:
        read_rgb(path)
    assert str(told.value) == f"{path}: no such file."
    for content in (b"", b"this is a text\n" * 99):
        path.write_bytes(content)
        with pytest.raises(ImageError) as told:
            read_rgb(path)
        assert str(told.value) == f"{path}: not an image that Pillow can read."


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif", ".bmp", ".tif"])
def test_a_truncated_picture_is_named(tmp_path: Path, suffix: str) -> None:
    path = save(Image.fromarray(np.tile(COLOUR, (20, 20, 1))), tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError) as told:
        read_rgb(path)
    assert str(told.value).startswith(f"{path}: ")
    assert "truncated" in str(told.value) or suffix in (".webp", ".gif", ".tif")


def test_a_picture_too_large_to_be_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match=r"a\.png: damaged or too large: .*decompression bomb"):
        read_rgb(save(Image.fromarray(COLOUR), tmp_path / "a.png"))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".gif", ".tif", ".webp", ".ppm"])
@pytest.mark.filterwarnings("ignore")  # Pillow warns of strange headers
def test_damage_anywhere_gives_a_picture_or_an_image_error_and_nothing_else(tmp_path: Path, suffix: str) -> None:
    path = save(Image.fromarray(COLOUR), tmp_path / f"a{suffix}")
    whole, draw, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(60):
        broken = bytearray(whole)
        for _ in range(draw.choice([1, 5, 20])):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        path.write_bytes(broken)
        try:
            assert read_rgb(path).mode == "RGB"
        except ImageError:
            refused += 1
    assert refused > 5
