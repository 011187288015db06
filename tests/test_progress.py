from __future__ import annotations

import importlib
import io
import sys
from types import SimpleNamespace

import pytest

from spherood.progress import progress

module = importlib.import_module("spherood.progress")


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_a_log_gets_a_line_with_rate_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("score", total=2000) as advance:
        for seconds in (10, 4, 1, 14):
            clock.now += seconds
            advance(300, note="auroc .91")
        clock.now += 16
        advance(300)
    out, err = capsys.readouterr()
    assert out == ""  # results belong there
    assert err.splitlines() == [
        "score: 900/2,000 images, 60/s, 18 s left auroc .91",  # the first line after 15 seconds
        "score: 1,500/2,000 images, 33/s, 15 s left",
    ]


def test_what_was_done_earlier_counts_for_the_place_and_not_for_the_rate(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "QUIET_SECONDS", 1.0)
    with progress("train", total=100, unit="epochs", done=90) as advance:
        clock.now += 2
        advance(4)
    assert capsys.readouterr().err == "train: 94/100 epochs, 2/s, 3 s left\n"


def test_a_short_piece_of_work_says_nothing_in_a_log(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("score", total=10) as advance:
        clock.now += module.QUIET_SECONDS - 0.1
        advance(10)
    assert capsys.readouterr() == ("", "")


def test_an_error_inside_comes_out_as_it_is(clock: Clock) -> None:
    def work() -> None:
        with progress("score", total=10):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        work()


def test_a_terminal_gets_a_bar_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress("score", total=2000, done=500) as advance:
        advance(1500, note="auroc .91")
    shown = terminal.getvalue()
    for text in ("score", "2,000/2,000 images", "/s", "left", "auroc .91"):
        assert text in shown
    assert capsys.readouterr().out == ""
