"""A protocol after its features: eight scores on 60,000 images against 50,000 training features of 512 numbers.

    python benchmarks/evaluation.py

Prints the time of everything `spherood evaluate` does once the features are stored: fits, scores, thresholds, metrics
with intervals, accuracy, geometry. Then that of fitting and scoring each score on its own, one search for each k, with
nothing measured, and the ratio. One run each; exit 1 where the first takes 60 s or more.
"""

from __future__ import annotations

import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spherood.benchmark.evaluation import measure
from spherood.benchmark.protocol import Protocol
from spherood.benchmark.scores import build_scores
from spherood.benchmark.sets import Images, Sets
from spherood.benchmark.subject import Subject
from spherood.data import ImageSet, Preprocess
from spherood.features import Stored
from spherood.models import Model
from spherood.outputs import Outputs

TARGET, CLASSES, DIM, SPREAD = 60, 100, 512, 4.5  # seconds; deviation about a class mean, whose numbers have 1
ROWS = {"train": 50_000, "validation": 1_000, "test": 10_000}
OOD = {"near a": 9_800, "near b": 9_800, "far a": 9_800, "far b": 9_800, "far c": 9_800}
SCORES = (
    *(f"knn:k={k}" for k in (10, 50, 100, 200)),
    *("mahalanobis", "mahalanobis:unit=true", "mahalanobis:covariance=total:unit=true", "msp"),
)


def made_up(classifier: nn.Linear) -> tuple[Images, Sets, Protocol]:
    """A cloud about each class mean, OOD about other means; no image behind a row."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(2 * CLASSES, DIM, generator=generator)
    classifier.weight.copy_(mean[:CLASSES] / DIM)

    def stored(name: str, rows: int, first: int = 0) -> Stored:
        label = torch.randint(CLASSES, (rows,), generator=generator)
        feature = mean[first + label] + SPREAD * torch.randn(rows, DIM, generator=generator)
        known = label.numpy() if first == 0 else np.full(rows, -1)
        pixels = np.zeros((rows, 1, 1, 3), dtype=np.uint8)
        names: Any = range(rows)
        images = ImageSet(name, pixels, known, names, tuple(map(str, range(CLASSES))))
        return Stored(images, Outputs(feature, logits=classifier(feature)), {})

    train, validation, test = (stored(name, rows) for name, rows in ROWS.items())
    ood = {name: stored(name, rows, first=CLASSES) for name, rows in OOD.items()}
    sets = Sets(train, validation, test, {}, ood, {})
    found = {name: one.images for name, one in ood.items()}
    kinds: Any = {name: name.split()[0] for name in OOD}
    images = Images(train.images, validation.images, test.images, {}, found, {}, kinds, {})
    nowhere = {name: {"folder": name} for name in ROWS}
    protocol = Protocol.model_validate({"name": "made up", "about": "Clouds.", "version": "1", "id": nowhere})
    return images, sets, protocol


def each_on_its_own(sets: Sets, classifier: nn.Linear) -> None:
    for candidates in build_scores(SCORES).values():
        for detector in candidates.values():
            detector.fit(sets.train.batches(), classifier=classifier)
            for one in (sets.test, sets.validation, *sets.ood.values()):
                assert one is not None
                detector.score(one.outputs)


def processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows less
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


@torch.no_grad()
def main() -> int:
    torch.set_num_threads(2)
    print(f"{processor()}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}")
    queries = ROWS["test"] + ROWS["validation"] + sum(OOD.values())
    print(f"{len(SCORES)} scores, {queries:,} images, bank {ROWS['train']:,} x {DIM} float32, two threads, one run")
    classifier = nn.Linear(DIM, CLASSES)
    images, sets, protocol = made_up(classifier)
    subject = Subject("clouds", Model(nn.Identity(), None, classifier), Preprocess(size=1), CLASSES)
    begin = time.perf_counter()
    found = measure(subject, protocol, images, sets, build_scores(SCORES)).evaluation
    ours = time.perf_counter() - begin
    begin = time.perf_counter()
    each_on_its_own(sets, classifier)
    alone = time.perf_counter() - begin
    near = ", ".join(f"{100 * result.metrics['near'].auroc:.1f}" for result in found.scores.values())
    print(f"near AUROC {near} %; accuracy {', '.join(f'{100 * value:.1f}' for value in found.accuracy.values())} %")
    print(f"the whole evaluation       {ours:6.1f} s (to stay under {TARGET})")
    print(f"each score fitted, scored  {alone:6.1f} s, {alone / ours:.2f} times as long")
    return int(ours >= TARGET)


if __name__ == "__main__":
    sys.exit(main())
