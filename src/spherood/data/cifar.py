"""CIFAR-10 and CIFAR-100 as they are published: the unpacked folder of pickles, or the one of binary records.

A record is one image: its label (of CIFAR-100 the coarse one, then the fine one), then 1024 red, green, blue bytes.
A pickle is a program. These are read by an unpickler that can build NumPy arrays and nothing else.
Shapes: N images of a split, (N, 32, 32, 3) uint8 in the order of the archive.
Source: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import codecs
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from spherood.data.image_set import ImageSet
from spherood.errors import DataError

Split = Literal["train", "test"]
PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """One of the four archives: its folder, its files, and where a record or a pickle keeps label and class names."""

    folder: str
    title: str
    files: dict[Split, tuple[str, ...]]
    meta: str
    label_key: bytes = b""  # of the pickles
    names_key: bytes = b""
    labels: int = 1  # label bytes of a binary record, the one that counts last

    def begun_in(self, folder: Path) -> bool:
        """Whether at least one of its files is there: an archive of which some are missing is an error."""
        return any((folder / file).is_file() for file in (*self.files["train"], *self.files["test"], self.meta))


BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
LAYOUTS = (
    Layout(
        folder="cifar-10-batches-py",
        title="CIFAR-10",
        files={"train": BATCHES, "test": ("test_batch",)},
        meta="batches.meta",
        label_key=b"labels",
        names_key=b"label_names",
    ),
    Layout(
        folder="cifar-100-python",
        title="CIFAR-100",
        files={"train": ("train",), "test": ("test",)},
        meta="meta",
        label_key=b"fine_labels",
        names_key=b"fine_label_names",
    ),
    Layout(
        folder="cifar-10-batches-bin",
        title="CIFAR-10",
        files={"train": tuple(f"{batch}.bin" for batch in BATCHES), "test": ("test_batch.bin",)},
        meta="batches.meta.txt",
    ),
    Layout(
        folder="cifar-100-binary",
        title="CIFAR-100",
        files={"train": ("train.bin",), "test": ("test.bin",)},
        meta="fine_label_names.txt",
        labels=2,
    ),
)


def read_cifar(path: Path, split: Split, name: str | None = None) -> ImageSet:
    """One split of the archive in `path`, or in the one archive folder in it; labels are the fine ones.

    DataError where a file is absent, damaged, of another size, or wants to run code.
    """
    folder, layout = _archive(path)
    classes = _classes(folder / layout.meta, layout)
    parts = [_batch(folder / file, layout, len(classes)) for file in layout.files[split]]
    planes = np.concatenate([data for data, _ in parts]).reshape(-1, 3, 32, 32)
    label = np.concatenate([label for _, label in parts])
    count = [0] * len(classes)
    names = []
    for number in label.tolist():
        count[number] += 1
        names.append(f"{classes[number]}/{count[number]:04}")
    pixels = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return ImageSet(name or f"{layout.title} {split}", pixels, label, names, classes)


def cifar_present(path: Path) -> bool:
    """Whether `path` is or holds such a folder."""
    return bool(_archives(path))


def _archives(path: Path) -> list[tuple[Path, Layout]]:
    here = [(path, layout) for layout in LAYOUTS if layout.begun_in(path)]
    return here or [(path / layout.folder, layout) for layout in LAYOUTS if (path / layout.folder).is_dir()]


def _archive(path: Path) -> tuple[Path, Layout]:
    found = _archives(path)
    folders = [layout.folder for _, layout in found]
    if not found:
        raise DataError(
            f"{path}: no CIFAR archive, expected the files of {', '.join(layout.folder for layout in LAYOUTS)}. "
            "Unpack one there, or check where --data points."
        )
    if len(found) > 1:
        raise DataError(f"{path}: holds {' and '.join(folders)}. Give the path of the one to read, each in its folder.")
    return found[0]


def _batch(file: Path, layout: Layout, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (N, 3072) and labels (N,) of one file, checked."""
    if layout.label_key:
        content = _unpickled(file)
        data, label = content.get(b"data"), np.asarray(content.get(layout.label_key))
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (PIXELS,) or not len(data):
            got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
            raise DataError(f"{file}: expected 'data' of uint8 (N, {PIXELS}), got {got}. Unpack the archive again.")
        if label.shape != (len(data),) or not np.issubdtype(label.dtype, np.integer):
            key = layout.label_key.decode()
            raise DataError(
                f"{file}: expected '{key}' of integers ({len(data)},), got {label.dtype} {label.shape}. "
                "Unpack the archive again."
            )
    else:
        raw, record = np.frombuffer(_bytes(file), dtype=np.uint8), layout.labels + PIXELS
        if len(raw) == 0 or len(raw) % record:
            raise DataError(
                f"{file}: holds {len(raw):,} bytes, expected a multiple of {record:,} (one image). "
                "Unpack the archive again."
            )
        records = raw.reshape(-1, record)
        data, label = records[:, layout.labels :], records[:, layout.labels - 1]
    if label.min() < 0 or label.max() >= classes:
        raise DataError(
            f"{file}: labels run {label.min()}..{label.max()}, expected 0..{classes - 1} as {layout.meta} "
            f"names {classes} classes. Unpack the archive again."
        )
    return data, label.astype(np.int64)


def _classes(file: Path, layout: Layout) -> tuple[str, ...]:
    if layout.names_key:
        names = _unpickled(file).get(layout.names_key)
        if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
            raise DataError(f"{file}: holds no '{layout.names_key.decode()}'. Unpack the archive again.")
        classes = tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names)
    else:
        classes = tuple(_bytes(file).decode("utf-8", "replace").split())
    if not classes:
        raise DataError(f"{file}: names no class. Unpack the archive again.")
    return classes


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{file}: no such file. The archive is incomplete: unpack it again.") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}.") from None


def _unpickled(file: Path) -> dict[Any, Any]:
    if not file.is_file():
        raise DataError(f"{file}: no such file. The archive is incomplete: unpack it again.")
    try:
        with file.open("rb") as stream:
            content = _ArraysOnly(stream, encoding="bytes").load()  # bytes: the archives were written by Python 2
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    except Exception as error:  # a damaged pickle is a damaged program: it can fail in every way
        raise DataError(f"{file}: damaged: {error or type(error).__name__}. Unpack the archive again.") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected a dictionary, got {type(content).__name__}. Unpack the archive again.")
    return {key.encode() if isinstance(key, str) else key: value for key, value in content.items()}


class _ArraysOnly(pickle.Unpickler):
    """Builds dictionaries, lists, numbers, strings and NumPy arrays."""

    reconstruct = np.empty(0).__reduce__()[0]
    allowed = {  # noqa: RUF012 - read only
        ("numpy.core.multiarray", "_reconstruct"): reconstruct,  # NumPy's name for it before 2.0
        ("numpy._core.multiarray", "_reconstruct"): reconstruct,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): codecs.encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise DataError(
                f"wants to run {module}.{name}, which no CIFAR archive does; it was refused. "
                "Fetch the archive from its official place."
            )
        return self.allowed[module, name]
