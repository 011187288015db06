"""An evaluation against ImageNet's 1.28 million training features of 512 numbers: does it fit in 4 GB?

    python benchmarks/memory.py           first each of two scores in a process of its own, then the evaluation
    python benchmarks/memory.py knn:k=50  that score alone

The features are made up, 2.6 GB of them, and lie in a temporary folder as the feature store leaves them; the bank of
k-NN holds them once more, in memory. Prints the times and the peak of the whole process: all of its memory as the
kernel counts it, and the part that no file backs, sampled ten times a second. Exit 1 where the first is 4 GB or more,
6 GB for k-NN alone.
"""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from spherood import metrics
from spherood.benchmark.evaluation import measure
from spherood.benchmark.protocol import Protocol
from spherood.benchmark.scores import build_scores, fit_all, score_all
from spherood.benchmark.sets import Images, Sets
from spherood.benchmark.subject import Subject
from spherood.data import ImageSet, Preprocess
from spherood.features import FeatureStore, Stored
from spherood.features.store import _key
from spherood.files import write_json
from spherood.models import Model

TARGET, CLASSES, DIM, SPREAD, WRITTEN = 4e9, 1_000, 512, 4.5, 16_000  # bytes; rows written at once
ROWS = {"train": 1_280_000, "validation": 1_000, "test": 4_000}
OOD = {"a": 5_000, "b": 5_000, "c": 5_000}
SCORES = ("mahalanobis", "mahalanobis:unit=true", "knn:k=50")
ALONE = {"mahalanobis:unit=true": TARGET, "knn:k=50": 6e9}
PREPROCESS = Preprocess(size=1)


class Clouds:
    """Rows about the means of the known classes, or about others."""

    def __init__(self) -> None:
        self.draw = np.random.default_rng(0)
        self.mean = self.draw.standard_normal((2 * CLASSES, DIM), dtype=np.float32)

    def write(self, path: Path, label: NDArray[np.int64]) -> None:
        with path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(label), DIM)}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(label), WRITTEN):
                mean = self.mean[label[start : start + WRITTEN]]
                file.write((mean + SPREAD * self.draw.standard_normal(mean.shape, dtype=np.float32)).data)


class Sampler(threading.Thread):
    """The largest `RssAnon` of this process, in bytes: what no file backs."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.over = 0, threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.1):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    self.peak = max(self.peak, 1024 * int(line.split()[1]))


def made_up(folder: Path, model: nn.Module) -> tuple[Images, Sets, Protocol]:
    clouds, store = Clouds(), FeatureStore(folder)

    def stored(number: int, name: str, rows: int, known: bool) -> Stored:
        label = clouds.draw.integers(CLASSES, size=rows)
        pixels = np.full((rows, 1, 1, 3), number, dtype=np.uint8)  # nothing reads them, but they name the entry
        names: Any = range(rows)
        classes = tuple(map(str, range(CLASSES)))
        images = ImageSet(name, pixels, label if known else np.full(rows, -1), names, classes)
        entry = folder / _key(model, PREPROCESS, images)
        entry.mkdir()
        clouds.write(entry / "feature.npy", label if known else CLASSES + label)
        write_json(entry / "unreadable.json", {})
        return store.read(model, PREPROCESS, images)

    train, validation, test = (stored(n, name, rows, known=True) for n, (name, rows) in enumerate(ROWS.items()))
    ood = {name: stored(len(ROWS) + n, name, rows, known=False) for n, (name, rows) in enumerate(OOD.items())}
    found = {name: one.images for name, one in ood.items()}
    images = Images(train.images, validation.images, test.images, {}, found, {}, dict.fromkeys(OOD, "far"), {})
    nowhere = {name: {"folder": name} for name in ROWS}
    protocol = Protocol.model_validate({"name": "made up", "about": "Clouds.", "version": "1", "id": nowhere})
    return images, Sets(train, validation, test, {}, ood, {}), protocol


def processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows less
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def peak() -> int:
    """Of all memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def sampling() -> Sampler:
    sampler = Sampler()
    if Path("/proc/self/status").exists():  # Linux alone tells
        sampler.start()
    return sampler


def alone(text: str) -> bool:
    """One score, fitted and asked; whether it kept its target."""
    with TemporaryDirectory() as folder:
        _, sets, _ = made_up(Path(folder), Model(nn.Linear(3, DIM), None, None))
        sampler, begin = sampling(), time.perf_counter()
        detectors = build_scores([text])[text]
        fit_all(detectors, sets.train, None)
        fitted = time.perf_counter()
        scored = score_all(detectors, {"test": sets.test, **sets.ood})[text]
        over = time.perf_counter()
        sampler.over.set()
    auroc = sum(metrics.auroc(scored["test"], scored[name]) for name in OOD) / len(OOD)
    target = ALONE.get(text, TARGET)
    images, took = sum(map(len, scored.values())), over - fitted
    print(f"{text}: fitted in {fitted - begin:.1f} s, {images:,} images scored in {took:.1f} s;")
    print(f"peak memory {peak() / 1e9:.2f} GB (to stay under {target / 1e9:.0f}), without a file behind it", end=" ")
    print(f"{sampler.peak / 1e9:.2f} GB; far AUROC {100 * auroc:.1f} %")
    return peak() < target


def evaluation() -> bool:
    """All scores and everything else of an evaluation; whether it kept its target."""
    model = Model(nn.Linear(3, DIM), None, None)
    subject = Subject("clouds", model, PREPROCESS, CLASSES)
    with TemporaryDirectory() as folder:
        images, sets, protocol = made_up(Path(folder), model)
        before, sampler = peak(), sampling()
        begin = time.perf_counter()
        found = measure(subject, protocol, images, sets, build_scores(SCORES)).evaluation
        taken = time.perf_counter() - begin
        sampler.over.set()
    queries = ROWS["test"] + ROWS["validation"] + sum(OOD.values())
    far = ", ".join(f"{100 * result.metrics['far'].auroc:.1f}" for result in found.scores.values())
    print(f"evaluation: {len(SCORES)} scores, {queries:,} images, {taken:.0f} s; far AUROC {far} %,")
    print(f"accuracy {', '.join(f'{100 * value:.1f}' for value in found.accuracy.values())} %")
    print(f"peak memory {peak() / 1e9:.2f} GB (to stay under {TARGET / 1e9:.0f}), before it began")
    print(f"{before / 1e9:.2f} GB; without a file behind it {sampler.peak / 1e9:.2f} GB")
    return peak() < TARGET


@torch.no_grad()
def main() -> int:
    torch.set_num_threads(2)
    if len(sys.argv) > 1:
        return int(not alone(sys.argv[1]))
    print(f"{processor()}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"bank {ROWS['train']:,} x {DIM} float32, two threads, one run", flush=True)
    # Before the evaluation: a process starts with the peak of the one that started it.
    kept = [subprocess.run([sys.executable, __file__, text]).returncode == 0 for text in ALONE]
    return int(not all([*kept, evaluation()]))


if __name__ == "__main__":
    sys.exit(main())
