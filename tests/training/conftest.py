"""41 small digits, a recipe that trains on them in a moment, and a way to compare two runs bit by bit."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from spherood.losses import Terms
from spherood.outputs import Outputs
from spherood.schema import parse
from spherood.training import Recipe, engine

Moment = Callable[[int], None]  # called with the number of the step that is about to be made


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 images of 8 x 8 in three classes: 6 steps of 8, the last of a single image."""
    place = tmp_path_factory.mktemp("digits")
    found = load_digits(n_class=3)
    np.save(place / "x.npy", np.round(found.images[:41] * (255 / 16)).astype(np.uint8))
    np.save(place / "y.npy", found.target[:41])
    return place


@pytest.fixture
def recipe() -> Callable[..., Recipe]:
    """A recipe of 3 epochs of 6 steps; keyword arguments replace its keys."""

    def make(**keys: Any) -> Recipe:
        content = {
            "name": "tiny",
            "data": {"arrays": "x.npy", "labels": "y.npy"},
            "preprocess": {"size": 8},
            "views": {"scale": (0.5, 1.0), "jitter": 0.8, "grey": 0.2},
            "model": {"encoder": "resnet8", "width": 4, "head": "mlp", "dim": 6, "classifier": True},
            "loss": [{"use": "cider"}],
            "schedule": {"lr": 0.1, "warmup_epochs": 1},
            "training": {"epochs": 3, "batch": 8},
        }
        return parse(Recipe, content | keys, "tiny.yaml")

    return make


@pytest.fixture
def before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[Moment], None]:
    """Run something before a step of the optimiser; steps count from 0 over all runs since."""

    def hook(moment: Moment) -> None:
        plain, number = engine.one_step, iter(range(10**9))

        def step(*args: Any) -> Terms:
            moment(next(number))
            return plain(*args)

        monkeypatch.setattr(engine, "one_step", step)

    return hook


@pytest.fixture
def mylab(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module `mylab.losses` of a user, with losses of their own."""
    package, module = ModuleType("mylab"), ModuleType("mylab.losses")
    module.Squares, module.Indices, module.Broken = Squares, Indices, Broken  # type: ignore[attr-defined]
    module.Whole, module.Owner, module.Timed = Whole, Owner, Timed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mylab", package)
    monkeypatch.setitem(sys.modules, "mylab.losses", module)
    Squares.seen, Indices.seen, Whole.seen, Whole.started, Timed.told = [], [], [], [], []
    return module


class Squares(nn.Module):
    """Mean square of the feature; notes what it was given."""

    reads = "feature"
    views = 1
    seen: list[tuple[Tensor, Tensor]]

    def __init__(self, *, classes: int, dim: int, power: float = 2) -> None:
        super().__init__()
        self.classes, self.dim, self.power = classes, dim, power

    def forward(self, x: Tensor, label: Tensor) -> Terms:
        self.seen.append((x.detach(), label))
        total = x.abs().pow(self.power).mean()
        return Terms(total, {"size": total.detach()})


class Indices(Squares):
    """The same, with the index of the image for its label."""

    labels = "image"


class Whole(nn.Module):
    """Reads all outputs: how well a weight of its own turns the feature into the embedding; notes what it was given."""

    reads = "outputs"
    seen: list[Outputs]
    started: list[list[tuple[Outputs, Tensor]]]

    def __init__(self, *, dim: int, feature_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, dim * feature_dim).view(dim, feature_dim))

    def start(self, batches: Iterable[tuple[Outputs, Tensor]]) -> None:
        self.started.append(list(batches))

    def forward(self, x: Outputs, label: Tensor) -> Terms:
        assert x.embedding is not None
        self.seen.append(Outputs(x.feature.detach(), x.embedding.detach()))
        return Terms((x.feature @ self.weight.T - x.embedding).square().mean())


class Owner(nn.Module):
    """Cross-entropy of a classifier of its own, which the trained model gets doubled."""

    reads = "feature"
    views = 1

    def __init__(self, *, classes: int, dim: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(dim, classes)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.linspace(-1, 1, classes * dim).view(classes, dim))
            self.classifier.bias.zero_()

    def forward(self, x: Tensor, label: Tensor) -> Terms:
        return Terms(nn.functional.cross_entropy(self.classifier(x), label))

    @torch.no_grad()
    def served_classifier(self) -> nn.Linear:
        served = nn.Linear(self.classifier.in_features, self.classifier.out_features)
        served.weight.copy_(2 * self.classifier.weight)
        served.bias.copy_(self.classifier.bias)
        return served


class Timed(nn.Module):
    """Mean square of the feature; notes which epochs it was told of."""

    reads = "feature"
    views = 1
    told: list[int]

    def at(self, epoch: int) -> None:
        self.told.append(epoch)

    def forward(self, x: Tensor, label: Tensor) -> Terms:
        return Terms(x.square().mean())


class Broken(nn.Module):
    """Fine for `good` steps, then not a number."""

    reads = "feature"
    views = 1

    def __init__(self, *, good: int) -> None:
        super().__init__()
        self.left = good

    def forward(self, x: Tensor, label: Tensor) -> Terms:
        self.left -= 1
        return Terms(x.square().mean() * (1.0 if self.left >= 0 else float("nan")))


def difference(first: Any, second: Any, place: str = "") -> str:
    """Where two nested records differ in a single bit; empty if nowhere."""
    if isinstance(first, Tensor):
        return "" if first.dtype == second.dtype and torch.equal(first, second) else place
    if isinstance(first, dict):
        if list(first) != list(second):
            return f"{place}: {list(first)} {list(second)}"
        return next(filter(None, (difference(first[key], second[key], f"{place}.{key}") for key in first)), "")
    if isinstance(first, list | tuple):
        if len(first) != len(second):
            return place
        return next(
            filter(
                None, (difference(a, b, f"{place}.{i}") for i, (a, b) in enumerate(zip(first, second, strict=True)))
            ),
            "",
        )
    return "" if first == second else f"{place}: {first} {second}"


@pytest.fixture
def assert_same_run() -> Callable[[Path, Path], None]:
    """The last checkpoints of two run folders agree in every bit of model, prototypes and optimiser."""

    def check(first: Path, second: Path) -> None:
        contents = [torch.load(run / "checkpoints" / "last.pt", weights_only=True) for run in (first, second)]
        assert {"model", "losses", "optimiser", "epoch", "step"} < set(contents[0])
        assert contents[0]["optimiser"]["state"]
        assert difference(*contents) == ""

    return check
