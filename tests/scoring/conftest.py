from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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

SETTINGS = ModelSettings(encoder="resnet8", width=2)
PREPROCESS = Preprocess(size=8)


def pictures(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise is known to it; 70 images calibrate."""
    model = build_model(SETTINGS, 2)
    train, held_out = (infer(model, torch.from_numpy(pictures(n, n)), PREPROCESS).feature for n in (30, 70))
    detector = KNN(k=3).fit(train)
    folder = tmp_path_factory.mktemp("shipped") / "bundle"
    Bundle(
        runtime=TorchRuntime(detector, model, origin_of(SETTINGS, 2), PREPROCESS),
        classes=("cat", "dog"),
        score=Score.model_validate({"use": "knn", "with": {"k": 3}}),
        class_mean=np.eye(16, dtype=np.float32)[:2],
        held_out_score=detector.score(held_out).double().numpy(),
        promise=Promise(false_alarm_rate=0.05, confidence=0.95, held_out=70),
        bank_names=[f"dog/{row}.png" for row in range(30)],
    ).save(folder)
    return folder


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 images in two folders, one of them black, one broken."""
    folder = tmp_path_factory.mktemp("lake")
    for number, pixels in enumerate(pictures(300, 5)):
        file = folder / ("a" if number < 170 else "b/c") / f"{number:03}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels if number != 7 else np.zeros_like(pixels)).save(file)
    (folder / "a" / "011.png").write_bytes((folder / "a" / "010.png").read_bytes()[:60])
    return folder


@pytest.fixture
def saved() -> Callable[[Path, int], Path]:
    """Save one picture of noise at a path."""

    def save(path: Path, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures(1, seed)[0]).save(path)
        return path

    return save
