"""A recipe is the whole experiment: data, views, model, loss, optimiser, schedule, seed. One YAML file, strict."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator
from torch import nn

from spherood import naming
from spherood.data import Preprocess, Source
from spherood.data.views import Views
from spherood.errors import ConfigError, nearest
from spherood.models import ModelSettings
from spherood.models.model import NONE
from spherood.schema import Strict, parse, read_yaml
from spherood.training.fine_tuning import FineTuning
from spherood.training.schedule import Schedule

PACKAGE = Path(str(files("spherood")))


class LossTerm(Strict):
    """One objective by name (`cider`, or `package.module:Class`), its weight in the sum, and its settings.

    begin, end: it counts from this epoch on and until before that one, from 0; without `end`, to the end of the run.
    """

    use: str
    times: float = 1.0
    with_: dict[str, Any] = Field(default_factory=dict, alias="with")
    begin: int = Field(default=0, ge=0)
    end: int | None = Field(default=None, ge=1)

    def covers(self, epoch: int) -> bool:
        """Whether it counts in this epoch."""
        return self.begin <= epoch and (self.end is None or epoch < self.end)

    def build(self, classes: int, dim: int, feature_dim: int) -> nn.Module:
        """The loss; what its constructor asks for and the recipe does not say is filled in: `classes`, `feature_dim`,
        and `dim`, the width of what it reads.
        """
        found = naming.find("losses", self.use)
        if not (inspect.isclass(found) and issubclass(found, nn.Module)):
            raise ConfigError(f"loss: '{self.use}' is no torch.nn.Module. See CONTRIBUTING, 'add a loss'.")
        asked = inspect.signature(found).parameters
        width = feature_dim if getattr(found, "reads", "embedding") == "feature" else dim
        known = {"classes": classes, "dim": width, "feature_dim": feature_dim}
        settings = {key: value for key, value in known.items() if key in asked} | self.with_
        loss: nn.Module = naming.build("losses", self.use, settings)
        return loss


class Optimiser(Strict):
    """Stochastic gradient descent; weight decay acts on all parameters, as in the references."""

    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = True
    weight_decay: float = Field(default=1e-4, ge=0)


class Training(Strict):
    """Length and arithmetic of a run. `batch` counts images; every view of an image is a row of its own.

    micro_batch: so many images go through the network at once, where a batch does not fit; the loss still sees the
    whole batch and its gradient is that of the whole batch, except that batch-norm sees so many. compile: the network
    through torch.compile.
    """

    epochs: int = Field(default=100, ge=1)
    batch: int = Field(default=512, ge=1)
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    micro_batch: int | None = Field(default=None, ge=1)
    compile: bool = False


class Validation(Strict):
    """What is measured while it trains, after every so many epochs (0: never), on at most so many images of each set.

    id: held-out ID images; without them further training images are asked about. ood: validation OOD by name, never
    what the run will be tested on. best: by what checkpoints/best.pt is chosen; there is one only with `id`.
    """

    every: int = Field(default=1, ge=0)
    images: int = Field(default=2000, ge=2)
    id: Source | None = None
    ood: dict[str, Source] = Field(default_factory=dict)
    best: Literal["k-NN", "class mean", "auroc"] = "k-NN"

    @model_validator(mode="after")
    def _possible(self) -> Validation:
        if self.best == "auroc" and not self.ood:
            raise ValueError("best: auroc needs validation OOD. Name some under validation.ood, or choose k-NN.")
        return self


class Recipe(Strict):
    """See recipes/ for examples; `spherood train --set training.epochs=20` changes one value."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: Source
    preprocess: Preprocess = Preprocess()
    views: Views = Views()
    model: ModelSettings = ModelSettings()
    fine_tuning: FineTuning = FineTuning()
    loss: tuple[LossTerm, ...] = Field(min_length=1)
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    training: Training = Training()
    validation: Validation = Validation()
    seed: int = Field(default=0, ge=0)
    protocol: str | None = None  # what `spherood evaluate` uses for it
    scores: tuple[str, ...] = ()  # and which scores; none: the protocol's
    published: str | None = None  # its method, by the name under which figures were published

    @model_validator(mode="after")
    def _features_without_an_encoder(self) -> Recipe:
        for source in (self.data, self.validation.id, *self.validation.ood.values()):
            if source is not None and (source.features is None) == (self.model.encoder == NONE):
                raise ValueError(
                    "model.encoder: none goes with data: {features: FILE}, in validation too; images need an encoder."
                )
        return self

    @model_validator(mode="after")
    def _every_epoch_has_a_loss(self) -> Recipe:
        for epoch in range(self.training.epochs):
            if not any(term.covers(epoch) for term in self.loss):
                raise ValueError(f"no loss covers epoch {epoch}, counted from 0. Mend begin or end of one.")
        return self


def shipped_recipes() -> dict[str, Path]:
    """Those that come with the package, by name: in the wheel beside its modules, in a checkout under recipes/."""
    for home in (PACKAGE / "recipes", PACKAGE.parents[1] / "recipes"):
        if found := {path.stem: path for path in sorted(home.glob("*.yaml"))}:
            return found
    return {}


def find_recipe(text: str) -> Path:
    """A file, or a recipe of the package by name; ConfigError offers the nearest."""
    path, shipped = Path(text), shipped_recipes()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        return path
    if text not in shipped:
        raise ConfigError(f"there is no recipe '{text}'. {nearest(text, shipped)} Your own: a path that ends in .yaml.")
    return shipped[text]


def load_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `a.b=value` changes; ConfigError names a wrong key and offers the nearest.

    `loss.NAME.SETTING=value` changes a setting of the loss of that name, or its times, begin and end.
    """
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
    if place.startswith("loss."):
        content, place = _loss_term(content, place, change)
    *parents, last = place.split(".")
    for key in parents:
        content = content.setdefault(key, {})
        if not isinstance(content, dict):
            raise ConfigError(f"--set {change}: '{key}' holds no keys of its own.")
    try:
        content[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {change}: cannot read the value '{value}'. Write it as in YAML.") from None


def _loss_term(content: dict[str, Any], place: str, change: str) -> tuple[dict[str, Any], str]:
    """Where `loss.NAME.SETTING` leads: the settings of the loss of that name, or its own times, begin and end."""
    terms = [term for term in content.get("loss") or () if isinstance(term, dict) and "use" in term]
    rest = place.removeprefix("loss.")
    found = [term for term in terms if rest.startswith(f"{term['use']}.")]
    if len(found) != 1:
        name = rest.partition(".")[0]
        many = "are several losses" if found else "is no loss"
        hint = "Change the file." if found else nearest(name, {str(term["use"]) for term in terms})
        raise ConfigError(
            f"--set {change}: there {many} '{name}' in this recipe. {hint} Write it as loss.NAME.SETTING."
        )
    name, setting = found[0]["use"], rest.removeprefix(f"{found[0]['use']}.")
    if setting in LossTerm.model_fields:
        return found[0], setting
    naming.check_settings("losses", name, [setting.partition(".")[0]])
    settings: dict[str, Any] = found[0].setdefault("with", {})
    return settings, setting
