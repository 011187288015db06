from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spherood.data import ImageSet, Preprocess
from spherood.data.folders import read_folder
from spherood.errors import DataError
from spherood.training import pixels
from spherood.training.pixels import load_pixels

PREPROCESS = Preprocess(size=4)


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    """Seven cats and five dogs, 6 x 4 pixels, read in blocks of five."""
    monkeypatch.setattr(pixels, "BLOCK", 5)
    draw = np.random.default_rng(0)
    for class_, images in (("cat", 7), ("dog", 5)):
        (tmp_path / class_).mkdir()
        for number in range(images):
            Image.fromarray(draw.integers(0, 256, (4, 6, 3), dtype=np.uint8)).save(tmp_path / class_ / f"{number}.png")
    return read_folder(tmp_path, "pets")


def expected(images: ImageSet) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.stack([PREPROCESS.pixels(images.read(row)) for row in range(len(images))])


def test_every_image_is_prepared_once_and_keeps_its_label(pets: ImageSet, capsys: pytest.CaptureFixture[str]) -> None:
    found = load_pixels(pets, PREPROCESS)
    assert np.array_equal(found.pixels.numpy(), expected(pets))
    assert found.label.tolist() == [0] * 7 + [1] * 5
    assert found.classes == ("cat", "dog")
    assert capsys.readouterr() == ("", "")


def test_unreadable_images_are_named_skipped_and_counted_on_stderr(
    pets: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = [tmp_path / "cat" / "1.png", tmp_path / "dog" / "3.png"]
    whole = expected(pets)
    for file in broken:
        file.write_bytes(b"")
    found = load_pixels(pets, PREPROCESS)
    assert np.array_equal(found.pixels.numpy(), np.delete(whole, [1, 10], axis=0))
    assert found.label.tolist() == [0] * 6 + [1] * 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        *(f"skipped: {file}: not an image that Pillow can read." for file in broken),
        "pets: skipped 2 of 12 unreadable images.",
    ]


def test_many_unreadable_images_are_counted_and_ten_of_them_named(
    pets: ImageSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in [*sorted(tmp_path.rglob("*.png"))[:6], *sorted(tmp_path.rglob("*.png"))[-4:]]:
        file.write_bytes(b"")
    again = ImageSet("pets", [*pets.images, *pets.images], np.tile(pets.label, 2), [*pets.names] * 2, pets.classes)
    load_pixels(again, PREPROCESS)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["skipped"] * 10 + ["pets"]
    assert lines[-1] == "pets: skipped 20 of 24 unreadable images."


@pytest.mark.parametrize(("class_", "pattern"), [("dog", "dog/*.png"), ("cat", "*/*.png")])
def test_a_class_without_a_readable_image_is_named(pets: ImageSet, tmp_path: Path, class_: str, pattern: str) -> None:
    for file in tmp_path.glob(pattern):
        file.write_bytes(b"")
    with pytest.raises(DataError, match=rf"pets: class '{class_}' has no image"):
        load_pixels(pets, PREPROCESS)


def test_a_set_without_classes_is_refused_before_anything_is_read(
    pets: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Callable[..., object] = lambda images, row: pytest.fail("read an image")  # noqa: E731
    monkeypatch.setattr(ImageSet, "read", read)
    with pytest.raises(DataError, match="pets: training needs at least two classes, found 1"):
        load_pixels(pets.keep_classes(["dog"]), PREPROCESS)
