"""Features that somebody already has, from one file: .npy, .npz, .safetensors or .parquet.

Feature: `feature`, `features`, `embedding` or `embeddings`, the first that is there; else the only matrix of the file,
whatever its name. Beside it, where they are there: `logits`; `label` (or `labels`), integers or names; the groups,
under the name asked for; `image` or `name` of every row. A .npy file is the feature alone.
In Parquet a matrix is a column of lists of one length. The feature may instead be one column per dimension:
`feature_0`, `feature_1`, ...
Nothing executes: no pickle is read. float16 and float64 become float32; a .npy of float32 stays on disk.
Shapes: N rows, D dimensions, C classes. Rows are counted from 0, in messages too.
"""

from __future__ import annotations

import re
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from spherood.data.groups import number_groups
from spherood.errors import ConfigError, DataError, ShapeError, SpheroodError, nearest, optional

FEATURE = ("feature", "features", "embedding", "embeddings")
LABEL = ("label", "labels")
NAME = ("image", "name")
DIMENSION = re.compile(r"feature_(0|[1-9][0-9]*)")
BLOCK = 8192  # rows at a time, so that a large file passes through memory instead of filling it
DAMAGE = (  # what the four formats' libraries raise; NumPy parses the head of an array as Python
    *(ValueError, OSError, RuntimeError, SyntaxError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error, SafetensorError),
)

Kind = Literal["matrix", "text", "other"]


@dataclass(frozen=True)
class FeatureSet:
    """N rows of one file, aligned."""

    name: str  # of the file, for messages
    feature: NDArray[np.float32]  # (N, D)
    logits: NDArray[np.float32] | None  # (N, C)
    label: NDArray[np.int64] | None  # (N,), 0..C-1
    classes: tuple[str, ...]  # the names in the file, sorted, or "0", "1", ...; none without labels
    group: NDArray[np.int64] | None  # (N,), 0.. by first appearance, where asked for
    names: tuple[str, ...]  # of the rows, where the file has them

    def __len__(self) -> int:
        return len(self.feature)

    def subset(self, index: NDArray[np.int64]) -> FeatureSet:
        """The rows at `index`, in that order; classes and groups keep their numbers."""
        return replace(
            self,
            feature=self.feature[index],
            logits=None if self.logits is None else self.logits[index],
            label=None if self.label is None else self.label[index],
            group=None if self.group is None else self.group[index],
            names=tuple(self.names[row] for row in index) if self.names else (),
        )


def is_feature_file(path: Path) -> bool:
    """Whether the suffix is one of the four."""
    return path.suffix.lower() in FORMATS


def read_features(path: Path, *, labels: Path | None = None, group_by: str | None = None) -> FeatureSet:
    """All rows of a file, checked; `labels`: a .npy file of (N,) integers or names, for a file without labels.

    DataError, ShapeError and ConfigError say what is wrong with it; MissingExtraError: a .parquet without pyarrow.
    """
    if not is_feature_file(path):
        raise ConfigError(f"{path}: features are not read from '{path.suffix}' files. Known: {', '.join(FORMATS)}.")
    file = FORMATS[path.suffix.lower()](path)
    feature_name = _feature_name(file, group_by)
    feature = file.matrix(feature_name)
    n = len(feature)
    logits = file.matrix("logits", n) if "logits" in file.names else None
    label, classes = None, tuple[str, ...]()
    own = file.first(LABEL)
    if own and labels:
        raise ConfigError(f"{path}: has labels of its own, '{own}'. Leave out {labels}.")
    if labels:
        if labels.suffix.lower() != ".npy":
            raise ConfigError(f"{labels}: labels are read from a .npy file. Save them with numpy.save.")
        label, classes = _classes(str(labels), _npy(labels).vector("feature", n))
    elif own:
        label, classes = _classes(file.place(own), file.vector(own, n))
    group = None
    if group_by is not None:
        if group_by not in file.names or path.suffix.lower() == ".npy":
            hint = nearest(group_by, set(file.names) - {feature_name, "logits"})
            hint = hint or "Save it beside the feature, in a .npz or .parquet file."
            raise ConfigError(f"{path}: there is no '{group_by}' to group by. {hint}")
        found = file.vector(group_by, n)
        if (found != found).any():
            raise DataError(
                f"{file.place(group_by)}: row {(found != found).argmax()} is not a number. Give it a group."
            )
        group = number_groups(found.tolist())
    named = next((name for name in NAME if name in file.names and file.kind(name) == "text"), None)
    names = tuple(file.vector(named, n).tolist()) if named else ()
    return FeatureSet(path.name, feature, logits, label, classes, group, names)


@dataclass(frozen=True)
class _File:
    """What an opened file has: the names in it, and a way to each array."""

    path: Path
    names: tuple[str, ...]
    kind: Callable[[str], Kind]
    load: Callable[[str], NDArray[Any]]

    def place(self, name: str) -> str:
        """The start of a message about one array."""
        return str(self.path) if self.path.suffix.lower() == ".npy" else f"{self.path}, '{name}'"

    def first(self, names: tuple[str, ...]) -> str | None:
        """The first of the names that is there."""
        return next((name for name in names if name in self.names), None)

    def vector(self, name: str, n: int) -> NDArray[Any]:
        """An array (N,)."""
        found = self.load(name)
        if found.shape != (n,):
            raise ShapeError(
                f"{self.place(name)}: expected ({n},), one value for every row of the feature, got {found.shape}."
            )
        return found

    def matrix(self, name: str, n: int | None = None) -> NDArray[np.float32]:
        """An array (N, D) of finite numbers."""
        place, found = self.place(name), self.load(name)
        if found.ndim != 2:
            raise ShapeError(f"{place}: expected (N, D), got {found.shape}. Save one row of D numbers for every image.")
        if found.dtype.kind != "f":
            raise ShapeError(f"{place}: expected floating numbers, got {found.dtype}. Save it as float32.")
        if 0 in found.shape:
            raise ShapeError(f"{place}: holds no number, only {found.shape}. Save at least one row.")
        if n not in (None, len(found)):
            raise ShapeError(f"{place}: expected {n:,} rows, as the feature has, got {len(found):,}.")
        return _float32(place, found)


def _float32(place: str, found: NDArray[Any]) -> NDArray[np.float32]:
    """The same array if it is one, else a copy; every number finite."""
    made = found if found.dtype == np.float32 else np.empty(found.shape, dtype=np.float32)
    finite, fits = np.ones(len(found), dtype=bool), np.ones(len(found), dtype=bool)
    for start in range(0, len(found), BLOCK):
        rows = slice(start, start + BLOCK)
        finite[rows] = np.isfinite(found[rows]).all(axis=1)
        if made is not found:
            with np.errstate(over="ignore"):
                made[rows] = found[rows]
            fits[rows] = np.isfinite(made[rows]).all(axis=1)
    for right, what in (
        (finite, "NaN or infinity. Drop these rows, or find out what made them."),
        (fits, "numbers beyond 3.4e38, the largest of float32. Scale all rows down."),
    ):
        wrong = np.flatnonzero(~right)
        if len(wrong):
            raise DataError(f"{place}: {len(wrong):,} of {len(found):,} rows, first row {wrong[0]}, hold {what}")
    return made


def _classes(place: str, found: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels 0..C-1 and the names of their classes."""
    if found.dtype.kind not in "iuU":
        raise ShapeError(f"{place}: expected integers or strings, got {found.dtype}. Save the labels as one of these.")
    values, number = np.unique(found, return_inverse=True)
    classes = tuple(str(value) for value in values)
    if found.dtype.kind != "U":
        if values[0] < 0:
            below = np.flatnonzero(found < 0)
            raise DataError(
                f"{place}: {len(below):,} of {len(found):,} labels are below 0, first row {below[0]}. "
                "Drop the rows of unknown class."
            )
        gap = np.flatnonzero(values != np.arange(len(values)))
        if len(gap):
            raise DataError(
                f"{place}: labels run {values[0]}..{values[-1]}, but no row is of class {gap[0]}. "
                "Number the classes 0, 1, ... without gaps, or save their names instead."
            )
    return number.astype(np.int64), classes


def _feature_name(file: _File, group_by: str | None) -> str:
    known = file.first(FEATURE)
    if known is not None:
        return known
    others = [name for name in file.names if name not in ("logits", *LABEL, group_by)]
    matrices = [name for name in others if file.kind(name) == "matrix"]
    if len(matrices) != 1:
        raise DataError(
            f"{file.path}: no feature array, expected the name {', '.join(FEATURE[:-1])} or {FEATURE[-1]}, or a single "
            f"matrix. It holds: {', '.join(file.names) or 'nothing'}. Rename the one of the features."
        )
    return matrices[0]


@contextmanager
def _reading(path: Path, format_: str) -> Iterator[None]:
    """What a library says of an absent or damaged file, as ours."""
    if not path.is_file():
        raise DataError(f"{path}: no such file. Check the path.")
    try:
        yield
    except SpheroodError:
        raise
    except DAMAGE as error:
        if "Object arrays" in str(error) or "Python objects" in str(error):
            raise DataError(
                f"{path}: holds Python objects, that is a pickle, which could run code. "
                "Save numbers, or strings as array.astype(str)."
            ) from None
        raise DataError(f"{path}: not a {format_} file, or damaged: {error}. Write it again.") from None


def _npy(path: Path) -> _File:
    def load(name: str) -> NDArray[Any]:
        with _reading(path, "NumPy array"):  # "c", private: torch warns of memory that cannot be written
            found: NDArray[Any] = np.lib.format.open_memmap(path, mode="c")
        return found

    return _File(path, ("feature",), lambda name: "matrix", load)


def _npz(path: Path) -> _File:
    with _reading(path, "NumPy archive"), zipfile.ZipFile(path) as archive:
        names = tuple(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))

    def load(name: str) -> NDArray[Any]:
        with (
            _reading(path, "NumPy archive"),
            zipfile.ZipFile(path) as archive,
            archive.open(f"{name}.npy") as member,
        ):
            found: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        return found

    def kind(name: str) -> Kind:
        found = load(name)
        return "matrix" if found.ndim == 2 else "text" if found.dtype.kind == "U" else "other"

    return _File(path, names, kind, load)


def _safetensors(path: Path) -> _File:
    with _reading(path, "safetensors"), safe_open(path, "numpy") as file:
        dimensions = {name: len(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118

    def load(name: str) -> NDArray[Any]:
        with _reading(path, "safetensors"), safe_open(path, "numpy") as file:
            type_ = file.get_slice(name).get_dtype()
            if type_.startswith(("BF", "F8")):  # asked first: where ml_dtypes is loaded, NumPy reads some of them
                raise ShapeError(f"{path}, '{name}': NumPy has no {type_}. Save it as float32 or float16.")
            found: NDArray[Any] = file.get_tensor(name)
        return found

    return _File(path, tuple(dimensions), lambda name: "matrix" if dimensions[name] == 2 else "other", load)


def _parquet(path: Path) -> _File:
    arrow = optional("pyarrow", "parquet", str(path))
    compute = optional("pyarrow.compute", "parquet", str(path))
    parquet = optional("pyarrow.parquet", "parquet", str(path))
    types = arrow.types
    with _reading(path, "Parquet"), parquet.ParquetFile(path) as file:
        schema, n = file.schema_arrow, file.metadata.num_rows
    names: list[str] = schema.names
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path}: has several columns '{twice}'. Rename all but one.")

    def kind(name: str) -> Kind:
        if name not in names:
            return "matrix"
        type_ = schema.field(name).type
        if types.is_dictionary(type_):
            type_ = type_.value_type
        if types.is_string(type_) or types.is_large_string(type_):
            return "text"
        lists = types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)
        return "matrix" if lists and types.is_primitive(type_.value_type) else "other"

    def refuse_nulls(name: str, cells: Any, start: int = 0, width: int = 1) -> None:
        if cells.null_count:
            row = start + int(cells.is_null().to_numpy(zero_copy_only=False).argmax()) // width
            raise DataError(f"{path}, '{name}': row {row} has an empty cell (null). Drop such rows, or fill them in.")

    def from_lists(batches: Iterator[Any], name: str) -> Iterator[NDArray[Any]]:
        start, width = 0, None
        for batch in batches:
            cells = batch.column(0)
            refuse_nulls(name, cells, start)
            length = compute.list_value_length(cells).to_numpy()
            width = int(length[0]) if width is None else width
            if (length != width).any():
                row = int((length != width).argmax())
                raise ShapeError(
                    f"{path}, '{name}': row {start + row} holds {length[row]} numbers, row 0 holds {width}. "
                    "Save as many for every row."
                )
            refuse_nulls(name, cells.flatten(), start, width)
            yield cells.flatten().to_numpy(zero_copy_only=False).reshape(len(cells), width)
            start += len(cells)

    def from_columns(batches: Iterator[Any], columns: list[str]) -> Iterator[NDArray[Any]]:
        start = 0
        for batch in batches:
            for column in columns:
                refuse_nulls(column, batch.column(column), start)
            yield np.stack([batch.column(column).to_numpy(zero_copy_only=False) for column in columns], axis=1)
            start += len(batch)

    def matrix(name: str) -> NDArray[Any]:
        columns = [name] if name in names else _dimensions(path, schema)
        made, start = np.empty((0, 0), dtype=np.float32), 0
        with _reading(path, "Parquet"), parquet.ParquetFile(path) as file:
            batches = file.iter_batches(BLOCK, columns=columns)
            for part in from_lists(batches, name) if name in names else from_columns(batches, columns):
                made = made if start else np.empty((n, part.shape[1]), part.dtype)
                made[start : start + len(part)] = part
                start += len(part)
        return made

    def load(name: str) -> NDArray[Any]:
        if kind(name) == "matrix":
            return matrix(name)
        with _reading(path, "Parquet"), parquet.ParquetFile(path) as file:
            cells = file.read(columns=[name]).column(0)
        refuse_nulls(name, cells)
        if types.is_nested(cells.type):
            raise ShapeError(f"{path}, '{name}': holds {cells.type}, expected one value or a list of numbers a row.")
        found: NDArray[Any] = np.array(cells.to_pylist(), dtype=str) if kind(name) == "text" else cells.to_numpy()
        return found

    split = not any(name in names for name in FEATURE) and any(map(DIMENSION.fullmatch, names))
    return _File(path, (*names, "feature") if split else tuple(names), kind, load)


def _dimensions(path: Path, schema: Any) -> list[str]:
    """The columns feature_0.. of a Parquet schema, in the order of their numbers."""
    number = {int(found[1]): name for name in schema.names if (found := DIMENSION.fullmatch(name))}
    absent = next((dimension for dimension in range(len(number)) if dimension not in number), None)
    if absent is not None:
        raise DataError(f"{path}: has columns up to '{number[max(number)]}', but no 'feature_{absent}'. Add it.")
    columns = [number[dimension] for dimension in range(len(number))]
    for name in columns:
        if (type_ := str(schema.field(name).type)) not in ("halffloat", "float", "double"):
            raise ShapeError(f"{path}, '{name}': expected floating numbers, got {type_}. Save it as float32.")
    return columns


FORMATS: dict[str, Callable[[Path], _File]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
}
