"""Which images belong together: frames of a video, slides of a patient, pictures of a site, from a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Hashable, Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spherood.data.image_set import ImageSet
from spherood.errors import ConfigError, DataError, nearest

IMAGE_COLUMNS = ("image", "file", "path", "name")  # the first that is there names the image


def read_groups(path: Path, column: str, images: ImageSet) -> NDArray[np.int64]:
    """The group of every image (N,), 0.. by first appearance in the set: equal cells of `column` are one group.

    The CSV has a header and names images as the set does, relative and with '/'; rows of other images do not matter.
    DataError where an image has no row, an empty cell or two groups; ConfigError where there is no such column.
    """
    names = images.names
    group = _groups_of(path, column, set(names))
    absent = [name for name in names if name not in group]
    if absent:
        raise DataError(
            f"{path}: {len(absent):,} of {len(names):,} images of {images.name} have no row, first {absent[0]}. "
            "Add them; an image is named relative to the folder of its set, with '/'."
        )
    return number_groups(group[name] for name in names)


def number_groups(values: Iterable[Hashable]) -> NDArray[np.int64]:
    """The number of each value, 0.. by first appearance."""
    number: dict[Hashable, int] = {}
    return np.array([number.setdefault(value, len(number)) for value in values], dtype=np.int64)


def _groups_of(path: Path, column: str, wanted: set[str]) -> dict[str, str]:
    """Image name -> group, of the wanted images that have a row."""
    found: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
            rows = csv.reader(file, skipinitialspace=True)
            header = [title.strip() for title in next(rows, [])]
            image_at, group_at = _places(path, column, header)
            for row in rows:
                if not row or (len(row) > image_at and row[image_at] not in wanted):
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{path}, line {rows.line_num}: expected {len(header)} cells, got {len(row)}. "
                        "A cell with a comma needs quotes."
                    )
                image, group = row[image_at], row[group_at].strip()
                if not group:
                    raise DataError(f"{path}, line {rows.line_num}: '{column}' of {image} is empty. Fill it in.")
                if found.setdefault(image, group) != group:
                    raise DataError(
                        f"{path}, line {rows.line_num}: {image} is in group '{group}', and in '{found[image]}' above. "
                        "Keep one of the rows."
                    )
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Check the path.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file: {error}. Save the table as CSV in UTF-8.") from None
    return found


def _places(path: Path, column: str, header: list[str]) -> tuple[int, int]:
    """Where in a row the image and its group stand."""
    if not header:
        raise DataError(f"{path}: expected a first line of column names, the file is empty.")
    image = next((title for title in IMAGE_COLUMNS if title in header), None)
    if image is None:
        raise DataError(
            f"{path}: no column names the images, found {', '.join(header)}. Call it {' or '.join(IMAGE_COLUMNS)}."
        )
    if column not in header:
        raise ConfigError(f"{path}: there is no column '{column}'. {nearest(column, header)}")
    return header.index(image), header.index(column)
