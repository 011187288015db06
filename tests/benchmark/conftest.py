"""A world of 4 x 4 pixels whose features can be computed by hand: the encoder is the mean colour of an image.

Known: red (0) and green (1). Near: olive and teal, beside a set that is not on disk. Far: blue.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spherood.benchmark.evaluation import Evaluated, evaluate
from spherood.benchmark.protocol import Protocol
from spherood.benchmark.subject import Subject
from spherood.data import Preprocess
from spherood.features import FeatureStore
from spherood.models import Model

Pixels = NDArray[np.uint8]
COLOURS = {"red": (180, 60, 60), "green": (60, 180, 60), "olive": (150, 150, 60), "teal": (60, 160, 130)}
COLOURS |= {"blue": (40, 60, 200)}
COUNT = {"train": 40, "validation": 70, "test": 50}
OOD = {"olive": 30, "teal": 10, "blue": 20}


class MeanColour(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) * self.scale


def painted(names: Sequence[str], seed: int) -> Pixels:
    """One image per name: its colour, a shift of the whole image and noise on each pixel."""
    draw = np.random.default_rng(seed)
    base = np.array([COLOURS[name] for name in names])[:, None, None]
    shift = draw.normal(0, 30, (len(names), 1, 1, 3))
    return (base + shift + draw.normal(0, 10, (len(names), 4, 4, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the arrays that `toy` names."""
    folder = tmp_path_factory.mktemp("world")
    for seed, (part, count) in enumerate(COUNT.items()):
        label = np.arange(count) % 2
        np.save(folder / f"{part}.npy", painted([("red", "green")[i] for i in label], seed))
        np.save(folder / f"{part}.labels.npy", label)
    for seed, (name, count) in enumerate(OOD.items()):
        np.save(folder / f"{name}.npy", painted([name] * count, 10 + seed))
    return folder


def toy(**changes: Any) -> Protocol:
    """The protocol of the world, as one would write it in YAML."""
    content: dict[str, Any] = {
        "name": "toy",
        "about": "Red and green known.",
        "version": "1",
        "id": {part: {"arrays": f"{part}.npy", "labels": f"{part}.labels.npy"} for part in COUNT},
        "near": {name: {"arrays": f"{name}.npy"} for name in ("olive", "teal", "ochre")},
        "far": {"blue": {"arrays": "blue.npy"}},
    }
    return Protocol.model_validate(content | changes)


@pytest.fixture
def protocol() -> Callable[..., Protocol]:
    return toy


@pytest.fixture(scope="session")
def subject() -> Subject:
    """A model with a classifier and without a head."""
    classifier = nn.Linear(3, 2)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[9.0, -9.0, 0.0], [-9.0, 9.0, 0.0]]))
        classifier.bias.copy_(torch.tensor([0.5, 0.0]))
    preprocess = Preprocess(size=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return Subject("colours", Model(MeanColour(), None, classifier), preprocess, ("0", "1"))


SCORES = ("knn:k=3", "mahalanobis:unit=true", "msp")


@pytest.fixture(scope="session")
def evaluated(world: Path, subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    return evaluate(subject, toy(), world, FeatureStore(tmp_path_factory.mktemp("store")), SCORES)


@pytest.fixture
def feature(world: Path) -> Callable[[str], Tensor]:
    """The features of a set, from its pixels alone."""

    def compute(name: str) -> Tensor:
        return torch.from_numpy(np.load(world / f"{name}.npy").mean(axis=(1, 2)) / 255).float()

    return compute


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The project's packed image sets."""
    place = os.environ.get("SPHEROOD_SHARED")
    if not place or not (Path(place) / "data" / "unpack.py").exists():
        pytest.skip("SPHEROOD_SHARED names no folder with data/unpack.py, the packed real images")
    return Path(place) / "data"
