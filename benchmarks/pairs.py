"""ReweightOOD's pairs in masked blocks against indexing the upper triangle: forward and backward, 128 numbers a row.

    python benchmarks/pairs.py

Prints one line for each number of rows: milliseconds of both ways and their ratio, then what each adds to the peak
memory of a process of its own, and that ratio. The plain way is the released code's: all similarities, two boolean
masks of the upper triangle, and the pairs they pick as two lists. Times are the median of 5, taken in turns; exit 1
where ours is slower or larger.
"""

from __future__ import annotations

import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from spherood.losses import ReweightOOD
from spherood.sphere import normalize

ROWS, DIM, CLASSES, REPEATS = (1024, 4096), 128, 10, 5

Way = Callable[[Tensor, Tensor], Tensor]


def indexed(z: Tensor, label: Tensor) -> Tensor:
    same = label[:, None] == label
    within, between = same.triu(diagonal=1).flatten(), (~same).triu(diagonal=1).flatten()
    s = (z @ z.T).flatten()
    positive, negative = s[within], s[between]
    erring_positive, erring_negative = (1 - 2 * positive.detach()).sigmoid(), (5 * negative.detach() - 4).sigmoid()
    both = (-erring_positive * positive / 0.1).logsumexp(dim=0) + (erring_negative * negative / 0.1).logsumexp(dim=0)
    return F.elu(both)


def blocks(z: Tensor, label: Tensor) -> Tensor:
    total: Tensor = ReweightOOD()(z, label).total
    return total


WAYS: dict[str, Way] = {"indexed": indexed, "blocks": blocks}


def batch(rows: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = normalize(torch.randn(rows, DIM, generator=generator))
    return z.requires_grad_(), torch.randint(CLASSES, (rows,), generator=generator)


def milliseconds(rows: int) -> list[float]:
    """Median of each way, taken in turns; AssertionError where their values or gradients differ."""
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(1 + REPEATS):
        results = []
        for name, way in WAYS.items():
            z, label = batch(rows)
            begin = time.perf_counter()
            total = way(z, label)
            total.backward()
            times[name].append(1e3 * (time.perf_counter() - begin))
            results.append((total.detach(), z.grad))
        torch.testing.assert_close(*results, rtol=1e-3, atol=1e-6)
    return [statistics.median(taken[1:]) for taken in times.values()]  # the first one warms up


def megabytes(name: str, rows: int) -> float:
    """What one step adds to the peak of a process that has done a small one."""
    command = [sys.executable, __file__, name, str(rows)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(name: str, rows: int) -> None:
    peaks = []
    for size in (64, rows):
        WAYS[name](*batch(size)).backward()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    print((peaks[1] - peaks[0]) * unit / 2**20)


def processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows less
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def main() -> int:
    torch.set_num_threads(1)
    if len(sys.argv) == 3:  # what `megabytes` starts
        print_peak(sys.argv[1], int(sys.argv[2]))
        return 0
    print(f"{processor()}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{DIM}-d float32, {CLASSES} classes, forward + backward, one thread, median of {REPEATS}")
    print(" rows   indexed    blocks   ratio   peak memory: indexed    blocks   ratio (both to exceed 1)")
    # memory first: a child counts from the peak of its parent at its birth, and the times below raise that
    peaks = {rows: [megabytes(name, rows) for name in WAYS] for rows in ROWS}
    missed = False
    for rows, (plain_peak, our_peak) in peaks.items():
        plain, ours = milliseconds(rows)
        missed |= plain / ours < 1 or plain_peak / our_peak < 1
        print(
            f"{rows:5,} {plain:6.1f} ms {ours:6.1f} ms {plain / ours:7.2f}"
            f" {plain_peak:20.1f} MB {our_peak:6.1f} MB {plain_peak / our_peak:7.2f}"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
