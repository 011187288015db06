"""Archives unpacked so that they harm nothing: into a folder aside, which takes its name when it is whole.

Refused: a path that leaves the folder, a link, a device; more files or bytes than an image set has. tar, tar.gz, zip.
"""

from __future__ import annotations

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from spherood.errors import DataError
from spherood.progress import progress

MOST_FILES, MOST_BYTES = 5_000_000, 2_000_000_000_000
EXPANSION = 200  # times the archive's own size, beyond what small ones may have
SMALL = 1 << 30  # bytes that any archive may give
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError)


@dataclass(frozen=True)
class Member:
    """A file in an archive: its name, its size, and how to read it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, below: str, into: Path, keep: Callable[[str], bool] = lambda name: True) -> int:
    """Write the files whose names begin with `below`, without that, into a folder; how many.

    DataError where the archive is damaged, holds none, or holds what no image set does; then nothing is left.
    """
    size, count, taken = archive.stat().st_size, 0, 0
    limit = min(MOST_BYTES, max(SMALL, EXPANSION * size))
    with _aside(into) as aside, members(archive) as found, progress(f"unpacking {archive.name}", size, "bytes") as told:
        done = 0
        for member, at in found:
            told(at - done)
            done = at
            name = relative(member.name, below, archive)
            if name is None or not keep(member.name):
                continue
            count, taken = count + 1, taken + member.size
            if taken > limit or count > MOST_FILES:
                raise DataError(f"{archive}: gives more than {limit / 1e9:,.0f} GB or {MOST_FILES:,} files: refused.")
            place = aside / name
            place.parent.mkdir(parents=True, exist_ok=True)
            with member.open() as source, place.open("wb") as out:
                shutil.copyfileobj(source, out, 1 << 20)
        if not count:
            raise DataError(f"{archive}: holds nothing below {below}. Is it another archive?")
    return count


def names(archive: Path) -> list[str]:
    """Of all files, in the archive's order."""
    with members(archive) as found:
        return [member.name for member, _ in found]


@contextmanager
def members(archive: Path) -> Iterator[Iterator[tuple[Member, int]]]:
    """The files of an archive, and how many of its bytes have been read; DataError where it is damaged."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as whole:
                yield _of_zip(whole, archive)
        else:
            with archive.open("rb") as raw, tarfile.open(fileobj=raw) as tar:
                yield _of_tar(tar, raw, archive)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the archive
            raise
        reason = str(error).partition(":\n")[0] or type(error).__name__  # tarfile tells of every format it tried
        raise DataError(f"{archive}: damaged, or no archive ({reason}). Remove it and fetch it again.") from None


def relative(name: str, below: str, archive: Path) -> PurePosixPath | None:
    """The place of a member; None where it is not below. DataError for one that would leave the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or (path.parts and ":" in path.parts[0]):
        raise DataError(f"{archive}: holds '{name}', which would leave its folder: refused. Get it from its own page.")
    text = path.as_posix().removeprefix("./")
    return PurePosixPath(text.removeprefix(below)) if text.startswith(below) and text != below else None


def _of_zip(whole: zipfile.ZipFile, archive: Path) -> Iterator[tuple[Member, int]]:
    read = 0
    for info in whole.infolist():
        read += info.compress_size
        if info.is_dir():
            continue
        if (info.external_attr >> 16) & 0o170000 == 0o120000:
            raise DataError(f"{archive}: holds a link, '{info.filename}', which no image set does: refused.")
        yield Member(info.filename, info.file_size, lambda info=info: whole.open(info)), read  # type: ignore[misc]


def _of_tar(tar: tarfile.TarFile, raw: IO[bytes], archive: Path) -> Iterator[tuple[Member, int]]:
    for info in tar:
        if info.isdir():
            continue
        if not info.isreg():
            kind = "a link" if info.issym() or info.islnk() else "a device"
            raise DataError(f"{archive}: holds {kind}, '{info.name}', which no image set does: refused.")
        yield Member(info.name, info.size, lambda info=info: tar.extractfile(info)), raw.tell()  # type: ignore[arg-type,misc]


@contextmanager
def _aside(into: Path) -> Iterator[Path]:
    """A folder that becomes `into` when all went well, and goes away otherwise."""
    aside = into.with_name(f".{into.name}.unpacking")
    shutil.rmtree(aside, ignore_errors=True)  # of one that was killed
    aside.mkdir(parents=True)
    try:
        yield aside
        if into.is_symlink() or into.exists():
            raise DataError(f"{into}: is there already. Move it away to have it made anew.")
        aside.replace(into)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
