from __future__ import annotations

import os
import random
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spherood.data.decode import SUFFIXES, read_rgb, rgb
from spherood.errors import ImageError

GREY = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)


WIDE = np.array([[0, 1, 255, 256], [511, 32768, 65279, 65535]], dtype=np.uint16)
HIGH_BYTE = np.array([[0, 0, 0, 1], [1, 128, 254, 255]])  # by hand: WIDE // 256
ORIENTATION = 0x0112


def save(image: Image.Image, path: Path, **settings: Any) -> Path:
    image.save(path, **settings)
    return path


def oriented(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = number
    return exif


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


@pytest.mark.parametrize("transparency", [1, bytes([0, 128, 255])])
def test_a_palette_picture_with_transparency_comes_in_its_colours_without_a_warning(
    tmp_path: Path, transparency: int | bytes
) -> None:
    image = Image.fromarray(GREY % 3, mode="P")
    image.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    path = save(image, tmp_path / "a.png", transparency=transparency)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_rgb(path)
    assert found.mode == "RGB"
    colours = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 30]], dtype=np.uint8)
    assert np.array_equal(np.asarray(found), colours[GREY % 3])


def test_grey_with_alpha_one_bit_and_a_transparent_colour_come_as_their_greys_and_colours(tmp_path: Path) -> None:
    alpha = save(Image.fromarray(np.dstack([GREY, GREY.T.reshape(5, 7)]), mode="LA"), tmp_path / "alpha.png")
    assert np.array_equal(np.asarray(read_rgb(alpha)), np.stack([GREY] * 3, axis=2))
    one_bit = save(Image.fromarray(GREY > 127), tmp_path / "bit.png")
    assert Image.open(one_bit).mode == "1"
    assert np.array_equal(np.asarray(read_rgb(one_bit)), np.stack([255 * (GREY > 127)] * 3, axis=2))
    key = save(Image.fromarray(COLOUR), tmp_path / "key.png", transparency=tuple(COLOUR[0, 0].tolist()))
    assert np.array_equal(np.asarray(read_rgb(key)), COLOUR)


def test_a_jpeg_of_inks_and_one_of_luma_come_in_their_colours(tmp_path: Path) -> None:
    """No black ink: red is 255 - cyan, and so on. JPEG holds luma and chroma: a grey picture has none of the second."""
    ink = Image.new("CMYK", (16, 16), (255, 100, 0, 0))
    found = np.asarray(read_rgb(save(ink, tmp_path / "ink.jpg", quality=100))).astype(int)
    assert np.abs(found - [0, 155, 255]).max() <= 2
    luma = Image.new("YCbCr", (16, 16), (90, 128, 128))
    found = np.asarray(read_rgb(save(luma, tmp_path / "luma.jpg", quality=100)))
    assert (found == 90).all()


@pytest.mark.parametrize(
    ("name", "order", "mode"),
    [("a.png", "<", "I;16 or I"), ("a.tif", "<", "I;16"), ("a.tif", ">", "I;16B"), ("a.pgm", "<", "I")],
)
def test_of_sixteen_bits_the_high_byte_is_taken(tmp_path: Path, name: str, order: str, mode: str) -> None:
    path = save(Image.fromarray(WIDE.astype(f"{order}u2")), tmp_path / name)
    with Image.open(path) as image:
        assert image.mode in mode.split()  # else this tests another case than it says
    found = read_rgb(path)
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), np.stack([HIGH_BYTE] * 3, axis=2))
    assert np.array_equal(np.asarray(rgb(Image.fromarray(WIDE.astype(np.int32)))), np.asarray(found))


def test_sixteen_bits_of_colour_come_as_their_high_bytes_too(tmp_path: Path) -> None:
    """A PNG written by hand: Pillow reads such a file and cannot write it."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + struct.pack(">HHH", 255, 256, 65535))),
        (b"IEND", b""),
    ]
    content = b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert read_rgb(tmp_path / "a.png").getpixel((0, 0)) == (0, 1, 255)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.array([[0, 65536]], dtype=np.int32), "the pixels run 0..65536, beyond 16 bits: "),
        (np.array([[-1, 9]], dtype=np.int32), "the pixels run -1..9, beyond 16 bits: "),
        (np.array([[0.0, 1.0]], dtype=np.float32), "the pixels are 32-bit floats: "),
    ],
)
def test_wider_pixels_are_refused_with_the_way_out(tmp_path: Path, pixels: Any, message: str) -> None:
    whole = f"{message}only their owner knows which scaling is right. Convert the picture to 8 bits yourself."
    with pytest.raises(ImageError) as told:
        rgb(Image.fromarray(pixels))
    assert str(told.value) == whole
    path = save(Image.fromarray(pixels), tmp_path / "a.tif")
    with pytest.raises(ImageError) as told:
        read_rgb(path)
    assert str(told.value) == f"{path}: {whole}"


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_of_several_frames_the_first_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (7, 5), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    settings = {"lossless": True} if suffix == ".webp" else {}
    path = save(frames[0], tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **settings)
    with Image.open(path) as image:
        assert image.n_frames == 3
        image.seek(1)
        assert rgb(image).getcolors() == [(35, (0, 255, 0))]  # in memory: the one it stands at
    assert read_rgb(path).getcolors() == [(35, (255, 0, 0))]


# What is done to the stored pixels so that the picture stands upright, from the EXIF specification's table of what the
# first row and the first column are.
UPRIGHT = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_a_picture_that_tells_its_orientation_is_turned_upright_once(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    settings = {"lossless": True} if suffix == ".webp" else {}
    path = save(Image.fromarray(COLOUR), tmp_path / f"a{suffix}", exif=oriented(orientation), **settings)
    found = read_rgb(path)
    assert np.array_equal(np.asarray(found), UPRIGHT[orientation](COLOUR))
    assert np.array_equal(np.asarray(rgb(found)), np.asarray(found))
    assert found.info == {}
    with Image.open(path) as image:
        assert np.array_equal(np.asarray(rgb(image)), np.asarray(found))
        assert np.array_equal(np.asarray(rgb(image)), np.asarray(found))  # the first call left the picture as it was


def test_a_jpeg_and_sixteen_bits_are_turned_too(tmp_path: Path) -> None:
    wide = save(Image.fromarray(WIDE), tmp_path / "a.png", exif=oriented(6))
    assert np.array_equal(np.asarray(read_rgb(wide))[..., 0], UPRIGHT[6](HIGH_BYTE))
    left_red = np.zeros((16, 32, 3), dtype=np.uint8)
    left_red[:, :16, 0] = 255
    found = read_rgb(save(Image.fromarray(left_red), tmp_path / "a.jpg", exif=oriented(6)))
    assert found.size == (16, 32)
    assert found.getpixel((8, 4))[0] > 250
    assert found.getpixel((8, 28))[0] < 5


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.filterwarnings("ignore")  # Pillow warns of it
@pytest.mark.parametrize("exif", [b"", b"II", b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff\x12\x01"])
def test_damaged_exif_is_ignored(tmp_path: Path, suffix: str, exif: bytes) -> None:
    path = save(Image.fromarray(COLOUR), tmp_path / f"a{suffix}", exif=b"Exif\0\0" + exif)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(np.asarray(read_rgb(path)), expected)


def test_exif_that_raises_inside_pillow_is_ignored() -> None:
    image = Image.fromarray(COLOUR)
    image.info["exif"] = b"Exif\0\0no TIFF header"
    with pytest.raises(SyntaxError):
        image.getexif()
    again = Image.fromarray(COLOUR)
    again.info["exif"] = image.info["exif"]
    assert np.array_equal(np.asarray(rgb(again)), COLOUR)


def test_a_picture_in_memory_stays_and_another_one_is_given() -> None:
    for image in (Image.fromarray(COLOUR), Image.fromarray(GREY), Image.fromarray(WIDE)):
        image.info["transparency"] = 0
        before = image.copy()
        found = rgb(image)
        found.paste((1, 2, 3), (0, 0, *found.size))
        assert (image.mode, image.info) == (before.mode, before.info)
        assert np.array_equal(np.asarray(image), np.asarray(before))


def test_a_picture_in_memory_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"^a picture of 0 x 5: it has no pixel\.$"):
        rgb(Image.new("I", (0, 5)))
    with pytest.raises(
        ImageError, match=r"^conversion from La to L not supported\. Convert the picture to RGB yourself\."
    ):
        rgb(Image.new("La", (3, 2)))
    path = save(Image.fromarray(np.tile(COLOUR, (20, 20, 1))), tmp_path / "a.png")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with (
        Image.open(path) as image,
        pytest.raises(ImageError, match=r"^damaged: .*truncated.*\. Copy or save it again\.$"),
    ):
        rgb(image)


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
    reason = str(told.value).removeprefix(f"{path}: ")
    assert reason.startswith("damaged: ")
    assert reason.endswith(". Copy or save it again.")
    assert "truncated" in reason or suffix in (".webp", ".gif", ".tif")


def test_a_folder_and_a_path_through_a_file_are_named_with_the_reason(tmp_path: Path) -> None:
    folder = tmp_path / "x.png"
    folder.mkdir()
    with pytest.raises(ImageError) as told:
        read_rgb(folder)
    assert str(told.value) == f"{folder}: cannot be read: Is a directory."
    path = save(Image.fromarray(COLOUR), tmp_path / "a.png")
    with pytest.raises(ImageError) as told:
        read_rgb(path / "b.png")
    assert str(told.value) == f"{path / 'b.png'}: cannot be read: Not a directory."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_named_with_the_reason(tmp_path: Path) -> None:
    path = save(Image.fromarray(COLOUR), tmp_path / "a.png")
    path.chmod(0)
    with pytest.raises(ImageError) as told:
        read_rgb(path)
    assert str(told.value) == f"{path}: cannot be read: Permission denied."


def test_a_picture_too_large_to_be_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    path = save(Image.fromarray(COLOUR), tmp_path / "a.png")
    with pytest.raises(ImageError) as told:
        read_rgb(path)
    assert str(told.value) == (
        f"{path}: too large: Image size (35 pixels) exceeds limit of 20 pixels, could be decompression bomb DOS "
        "attack. Make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS."
    )


def test_a_picture_between_once_and_twice_the_limit_is_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(Image.fromarray(COLOUR), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with warnings.catch_warnings(record=True) as escaped, ThreadPoolExecutor(2) as pool:
        for asked in ("always", "error"):  # the second lies above what the first reading has set
            warnings.simplefilter(asked)
            for image in pool.map(read_rgb, [path] * 20):
                assert np.array_equal(np.asarray(image), COLOUR)
        with pytest.raises(UserWarning, match="another"):  # what else warns still does
            warnings.warn("another", UserWarning, stacklevel=1)
    assert escaped == []


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
