"""Which images calibrated a bundle, remembered beside it: who exports it, or calibrates it anew, needs them again.

A bundle that lies in runs/NAME/bundle has them in runs/NAME/bundle-held-out.txt (an image list), or .npy (pixels, or
rows of what it reads) where they are no files. They are no part of the bundle: nothing of them ships.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from spherood.bundle.rows import Rows
from spherood.data.arrays import read_arrays
from spherood.data.feature_file import is_feature_file, read_features
from spherood.data.folders import read_folder
from spherood.data.image_set import ImageSet
from spherood.data.lists import read_list
from spherood.errors import DataError
from spherood.files import write_text, written_aside

SUFFIXES = (".txt", ".npy")


def remember(bundle: Path, rows: Rows, reads: str) -> None:
    """Write beside the folder of a bundle what calibrated it: images, or rows of what it reads."""
    if rows.images is not None:
        remember_images(bundle, rows.images)
        return
    _forget(bundle)
    read = getattr(rows.outputs, reads) if rows.given is None else rows.given
    if isinstance(read, Tensor):
        with written_aside(_place(bundle, ".npy")) as aside, aside.open("wb") as file:
            np.save(file, read.float().numpy())


def remember_images(bundle: Path, images: ImageSet) -> None:
    """Write images beside the folder of a bundle, in their order."""
    _forget(bundle)
    if isinstance(images.images, np.ndarray):
        with written_aside(_place(bundle, ".npy")) as aside, aside.open("wb") as file:
            np.save(file, images.images)
        return
    write_text(_place(bundle, ".txt"), "".join(f"{path.absolute()} -1\n" for path in images.images))


def remember_again(bundle: Path, exported: Path, path: Path | None) -> None:
    """What calibrated the exported bundle, beside it: what was remembered of `bundle`, unless `path` was named."""
    source = None if path is not None else _remembered(bundle)
    _forget(exported)
    if source is not None:
        with written_aside(_place(exported, source.suffix)) as aside:
            shutil.copyfile(source, aside)


def held_out_images(bundle: Path, path: Path | None) -> ImageSet:
    """Those at `path` (a folder, an image list, a .npy of pixels), else the remembered ones. DataError where absent."""
    path = path or _remembered(bundle)
    if path.suffix == ".npy":
        return read_arrays(path, name="held-out")
    return read_folder(path, "held-out") if path.is_dir() else read_list(path, path.parent, "held-out")


def held_out_rows(bundle: Path, path: Path | None) -> NDArray[np.float32]:
    """As `held_out_images`, rows (n, F) of a file of features."""
    path = path or _remembered(bundle)
    if not is_feature_file(path):
        raise DataError(f"{path}: the bundle reads features. Give a file of them (.npy, .npz, .parquet, .safetensors).")
    return read_features(path).feature


def _remembered(bundle: Path) -> Path:
    for suffix in SUFFIXES:
        if _place(bundle, suffix).is_file():
            return _place(bundle, suffix)
    raise DataError(
        f"{bundle}: the held-out images that calibrated it are not remembered beside it "
        f"({_place(bundle, SUFFIXES[0]).name}). Name them, or other ID images that trained nothing: --held-out PATH"
    )


def _forget(bundle: Path) -> None:
    for suffix in SUFFIXES:
        _place(bundle, suffix).unlink(missing_ok=True)


def _place(bundle: Path, suffix: str) -> Path:
    whole = bundle.absolute()
    return whole.parent / f"{whole.name}-held-out{suffix}"
