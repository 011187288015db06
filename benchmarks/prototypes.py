"""CIDER's prototypes in rounds against the plain row loop: forward and backward, 1,024 rows of 128 numbers.

    python benchmarks/prototypes.py

Prints one line for each number of classes: milliseconds of both ways, their ratio and the ratio to reach. Two plain
loops stand beside ours: the one of the released code (in place, one `.item()` a row) and a kinder one over a list of
rows, which no copy of all prototypes slows down. Every figure is the median of 5; exit 1 where a ratio is missed.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from spherood.sphere import advance, normalize

ROWS, DIM, MOMENTUM, REPEATS = 1024, 128, 0.95, 5
TARGET = {10: 3, 100: 15, 1000: 12}  # classes -> ratio of the released loop to ours

Way = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def released_loop(prototypes: Tensor, embedding: Tensor, label: Tensor, momentum: float) -> Tensor:
    prototypes = prototypes.clone()
    for i in range(len(embedding)):
        c = int(label[i].item())
        prototypes[c] = F.normalize(momentum * prototypes[c] + (1 - momentum) * embedding[i], dim=0)
    return prototypes


def list_loop(prototypes: Tensor, embedding: Tensor, label: Tensor, momentum: float) -> Tensor:
    rows = list(prototypes)
    for z, c in zip(embedding, label.tolist(), strict=True):
        rows[c] = F.normalize(momentum * rows[c] + (1 - momentum) * z, dim=0)
    return torch.stack(rows)


def milliseconds(ways: list[Way], classes: int, dtype: torch.dtype) -> list[float]:
    """Median of each way, taken in turns; AssertionError where two ways differ."""
    generator = torch.Generator().manual_seed(0)
    prototypes = normalize(torch.randn(classes, DIM, generator=generator, dtype=dtype))
    embedding = normalize(torch.randn(ROWS, DIM, generator=generator, dtype=dtype))
    label = torch.randint(classes, (ROWS,), generator=generator)
    weight = torch.randn(classes, DIM, generator=generator, dtype=dtype)
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(REPEATS):
        gradients = []
        for way, taken in zip(ways, times, strict=True):
            z = embedding.clone().requires_grad_()
            begin = time.perf_counter()
            (way(prototypes, z, label, MOMENTUM) * weight).sum().backward()
            taken.append(1e3 * (time.perf_counter() - begin))
            gradients.append(z.grad)
        for gradient in gradients[1:]:
            torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-6)
    return [statistics.median(taken) for taken in times]


def processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows less
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def main() -> int:
    torch.set_num_threads(1)
    print(f"{processor()}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{ROWS:,} rows, {DIM}-d, forward + backward, one thread, median of {REPEATS}")
    print("dtype    classes  released loop  list loop    rounds   released / rounds (target)   list / rounds")
    missed = False
    for dtype in (torch.float32, torch.float64):
        for classes, target in TARGET.items():
            released, listed, ours = milliseconds([released_loop, list_loop, advance], classes, dtype)
            missed |= released / ours < target
            name = str(dtype).removeprefix("torch.")
            print(
                f"{name:8} {classes:7,} {released:11.1f} ms {listed:7.1f} ms {ours:6.1f} ms"
                f" {released / ours:13.1f} ({target:>2}) {listed / ours:23.1f}"
            )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
