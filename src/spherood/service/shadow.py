"""A second bundle that sees the same pictures and answers nobody: where would it have differed?"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import Any

from spherood.bundle.verdict import Verdict
from spherood.service.batches import Batches, Full, Judged

KEPT = 50


class Shadow:
    """``Shadow(batches)``; what it has no room for is left out, and counted."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches
        self._lock = threading.Lock()
        self._same = self._more = self._fewer = self._left_out = self._failed = 0
        self._differing: deque[dict[str, Any]] = deque(maxlen=KEPT)

    def look(self, content: bytes, name: str, rate: float | None, verdict: Verdict) -> None:
        """Judge a picture that was answered already."""
        try:
            self.batches.picture(content, name, rate).add_done_callback(
                lambda found: self._compare(name, verdict, found)
            )
        except Full:
            with self._lock:
                self._left_out += 1

    def report(self) -> dict[str, Any]:
        """So far; `differing` has the last ones."""
        with self._lock:
            return {
                "bundle": self.batches.served.name,
                "version": self.batches.served.now.version,
                "same": self._same,
                "ood_here_alone": self._more,
                "ood_there_alone": self._fewer,
                "left_out": self._left_out,
                "failed": self._failed,
                "differing": list(self._differing)[::-1],
            }

    def _compare(self, name: str, verdict: Verdict, found: Future[Judged]) -> None:
        with self._lock:
            if found.cancelled() or found.exception() is not None:
                self._failed += 1
                return
            other = found.result().verdict
            if other.is_ood == verdict.is_ood:
                self._same += 1
                return
            self._more, self._fewer = self._more + other.is_ood, self._fewer + verdict.is_ood
            self._differing.append(
                {"image": name, "answered": verdict.is_ood, "p_value": verdict.p_value, "shadow_p_value": other.p_value}
            )
