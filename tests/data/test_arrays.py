from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spherood.data.arrays import read_arrays
from spherood.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 3), dtype=np.uint8)


def save(tmp_path: Path, content: Any, name: str = "images.npy", **options: Any) -> Path:
    np.save(tmp_path / name, content, **options)
    return tmp_path / name


def test_colour_images_and_their_labels_are_read(tmp_path: Path) -> None:
    labels = save(tmp_path, np.array([2, 0, 2, 2, 0], dtype=np.uint8), "labels.npy")
    found = read_arrays(save(tmp_path, PIXELS), labels, "cells")
    assert np.array_equal(np.asarray(found.read(3)), PIXELS[3])
    assert (found.name, len(found), found.names[3]) == ("cells", 5, "images.npy[3]")
    assert found.label.tolist() == [2, 0, 2, 2, 0]
    assert found.classes == ("0", "1", "2")


def test_grey_images_become_rgb_and_without_a_file_labels_are_unknown(tmp_path: Path) -> None:
    found = read_arrays(save(tmp_path, PIXELS[..., 0]))
    assert np.array_equal(np.asarray(found.read(1)), np.stack([PIXELS[1, ..., 0]] * 3, axis=2))
    assert (found.name, found.label.tolist(), found.classes) == ("images", [-1] * 5, ())


def test_colour_images_stay_on_disk(tmp_path: Path) -> None:
    assert isinstance(read_arrays(save(tmp_path, PIXELS)).images, np.memmap)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PIXELS.astype(np.float32), r"expected uint8 \(N, H, W, 3\) or \(N, H, W\), got float32 \(5, 4, 3, 3\)"),
        (PIXELS[..., :2], r"got uint8 \(5, 4, 3, 2\)"),
        (PIXELS[0, 0], r"got uint8 \(3, 3\)"),
        (PIXELS[:0], "holds no image"),
    ],
)
def test_another_type_or_shape_is_told(tmp_path: Path, content: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(DataError, match=rf"images\.npy: .*{message}"):
        read_arrays(save(tmp_path, content))


def test_labels_that_do_not_fit_the_images_are_told(tmp_path: Path) -> None:
    images = save(tmp_path, PIXELS)
    with pytest.raises(DataError, match=r"few\.npy: expected integers \(5,\), got int64 \(4,\)"):
        read_arrays(images, save(tmp_path, np.arange(4), "few.npy"))
    with pytest.raises(DataError, match=r"real\.npy: expected integers \(5,\), got float64 \(5,\)"):
        read_arrays(images, save(tmp_path, np.zeros(5), "real.npy"))
    with pytest.raises(DataError, match=r"none\.npy: no such file"):
        read_arrays(images, tmp_path / "none.npy")


class Trap:
    """Would run a command when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("sprung"),)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trap = save(tmp_path, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"images\.npy: not a NumPy array file"):
        read_arrays(trap)
    assert not Path("sprung").exists()
    np.load(trap, allow_pickle=True)
    assert Path("sprung").exists()  # so it was a trap


def test_a_file_of_another_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npy: no such file\. Check the path, or where --data points"):
        read_arrays(tmp_path / "none.npy")
    text = tmp_path / "text.npy"
    for content in (b"", b"some text", b"\x93NUMPY\x01\x00"):
        text.write_bytes(content)
        with pytest.raises(DataError, match=r"text\.npy: not a NumPy array file"):
            read_arrays(text)
    np.savez(tmp_path / "many.npz", images=PIXELS)
    with pytest.raises(DataError, match=r"many\.npz: holds several arrays\. Save the one of the images"):
        read_arrays(tmp_path / "many.npz")
