"""The images of a shard, one after the other: paths, or bytes out of a tar or a Parquet column.

What cannot be had is an item with the error: the others get their verdicts. Of a tar that is cut off the whole members
come, then one item that says where it ends. Members whose name, or whose folder's, begins with a dot are no images.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from itertools import repeat
from pathlib import Path, PurePosixPath
from typing import Any, Self

from PIL import Image

from spherood.data.decode import SUFFIXES, read_rgb
from spherood.errors import ImageError, optional
from spherood.scoring.shards import Shard

CELLS = 32  # of a Parquet column, at once: 256 photographs of 4 MB are a gigabyte, twice
LINK = "a link to another member. Write the tar with the files themselves: tar --dereference --hard-dereference"
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


def iso(seconds: float) -> str | None:
    """A time since 1970 as the rows have it; None beyond the years 1 to 9999."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def _of_files(shard: Shard) -> Iterator[Item]:
    for text in shard.paths:
        path = Path(text)
        try:
            time = iso(path.stat().st_mtime)
        except (OSError, ValueError):  # ValueError: a NUL in the path
            time = None  # whoever opens it says why
        yield Item(text, str(path.parent), time, path)


def _of_tar(shard: Shard) -> Iterator[Item]:
    (text,) = shard.paths
    count, last = 0, "its beginning"
    try:
        with tarfile.open(text, "r|*", tarinfo=_Member) as tar:  # as a stream: a shard may come from a slow place
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else all are kept, half a kilobyte each
                path = PurePosixPath(member.name.encode("utf-8", "backslashreplace").decode())
                hidden = any(part.startswith(".") for part in path.parts)
                if hidden or member.isdir() or path.suffix.lower() not in SUFFIXES:
                    continue
                name, time = f"{text}/{path}", iso(member.mtime)
                if not member.isfile():
                    yield Item(name, text, time, error=f"{name}: {LINK}")
                    continue
                file = tar.extractfile(member)
                content = b"" if file is None else file.read()
                if len(content) < member.size:
                    raise EOFError
                yield Item(name, text, time, content)
                count, last = count + 1, str(path)
    except CUT as error:
        if isinstance(error, OSError) and error.strerror:  # the system's own
            yield Item(text, text, error=f"{text}: cannot be read: {error.strerror}.")
            return
        images = "1 image" if count == 1 else f"{count:,} images"
        yield Item(text, text, error=f"{text}: cut off or damaged after {last} ({images}). Copy it again.")


class _Member(tarfile.TarInfo):
    """Of a tar whose end is its mark of zeros alone: tarfile takes a damaged head, or nothing at all, for one too."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf == bytes(tarfile.BLOCKSIZE):
                raise
            raise tarfile.ReadError(str(error)) from None


def _of_parquet(shard: Shard) -> Iterator[Item]:
    (text,), number = shard.paths, shard.first
    columns = [shard.column, *([shard.time] if shard.time else [])]
    arrow, parquet = optional("pyarrow", "parquet", text), optional("pyarrow.parquet", "parquet", text)
    try:
        with parquet.ParquetFile(text) as file:
            for batch in file.iter_batches(CELLS, list(range(shard.begin, shard.end)), columns):
                times = _times(arrow, batch.column(shard.time)) if shard.time else repeat(None)
                for cell, time in zip(batch.column(shard.column).to_pylist(), times, strict=False):
                    yield _of_cell(f"{text}:{number}", Path(text), cell, time)
                    number += 1
    except (ValueError, OSError, KeyError) as error:
        yield Item(text, text, error=f"{text}: cannot be read from row {number} on: {error}. Copy it again.")


def _of_cell(name: str, file: Path, cell: Any, when: str | None) -> Item:
    if isinstance(cell, dict):  # Hugging Face's image: bytes, or a path where there are none
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, str) and cell:
        path = file.parent / cell
        return Item(str(path), str(file), when, path)
    if isinstance(cell, bytes) and cell:
        return Item(name, str(file), when, cell)
    what = "no image" if not cell else f"{type(cell).__name__}, expected a path or bytes"
    return Item(name, str(file), when, error=f"{name}: holds {what}.")


def _times(arrow: Any, cells: Any) -> list[str | None]:
    """Timestamps, days, or texts of ISO 8601; without a zone they are UTC. None for anything else."""
    if arrow.types.is_timestamp(cells.type) or arrow.types.is_date(cells.type):
        # not as Python's: it has neither nanoseconds, nor every year, nor always the zone
        seconds = cells.cast(arrow.timestamp("s"), safe=False).cast(arrow.int64()).to_pylist()
        return [None if value is None else iso(value) for value in seconds]
    return [_time(value) if isinstance(value, str) else None for value in cells.to_pylist()]


def _time(text: str) -> str | None:
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        return None
    return iso((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
