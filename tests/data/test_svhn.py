from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spherood.data.svhn import read_svhn
from spherood.errors import DataError, MissingExtraError

savemat = pytest.importorskip("scipy.io").savemat

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
Y = np.array([[1], [10], [9], [10]], dtype=np.uint8)


def save(tmp_path: Path, name: str = "test_32x32.mat", **content: Any) -> Path:
    savemat(tmp_path / name, content)
    return tmp_path / name


def test_the_images_come_in_their_order_and_ten_is_the_digit_0(tmp_path: Path) -> None:
    found = read_svhn(save(tmp_path, X=PIXELS, y=Y))
    for row in range(4):
        assert np.array_equal(np.asarray(found.read(row)), PIXELS[:, :, :, row])
    assert found.label.tolist() == [1, 0, 9, 0]
    assert found.label.dtype == np.int64
    assert found.classes == tuple("0123456789")
    assert (found.name, found.names[3]) == ("test_32x32", "test_32x32.mat[3]")


def test_a_selection_of_it_and_compressed_files_are_read_alike(tmp_path: Path) -> None:
    chosen = tmp_path / "selected_test_32x32.mat"
    savemat(chosen, {"X": PIXELS[..., [2, 0]], "y": Y[[2, 0]]}, do_compression=True)
    found = read_svhn(chosen, "SVHN")
    assert (found.name, found.label.tolist()) == ("SVHN", [9, 1])
    assert np.array_equal(np.asarray(found.read(0)), PIXELS[..., 2])


def test_labels_that_were_saved_as_real_numbers_count(tmp_path: Path) -> None:
    assert read_svhn(save(tmp_path, X=PIXELS, y=Y.astype(float))).label.tolist() == [1, 0, 9, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"y": Y}, "there is no 'X' in it. Is it one of SVHN's cropped digits (format 2)?"),
        ({"X": PIXELS}, "there is no 'y' in it"),
        ({"X": PIXELS.astype(float), "y": Y}, "expected X of uint8 (32, 32, 3, N), got float64 (32, 32, 3, 4). Is it"),
        ({"X": PIXELS[:16], "y": Y}, "got uint8 (16, 32, 3, 4)"),
        ({"X": PIXELS[..., 0], "y": Y}, "got uint8 (32, 32, 3)"),
        ({"X": PIXELS[..., :0], "y": Y[:0]}, "expected X of uint8 (32, 32, 3, N), got "),
        ({"X": PIXELS, "y": Y[:3]}, "expected y of numbers (4, 1), got uint8 (3, 1). Download it again."),
        ({"X": PIXELS, "y": np.array(["a"] * 4)[:, None]}, "expected y of numbers (4, 1), got "),
        ({"X": PIXELS, "y": Y + 1}, "labels run 2..11, expected 1..10 where 10 is the digit 0. Download it again."),
        ({"X": PIXELS, "y": Y - 0.5}, "labels run 0.5..9.5, expected 1..10"),
    ],
)
def test_another_content_is_told(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    path = save(tmp_path, **content)
    with pytest.raises(DataError) as told:
        read_svhn(path)
    assert str(told.value).startswith(f"{path}: ")
    assert message in str(told.value)


def test_what_is_no_mat_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.mat: no such file\. Check the path, or where --data points"):
        read_svhn(tmp_path / "none.mat")
    file = save(tmp_path, X=PIXELS, y=Y)
    whole = file.read_bytes()
    for content in (b"", b"this is a text\n" * 99, whole[:4000]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"test_32x32\.mat: not a MAT file, or damaged: .+ Download it again"):
            read_svhn(file)


def test_without_scipy_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "meta_path", [NoScipy(), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=r"SVHN: needs scipy, .* pip install 'spherood\[svhn\]'"):
        read_svhn(tmp_path / "test_32x32.mat")


class NoScipy:
    """A finder that finds no SciPy."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] == "scipy":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
