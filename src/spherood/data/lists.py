"""Image lists as OpenOOD writes them: one `relative/path.ext LABEL` a line, label -1 for OOD.

A record `{"class_label": 3, ...}` may stand where the label does.
"""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np

from spherood.data.image_set import ImageSet
from spherood.errors import DataError


def read_list(path: Path, root: Path, name: str | None = None) -> ImageSet:
    """The images of a list, in its order, resolved against `root`.

    A class is named by the folder of its first image, or by its number where two classes would get one name.

    DataError names the line where the list is unreadable, and the file where one is missing.
    """
    names, labels = _entries(path)
    if not names:
        raise DataError(f"{path}: the list is empty.")
    files = [root / image for image in names]
    absent = [file for file in files if not file.exists()]
    if absent:
        raise DataError(
            f"{path}: {len(absent):,} of {len(files):,} images are missing under {root}, first {absent[0]}. "
            "Complete the set."
        )
    numbers = np.array(labels, dtype=np.int64)
    first = {labels[row]: Path(names[row]).parent.name for row in reversed(range(len(names)))}
    classes = tuple(first.get(number, str(number)) for number in range(int(numbers.max()) + 1))
    if len(set(classes)) < len(classes):
        classes = tuple(str(number) for number in range(len(classes)))
    return ImageSet(name or path.stem, files, numbers, names, classes)


def any_on_disk(path: Path, root: Path) -> bool:
    """Whether at least one image of a list is there."""
    return any((root / image).exists() for image in _entries(path)[0])


def _entries(path: Path) -> tuple[list[str], list[int]]:
    """Paths and labels as they stand in the list."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such image list. Check the path, or where --data points.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not an image list: {error}") from None
    names: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        image, label = _parts(line.strip())
        if not image or not (label == "-1" or label.isdecimal()):
            raise DataError(f"{path}, line {number}: expected 'relative/path.png LABEL', got '{line[:80]}'.")
        names.append(image)
        labels.append(int(label))
    return names, labels


def _parts(line: str) -> tuple[str, str]:
    """Path and label; some of OpenOOD's lists have a record in the label's place."""
    image, brace, record = line.partition(" {")
    if not brace:
        image, _, label = line.rpartition(" ")
        return image, label
    try:
        return image, str(ast.literal_eval("{" + record)["class_label"])  # not JSON: single quotes are as good
    except (ValueError, SyntaxError, KeyError, TypeError):
        return "", ""
