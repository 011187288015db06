"""The service against the bare loop: images a second, latency, hostile requests, a bundle swapped, memory.

    python benchmarks/serving.py                     ResNet-18 at 224 px, 32 clients
    python benchmarks/serving.py BUNDLE IMAGE...     another bundle, on these images

The bare loop is `Bundle.predict` on the same encoded bytes, decoded one after the other, 32 at a time. The service runs
in a process of its own on loopback; clients are threads of this one, each with one connection and one image a request.
Bare loop and service take turns. Then: latency at half of that load; 5 % hostile requests mixed in, and the bundle
swapped for a copy of itself every second, with every verdict compared; images cut and altered at random; memory over
many requests. Exit 1 where the service gives less than 80 % of the bare loop, where a verdict is wrong or lost, or
where memory grows by over 10 %.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from spherood.bundle import Bundle, Promise, Score
from spherood.bundle.encoder import origin_of
from spherood.bundle.torch_runtime import TorchRuntime
from spherood.data import Preprocess
from spherood.detectors import KNN
from spherood.models import ModelSettings, build_model

TARGET, CLIENTS, TURNS, SECONDS = 0.8, 32, 3, 12.0
HOSTILE = (b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(64), b"GIF89a" + bytes(10))
MUTATED, MEMORY = 10_000, 100_000  # requests, or as many as fit into LONGEST
LONGEST = 300.0  # seconds


def resnet18(folder: Path) -> list[bytes]:
    """A bundle with a network that nobody trained, and 64 JPEGs of 300 x 260."""
    settings = ModelSettings(encoder="resnet18", width=64, stem="imagenet", classifier=True)
    model = build_model(settings, 100)
    generator = torch.Generator().manual_seed(0)
    bank, held_out = (torch.randn(n, 512, generator=generator).abs() for n in (10_000, 1_000))
    detector = KNN(k=10).fit(bank)
    Bundle(
        runtime=TorchRuntime(detector, model, origin_of(settings, 100), Preprocess(size=224, short_side=256)),
        classes=(),
        score=Score.model_validate({"use": "knn", "with": {"k": 10}}),
        class_mean=None,
        held_out_score=detector.score(held_out).double().numpy(),
        promise=Promise(false_alarm_rate=0.05, confidence=0.95, held_out=1_000),
        bank_names=[f"{row}.png" for row in range(10_000)],
    ).save(folder)
    found = []
    for seed in range(64):
        small = np.random.default_rng(seed).integers(0, 256, (26, 30, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((300, 260), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def bare(bundle: Bundle, images: list[bytes], seconds: float) -> float:
    """Images a second of the loop."""
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        some = [images[(done + n) % len(images)] for n in range(CLIENTS)]
        bundle.predict([Image.open(io.BytesIO(content)) for content in some])
        done += len(some)
    return done / (time.perf_counter() - begin)


class Service:
    """`spherood serve` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        words = [sys.executable, "-m", "spherood", "serve", f"it={folder}", "--port", "0", "--traffic", "0"]
        self.port = _free_port()
        words[words.index("0")] = str(self.port)
        self.process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                if ask(self.port, "GET", "/readyz")[0] == 200:
                    return
            except OSError:
                time.sleep(0.1)
        sys.exit("the service did not start")

    @property
    def megabytes(self) -> float:
        """Resident."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def _free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {"Content-Type": "image/jpeg"} if body is not None else {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, json.loads(content) if content[:1] in b"{[" else content


class Load:
    """Clients that ask for a while; what was answered."""

    def __init__(self, port: int, images: list[bytes], expected: list[float] | None = None) -> None:
        self.port, self.images, self.expected = port, images, expected
        self.latency: list[float] = []
        self.wrong = self.lost = self.hostile = 0
        self._lock, self._next = threading.Lock(), 0

    def run(self, seconds: float, clients: int, *, per_second: float | None = None, hostile: float = 0.0) -> float:
        """Images a second. per_second: asked altogether, instead of as many as are answered."""
        begin = time.perf_counter()
        threads = [
            threading.Thread(target=self._client, args=(begin, seconds, n, clients, per_second, hostile))
            for n in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(self.latency) / (time.perf_counter() - begin)

    def _client(
        self, begin: float, seconds: float, number: int, clients: int, per_second: float | None, hostile: float
    ) -> None:
        draw = np.random.default_rng(number)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        turn = 0
        while time.perf_counter() - begin < seconds:
            if per_second is not None:
                time.sleep(max(0.0, begin + (turn + number / clients) * clients / per_second - time.perf_counter()))
                turn += 1
            row = int(draw.integers(len(self.images)))
            bad = draw.random() < hostile
            body = HOSTILE[int(draw.integers(len(HOSTILE)))] if bad else self.images[row]
            asked = time.perf_counter()
            try:
                connection.request("POST", "/v1/predict", body, {"Content-Type": "image/jpeg"})
                answer = connection.getresponse()
                status, content = answer.status, json.loads(answer.read())
            except (OSError, http.client.HTTPException, ValueError):
                self.lost += 1
                connection.close()
                continue
            with self._lock:
                if bad:
                    self.hostile += 1
                    self.wrong += status != 422
                elif status != 200:
                    self.lost += 1
                else:
                    self.latency.append(time.perf_counter() - asked)
                    score = content["verdicts"][0]["score"]
                    if self.expected is not None and abs(score - self.expected[row]) > 1e-3 * abs(self.expected[row]):
                        self.wrong += 1
        connection.close()


def mutated(port: int, images: list[bytes], n: int) -> dict[int, int]:
    """Answers by status to images with some bytes changed, a third of them cut."""
    draw = np.random.default_rng(0)
    statuses: dict[int, int] = {}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(n):
        content = bytearray(images[int(draw.integers(len(images)))])
        for place in draw.integers(len(content), size=int(draw.integers(1, 20))):
            content[place] = draw.integers(256)
        if draw.random() < 1 / 3:
            content = content[: int(draw.integers(len(content) + 1))]
        connection.request("POST", "/v1/predict", bytes(content), {"Content-Type": "image/jpeg"})
        answer = connection.getresponse()
        answer.read()
        statuses[answer.status] = statuses.get(answer.status, 0) + 1
    connection.close()
    return statuses


def main(words: list[str]) -> int:
    """Print what was measured."""
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside) / "bundle"
        if words:
            shutil.copytree(words[0], folder)
            images = [Path(word).read_bytes() for word in words[1:]]
        else:
            images = resnet18(folder)
        bundle = Bundle.load(folder)
        expected = [one.score for one in bundle.predict([Image.open(io.BytesIO(content)) for content in images])]
        service = Service(folder)
        try:
            return measure(bundle, folder, images, expected, service)
        finally:
            service.stop()


def measure(bundle: Bundle, folder: Path, images: list[bytes], expected: list[float], service: Service) -> int:
    Load(service.port, images).run(3, CLIENTS)  # warms up
    loop, served, ratio = [], [], []
    for _ in range(TURNS):
        loop.append(bare(bundle, images, SECONDS))
        served.append(Load(service.port, images).run(SECONDS, CLIENTS))
        ratio.append(served[-1] / loop[-1])
    rate, share = statistics.median(served), statistics.median(ratio)
    print(f"bare loop {statistics.median(loop):.1f} images/s, service {rate:.1f} with {CLIENTS} clients: {share:.2f}")
    half = Load(service.port, images)
    half.run(SECONDS, CLIENTS, per_second=rate / 2)
    p50, p99 = np.quantile(half.latency, (0.5, 0.99)) * 1e3
    print(f"at half load: p50 {p50:.0f} ms, p99 {p99:.0f} ms")

    swapping, stop = 0, threading.Event()

    def swap() -> None:
        nonlocal swapping
        while not stop.wait(1.0):
            bundle.save(folder)
            swapping += 1

    swapper = threading.Thread(target=swap)
    swapper.start()
    mixed = Load(service.port, images, expected)
    mixed.run(SECONDS, CLIENTS, hostile=0.05)
    stop.set()
    swapper.join()
    told = f"{len(mixed.latency):,} verdicts, {mixed.hostile} hostile requests, {swapping} swaps"
    print(f"{told}: {mixed.wrong} wrong, {mixed.lost} lost")

    begin, memory, wanted = service.megabytes, Load(service.port, images), min(MEMORY, LONGEST * rate)
    before = begin
    while len(memory.latency) < wanted:
        memory.run(5, CLIENTS)
        if len(memory.latency) < wanted / 2:  # batches of every size have been by then, each with its own buffers
            before = max(before, service.megabytes)
    after = service.megabytes
    statuses = mutated(service.port, images, int(min(MUTATED, LONGEST * rate / 4)))
    print(f"mutated images, answers by status: {statuses}; memory then {service.megabytes:.0f} MB")
    print(f"memory over {len(memory.latency):,} requests: {begin:.0f} MB, {before:.0f} in the first half, {after:.0f}")
    wrong = mixed.wrong + mixed.lost + sum(n for status, n in statuses.items() if status not in (200, 422, 503))
    return int(share < TARGET or wrong > 0 or max(after, service.megabytes) > 1.1 * before)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
