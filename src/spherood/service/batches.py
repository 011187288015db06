"""Requests to verdicts: pictures are decoded by several threads, and judged together by one.

Whoever waits while a batch is judged makes the next one: nobody waits for a batch to fill. The queue has a limit;
beyond it a request is refused at once instead of growing it.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from spherood.bundle.runtime import Seen
from spherood.bundle.verdict import Verdict
from spherood.service.pictures import Limits, open_picture
from spherood.service.served import Served, Version


class Full(Exception):
    """No room in the queue."""


@dataclass(frozen=True)
class Judged:
    """A verdict, by which version, and the picture where there was one."""

    verdict: Verdict
    version: Version
    picture: Image.Image | None


@dataclass(frozen=True)
class _Item:
    x: Any  # pixels (S, S, 3), or a row (F,)
    picture: Image.Image | None
    version: Version
    rate: float | None
    answer: Future[Judged]


class Batches:
    """``Batches(served, ...).picture(content, "cat.png", rate).result()``; `close()` finishes what was taken."""

    def __init__(self, served: Served, *, batch: int, room: int, decoders: int, limits: Limits) -> None:
        self.served, self.batch, self.room, self.limits = served, batch, room, limits
        self._decoders = ThreadPoolExecutor(decoders, f"decode {served.name}")
        self._queue: queue.Queue[_Item | None] = queue.Queue()
        self._taken, self._lock = 0, threading.Lock()
        self._judge = threading.Thread(target=self._work, name=f"judge {served.name}", daemon=True)
        self._judge.start()

    @property
    def waiting(self) -> int:
        """Images that are taken and have no verdict yet."""
        return self._taken

    def picture(self, content: bytes, name: str, rate: float | None = None) -> Future[Judged]:
        """A verdict on an encoded image; ImageError in the future where it is none. Full where there is no room."""
        answer = self._taking(1)[0]
        self._decoders.submit(self._decode, content, name, rate, answer)
        return answer

    def rows(self, feature: np.ndarray[Any, Any], rate: float | None = None) -> list[Future[Judged]]:
        """A verdict on each row (N, F) of what the bundle reads. Full where there is no room for all."""
        answers = self._taking(len(feature))
        version = self.served.now
        for row, answer in zip(feature, answers, strict=True):
            self._queue.put(_Item(row, None, version, rate, answer))
        return answers

    def close(self) -> None:
        """No more; what was taken gets its verdict."""
        self._decoders.shutdown(wait=True)
        self._queue.put(None)
        self._judge.join()

    def _taking(self, n: int) -> list[Future[Judged]]:
        with self._lock:
            if self._taken + n > self.room:
                raise Full
            self._taken += n
        answers: list[Future[Judged]] = [Future() for _ in range(n)]
        for answer in answers:
            answer.add_done_callback(self._given)
        return answers

    def _given(self, answer: Future[Judged]) -> None:
        with self._lock:
            self._taken -= 1

    def _decode(self, content: bytes, name: str, rate: float | None, answer: Future[Judged]) -> None:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            version = self.served.now
            picture = open_picture(content, name, self.limits)
            self._queue.put(_Item(version.bundle.pixels(picture), picture, version, rate, answer))
        except Exception as error:  # goes to whoever asked
            answer.set_exception(error)

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            items, last = [item], False
            while len(items) < self.batch:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                items.append(more)
            # One pass for each version and shape: of pictures, of rows, and of both sides of a swap.
            groups: dict[tuple[int, tuple[int, ...]], list[_Item]] = {}
            for one in items:
                groups.setdefault((id(one.version), np.shape(one.x)), []).append(one)
            for group in groups.values():
                self._answer(group)
            if last:
                return

    def _answer(self, group: list[_Item]) -> None:
        try:
            bundle, x = group[0].version.bundle, np.stack([item.x for item in group])
            seen = bundle.runtime.of_pixels(x) if x.ndim == 4 else bundle.runtime.of_rows(x)
            for rate in {item.rate for item in group}:
                decision = bundle.decision(rate)
                rows = [row for row, item in enumerate(group) if item.rate == rate]
                for row, verdict in zip(rows, bundle.judged(_some(seen, rows), decision), strict=True):
                    group[row].answer.set_result(Judged(verdict, group[row].version, group[row].picture))
        except Exception as error:  # goes to whoever asked
            for item in group:
                if not item.answer.done():
                    item.answer.set_exception(error)


def _some(seen: Seen, rows: list[int]) -> Seen:
    feature, logits, near = seen.feature, seen.logits, seen.near
    return Seen(
        seen.score[rows],
        None if feature is None else feature[rows],
        None if logits is None else logits[rows],
        None if near is None else (near[0][rows], near[1][rows]),
    )
