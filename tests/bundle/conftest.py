"""Two small bundles: one that can be saved (random convolutions), one whose features are known (mean colour)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spherood.bundle import Bundle, Promise, Score
from spherood.bundle.encoder import origin_of
from spherood.bundle.torch_runtime import TorchRuntime
from spherood.data import Preprocess
from spherood.detectors import KNN
from spherood.models import Model, ModelSettings, build_model, infer
from spherood.sphere import normalize

Pixels = NDArray[np.uint8]
SETTINGS = ModelSettings(encoder="resnet8", width=2, head="linear", dim=4, classifier=True)


def pictures(count: int, seed: int, side: int = 8) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def build(seed: int = 0) -> Bundle:
    """KNN on random convolutions of noise; other seeds, other weights, bank and calibration."""
    preprocess = Preprocess(size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))
    model = build_model(SETTINGS, 3, seed)
    train, held_out = (
        infer(model, torch.from_numpy(pictures(n, 100 * seed + n)), preprocess).feature for n in (30, 70)
    )
    detector = KNN(k=4).fit(train)
    return Bundle(
        runtime=TorchRuntime(detector, model, origin_of(SETTINGS, 3), preprocess),
        classes=("cat", "dog", "größe"),
        score=Score.model_validate({"use": "knn", "with": {"k": 4}}),
        class_mean=normalize(torch.stack([train[row::3].mean(dim=0) for row in range(3)])).numpy(),
        held_out_score=detector.score(held_out).double().numpy(),
        promise=Promise(false_alarm_rate=0.05, confidence=0.95, held_out=70),
        bank_names=[f"dog/{row}.png" for row in range(30)],
        provenance={"model": "random", "seed": seed},
    )


@pytest.fixture
def make_bundle() -> Callable[..., Bundle]:
    return build


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return build()


@pytest.fixture(scope="session")
def noise() -> Pixels:
    return pictures(5, 999)


class MeanColour(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) * self.scale


@pytest.fixture
def colours() -> Bundle:
    """Red, green, blue; a bank of the three pure colours and three mixed ones; k = 1; held-out scores 0 to 0.69."""
    bank = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.8, 0.6, 0], [0, 0.8, 0.6], [0.6, 0, 0.8]])
    preprocess = Preprocess(size=2, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    model = Model(MeanColour(), None, None)
    return Bundle(
        runtime=TorchRuntime(KNN(k=1).fit(bank), model, origin_of(SETTINGS, 3), preprocess),
        classes=("red", "green", "blue"),
        score=Score.model_validate({"use": "knn", "with": {"k": 1}}),
        class_mean=np.eye(3, dtype=np.float32),
        held_out_score=np.arange(70) / 100,
        promise=Promise(false_alarm_rate=0.05, confidence=0.95, held_out=70),
        bank_names=["red", "green", "blue", "orange", "teal", "violet"],
    )
