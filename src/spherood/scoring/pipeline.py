"""Shards to parts: this thread reads items and writes parts, others decode and judge, a block at a time each.

A part is written when its shard is done, aside and renamed: what is there is whole, and a rerun does the rest. The
order of rows is that of the items, whatever finishes first. Free of torch.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from spherood.data.feature_file import read_features
from spherood.scoring.items import items
from spherood.scoring.judge import Block, Judge, Rows
from spherood.scoring.parts import Row, write_part
from spherood.scoring.shards import Shard

BLOCK = 128  # images decoded and judged at once
LARGE, FEW = 64, 32  # of more pixels a side so many: at the end of the work a thread waits for another's block
ROWS = 4096  # of features
AHEAD = 2  # blocks waiting for each thread

Advance = Callable[[int, int], None]  # so many more images, and parts


class Tally(NamedTuple):
    """What became of some images."""

    rows: int = 0
    alarms: int = 0
    review: int = 0
    errors: int = 0

    def plus(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(*(one + another for one, another in zip(self, other, strict=True)))


def tally(rows: Iterable[Row]) -> Tally:
    """Of rows, or of their columns is_ood, needs_review and error."""
    found = [(row["is_ood"] is True, row["needs_review"] is True, row["error"] is not None) for row in rows]
    return Tally(len(found), *(sum(column) for column in zip(*found, strict=True))) if found else Tally()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def judged(shards: Iterable[tuple[int, Shard]], judge: Judge, threads: int) -> Iterator[tuple[int, list[Row], bool]]:
    """(number of the shard, rows, whether they are its last), block by block and in order."""
    pool = ThreadPoolExecutor(threads, "judge")
    waiting: deque[tuple[int, Future[list[Row]], bool]] = deque()
    try:
        preprocess = judge.bundle.preprocess
        size = BLOCK if preprocess is None or preprocess.size <= LARGE else min(BLOCK, FEW)
        for number, block, last in _blocks(shards, size):
            waiting.append((number, pool.submit(judge, block), last))
            if len(waiting) > AHEAD * threads:
                number, done, last = waiting.popleft()
                yield number, done.result(), last
        while waiting:
            number, done, last = waiting.popleft()
            yield number, done.result(), last
    finally:
        pool.shutdown(cancel_futures=True)


def write_parts(
    shards: Iterable[tuple[int, Shard]],
    judge: Judge,
    part: Callable[[int], Path],
    threads: int,
    advance: Advance = lambda images, parts: None,
) -> Tally:
    """Every shard to the file `part(number)`. OutputError where there is no room."""
    counted, rows = Tally(), list[Row]()
    for number, block, last in judged(shards, judge, threads):
        rows += block
        if last:
            write_part(part(number), rows)
            counted, rows = counted.plus(tally(rows)), []
        advance(len(block), int(last))
    return counted


def _blocks(shards: Iterable[tuple[int, Shard]], size: int) -> Iterator[tuple[int, Block, bool]]:
    for number, shard in shards:
        remaining = _of_features(shard) if shard.kind == "features" else _of_items(shard, size)
        block = next(remaining, [])
        for following in remaining:
            yield number, block, False
            block = following
        yield number, block, True


def _of_items(shard: Shard, size: int) -> Iterator[Block]:
    remaining = items(shard)
    while block := list(islice(remaining, size)):
        yield block


def _of_features(shard: Shard) -> Iterator[Block]:
    (text,) = shard.paths
    found = read_features(Path(text))
    names = found.names or [f"{text}:{row}" for row in range(len(found))]
    for start in range(0, len(found), ROWS):
        stop = start + ROWS
        logits = None if found.logits is None else found.logits[start:stop]
        yield Rows(found.feature[start:stop], logits, names[start:stop], text)
