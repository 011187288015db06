"""Images that a table names: CSV or Parquet, a column of paths, one of labels where there is one.

The paths are in `image`, `path`, `file` or `filename`, the first that is there; labels in `label` or `class`, numbers
or names. Rows whose image is empty are refused: a table with holes is no image set.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spherood.data.image_set import ImageSet
from spherood.errors import DataError, nearest, optional

PATHS, LABELS = ("image", "path", "file", "filename"), ("label", "class")


def read_table(path: Path, root: Path, name: str | None = None) -> ImageSet:
    """The images of a table, in its order, resolved against `root`; label -1 where it has none.

    DataError names the row where it is wrong, and the file where one is missing; MissingExtraError without pyarrow.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such table. Check the path, or where --data points.")
    columns = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    where = next((one for one in PATHS if one in columns), None)
    if where is None:
        raise DataError(f"{path}: has no column of paths ({', '.join(PATHS)}). {nearest('image', columns)}")
    names = [str(value or "") for value in columns[where]]
    if not names:
        raise DataError(f"{path}: the table is empty.")
    if "" in names:
        raise DataError(f"{path}, row {names.index('')}: '{where}' is empty. Fill it in, or take the row out.")
    files = [root / one for one in names]
    absent = [file for file in files if not file.exists()]
    if absent:
        raise DataError(
            f"{path}: {len(absent):,} of {len(files):,} images are missing under {root}, first {absent[0]}. "
            "Complete the set."
        )
    label, classes = _labels(path, next((columns[one] for one in LABELS if one in columns), None), len(names))
    return ImageSet(name or path.stem, files, label, names, classes)


def _labels(path: Path, values: list[Any] | None, n: int) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Whole numbers are labels as they are, -1 for OOD; anything else names a class."""
    if values is None:
        return np.full(n, -1, dtype=np.int64), ()
    texts = ["" if value is None else str(value).strip() for value in values]
    if "" in texts:
        raise DataError(f"{path}, row {texts.index('')}: has no label. Give it one, -1 for OOD, or drop the column.")
    if all(text.removeprefix("-").isdecimal() for text in texts):
        label = np.array([int(text) for text in texts], dtype=np.int64)
        if label.min() < -1:
            raise DataError(f"{path}, row {int(label.argmin())}: the label is {label.min()}, expected 0, 1, … or -1.")
        return label, tuple(str(number) for number in range(int(label.max()) + 1))
    classes = sorted(set(texts))
    return np.array([classes.index(text) for text in texts], dtype=np.int64), tuple(classes)


def _csv(path: Path) -> dict[str, list[Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # -sig: spreadsheets write a byte order mark
            rows = csv.reader(file, skipinitialspace=True)
            header = [title.strip() for title in next(rows, [])]
            found: list[list[str]] = []
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{path}, line {rows.line_num}: expected {len(header)} cells, got {len(row)}. "
                        "A cell with a comma needs quotes."
                    )
                found.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file: {error}") from None
    return {title: [row[number] for row in found] for number, title in enumerate(header)}


def _parquet(path: Path) -> dict[str, list[Any]]:
    parquet = optional("pyarrow.parquet", "parquet", f"{path}")
    try:
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise DataError(f"{path}: not a Parquet file: {str(error).splitlines()[0]}") from None
    return {title: table.column(title).to_pylist() for title in table.column_names if title in (*PATHS, *LABELS)}
