"""The same parts, made by the workers of a Ray cluster: each takes a shard at a time and writes its part.

A worker that is lost costs its shard, which another does again: a part is written aside and renamed, under a name that
the shard alone determines. Bundle, inputs and the folder of parts must have the same paths on every node. Ray Data
hands out shard numbers, no images: a worker reads its shard from the plan.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from spherood import errors
from spherood.bundle.bundle import Bundle
from spherood.errors import ConfigError, SpheroodError, optional
from spherood.scoring.judge import Judge
from spherood.scoring.pipeline import Advance, Tally, write_parts
from spherood.scoring.plan import Plan


class ShardScorer:
    """One worker: the bundle is loaded once. ``ShardScorer(...)({"number": 7})`` writes part 7."""

    def __init__(
        self, bundle: Path, out: Path, false_alarm_rate: float | None, trust: Collection[str], threads: int
    ) -> None:
        self.bundle, self.out, self.rate, self.trust, self.threads = bundle, out, false_alarm_rate, trust, threads

    @cached_property
    def judge(self) -> Judge:
        """Made in the first call, which can tell what is wrong."""
        return Judge(Bundle.load(self.bundle, trust=self.trust), self.rate)

    @cached_property
    def plan(self) -> Plan:
        """Of the folder of parts."""
        return Plan.of(self.out)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """What became of the images of one shard; a message to the user comes as `kind` and `problem`."""
        number = int(row["number"])
        try:
            made = write_parts([(number, self.plan.shard(number))], self.judge, self.plan.part, self.threads)
        except SpheroodError as error:  # raised, it would come back without its class
            return {**Tally()._asdict(), "kind": type(error).__name__, "problem": str(error)}
        return {**made._asdict(), "kind": "", "problem": ""}


def write_parts_on_ray(
    numbers: Iterable[int],
    bundle: Path,
    out: Path,
    false_alarm_rate: float | None,
    trust: Collection[str],
    threads: int,
    address: str | None,
    advance: Advance = lambda images, parts: None,
) -> Tally:
    """The parts of these shards. ConfigError where the cluster cannot be reached; MissingExtraError without ray."""
    waiting = [{"number": number} for number in numbers]
    if not waiting:
        return Tally()
    counted = Tally()
    for made in _run(waiting, (bundle.absolute(), out.absolute(), false_alarm_rate, trust, threads), threads, address):
        counted = counted.plus(made)
        advance(made.rows, 1)
    return counted


def _run(
    waiting: list[dict[str, int]], settings: tuple[Any, ...], threads: int, address: str | None
) -> Iterator[Tally]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    ray: Any = optional("ray", "ray", "--engine ray")
    data: Any = optional("ray.data", "ray", "--engine ray")
    _answers(address)
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address=address, logging_level="ERROR", log_to_driver=False)
        except ConnectionError as error:
            raise ConfigError(
                f"--address {address}: no Ray cluster answers there ({error}). Start one: ray start"
            ) from None
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        data.DataContext.get_current().enable_progress_bars = False
        cores = int(ray.cluster_resources().get("CPU", 1))
        workers = max(1, min(len(waiting), cores // threads))
        found = data.from_items(waiting, override_num_blocks=len(waiting)).map(
            ShardScorer,
            fn_constructor_args=settings,
            compute=data.ActorPoolStrategy(min_size=1, max_size=workers),
            num_cpus=threads,
        )
        for row in found.iter_rows():
            kind, problem = row.pop("kind"), row.pop("problem")
            if kind:
                raise getattr(errors, kind)(problem)
            yield Tally(**row)
    finally:
        if ours:
            ray.shutdown()


def _answers(address: str | None) -> None:
    """ConfigError where nobody listens: Ray would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ConfigError(
            f"--address {address}: no Ray cluster answers there ({error}). Start one: ray start"
        ) from None
