"""What a guard costs: ResNet-18 at 224 px, with a verdict on every image against without.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/guard.py

The network has a linear layer to 128 values before its classifier of 100 classes, and the guard reads those 128.
Mahalanobis on unit features, k-NN with k = 50 against 50,000 features and against 5,000 of them, and the combination of
k-NN and Mahalanobis against 50,000; each with 10,000 held-out scores and names for the neighbours. A bare pass, the
verdicts alone on its features and a guarded pass take turns, so that a busy machine slows all three. Printed are the
medians of their times, guarded against bare (median and quartiles of the ratios, turn by turn), and the verdicts alone
as a share of the bare pass: the same cost, without the noise of two passes. Exit 1 where the median ratio exceeds 1.05.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spherood import Bundle, Guard
from spherood.bundle.guard import features_of
from spherood.detectors.knn import has_bank
from spherood.models import ModelSettings, build_model

TARGET, CLASSES, DIM, ROWS, HELD_OUT = 1.05, 100, 128, 50_000, 10_000
TURNS = {1: 100, 32: 8}  # for a batch of so many images
SCORES = (("mahalanobis:unit=true", ROWS), ("knn:k=50", ROWS), ("knn:k=50", 5_000), ("combined", ROWS))


class Network(nn.Module):
    """Images to logits, as its owner wrote it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = build_model(ModelSettings(encoder="resnet18", width=64, stem="imagenet"), CLASSES).encoder
        self.neck, self.classifier = nn.Linear(512, DIM), nn.Linear(DIM, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.neck(self.encoder(images)))
        return logits


def bundles() -> dict[str, Bundle]:
    """A cloud about each class mean; up to 50,000 rows are fitted on, 10,000 calibrate."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(CLASSES, DIM, generator=generator)
    label = torch.randint(CLASSES, (ROWS + HELD_OUT,), generator=generator)
    feature = mean[label] + torch.randn(len(label), DIM, generator=generator)
    found = {}
    for score, rows in SCORES:
        bundle = Bundle.fit(feature[:rows], label[:rows], score=score, held_out=feature[ROWS:])
        names = [f"{row}.png" for row in range(rows)] if has_bank(bundle.runtime.detector) else []
        found[f"{score}, {rows:,}"] = replace(bundle, bank_names=names)
    return found


def milliseconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - begin)


def turns(model: nn.Module, bundle: Bundle, images: Tensor, count: int) -> list[tuple[float, float, float]]:
    """(bare, verdicts alone, guarded) of each turn."""
    feature, times = features_of(model, [images]), []
    for _ in range(2 + count):
        bare, alone = milliseconds(lambda: model(images)), milliseconds(lambda: bundle.predict(feature))
        with Guard(model, bundle) as guard:
            times.append((bare, alone, milliseconds(lambda: guard(images))))
    return times[2:]  # the first ones warm up


def processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows less
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


@torch.no_grad()
def main() -> int:
    print(f"{processor()}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"ResNet-18 at 224 px, features of {DIM}, bank of {ROWS:,}, {torch.get_num_threads()} threads")
    torch.manual_seed(0)
    model = Network().eval()
    print(f"{'':35}{'bare':>10} {'guarded':>10} {'verdicts alone':>16}   guarded / bare (quartiles)")
    missed = False
    for score, bundle in bundles().items():
        for batch, count in TURNS.items():
            times = turns(model, bundle, torch.randn(batch, 3, 224, 224), count)
            bare, alone, guarded = (statistics.median(column) for column in zip(*times, strict=True))
            low, ratio, high = statistics.quantiles((with_ / without for without, _, with_ in times), n=4)
            share = statistics.median(only / without for without, only, _ in times)
            missed |= ratio > TARGET
            print(
                f"{score:30} x {batch:2}{bare:7.1f} ms {guarded:7.1f} ms {alone:7.2f} ms {share:5.1%}   "
                f"{ratio:.3f} ({low:.3f} to {high:.3f}){'  missed' if ratio > TARGET else ''}"
            )
    print(f"to stay within {TARGET}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
