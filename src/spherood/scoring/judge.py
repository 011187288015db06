"""One block of images, or of features, to rows: each with its verdict or the reason why there is none.

Free of torch. It is called by several threads at once, each of which keeps to one core: decoding and the network then
overlap by themselves. Images that are decoded quickly, as small ones are, are decoded by one thread at a time: most of
that is Python, which one thread runs at a time anyway, and threads that hand it to each other at every file fall into
step, so that all decode at once and then all compute at once. CIFAR images took a quarter longer so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spherood.bundle.bundle import Bundle
from spherood.bundle.runtime import Runtime, Seen
from spherood.bundle.verdict import Verdict
from spherood.data.preprocess import Pixels
from spherood.errors import ImageError
from spherood.outputs import Outputs
from spherood.scoring.items import Item, open_image
from spherood.scoring.parts import Row


class Rows(NamedTuple):
    """Features (B, F) of one file, logits (B, C) where it has them, and their names."""

    feature: NDArray[np.float32]
    logits: NDArray[np.float32] | None
    names: Sequence[str]
    source: str


QUICK = 1e-3  # seconds to decode one image; below, most of it is Python

Block: TypeAlias = Sequence[Item] | Rows


class Judge:
    """``Judge(bundle, false_alarm_rate)(items) -> rows``."""

    def __init__(self, bundle: Bundle, false_alarm_rate: float | None = None) -> None:
        """CalibrationError for a rate that the bundle cannot promise."""
        self.bundle, self.decision = bundle, bundle.decision(false_alarm_rate)
        self._own, self._lock = threading.local(), threading.Lock()
        self._decoding, self._quick = threading.Lock(), True

    def __call__(self, block: Block) -> list[Row]:
        """A row for every item, in order. Errors of `Bundle.predict` where features do not fit."""
        if isinstance(block, Rows):
            return self._of_rows(block)
        with self._decoding if self._quick else nullcontext():
            begin = time.perf_counter()
            pixels, errors = self._decoded(block)
            self._quick = time.perf_counter() - begin < QUICK * len(block)
        verdicts = iter(self._verdicts(self._runtime().of_pixels(np.stack(pixels))) if pixels else ())
        return [
            row(item.image, item.source, item.time, None if number in errors else next(verdicts), errors.get(number))
            for number, item in enumerate(block)
        ]

    def _decoded(self, block: Sequence[Item]) -> tuple[list[Pixels], dict[int, str]]:
        pixels, errors = [], {}
        for number, item in enumerate(block):
            try:
                pixels.append(self.bundle.pixels(open_image(item)))  # small at once: photographs are large
            except ImageError as error:
                errors[number] = str(error)
        return pixels, errors

    def _of_rows(self, block: Rows) -> list[Row]:
        x: Any = block.feature
        if block.logits is not None and self.bundle.runtime.reads != "embedding":
            x = Outputs(x, logits=block.logits)  # type: ignore[arg-type]  # arrays are as good
        verdicts = self._verdicts(self._runtime().of_rows(x))
        return [
            row(name, block.source, None, verdict, None) for name, verdict in zip(block.names, verdicts, strict=True)
        ]

    def _verdicts(self, seen: Seen) -> Iterable[Verdict]:
        return self.bundle.judged(seen, self.decision)

    def _runtime(self) -> Runtime:
        if not hasattr(self._own, "runtime"):
            with self._lock:
                self._own.runtime = self.bundle.runtime.on_one_core()
        runtime: Runtime = self._own.runtime
        return runtime


NOTHING = dict.fromkeys(("is_ood", "score", "p_value", "threshold", "nearest_class", "needs_review", "reason"))


def row(image: str, source: str, time: str | None, verdict: Verdict | None, error: str | None) -> Row:
    """The record of one image; without a verdict its fields are None."""
    found: Row = {"image": image, "source": source, "time": time}
    if verdict is None:
        return {**found, **NOTHING, "neighbours": [], "error": error}
    return {  # field by field: dataclasses.asdict takes as long as decoding a small image
        **found,
        "is_ood": verdict.is_ood,
        "score": verdict.score,
        "p_value": verdict.p_value,
        "threshold": verdict.threshold,
        "nearest_class": verdict.nearest_class,
        "needs_review": verdict.needs_review,
        "reason": verdict.reason,
        "neighbours": [{"name": one.name, "cosine": one.cosine, "row": one.row} for one in verdict.neighbours],
        "error": None,
    }
