"""Mahalanobis distance to the nearest class against the references' way of computing it, from the same fitted numbers.

    python benchmarks/mahalanobis.py

The references go through the classes one by one and take, of the B x B product (f - m_c) P (f - m_c)', the diagonal.
Ours is `Mahalanobis.score`, its checks included. Prints milliseconds of both and their ratio: medians of 5 turns, all
cores; a turn of ours is the mean of 100 calls. Where the references' way takes more than 20 s, 20 of the classes are
timed and the time is multiplied; the queries lie about those 20, so that both ways must give the same scores. Exit 1
where ours is not 300 times (B 200, D 2048, C 1000) and 80 times (512, 512, 100) as fast.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from spherood.detectors import Mahalanobis

CLAIM = {(200, 2048, 1000): 300, (512, 512, 100): 80}  # (B, D, C): times as fast
ROWS_PER_DIM, TURNS, CALLS, SLICE, LONG = 4, 5, 100, 20, 20.0  # fitted rows a dimension; classes timed, seconds


def references_way(x: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    distance = x.new_empty(len(x), len(mean))
    for c, one in enumerate(mean):
        centred = x - one
        distance[:, c] = torch.matmul(torch.matmul(centred, precision), centred.t()).diag()
    return distance.amin(dim=1)


def drawn(mean: Tensor, rows: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows about the first `classes` means, in turns, and their labels."""
    label = torch.arange(rows) % classes
    return mean[label] + torch.randn(rows, mean.shape[1], generator=torch.Generator().manual_seed(seed)), label


def seconds(way: Callable[[], Tensor], calls: int = 1) -> tuple[float, Tensor]:
    """Of one call, and what the last one gave."""
    begin = time.perf_counter()
    for _ in range(calls):
        result = way()
    return (time.perf_counter() - begin) / calls, result


def compare(batch: int, dim: int, classes: int) -> tuple[float, float, int]:
    """Seconds of the references' way and of ours, and how many classes were timed. AssertionError where they differ."""
    mean = torch.randn(classes, dim, generator=torch.Generator().manual_seed(0))
    x, label = drawn(mean, ROWS_PER_DIM * dim, classes, 1)
    detector = Mahalanobis().fit(x, label)
    precision = detector.whitening @ detector.whitening.T
    fitted = torch.stack([x[label == c].mean(dim=0) for c in range(classes)])
    query = drawn(mean, batch, SLICE, 2)[0]

    def theirs(timed: int) -> tuple[float, Tensor]:
        taken, score = seconds(lambda: references_way(query, fitted[:timed], precision))
        return taken * classes / timed, score

    def ours() -> Tensor:
        return detector.score(query)

    timed = SLICE if theirs(SLICE)[0] > LONG else classes  # which warms up, as does the next line
    seconds(ours)
    slow, fast = [], []
    for _ in range(TURNS):
        taken, expected = theirs(timed)
        slow.append(taken)
        taken, score = seconds(ours, CALLS)
        fast.append(taken)
        torch.testing.assert_close(score, expected, rtol=1e-3, atol=0)
    return statistics.median(slow), statistics.median(fast), timed


def processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows less
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def main() -> int:
    print(f"{processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}")
    print(f"torch {torch.__version__} on {torch.get_num_threads()} threads, float32, median of {TURNS} turns")
    print("   B     D     C   references' way        ours   times as fast")
    missed = False
    for (batch, dim, classes), claim in CLAIM.items():
        theirs, ours, timed = compare(batch, dim, classes)
        missed |= theirs / ours < claim
        how = f"; {timed} classes timed, times {classes // timed}" if timed < classes else ""
        print(
            f"{batch:4} {dim:5} {classes:5} {1e3 * theirs:14,.0f} ms {1e3 * ours:8.2f} ms {theirs / ours:15.0f}"
            f"   (to reach {claim}{how})"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
