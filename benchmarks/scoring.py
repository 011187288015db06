"""Whether scoring many images is limited by decoding and network alone: wall time against their CPU time.

    python benchmarks/scoring.py DATA

DATA holds cifar10/test (10,000 PNG files of 32 px) and photographs: flowers, texture, imagenet-sample and steel, each
of 200 px or more, repeated to 600. Two networks of random weights and a k-NN over 5,000 rows: a ResNet-20 of width 16
at 32 px for CIFAR, a ResNet-18 at 224 px for photographs; each as torch runs it and as onnxruntime does.

CPU time on one core of one thread, decoding (file to pixels) and network (pixels to score) apart; then the wall time of
what `spherood score` does, from the list of files to the Parquet parts, on all cores. Ratio: wall x cores / (decoding +
network). Three turns, medians. Exit 1 where a ratio is above 1.15.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from numpy.typing import NDArray

from spherood import Bundle
from spherood.bundle import Promise, Score
from spherood.bundle.encoder import origin_of
from spherood.bundle.graph import graph_of
from spherood.bundle.onnx_runtime import OnnxRuntime
from spherood.bundle.torch_runtime import TorchRuntime
from spherood.data import Preprocess
from spherood.data.decode import read_rgb
from spherood.data.folders import read_folder
from spherood.detectors import KNN
from spherood.models import ModelSettings, build_model
from spherood.scoring.judge import Judge
from spherood.scoring.pipeline import BLOCK, cores, write_parts
from spherood.scoring.shards import shards

TARGET, TURNS, ROWS, PHOTOGRAPHS = 1.15, 3, 5_000, 600
SMALL = ModelSettings(encoder="resnet20", width=16)
LARGE = ModelSettings(encoder="resnet18", width=64, stem="imagenet")


def bundle(settings: ModelSettings, size: int) -> Bundle:
    """Random weights and a random bank: neither matters to the time."""
    model = build_model(settings, 10).eval()
    detector = KNN(k=50).fit(torch.randn(ROWS, model.encoder.dim, generator=torch.Generator().manual_seed(0)))
    preprocess = Preprocess(size=size)
    return Bundle(
        runtime=TorchRuntime(detector, model, origin_of(settings, 10), preprocess),
        classes=(),
        score=Score.model_validate({"use": "knn", "with": {"k": 50}}),
        class_mean=None,
        held_out_score=np.linspace(0, 2, 1000),
        promise=Promise(false_alarm_rate=0.05, confidence=0.95, held_out=1000),
        bank_names=[f"{row}.png" for row in range(ROWS)],
    )


def exported(made: Bundle) -> Bundle:
    """The same through onnxruntime."""
    ours = made.runtime
    assert isinstance(ours, TorchRuntime)
    graph, origin = graph_of(ours)
    return replace(made, runtime=OnnxRuntime(graph, origin, ours.reads, ours.width, ours.preprocess))


def cpu_seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def measure(name: str, made: Bundle, files: list[Path]) -> float:
    """Print one line; the median ratio."""
    blocks = [files[start : start + BLOCK] for start in range(0, len(files), BLOCK)]

    def decode() -> list[NDArray[np.uint8]]:
        return [np.stack([made.pixels(read_rgb(path)) for path in block]) for block in blocks]

    pixels = decode()
    runtime = made.runtime.on_one_core()
    runtime.of_pixels(pixels[0])
    torch.set_num_threads(1)

    def network() -> None:
        for block in pixels:
            runtime.of_pixels(block)

    ratios, walls, decoding, computing = [], [], [], []
    for _ in range(TURNS):
        decoding.append(cpu_seconds(decode))
        computing.append(cpu_seconds(network))
        with TemporaryDirectory() as folder:
            listed = Path(folder) / "files.txt"
            listed.write_text("".join(f"{path.absolute()}\n" for path in files))
            begin = time.perf_counter()
            judge = Judge(made)
            write_parts(
                enumerate(shards([listed])), judge, lambda n: Path(folder) / f"part-{n}.parquet", threads=cores()
            )
            walls.append(time.perf_counter() - begin)
        ratios.append(walls[-1] * cores() / (decoding[-1] + computing[-1]))
    wall, decode_s, network_s, ratio = map(statistics.median, (walls, decoding, computing, ratios))
    rate = len(files) / wall
    print(f"{name:34} {len(files):6,} {decode_s:9.2f} {network_s:9.2f} {wall:7.2f} {rate:9,.0f} {ratio:6.2f}")
    return ratio


def main() -> int:
    """0 where every ratio is at most TARGET."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    data = Path(sys.argv[1])
    small = list(read_folder(data / "cifar10" / "test").images)
    sets = ("flowers", "texture", "imagenet-sample", "steel")
    large = list(islice(cycle([path for one in sets for path in read_folder(data / one).images]), PHOTOGRAPHS))
    print(f"torch {torch.__version__}, {platform.processor() or platform.machine()}, {cores()} cores\n")
    print(f"{'':34} images  decoding   network    wall  images/s  ratio   (seconds; decoding and network: CPU)")
    found = []
    for name, made, files in (
        ("CIFAR, ResNet-20", bundle(SMALL, 32), small),
        ("photographs, ResNet-18 at 224 px", bundle(LARGE, 224), large),
    ):
        found.append(measure(f"{name}, torch", made, files))
        found.append(measure(f"{name}, ONNX", exported(made), files))
    print(f"\nlargest ratio {max(found):.2f}, target {TARGET}")
    return 0 if max(found) <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
