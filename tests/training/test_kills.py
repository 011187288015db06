"""A run that is killed again and again, at whatever moment, ends with the bits of one that was left alone.

This file is also what is killed: `python test_kills.py PLACE` forks a process for each attempt, so that the libraries
are imported once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spherood.schema import parse
from spherood.training import Checkpoint, Recipe, engine, train
from spherood.training.log import read_log

LAST, BEST = Path("checkpoints", "last.pt"), Path("checkpoints", "best.pt")
KILLS, EPOCHS, STEPS = 20, 40, 6


def tiny() -> Recipe:
    """With a loss that begins and one that ends on the way, and a validation after every second epoch."""
    content = {
        "name": "tiny",
        "data": {"arrays": "x.npy", "labels": "y.npy"},
        "preprocess": {"size": 8},
        "views": {"scale": (0.5, 1.0), "jitter": 0.8},
        "model": {"encoder": "resnet8", "width": 4, "head": "mlp", "dim": 6, "classifier": True},
        "loss": [{"use": "cross_entropy", "end": 20}, {"use": "cider", "begin": 8}],
        "schedule": {"lr": 0.1, "warmup_epochs": 5},
        "training": {"epochs": EPOCHS, "batch": 8},
        "validation": {"every": 2, "images": 15, "id": {"arrays": "x.npy", "labels": "y.npy"}},
    }
    return parse(Recipe, content, "tiny.yaml")


def main(place: Path) -> None:
    """Kill 20 attempts at a run, let the next end, and print the epoch and step that each kill left behind."""
    torch.set_num_threads(1)
    engine.LOG_STEPS = 2
    draw, left, epoch = random.Random(0), [], 0.0
    for number in range(KILLS):
        process = attempt(place)
        try:
            if number == 0 or draw.random() < 0.5:  # else it may be killed before it has trained at all
                wait_for_an_epoch(place)
            if number == 0:
                epoch = wait_for_an_epoch(place)
            time.sleep(draw.uniform(0, epoch))
        finally:
            os.kill(process, signal.SIGKILL)
            status = os.waitpid(process, 0)[1]
        if not os.WIFSIGNALED(status):
            break
        kept = Checkpoint.load(place / "run" / LAST) if (place / "run" / LAST).exists() else None
        left.append((kept.epoch, kept.step) if kept else (0, 0))
        for file in ("metrics.jsonl", "validation.jsonl"):
            read_log(place / "run", file)
    assert os.waitpid(attempt(place), 0)[1] == 0
    print(json.dumps(left))


def attempt(place: Path) -> int:
    """A process that trains, or goes on training, to the end."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            train(tiny(), place / "run", place, resume=(place / "run" / LAST).exists())
            status = 0
        finally:
            os._exit(status)
    return process


def wait_for_an_epoch(place: Path) -> float:
    """Until one more is kept; how many seconds that took."""
    last, start = place / "run" / LAST, time.monotonic()
    before = last.stat().st_mtime_ns if last.exists() else 0
    while (last.stat().st_mtime_ns if last.exists() else 0) == before:
        if time.monotonic() > start + 60:
            raise TimeoutError("no epoch in a minute")
        time.sleep(0.002)
    return time.monotonic() - start


def test_a_run_killed_twenty_times_ends_with_the_bits_of_one_left_alone(
    digits: Path, tmp_path: Path, assert_same_run: Callable[[Path, Path], None]
) -> None:
    for name in ("x.npy", "y.npy"):
        np.save(tmp_path / name, np.load(digits / name))
    found = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    left = json.loads(found.stdout)
    assert len(left) == KILLS
    assert left == sorted(left)  # nothing that was kept was lost
    assert len({epoch for epoch, _ in left}) >= KILLS // 4  # the moments were of different epochs
    assert all(step == 0 for _, step in left)
    whole = tmp_path / "whole"
    train(tiny(), whole, tmp_path)
    assert_same_run(tmp_path / "run", whole)
    rows = [[told(row) for row in read_log(run, "validation.jsonl")] for run in (tmp_path / "run", whole)]
    assert rows[0] == rows[1]
    assert [row["epoch"] for row in rows[0]] == list(range(2, EPOCHS + 1, 2))
    steps = [row["step"] for row in read_log(tmp_path / "run")]
    assert steps == [2 * number for number in range(1, EPOCHS * STEPS // 2 + 1)]
    ours, best = (Checkpoint.load(run / BEST) for run in (tmp_path / "run", whole))
    assert (ours.epoch, ours.criterion) == (best.epoch, best.criterion)
    assert all(torch.equal(value, best.model[name]) for name, value in ours.model.items())
    assert not list((tmp_path / "run").rglob("*.part"))


def told(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "images_per_second"}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
