"""What a bundle weighs, how long it takes to load, and what one image takes: ResNet-18 at 32 px, features of 512.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/bundle.py

Four bundles of one network (CIFAR stem, 45 MB of weights) with 100 classes and 10,000 held-out scores: k-NN with k = 50
against 50,000 x 512 features, the same rounded to half precision, a coreset of 5,000, and Mahalanobis on unit features.
Loading reads every file twice, for its hash and for its tensors, and builds the network; it is compared with reading
the files once, both from the system's cache. One image, as an array, goes through Bundle.predict and through the
network alone. What is compared takes turns; times are medians, ratios those of the turns. Exit 1 where a bundle takes
2 s or more to load.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from spherood import Bundle
from spherood.bundle.encoder import Encoder, origin_of
from spherood.bundle.fit import coreset, fit, parts_of
from spherood.bundle.rows import Rows
from spherood.data import Preprocess
from spherood.models import Model, ModelSettings, build_model, infer

TARGET, CLASSES, DIM, ROWS, HELD_OUT, CORESET = 2, 100, 512, 50_000, 10_000, 5_000  # seconds to load
LOADS, IMAGES = 7, 100  # how often
SETTINGS = ModelSettings(encoder="resnet18", width=64, stem="cifar")
RULE = {"false_alarm_rate": 0.05, "confidence": 0.95}


def bundles() -> dict[str, Bundle]:
    """A cloud about each class mean, and a network that did not make them: neither matters to size or time."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(CLASSES, DIM, generator=generator)
    label = torch.randint(CLASSES, (ROWS + HELD_OUT,), generator=generator)
    feature = mean[label] + torch.randn(len(label), DIM, generator=generator)
    known = Rows.of_arrays("known", feature[:ROWS], label[:ROWS])
    known = replace(known, names=[f"train/{int(y)}/{row:05}.png" for row, y in enumerate(label[:ROWS])])
    parts = parts_of(known, Rows.of_arrays("held out", feature[ROWS:]), several=False, **RULE)
    preprocess = Preprocess(size=32)
    encoder = Encoder("made up", build_model(SETTINGS, CLASSES).eval(), preprocess, None, origin_of(SETTINGS, CLASSES))

    def bundle(score: str, kept: int | None = None, half: bool = False) -> Bundle:
        own = parts if kept is None else coreset(parts, kept)
        return Bundle.of(fit(own, (score,), half=half, **RULE), encoder, half=half)

    return {
        "k-NN": bundle("knn:k=50"),
        "k-NN, half": bundle("knn:k=50", half=True),
        f"k-NN, {CORESET:,}": bundle("knn:k=50", kept=CORESET),
        "Mahalanobis": bundle("mahalanobis:unit=true"),
    }


def seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def in_turns(ours: Callable[[], Any], bare: Callable[[], Any], count: int) -> tuple[float, float, float]:
    """Median seconds of ours and of bare, and the median of their ratios."""
    times = [(seconds(ours), seconds(bare)) for _ in range(2 + count)][2:]  # the first ones warm up
    first, second = zip(*times, strict=True)
    return statistics.median(first), statistics.median(second), statistics.median(a / b for a, b in times)


def read(folder: Path) -> int:
    return sum(len(path.read_bytes()) for path in folder.iterdir())


def processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows less
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def main() -> int:
    print(f"{processor()}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"medians of {LOADS} loads and {IMAGES} images, {torch.get_num_threads()} threads")
    print(f"{'':16}on disk      load  bare read  ratio     one image  network  ratio")
    missed = False
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image[None])
    for name, made in bundles().items():
        with TemporaryDirectory() as temporary:
            folder = Path(temporary) / "bundle"
            made.save(folder)
            size = read(folder)
            load, bare_read, times = in_turns(lambda at=folder: Bundle.load(at), lambda at=folder: read(at), LOADS)
            bundle = Bundle.load(folder)
        model, preprocess = bundle.runtime.model, bundle.preprocess
        assert isinstance(model, Model)
        assert preprocess is not None
        one, network, ratio = in_turns(
            lambda it=bundle: it.predict([image]), lambda m=model, p=preprocess: infer(m, pixels, p), IMAGES
        )
        missed |= load >= TARGET
        print(
            f"{name:14}{size / 1e6:6.1f} MB {load:7.2f} s {bare_read:8.3f} s {times:6.1f} {1e3 * one:10.1f} ms"
            f" {1e3 * network:5.1f} ms {ratio:6.2f}"
        )
    print(f"to load in less than {TARGET} s: {'missed' if missed else 'reached'}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
