"""Downloads against a server on loopback that cuts, lies, moves and is slow."""

from __future__ import annotations

import errno
import hashlib
import http.server
import multiprocessing
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spherood.data import download
from spherood.data.catalogue import File
from spherood.data.download import fetch
from spherood.errors import DataError, OutputError

CONTENT = bytes(range(256)) * 4000  # 1 MB
MD5 = hashlib.md5(CONTENT).hexdigest()
HOME = "https://example.org/set"


class Server(http.server.ThreadingHTTPServer):
    """`/cut` ends after a third of what was asked for; `/whole` knows no ranges; `/login` is a page; `/ok` is right."""

    asked: list[tuple[str, str | None]]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))  # type: ignore[attr-defined]
        if self.path == "/gone":
            self.send_error(404)
            return
        content, kind = CONTENT, "application/octet-stream"
        if self.path == "/login":
            content, kind = b"<html>please log in</html>", "text/html"
        if self.path == "/other":
            content = CONTENT[:-1] + b"!"
        start = int(asked.split("=")[1].rstrip("-")) if asked and self.path != "/whole" else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kind)
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        rest = content[start:]
        cut = len(content) // 3 if self.path in ("/cut", "/whole") else 0 if self.path == "/dead" else len(rest)
        if self.path == "/whole" and len([one for one in self.server.asked if one[0] == "/whole"]) > 1:  # type: ignore[attr-defined]
            cut = len(rest)
        self.wfile.write(rest[:cut])

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server(("127.0.0.1", 0), Handler)
    found.asked = []
    threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True).start()
    yield found
    found.shutdown()
    found.server_close()


def file(server: Server, *paths: str, md5: str | None = MD5) -> File:
    port = server.server_address[1]
    return File(name="set.bin", urls=tuple(f"http://127.0.0.1:{port}/{path}" for path in paths), md5=md5)


def test_a_file_arrives_whole_and_is_not_fetched_again(server: Server, tmp_path: Path) -> None:
    path = fetch(file(server, "ok"), tmp_path, HOME)
    assert path.read_bytes() == CONTENT
    assert fetch(file(server, "ok"), tmp_path, HOME) == path
    assert len(server.asked) == 1
    assert not list(tmp_path.glob("*.part"))


def test_a_cut_connection_goes_on_where_it_was(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(file(server, "cut"), tmp_path, HOME).read_bytes() == CONTENT
    third = len(CONTENT) // 3
    assert [one for _, one in server.asked] == [None, f"bytes={third}-", f"bytes={2 * third}-", f"bytes={3 * third}-"]
    assert f"going on at {third:,} bytes" in capsys.readouterr().err


def test_a_download_that_was_killed_goes_on(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.bin.part").write_bytes(CONTENT[:1000])
    assert fetch(file(server, "ok"), tmp_path, HOME).read_bytes() == CONTENT
    assert server.asked == [("/ok", "bytes=1000-")]


def test_one_that_had_come_whole_is_only_checked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "set.bin.part").write_bytes(CONTENT)
    assert fetch(file(server, "ok"), tmp_path, HOME).read_bytes() == CONTENT


def test_a_server_without_ranges_sends_all_anew(server: Server, tmp_path: Path) -> None:
    assert fetch(file(server, "whole"), tmp_path, HOME).read_bytes() == CONTENT


def test_a_file_without_length_arrives(server: Server, tmp_path: Path) -> None:
    assert fetch(file(server, "endless"), tmp_path, HOME).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("first", "told"),
    [
        ("gone", "/gone: HTTP 404 Not Found; trying the next"),
        ("login", "/login: a web page instead of the file: a login, a quota, or it has moved; trying the next"),
        ("other", "/other: wrong checksum (md5 "),
        ("dead", "/dead: 0 of 1,024,000 bytes came; trying the next"),
    ],
)
def test_a_mirror_that_does_not_have_it_is_passed_over_with_a_word(
    first: str, told: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch(file(server, first, "ok"), tmp_path, HOME).read_bytes() == CONTENT
    assert told in capsys.readouterr().err


def test_where_no_mirror_has_it_the_page_is_named_and_nothing_is_left(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        fetch(file(server, "gone", "other"), tmp_path, HOME)
    told = str(raised.value)
    assert told.startswith("set.bin: cannot be fetched.\n  http://127.0.0.1")
    assert "HTTP 404" in told
    assert "wrong checksum" in told
    assert told.endswith(f"Get it from {HOME}, and pass the folder that it lies in: --from FOLDER")
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == []


def test_a_host_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="refused"):
        fetch(File(name="x", urls=("http://127.0.0.1:9/x",)), tmp_path, HOME)


def test_a_file_that_was_altered_since_is_fetched_again(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set.bin").write_bytes(b"something else")
    assert fetch(file(server, "ok"), tmp_path, HOME).read_bytes() == CONTENT
    assert "wrong checksum" in capsys.readouterr().err


def test_a_full_disk_says_so_and_keeps_what_came(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(url: str, part: Path, file: File) -> None:
        part.write_bytes(CONTENT[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "_from", full)
        with pytest.raises(OutputError, match="No space left on device"):
            fetch(file(server, "ok", "ok"), tmp_path, HOME)
    assert (tmp_path / "set.bin.part").stat().st_size == 5
    assert fetch(file(server, "ok"), tmp_path, HOME).read_bytes() == CONTENT


def _fetch(settings: dict[str, Any], folder: Path) -> None:
    fetch(File(**settings), folder, HOME)


def test_two_processes_do_not_harm_each_other(server: Server, tmp_path: Path) -> None:
    wanted = file(server, "cut").model_dump()
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_fetch, args=(wanted, tmp_path)) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
        assert one.exitcode == 0
    assert (tmp_path / "set.bin").read_bytes() == CONTENT
    assert len(server.asked) == 4  # one fetched it, the other found it
