"""The images of a shard, one after the other: paths, or bytes out of a tar or a Parquet column.

What cannot be had is an item with the error: the others get their verdicts. Of a tar that is cut off the whole members
come, then one item that says where it ends.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from spherood.data.decode import SUFFIXES, read_rgb
from spherood.errors import ImageError, SpheroodError, optional
from spherood.scoring.shards import Shard

CELLS = 256  # of a Parquet column, at once
CUT = (tarfile.TarError, EOFError, OSError, zlib.error)


@dataclass(frozen=True)
class Item:
    """One image that has still to be read."""

    image: str  # its name in the row
    source: str  # folder, tar or Parquet file
    time: str | None = None  # ISO 8601, UTC
    content: Path | bytes | None = None
    error: str | None = None  # why there is no content


def items(shard: Shard) -> Iterator[Item]:
    """In the order of the shard."""
    if shard.kind == "tar":
        return _of_tar(shard)
    return _of_parquet(shard) if shard.kind == "parquet" else _of_files(shard)


def open_image(item: Item) -> Image.Image:
    """The picture, as RGB; ImageError names it and the reason where there is none."""
    if item.content is None:
        raise ImageError(item.error)
    if isinstance(item.content, Path):
        return read_rgb(item.content)
    return read_rgb(BytesIO(item.content), name=item.image)


def iso(seconds: float) -> str:
    """A time since 1970 as the rows have it."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat()


def _of_files(shard: Shard) -> Iterator[Item]:
    for text in shard.paths:
        path = Path(text)
        try:
            time = iso(path.stat().st_mtime)
        except OSError:
            time = None  # whoever opens it says why
        yield Item(text, str(path.parent), time, path)


def _of_tar(shard: Shard) -> Iterator[Item]:
    (text,) = shard.paths
    count, last = 0, "its beginning"
    try:
        with tarfile.open(text, "r|*") as tar:  # as a stream: a shard may come from a slow place
            for member in tar:
                if not member.isfile() or Path(member.name).suffix.lower() not in SUFFIXES:
                    continue
                file = tar.extractfile(member)
                content = b"" if file is None else file.read()
                if len(content) < member.size:
                    raise EOFError
                yield Item(f"{text}/{member.name}", text, iso(member.mtime), content)
                count, last = count + 1, member.name
            if tar.fileobj is not None and tar.fileobj.tell() < tar.offset + tarfile.BLOCKSIZE:
                raise EOFError  # no block that marks the end was read: tarfile takes that for an end too
    except CUT as error:
        if isinstance(error, OSError) and error.strerror:  # the system's own
            yield Item(text, text, error=f"{text}: cannot be read: {error.strerror}.")
            return
        images = "1 image" if count == 1 else f"{count:,} images"
        yield Item(text, text, error=f"{text}: cut off or damaged after {last} ({images}). Copy it again.")


def _of_parquet(shard: Shard) -> Iterator[Item]:
    (text,), number = shard.paths, shard.first
    columns = [shard.column, *([shard.time] if shard.time else [])]
    parquet = optional("pyarrow.parquet", "parquet", text)
    try:
        with parquet.ParquetFile(text) as file:
            for batch in file.iter_batches(CELLS, list(range(shard.begin, shard.end)), columns):
                for row in batch.to_pylist():
                    yield _of_cell(f"{text}:{number}", Path(text), row[shard.column], row.get(shard.time))
                    number += 1
    except SpheroodError:
        raise
    except (ValueError, OSError, KeyError) as error:
        yield Item(text, text, error=f"{text}: cannot be read from row {number} on: {error}. Copy it again.")


def _of_cell(name: str, file: Path, cell: Any, time: Any) -> Item:
    when = _time(time)
    if isinstance(cell, dict):  # Hugging Face's image: bytes, or a path where there are none
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, str) and cell:
        path = file.parent / cell
        return Item(str(path), str(file), when, path)
    if isinstance(cell, bytes) and cell:
        return Item(name, str(file), when, cell)
    what = "no image" if not cell else f"{type(cell).__name__}, expected a path or bytes"
    return Item(name, str(file), when, error=f"{name}: holds {what}.")


def _time(value: Any) -> str | None:
    """A timestamp, a day, or a text of ISO 8601; without a zone it is UTC. None for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        return None
    known = value if value.tzinfo else value.replace(tzinfo=UTC)
    return known.astimezone(UTC).replace(microsecond=0).isoformat()
