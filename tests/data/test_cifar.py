from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spherood.data.cifar import cifar_present, read_cifar
from spherood.errors import DataError

CLASSES = ("cat", "dog", "owl")
FOLDERS = ("cifar-10-batches-py", "cifar-100-python", "cifar-10-batches-bin", "cifar-100-binary")
LABEL = {"train": [0, 1, 1, 2, 0, 2, 1, 1, 1, 0], "test": [2, 0]}
RNG = np.random.default_rng(0)
PIXELS = {split: RNG.integers(0, 256, (len(label), 32, 32, 3), dtype=np.uint8) for split, label in LABEL.items()}


class Python2(pickle._Pickler):
    """Writes every string as Python 2 did: bytes without a name for their encoding."""

    def _string(self, text: str | bytes) -> None:
        raw = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(text)

    dispatch = pickle._Pickler.dispatch | {str: _string, bytes: _string}  # type: ignore[attr-defined]


def pickled(file: Path, content: Any, python: int = 2) -> None:
    with file.open("wb") as stream:
        (Python2 if python == 2 else pickle.Pickler)(stream, protocol=2).dump(content)


def planes(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 32, 32, 3) to (N, 3072), all red bytes first, by a slow loop over the channels."""
    return np.concatenate([pixels[..., channel].reshape(len(pixels), -1) for channel in range(3)], axis=1)


def archive(root: Path, folder: str, python: int = 2) -> Path:
    """One of the four archives with 10 training and 2 test images; CIFAR-10 keeps two training images a file."""
    place = root / folder
    place.mkdir(parents=True)
    hundred, binary = "100" in folder, "bin" in folder
    if hundred:
        batches = {split: (split, range(len(label))) for split, label in LABEL.items()}
    else:
        batches = {f"data_batch_{n + 1}": ("train", range(2 * n, 2 * n + 2)) for n in range(5)}
        batches["test_batch"] = ("test", range(2))
    for file, (split, rows) in batches.items():
        data, label = planes(PIXELS[split][list(rows)]), [LABEL[split][row] for row in rows]
        coarse = [9] * len(label)
        if binary:
            columns = ([coarse] if hundred else []) + [label]
            records = np.concatenate([np.array(columns, dtype=np.uint8).T, data], axis=1)
            (place / f"{file}.bin").write_bytes(records.tobytes())
        else:
            keys = {"fine_labels": label, "coarse_labels": coarse} if hundred else {"labels": label}
            pickled(place / file, {"data": data, "filenames": ["a.png"], **keys}, python)
    if binary:
        (place / ("fine_label_names.txt" if hundred else "batches.meta.txt")).write_text("\n".join(CLASSES) + "\n\n")
    else:
        key = "fine_label_names" if hundred else "label_names"
        pickled(place / ("meta" if hundred else "batches.meta"), {key: list(CLASSES), "num_vis": 3072}, python)
    return place


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_archive_gives_the_same_images_in_its_order_with_fine_labels(tmp_path: Path, folder: str) -> None:
    place = archive(tmp_path, folder)
    for split in ("train", "test"):
        found = read_cifar(place, split)  # type: ignore[arg-type]
        assert np.array_equal(found.images, PIXELS[split])
        assert found.label.tolist() == LABEL[split]
        assert found.label.dtype == np.int64
        assert found.classes == CLASSES
        assert found.name == f"{'CIFAR-100' if '100' in folder else 'CIFAR-10'} {split}"
    assert read_cifar(place, "test", "ours").name == "ours"


def test_the_red_plane_comes_first_and_rows_before_columns(tmp_path: Path) -> None:
    place = archive(tmp_path, "cifar-10-batches-bin")
    record = bytes([1]) + bytes(range(256)) * 12
    (place / "test_batch.bin").write_bytes(record)
    image = read_cifar(place, "test").read(0)
    assert image.getpixel((0, 0)) == (0, 0, 0)
    assert image.getpixel((3, 0)) == (3, 3, 3)
    assert image.getpixel((0, 2)) == (64, 64, 64)  # 2 rows of 32
    (place / "test_batch.bin").write_bytes(bytes([1]) + b"\x07" * 1024 + b"\x08" * 1024 + b"\x09" * 1024)
    assert read_cifar(place, "test").read(0).getpixel((5, 5)) == (7, 8, 9)


def test_names_count_each_class_in_the_order_of_the_archive(tmp_path: Path) -> None:
    found = read_cifar(archive(tmp_path, "cifar-100-python"), "train")
    assert found.names[:5] == ["cat/0001", "dog/0001", "dog/0002", "owl/0001", "cat/0002"]
    assert len(set(found.names)) == 10


@pytest.mark.parametrize("folder", FOLDERS[:2])
def test_pickles_of_python_3_are_read_as_well(tmp_path: Path, folder: str) -> None:
    found = read_cifar(archive(tmp_path, folder, python=3), "train")
    assert np.array_equal(found.images, PIXELS["train"])
    assert found.classes == CLASSES


def test_the_old_name_of_numpys_reconstruct_is_known(tmp_path: Path) -> None:
    place = archive(tmp_path, "cifar-10-batches-py")
    file = place / "test_batch"
    content = file.read_bytes()
    old = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    file.write_bytes(old)
    assert b"numpy.core.multiarray" in old
    assert np.array_equal(read_cifar(place, "test").images, PIXELS["test"])


def test_the_folder_around_one_archive_will_do(tmp_path: Path) -> None:
    assert not cifar_present(tmp_path)
    archive(tmp_path, "cifar-100-python")
    assert cifar_present(tmp_path)
    assert cifar_present(tmp_path / "cifar-100-python")
    assert len(read_cifar(tmp_path, "train")) == 10


def test_the_folder_around_two_archives_is_told(tmp_path: Path) -> None:
    archive(tmp_path, "cifar-100-python")
    archive(tmp_path, "cifar-10-batches-bin")
    with pytest.raises(DataError, match=r"holds cifar-100-python and cifar-10-batches-bin\. Give the path of the one"):
        read_cifar(tmp_path, "test")


def test_an_archive_is_known_by_its_files_whatever_its_folder_is_called(tmp_path: Path) -> None:
    archive(tmp_path, "cifar-10-batches-py").rename(tmp_path / "mine")
    assert len(read_cifar(tmp_path / "mine", "test")) == 2


def test_a_place_without_an_archive_is_told_with_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()  # a folder of that name is no file of CIFAR-100
    for place in (tmp_path, tmp_path / "nowhere"):
        assert not cifar_present(place)
        with pytest.raises(
            DataError, match=r"no CIFAR archive, expected the files of cifar-10-batches-py, .*Unpack one"
        ):
            read_cifar(place, "test")


@pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("cifar-10-batches-py", "data_batch_3"),
        ("cifar-10-batches-py", "batches.meta"),
        ("cifar-100-binary", "train.bin"),
        ("cifar-100-binary", "fine_label_names.txt"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, folder: str, file: str) -> None:
    (archive(tmp_path, folder) / file).unlink()
    with pytest.raises(DataError, match=rf"{file}: no such file\. The archive is incomplete: unpack it again"):
        read_cifar(tmp_path / folder, "train")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = archive(tmp_path, "cifar-100-binary") / "test.bin"
    file.unlink()
    file.mkdir()
    with pytest.raises(DataError, match=r"test\.bin: cannot be read"):
        read_cifar(tmp_path, "test")


def damaged(tmp_path: Path, content: Any) -> Path:
    place = archive(tmp_path, "cifar-10-batches-py")
    if isinstance(content, bytes):
        (place / "test_batch").write_bytes(content)
    else:
        pickled(place / "test_batch", content)
    return place


GOOD = planes(PIXELS["test"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged: Ran out of input. Unpack the archive again."),
        (b"some text", "damaged: "),
        (pickle.dumps({"data": GOOD, "labels": [0, 1]}, protocol=2)[:3000], "damaged: "),
        ([1, 2], "expected a dictionary, got list. Unpack the archive again."),
        ({"labels": [0, 1]}, "expected 'data' of uint8 (N, 3072), got NoneType. Unpack"),
        ({"data": GOOD[:, :-1].copy(), "labels": [0, 1]}, "expected 'data' of uint8 (N, 3072), got uint8 (2, 3071)."),
        ({"data": GOOD.astype(np.int64), "labels": [0, 1]}, "got int64 (2, 3072)."),
        ({"data": GOOD[:0].copy(), "labels": []}, "got uint8 (0, 3072)."),
        ({"data": GOOD}, "expected 'labels' of integers (2,), got object ()."),
        ({"data": GOOD, "labels": [0]}, "expected 'labels' of integers (2,), got int64 (1,)."),
        ({"data": GOOD, "labels": [0.5, 1.0]}, "expected 'labels' of integers (2,), got float64 (2,)."),
        ({"data": GOOD, "labels": [0, 3]}, "labels run 0..3, expected 0..2 as batches.meta names 3 classes. Unpack"),
        ({"data": GOOD, "labels": [-1, 0]}, "labels run -1..0, expected 0..2"),
    ],
)
def test_a_damaged_batch_is_named_with_what_is_wrong(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError) as told:
        read_cifar(damaged(tmp_path, content), "test")
    assert f"test_batch: {message}" in str(told.value) or message in str(told.value)
    assert str(tmp_path / "cifar-10-batches-py" / "test_batch") in str(told.value)


@pytest.mark.parametrize(("folder", "record"), [("cifar-10-batches-bin", 3073), ("cifar-100-binary", 3074)])
def test_a_cut_binary_file_is_told_with_its_size(tmp_path: Path, folder: str, record: int) -> None:
    file = archive(tmp_path, folder) / ("test.bin" if "100" in folder else "test_batch.bin")
    whole = file.read_bytes()
    assert len(whole) == 2 * record
    for content in (whole[:-1], b""):
        file.write_bytes(content)
        with pytest.raises(
            DataError, match=rf"holds {len(content):,} bytes, expected a multiple of {record:,} \(one image\)\. Unpack"
        ):
            read_cifar(tmp_path, "test")


def test_class_names_that_are_absent_are_told(tmp_path: Path) -> None:
    place = archive(tmp_path, "cifar-10-batches-py")
    pickled(place / "batches.meta", {"num_vis": 3072})
    with pytest.raises(DataError, match=r"batches\.meta: holds no 'label_names'\. Unpack the archive again"):
        read_cifar(place, "test")
    other = archive(tmp_path / "other", "cifar-100-binary")
    (other / "fine_label_names.txt").write_text("\n")
    with pytest.raises(DataError, match=r"fine_label_names\.txt: names no class\. Unpack the archive again"):
        read_cifar(other, "test")


class Trap:
    """Would run something when unpickled."""

    def __init__(self, what: Callable[..., Any], *arguments: Any) -> None:
        self.what, self.arguments = what, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what, self.arguments


def test_a_pickle_that_would_run_a_command_is_refused_and_does_not_run(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    trap = pickle.dumps({"data": GOOD, "labels": Trap(os.system, f"touch {sprung}")}, protocol=2)
    place = damaged(tmp_path, trap)
    with pytest.raises(
        DataError, match=r"test_batch: wants to run (posix|nt)\.system, which no CIFAR archive does; it was refused\."
    ):
        read_cifar(place, "test")
    assert not sprung.exists()
    pickle.loads(trap)
    assert sprung.exists()  # so it was a trap


@pytest.mark.parametrize("what", [eval, getattr, np.load, Path.touch])
def test_nothing_else_is_let_through_either(tmp_path: Path, what: Callable[..., Any]) -> None:
    place = damaged(tmp_path, pickle.dumps({"data": Trap(what, "1")}, protocol=2))
    with pytest.raises(DataError, match=r"wants to run .*Fetch the archive from its official place"):
        read_cifar(place, "test")
