"""What a folder of scored images says altogether: read part by part, in memory that its rows do not fill.

Kept are counts by source, by hour, by nearest class and by kind of error, and the few rows that the page shows.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from spherood.metrics import clopper_pearson
from spherood.metrics.binomial import log_at_least
from spherood.progress import progress
from spherood.scoring.parts import Row, part_files, read_part
from spherood.scoring.plan import Plan

SHOWN, LISTED, NAMES = 24, 200, 3
SOURCES = 20_000  # with names of their own; the rest is one
ELSEWHERE = "all other places"
BINS = 20  # of p-values
SPANS = {"hour": 1, "day": 24, "week": 24 * 7, "four weeks": 24 * 28, "year": 24 * 364}  # hours
PERIODS = 60  # at most, along time
SURE = 0.01  # one-sided: below it, alarms are more than false ones explain


@dataclass
class Count:
    """Of images with a verdict, how many are OOD."""

    images: int = 0
    ood: int = 0

    def add(self, is_ood: bool) -> None:
        """One more."""
        self.images += 1
        self.ood += is_ood

    @property
    def share(self) -> tuple[float, float, float]:
        """Value, and the ends of its 95 % interval (Clopper-Pearson)."""
        low, high = clopper_pearson(self.ood, self.images)
        return self.ood / self.images, low, high


@dataclass
class Summary:
    """Of all rows in `out`."""

    out: Path
    rate: float  # promised share of false alarms
    whole: Count = field(default_factory=Count)
    review: int = 0
    unreadable: int = 0
    parts: tuple[int, int] = (0, 0)  # there, planned
    sources: dict[str, Count] = field(default_factory=dict)
    hours: dict[int, Count] = field(default_factory=dict)  # since 1970, UTC
    classes: Counter[str] = field(default_factory=Counter)  # nearest ones, of OOD
    p_values: list[int] = field(default_factory=lambda: [0] * BINS)
    errors: dict[str, tuple[int, list[str]]] = field(default_factory=dict)  # kind: how many, the first ones
    most: list[Row] = field(default_factory=list)  # the highest scores, highest first
    discoveries: int | None = None  # None without a second pass
    flagged: list[Row] = field(default_factory=list)  # the lowest p-values among them, lowest first

    @property
    def explained(self) -> float:
        """How probable so many alarms or more are where every image is ID and the promise is just kept."""
        if not self.whole.images:
            return 1.0
        return math.exp(log_at_least(self.whole.ood, self.whole.images, self.rate))

    def periods(self) -> tuple[str, list[tuple[str, Count]]]:
        """The shortest span of which there are at most PERIODS, and each period by its beginning."""
        if not self.hours:
            return "hour", []
        first, last = min(self.hours), max(self.hours)
        span = next((name for name, hours in SPANS.items() if (last - first) // hours < PERIODS), "year")
        found: dict[int, Count] = {}
        for hour, count in sorted(self.hours.items()):
            period = found.setdefault(hour // SPANS[span], Count())
            period.images += count.images
            period.ood += count.ood
        begin = datetime(1970, 1, 1, tzinfo=UTC)
        return span, [
            ((begin + timedelta(hours=number * SPANS[span])).isoformat(), count) for number, count in found.items()
        ]


def summarise(out: Path) -> Summary:
    """Read every part. DataError where there are none."""
    plan, files = Plan.of(out), part_files(out)
    summary = Summary(out, float(plan.header["false_alarm_rate"]), parts=(len(files), len(plan)))
    most: list[tuple[float, int, Row]] = []
    flagged: list[tuple[float, int, Row]] = []
    number = 0
    with progress("reading parts", len(files), "parts") as advance:
        for file in files:
            for row in read_part(file):
                number += 1
                _count(summary, row)
                if row["error"] is not None:
                    continue
                _keep(most, (row["score"], -number, row), SHOWN)
                if row.get("discovery"):
                    _keep(flagged, (-row["p_value"], -number, row), LISTED)
            advance(1)
    summary.most = [row for _, _, row in sorted(most, key=lambda one: one[:2], reverse=True)]
    summary.flagged = [row for _, _, row in sorted(flagged, key=lambda one: one[:2], reverse=True)]
    return summary


def _count(summary: Summary, row: Row) -> None:
    if "discovery" in row:
        summary.discoveries = (summary.discoveries or 0) + (row["discovery"] is True)
    if row["error"] is not None:
        summary.unreadable += 1
        kind = _kind(row)
        count, names = summary.errors.get(kind, (0, []))
        summary.errors[kind] = (count + 1, [*names, row["image"]] if len(names) < NAMES else names)
        return
    is_ood = bool(row["is_ood"])
    summary.whole.add(is_ood)
    summary.review += bool(row["needs_review"])
    place = row["source"] if row["source"] in summary.sources or len(summary.sources) < SOURCES else ELSEWHERE
    summary.sources.setdefault(place, Count()).add(is_ood)
    summary.p_values[min(BINS - 1, int(row["p_value"] * BINS))] += 1
    if row["time"] is not None:
        hour = int(datetime.fromisoformat(row["time"]).timestamp() // 3600)
        summary.hours.setdefault(hour, Count()).add(is_ood)
    if is_ood and row["nearest_class"] is not None:
        summary.classes[row["nearest_class"]] += 1


def _kind(row: Row) -> str:
    """What is wrong, without the name of the image and what is particular to it."""
    text = str(row["error"]).removeprefix(f"{row['image']}: ")
    return text.partition(":")[0].partition(". ")[0].rstrip(".")[:80]


def _keep(heap: list[tuple[float, int, Any]], one: tuple[float, int, Any], most: int) -> None:
    if len(heap) < most:
        heapq.heappush(heap, one)
    elif one[:2] > heap[0][:2]:
        heapq.heapreplace(heap, one)
