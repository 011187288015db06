"""Files that are whole or absent: written aside, flushed, then renamed; and the hashes that prove them unaltered."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spherood.errors import OutputError


def _boot() -> str:
    """What tells this machine's run, and this container, from others'; the name of a host alone may be shared."""
    with suppress(OSError):  # Linux; elsewhere the name must do
        return Path("/proc/sys/kernel/random/boot_id").read_text() + str(Path("/proc/self/ns/pid").readlink())
    return ""


# Several machines or containers may write into one folder, and their process numbers are not each other's.
HOST = hashlib.sha256(f"{platform.node()} {_boot()}".encode()).hexdigest()[:8]


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; on success it takes the place of `path`, on any failure it goes away.

    A kill at any moment leaves the old file or the new one, never half of one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: its folder cannot be made: {error.strerror}. Choose another place.") from None
    for left in path.parent.glob(f".{glob.escape(path.name)}.{HOST}.*.part"):
        if not _runs(left.name.split(".")[-2]):  # of a process that was killed while it wrote
            left.unlink(missing_ok=True)
    aside = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.part")
    try:
        aside.touch()
        mode = aside.stat().st_mode
        yield aside
        aside.chmod(mode)  # safetensors leaves files that only their owner can read
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _runs(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    with written_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON with a final newline, whole or not at all. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
