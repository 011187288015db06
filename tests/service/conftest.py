"""A service on loopback, as `spherood serve` runs it, and images that its bundle knows or does not."""

from __future__ import annotations

import io
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from spherood.bundle import Bundle, Promise, Score
from spherood.bundle.encoder import origin_of
from spherood.bundle.torch_runtime import TorchRuntime
from spherood.data import Preprocess
from spherood.detectors import KNN
from spherood.models import ModelSettings, build_model, infer
from spherood.sphere import normalize

pytest.importorskip("fastapi", reason="needs the extra serve")
uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")

from spherood.service.app import Settings, create_app  # noqa: E402
from spherood.service.served import Served  # noqa: E402

SETTINGS = ModelSettings(encoder="resnet8", width=4, head="linear", dim=4)
PREPROCESS = Preprocess(size=16)
Pixels = NDArray[np.uint8]


def pictures(count: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def encoded(image: Pixels, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def make(seed: int = 0) -> Bundle:
    """KNN on random convolutions of noise; other seeds, other weights."""
    model = build_model(SETTINGS, 2, seed)
    train, held_out = (infer(model, torch.from_numpy(pictures(n, n)), PREPROCESS).feature for n in (60, 200))
    detector = KNN(k=3).fit(train)
    return Bundle(
        runtime=TorchRuntime(detector, model, origin_of(SETTINGS, 2), PREPROCESS),
        classes=("cat", "dog"),
        score=Score.model_validate({"use": "knn", "with": {"k": 3}}),
        class_mean=normalize(torch.stack([train[::2].mean(dim=0), train[1::2].mean(dim=0)])).numpy(),
        held_out_score=detector.score(held_out).double().numpy(),
        promise=Promise(false_alarm_rate=0.05, confidence=0.95, held_out=200),
        bank_names=[f"dog/{row}.png" for row in range(60)],
        thumbnails=[encoded(image, "JPEG") for image in pictures(60, 60)],
    )


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return make()


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    bundle.save(tmp_path / "noise" / "bundle")
    return tmp_path / "noise" / "bundle"


class Answer(NamedTuple):
    status: int
    body: Any  # of JSON, else text
    headers: Any


class Client:
    """``Client(port).get("/healthz")``, ``.post("/v1/predict", ...)``."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str, **headers: str) -> Answer:
        return self._ask(urllib.request.Request(self.url + path, headers=headers))

    def post(self, path: str, body: bytes, kind: str, **headers: str) -> Answer:
        asked = urllib.request.Request(self.url + path, body, {"Content-Type": kind, **headers}, method="POST")
        return self._ask(asked)

    def json(self, body: Any, path: str = "/v1/predict") -> Answer:
        return self.post(path, json.dumps(body).encode(), "application/json")

    def form(self, files: list[tuple[str, bytes]], path: str = "/v1/predict", **fields: str) -> Answer:
        edge, parts = "a-line-between", []
        for name, content in files:
            head = f'Content-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'
            parts.append(f"--{edge}\r\n{head}".encode() + content + b"\r\n")
        for name, value in fields.items():
            parts.append(f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
        return self.post(path, b"".join(parts) + f"--{edge}--\r\n".encode(), f"multipart/form-data; boundary={edge}")

    def _ask(self, request: urllib.request.Request) -> Answer:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return self._read(answer.status, answer)
        except urllib.error.HTTPError as error:
            return self._read(error.code, error)

    @staticmethod
    def _read(status: int, answer: Any) -> Answer:
        body = answer.read()
        is_json = answer.headers.get_content_type() == "application/json"
        return Answer(status, json.loads(body) if is_json else body.decode(), answer.headers)


@contextmanager
def running(settings: Settings) -> Iterator[Client]:
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    assert server.started
    try:
        yield Client(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture
def serve(folder: Path) -> Iterator[Callable[..., Client]]:
    """``serve(room=4)``: the bundle in `folder`, with these settings."""
    stack: list[Any] = []

    def start(served: dict[str, Served] | None = None, **settings: Any) -> Client:
        manager = running(Settings(served=served or {"noise": Served("noise", folder)}, **settings))
        stack.append(manager)
        return manager.__enter__()

    yield start
    for manager in stack:
        manager.__exit__(None, None, None)
