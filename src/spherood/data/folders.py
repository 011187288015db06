"""A folder of images: one folder per class, or images without one (then without labels)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from spherood.data.decode import SUFFIXES
from spherood.data.image_set import ImageSet
from spherood.errors import DataError


def read_folder(path: Path, name: str | None = None) -> ImageSet:
    """Every image below `path`, sorted by path; classes are the folders right below it, sorted by name.

    What begins with a dot is no image and no class (`.ipynb_checkpoints`, macOS's `._0001.png`).
    DataError where the folder is absent or holds no image.
    """
    if not path.is_dir():
        raise DataError(f"{path}: no such folder of images. Check the path, or where --data points.")
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    folders = [entry for entry in entries if entry.is_dir()]
    classes = tuple(sorted(folder.name for folder in folders))
    below = (file for folder in folders for file in folder.rglob("*"))  # from each: a class may be a symbolic link
    files = sorted(file for file in [*entries, *below] if _is_image(file, path))
    if not files:
        raise DataError(f"{path}: holds no image ({', '.join(sorted(SUFFIXES))}). Is it the right folder?")
    relative = [file.relative_to(path) for file in files]
    number = {class_: label for label, class_ in enumerate(classes)}
    label = np.array(
        [number.get(file.parts[0], -1) if len(file.parts) > 1 else -1 for file in relative], dtype=np.int64
    )
    return ImageSet(name or path.name, files, label, [file.as_posix() for file in relative], classes)


def _is_image(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return not hidden and file.suffix.lower() in SUFFIXES and file.is_file()
