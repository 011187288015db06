"""`spherood serve` as a user types it, and as a system stops it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")

Command = Callable[..., Any]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_it_answers_and_stops_when_it_is_told_to(bundle: Path, photos: Path, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "token").write_text("a token of some length\n")
    words = [sys.executable, "-m", "spherood", "serve", f"noise={bundle}", "--port", str(port)]
    process = subprocess.Popen([*words, "--token-file", str(tmp_path / "token")], stderr=subprocess.PIPE, text=True)
    try:
        headers = {"Authorization": "Bearer a token of some length", "Content-Type": "image/png"}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/predict", (photos / "red.png").read_bytes(), headers, method="POST"
        )
        until = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    found = json.loads(answer.read())
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.1)
        assert (found["bundle"], found["verdicts"][0]["is_ood"]) == ("noise", True)
        os.kill(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=40)
    finally:
        process.kill()
    assert f"serving noise at http://127.0.0.1:{port} (page), /docs, /metrics" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: not a bundle (no bundle.json)."),
        (["{bundle}", "{bundle}"], "two bundles are called 'shipped"),
        (["{bundle}", "--token-file", "nowhere"], "nowhere: no such file. It should hold the token."),
        (["{bundle}", "--token-file", "short"], "short: expected a token of 8 or more ASCII characters."),
        (["{bundle}", "--shadow", "nowhere"], "nowhere: not a bundle"),
    ],
)
def test_what_makes_no_sense_is_told_before_it_listens(
    words: list[str],
    message: str,
    spherood: Command,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("short")
    told = spherood("serve", *(word.format(bundle=bundle) for word in words), "--port", "0")
    assert told.code in (1, 2)
    assert message in told.err


def test_a_port_that_is_taken_is_told(spherood: Command, bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = spherood("serve", bundle, "--port", str(port))
    assert (told.code, told.err) == (
        2,
        f"127.0.0.1:{port}: Address already in use. Choose another: --port, --host.\n",
    )
