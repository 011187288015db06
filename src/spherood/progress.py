"""Progress with rate and time left, on stderr; results belong to stdout.

On a terminal a bar; elsewhere (a log, CI) a line now and then, so that nobody waits in the dark.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

QUIET_SECONDS = 15.0  # between two lines where there is no terminal


class Advance(Protocol):
    """`advance(n, note)`: n more units are done; the note is shown behind the bar."""

    def __call__(self, n: int, note: str = "") -> None: ...


@contextmanager
def progress(what: str, total: int, unit: str = "images", done: int = 0) -> Iterator[Advance]:
    """Show how far a piece of work is. `done` units were finished earlier and do not count for the rate."""
    if sys.stderr.isatty():
        yield from _bar(what, total, unit, done)
    else:
        yield from _lines(what, total, unit, done)


def _bar(what: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} " + unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    started, finished = time.monotonic(), 0
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=done, rate="", note="")

        def advance(n: int, note: str = "") -> None:
            nonlocal finished
            finished += n
            rate = finished / max(time.monotonic() - started, 1e-9)
            bar.update(task, advance=n, rate=f"{rate:,.0f}/s", note=note)

        yield advance


def _lines(what: str, total: int, unit: str, done: int) -> Iterator[Advance]:
    started = last = time.monotonic()
    finished = 0

    def advance(n: int, note: str = "") -> None:
        nonlocal finished, last
        finished += n
        now = time.monotonic()
        if now - last >= QUIET_SECONDS:
            last = now
            rate = finished / (now - started)
            left = (total - done - finished) / max(rate, 1e-9)
            text = f"{what}: {done + finished:,}/{total:,} {unit}, {rate:,.0f}/s, {left:,.0f} s left {note}"
            print(text.rstrip(), file=sys.stderr, flush=True)

    yield advance


def duration(seconds: float) -> str:
    """4000 -> "1 h 7 min"."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
