"""What inputs are cut into: shards of some thousands of images, the same ones in the same order at every call.

    image files, folders, lists  ->  so many paths a shard        a tar  ->  one shard
    a Parquet file of images     ->  consecutive row groups       a file of features  ->  one shard

Memory does not grow with the number of images: folders are walked and lists read as they are needed. A shard goes to
one line of JSON and back. What it was made from is noted with size and time of change, so that another content under
the same name is another shard.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from spherood.data.decode import SUFFIXES
from spherood.data.feature_file import is_feature_file
from spherood.errors import ConfigError, DataError, nearest, optional
from spherood.schema import Strict

LISTS = (".txt", ".lst")
TARS = (".tar", ".tar.gz", ".tgz")
COLUMNS = ("image", "path", "file", "filename")
LABEL = re.compile(r"\s+(-?\d+|\{.*\})$")  # behind a path in OpenOOD's lists: a number, or a record
Kind = Literal["files", "tar", "parquet", "features"]


class Shard(Strict):
    """Paths; or one file with its size and time of change, of a Parquet file the row groups begin..end-1."""

    rows: int | None = (
        None  # images or rows, where that is known without reading; first, so that a plan is soon counted
    )
    kind: Kind
    paths: tuple[str, ...]
    size: int | None = None  # bytes
    changed: int | None = None  # ns since 1970
    begin: int = 0
    end: int = 0
    first: int = 0  # number of the first row
    column: str | None = None
    time: str | None = None  # the column of times


def shards(
    inputs: Sequence[Path], size: int = 4096, column: str | None = None, time: str | None = None, *, rows: bool = False
) -> Iterator[Shard]:
    """The shards of all inputs, in order. rows: the bundle reads features, so a Parquet file holds them.

    DataError for an input that is absent or empty, ConfigError for one of no known kind or a column that is not there.
    """
    if size < 1:
        raise ConfigError(f"shards: size must be at least 1, got {size}. Try 4096.")
    for path in inputs:
        check(path, column, time, rows=rows)
    waiting: list[Path] = []
    for path in inputs:
        if kind(path, rows=rows) == "files":
            waiting.append(path)
            continue
        yield from _of_files(waiting, size)
        waiting = []
        found = kind(path, rows=rows)
        yield from _parquet(path, size, column, time) if found == "parquet" else [_whole(path, found)]
    yield from _of_files(waiting, size)


def kind(path: Path, *, rows: bool = False) -> Kind:
    """By what is there and by its suffix; ConfigError for another."""
    name = path.name.lower()
    if is_feature_file(path) and (rows or not name.endswith(".parquet")):
        return "features"
    if not rows:
        if path.is_dir() or path.suffix.lower() in (*LISTS, *SUFFIXES):
            return "files"
        if name.endswith(TARS):
            return "tar"
        if name.endswith(".parquet"):
            return "parquet"
    if rows:
        raise ConfigError(
            f"{path}: the bundle reads features. Give files of them (.npy, .npz, .parquet, .safetensors), or wrap your "
            "network: spherood.Guard(model, bundle)"
        )
    raise ConfigError(
        f"{path}: expected a folder, image, list ({', '.join(LISTS)}), tar ({', '.join(TARS)}) or Parquet file."
    )


def check(path: Path, column: str | None, time: str | None, *, rows: bool) -> None:
    """Errors as of `shards`, for one input, before any work."""
    found = kind(path, rows=rows)
    if not path.exists():
        if path.suffix.lower() in SUFFIXES:
            return  # one of many images: a row with the error
        raise DataError(f"{path}: no such file or folder. Check the path.")
    if path.is_dir():
        if next(_walked(path), None) is None:
            raise DataError(f"{path}: holds no image ({', '.join(sorted(SUFFIXES))}). Is it the right folder?")
    elif path.suffix.lower() in LISTS and next(_listed(path), None) is None:
        raise DataError(f"{path}: the list is empty.")
    if found == "parquet":
        _column(path, column, time)


def _of_files(inputs: Iterable[Path], size: int) -> Iterator[Shard]:
    found = chain.from_iterable(_files(path) for path in inputs)
    while paths := tuple(map(_utf8, islice(found, size))):
        yield Shard(kind="files", paths=paths, rows=len(paths))


def _utf8(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise DataError(f"{path!a}: this name is not UTF-8, as JSON and Parquet are. Rename it.") from None
    return path


def _files(path: Path) -> Iterator[str]:
    if path.is_dir():
        return _walked(path)
    return _listed(path) if path.suffix.lower() in LISTS else iter([str(path)])


def _walked(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
    """Every image below, folder by folder, sorted by name; a link back to a folder on the way is not followed."""
    try:
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            return
        with os.scandir(folder) as entries:
            found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}. Make it readable, or move it away.") from None
    for entry in found:
        if entry.is_dir():
            yield from _walked(Path(entry.path), (*above, here))
        elif _suffix(entry.name) in SUFFIXES:
            yield entry.path


def _listed(path: Path) -> Iterator[str]:
    """Paths of a list, against its folder; a label behind a path is left out."""
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                text = line.strip()
                before = LABEL.sub("", text)
                if _suffix(before) in SUFFIXES:
                    text = before
                if text:
                    yield text if text.startswith("/") else f"{path.parent}/{text}"
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a list of paths in UTF-8: {error}") from None


def _suffix(name: str) -> str:
    """As of a Path, which would take a tenth of the time that decoding takes."""
    _, dot, last = name.rpartition(".")
    return dot + last.lower() if dot else ""


def _whole(path: Path, found: Kind) -> Shard:
    status = path.stat()
    return Shard(kind=found, paths=(str(path),), size=status.st_size, changed=status.st_mtime_ns)


def _parquet(path: Path, size: int, column: str | None, time: str | None) -> Iterator[Shard]:
    """Consecutive row groups to about `size` rows: at least one group."""
    status, name = path.stat(), _column(path, column, time)
    with _opened(path) as file:
        counts = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    begin, first = 0, 0
    while begin < len(counts):
        end, rows = begin + 1, counts[begin]
        while end < len(counts) and rows + counts[end] <= size:
            rows += counts[end]
            end += 1
        yield Shard(
            kind="parquet",
            paths=(str(path),),
            size=status.st_size,
            changed=status.st_mtime_ns,
            begin=begin,
            end=end,
            first=first,
            rows=rows,
            column=name,
            time=time,
        )
        begin, first = end, first + rows


def _column(path: Path, column: str | None, time: str | None) -> str:
    """The column of images; ConfigError where it, or that of times, is not there or of another type."""
    with _opened(path) as file:
        schema, there, n = file.schema_arrow, file.schema_arrow.names, file.metadata.num_rows
    if n == 0:
        raise DataError(f"{path}: holds no row.")
    listed = f"Columns: {', '.join(there)}."
    if time is not None and time not in there:
        raise ConfigError(f"{path}: has no column '{time}' of times. {nearest(time, there)} {listed}")
    if column is not None:
        if column not in there:
            raise ConfigError(f"{path}: has no column '{column}'. {nearest(column, there)} {listed}")
        if not _may_be_images(schema.field(column).type):
            told = schema.field(column).type
            raise ConfigError(f"{path}: column '{column}' holds {told}, expected paths or bytes. {listed}")
        return column
    found = next((name for name in COLUMNS if name in there and _may_be_images(schema.field(name).type)), None)
    if found is None:
        raise ConfigError(
            f"{path}: has no column {', '.join(COLUMNS)} of paths or bytes. {listed} Name that of the images: "
            "--column NAME"
        )
    return found


def _may_be_images(type_: Any) -> bool:
    """Text, bytes, or Hugging Face's record of both."""
    types = optional("pyarrow", "parquet", "a column of images").types
    if types.is_struct(type_):
        return any(type_.field(number).name == "bytes" for number in range(type_.num_fields))
    if types.is_dictionary(type_):
        type_ = type_.value_type
    return any(fits(type_) for fits in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary))


def _opened(path: Path) -> Any:
    parquet = optional("pyarrow.parquet", "parquet", str(path))
    try:
        return parquet.ParquetFile(path)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a Parquet file, or damaged: {error}. Copy it again.") from None
