"""A recipe is the whole experiment: data, views, model, loss, optimiser, schedule, seed. One YAML file, strict."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field
from torch import nn

from spherood import naming
from spherood.data import Preprocess, Source
from spherood.data.views import Views
from spherood.errors import ConfigError
from spherood.models import ModelSettings
from spherood.schema import Strict, parse, read_yaml
from spherood.training.schedule import Schedule


class LossTerm(Strict):
    """One objective by name (`cider`, or `package.module:Class`), its weight in the sum, and its settings."""

    use: str
    times: float = 1.0
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")

    def build(self, classes: int, dim: int) -> nn.Module:
        """The loss; `classes` and `dim` are filled in where its constructor asks for them and the recipe does not."""
        found = naming.find("losses", self.use)
        if not (inspect.isclass(found) and issubclass(found, nn.Module)):
            raise ConfigError(f"loss: '{self.use}' is no torch.nn.Module. See CONTRIBUTING, 'add a loss'.")
        asked = inspect.signature(found).parameters
        known = {"classes": classes, "dim": dim}
        settings = {key: value for key, value in known.items() if key in asked} | self.with_
        loss: nn.Module = naming.build("losses", self.use, settings)
        return loss


class Optimiser(Strict):
    """Stochastic gradient descent; weight decay acts on all parameters, as in the references."""

    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=1e-4, ge=0)


class Training(Strict):
    """Length and arithmetic of a run. `batch` counts images; every view of an image is a row of its own."""

    epochs: int = Field(default=100, ge=1)
    batch: int = Field(default=512, ge=1)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"


class Recipe(Strict):
    """See recipes/ for examples; `spherood train --set training.epochs=20` changes one value."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: Source
    preprocess: Preprocess = Preprocess()
    views: Views = Views()
    model: ModelSettings = ModelSettings()
    loss: tuple[LossTerm, ...] = Field(min_length=1)
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    training: Training = Training()
    seed: int = Field(default=0, ge=0)
    protocol: str | None = None  # what `spherood evaluate` would use for it


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `a.b=value` changes; ConfigError names a wrong key and offers the nearest."""
    content = read_yaml(path, "recipe")
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a recipe is a mapping of keys to values.")
    for change in changes:
        _apply(content, change)
    return parse(Recipe, content, str(path))


def _apply(content: dict[str, Any], change: str) -> None:
    place, equals, value = change.partition("=")
    if not (place and equals):
        raise ConfigError(f"--set {change}: expected key=value, for example training.epochs=20.")
    *parents, last = place.split(".")
    for key in parents:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {change}: '{key}' holds no keys of its own.")
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {change}: cannot read the value '{value}'. Write it as in YAML.") from None
