from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spherood.data import ImageSet, overlap
from spherood.data.folders import read_folder
from spherood.data.overlap import check_disjoint, shared_images
from spherood.errors import DataError

Picture = Callable[..., Path]
NOISE = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)


def held(rows: list[int], pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = NOISE) -> ImageSet:
    """Pixels in memory, named by their number."""
    return ImageSet("held", pixels[rows], np.zeros(len(rows), dtype=np.int64), [f"no. {row}" for row in rows], ("a",))


def listed(files: list[Path]) -> ImageSet:
    return ImageSet("listed", files, np.zeros(len(files), dtype=np.int64), [f"{f.parent.name}/{f.name}" for f in files])


def test_equal_pixels_are_shared_and_named_as_the_first_set_names_them() -> None:
    assert shared_images(held([0, 1, 2, 5]), held([5, 3, 1])) == ["no. 1", "no. 5"]
    assert shared_images(held([0, 1]), held([2, 3])) == []
    assert shared_images(held([4]), held([])) == []


def test_one_changed_byte_makes_another_image_and_so_does_another_shape() -> None:
    other = NOISE.copy()
    other[1, 3, 3, 2] ^= 1
    assert shared_images(held([0, 1]), held([0, 1], other)) == ["no. 0"]
    assert shared_images(held([0]), held([0], NOISE.reshape(6, 2, 8, 3))) == []


def test_files_are_shared_by_their_real_folder_not_by_their_name_alone(tmp_path: Path, picture: Picture) -> None:
    for name in ("a/cat/1.png", "a/cat/2.png", "b/cat/1.png"):
        picture(name)
    (tmp_path / "link").symlink_to(tmp_path / "a", target_is_directory=True)
    assert shared_images(read_folder(tmp_path / "a"), read_folder(tmp_path / "b")) == []
    assert shared_images(read_folder(tmp_path / "link"), read_folder(tmp_path / "a")) == ["cat/1.png", "cat/2.png"]
    detour = listed([tmp_path / "b" / ".." / "a" / "cat" / "2.png"])
    assert shared_images(read_folder(tmp_path / "a"), detour) == ["cat/2.png"]


def test_files_and_pixels_are_never_compared(tmp_path: Path, picture: Picture) -> None:
    pixels = np.asarray(read_folder(picture("a/1.png").parent).read(0))[None]
    images = ImageSet("held", pixels, np.zeros(1, dtype=np.int64), ["1.png"])
    assert shared_images(read_folder(tmp_path / "a"), images) == []


def test_a_link_to_a_file_is_that_file(tmp_path: Path, picture: Picture) -> None:
    there = picture("a/1.png")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "one.png").symlink_to(there)
    assert shared_images(read_folder(tmp_path / "b"), read_folder(tmp_path / "a")) == ["one.png"]


def test_the_first_pair_that_shares_is_told_with_the_number_and_one_name() -> None:
    sets = {"ID train": held([0]), "ID test": held([1, 2, 3]), "ood tin": held([4, 3, 2]), "ood svhn": held([0])}
    with pytest.raises(DataError) as told:
        check_disjoint({name: images for name, images in sets.items() if name != "ood svhn"})
    assert str(told.value) == (
        "ID test and ood tin share 2 images, first no. 2. An image may stand in one set only: "
        "take it out of one of the lists."
    )
    with pytest.raises(DataError, match=r"^ID train and ood svhn share 1 image, first no\. 0\."):
        check_disjoint(sets)


def test_disjoint_sets_pass_and_each_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    keys = overlap._keys
    monkeypatch.setattr(overlap, "_keys", lambda images: looked.append(len(images)) or keys(images))
    check_disjoint({"a": held([0]), "b": held([1, 2]), "c": held([3, 4, 5]), "d": listed([])})
    assert looked == [1, 2, 3, 0]
    check_disjoint({})
    check_disjoint({"alone": held([0, 0])})  # twice within one set is no overlap
