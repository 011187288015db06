"""All rows of some inputs: in memory, or as a folder of parts that are made here or on a cluster. Free of torch."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spherood.bundle.bundle import Bundle
from spherood.bundle.manifest import MANIFEST
from spherood.errors import ConfigError
from spherood.files import sha256_of_file
from spherood.progress import progress
from spherood.scoring.judge import Judge
from spherood.scoring.parts import Row, read_part
from spherood.scoring.pipeline import Advance, Tally, cores, judged, tally, write_parts
from spherood.scoring.plan import Plan, open_plan
from spherood.scoring.shards import shards

COUNTED = ("is_ood", "needs_review", "error")


@dataclass(frozen=True)
class Work:
    """What is scored; the command line's help explains each.

    share: of parts, (2, 16) is 2, 18, 34, ... threads: 0 for one on each core.
    """

    bundle: Path
    inputs: Sequence[Path]
    false_alarm_rate: float | None = None
    column: str | None = None
    time_column: str | None = None
    size: int = 4096
    suffix: str = ".parquet"
    share: tuple[int, int] = (0, 1)
    threads: int = 0
    trust: Collection[str] = ()

    def rows(self, loaded: Bundle) -> list[Row]:
        """All in memory, in order: for a handful of images."""
        found: list[Row] = []
        cut = list(shards(self.inputs, self.size, self.column, self.time_column, rows=loaded.preprocess is None))
        known = [shard.rows for shard in cut if shard.rows is not None]
        with progress("scoring", sum(known)) as advance:
            for _, rows, _ in judged(enumerate(cut), Judge(loaded, self.false_alarm_rate), self.threads or cores()):
                found += rows
                advance(len(rows))
        return found

    def plan(self, loaded: Bundle, out: Path) -> Plan:
        """The plan of a folder, made where there is none. Errors as of `open_plan` and `shards`."""
        header = {
            "bundle": sha256_of_file(self.bundle / MANIFEST)[:16],
            "false_alarm_rate": loaded.promise.false_alarm_rate
            if self.false_alarm_rate is None
            else self.false_alarm_rate,
            "format": self.suffix,
            "part_size": self.size,
        }
        return open_plan(
            out, header, shards(self.inputs, self.size, self.column, self.time_column, rows=loaded.preprocess is None)
        )

    def here(self, loaded: Bundle, plan: Plan) -> Tally:
        """Make the parts that are not there, and count all of this share, those that were there too."""
        left = plan.left(self.share)
        before = self._before(plan, left)
        with _shown(plan, before, left, self.share) as advance:
            made = write_parts(
                ((number, plan.shard(number)) for number in left),
                Judge(loaded, self.false_alarm_rate),
                plan.part,
                self.threads or cores(),
                advance,
            )
        return before.plus(made)

    def on_ray(self, plan: Plan, address: str | None) -> Tally:
        """As `here`, by the workers of a Ray cluster. ConfigError where it cannot be reached."""
        from spherood.scoring.on_ray import write_parts_on_ray

        left = plan.left(self.share)
        before = self._before(plan, left)
        with _shown(plan, before, left, self.share) as advance:
            made = write_parts_on_ray(
                left,
                self.bundle,
                plan.out,
                self.false_alarm_rate,
                self.trust,
                self.threads or 1,
                address,
                advance,
            )
        return before.plus(made)

    def _before(self, plan: Plan, left: Collection[int]) -> Tally:
        counted, waiting = Tally(), set(left)
        for number in range(self.share[0], len(plan), self.share[1]):
            if number not in waiting:
                counted = counted.plus(tally(read_part(plan.part(number), COUNTED)))
        return counted


@contextmanager
def _shown(plan: Plan, before: Tally, left: Collection[int], share: tuple[int, int]) -> Iterator[Advance]:
    """Progress in images where their number is known, else in parts with the rate of images beside."""
    if plan.images is not None and share == (0, 1):
        with progress("scoring", plan.images, done=before.rows) as advance:
            yield lambda images, parts: advance(images)
        return
    begun, seen = time.monotonic(), 0
    with progress("scoring", len(left), "parts") as advance:

        def told(images: int, parts: int) -> None:
            nonlocal seen
            seen += images
            advance(parts, f"{seen / max(time.monotonic() - begun, 1e-9):,.0f} images/s")

        yield told


def parse_share(text: str | None) -> tuple[int, int]:
    """ "2/16" to (2, 16); ConfigError for anything but i/n with 0 <= i < n."""
    if text is None:
        return 0, 1
    first, slash, count = text.partition("/")
    if not (slash and first.isdecimal() and count.isdecimal() and int(first) < int(count)):
        raise ConfigError(f"--share {text}: expected I/N with 0 <= I < N, for example 2/16.")
    return int(first), int(count)
