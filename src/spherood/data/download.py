"""Files from the network: resumed where they were cut, checked, whole or absent; mirror after mirror.

What has arrived lies in NAME.part beside the file; a lock keeps other processes from it. A page of HTML where a file
was expected (a login, a quota, a notice that it has moved) is no file. No host is asked that is not in the list.
"""

from __future__ import annotations

import hashlib
import http.client
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from filelock import FileLock

from spherood.data.catalogue import File
from spherood.errors import DataError, OutputError
from spherood.progress import progress
from spherood.version import __version__

CHUNK = 1 << 20
TIMEOUT = 30.0  # seconds without a byte
TRIES = 5  # on one mirror, as long as each brings some more
FAILURES = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)


def fetch(file: File, folder: Path, home: str) -> Path:
    """The file, in `folder`. home: the page that the message names where no mirror has it. DataError then."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file.name
    with FileLock(folder / f".{file.name}.lock"):
        if path.is_file():
            if not (why := wrong(path, file)):
                return path
            print(f"{path}: {why}; fetched again.", file=sys.stderr)
        told = []
        for url in file.urls:
            try:
                _from(url, path.with_name(f"{file.name}.part"), file)
            except (DataError, *FAILURES) as error:
                told.append(f"{url}: {_reason(error)}")
                print(f"{told[-1]}{'; trying the next' if url != file.urls[-1] else ''}", file=sys.stderr)
            except OSError as error:  # of the disk: no other mirror would help
                raise OutputError(
                    f"{path}: {error.strerror or error}. Make room, or choose another --data; what came is kept, and "
                    "the same command goes on."
                ) from None
            else:
                path.with_name(f"{file.name}.part").replace(path)
                return path
    raise DataError(
        f"{file.name}: cannot be fetched.\n" + "\n".join(f"  {line}" for line in told) + f"\nGet it from {home}, and "
        f"pass the folder that it lies in: --from FOLDER"
    )


def wrong(path: Path, file: File) -> str:
    """Why a file is not the one that was meant; empty where it is, or where no hash is known."""
    for kind, expected in (("md5", file.md5), ("sha256", file.sha256)):
        if expected:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, kind).hexdigest()
            if not found.startswith(expected):
                return f"wrong checksum ({kind} {found[:12]}, expected {expected[:12]})"
    return ""


def _from(url: str, part: Path, file: File) -> None:
    """All of it into `part`, then checked; a wrong one is removed."""
    for _ in range(TRIES):
        have = _size(part)
        try:
            _rest(url, part, have)
            break
        except FAILURES as error:
            if isinstance(error, urllib.error.HTTPError) or _size(part) == have:  # nothing more came
                raise
            print(f"{url}: cut off ({_reason(error)}); going on at {_size(part):,} bytes.", file=sys.stderr)
    else:
        raise DataError("was cut off again and again; what came is kept, and the same command goes on")
    if why := wrong(part, file):
        part.unlink()
        raise DataError(f"{why}; removed")


def _rest(url: str, part: Path, have: int) -> None:
    """Ask for what is missing, and add it; an error where less came. A server that cannot resume sends all anew."""
    request = urllib.request.Request(url, headers={"User-Agent": f"spherood/{__version__}"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is missing
            return
        raise
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise DataError("a web page instead of the file: a login, a quota, or it has moved")
        resumed = answer.status == 206
        have = have if resumed else 0
        length = answer.headers["Content-Length"]
        total = have + int(length) if length is not None else None
        shown = progress(part.name.removesuffix(".part"), total, "bytes", done=have) if total else nullcontext(_silent)
        with part.open("ab" if resumed else "wb") as out, shown as advance:
            while chunk := answer.read(CHUNK):
                out.write(chunk)
                have += len(chunk)
                advance(len(chunk))
    if total is not None and have < total:
        raise ConnectionError(f"{have:,} of {total:,} bytes came")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _silent(n: int, note: str = "") -> None:
    """Of a file whose size is not told."""


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    return str(getattr(error, "reason", error)) or type(error).__name__


def named_hosts(files: Sequence[File]) -> list[str]:
    """The hosts that fetching these would ask."""
    return list(dict.fromkeys(url.split("/")[2] for file in files for url in file.urls))
