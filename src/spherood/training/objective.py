"""The losses of a recipe as one: each reads its part of the outputs, each has its weight and its span of epochs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spherood.errors import ConfigError
from spherood.losses import Terms
from spherood.models import Model
from spherood.outputs import Outputs
from spherood.training.recipe import LossTerm, Recipe


class Objective(nn.Module):
    """``Objective(recipe, model, classes)(outputs, label, image)``: the weighted sum of the losses of this epoch."""

    def __init__(self, recipe: Recipe, model: Model, classes: int) -> None:
        super().__init__()
        self.terms, self.epoch = recipe.loss, 0
        self.losses = nn.ModuleList([_build(term, recipe, model, classes) for term in recipe.loss])

    @property
    def views(self) -> int:
        """How many views of an image the losses of this epoch want."""
        return max(int(getattr(loss, "views", 2)) for _, loss in self.active)

    @property
    def parts(self) -> set[str]:
        """Which parts of the outputs the losses of this epoch read."""
        read = {reads(loss) for _, loss in self.active}
        return read - {"outputs"} | ({"feature", "embedding"} if "outputs" in read else set())

    @property
    def active(self) -> list[tuple[LossTerm, nn.Module]]:
        """The losses of this epoch."""
        return [pair for pair in self._pairs() if pair[0].covers(self.epoch)]

    @property
    def beginning(self) -> list[nn.Module]:
        """The losses whose first epoch this is and that want to see the training set before it."""
        return [loss for term, loss in self._pairs() if term.begin == self.epoch and hasattr(loss, "start")]

    def at(self, epoch: int) -> None:
        """From now on it is this epoch, counted from 0."""
        self.epoch = epoch
        for _, loss in self.active:
            if callable(at := getattr(loss, "at", None)):
                at(epoch)

    def forward(self, outputs: Outputs, label: Tensor, image: Tensor) -> Terms:
        """Rows view after view, with the class and the image of each; ConfigError where no loss covers this epoch."""
        total = torch.zeros((), device=outputs.feature.device)
        parts: dict[str, Tensor] = {}
        for term, loss in self.active:
            x = outputs if reads(loss) == "outputs" else getattr(outputs, reads(loss))
            terms = loss(x, image if labels(loss) == "image" else label)
            total, parts = total + term.times * terms.total, parts | dict(terms.parts)
        return Terms(total, parts)

    @property
    def prototypes(self) -> Tensor | None:
        """Those of the first loss of this epoch that has some."""
        return next((p for _, loss in self.active if isinstance(p := getattr(loss, "prototypes", None), Tensor)), None)

    def served_classifier(self) -> nn.Linear | None:
        """The classifier that one of the losses owns and that belongs to the trained model, if one does."""
        for _, loss in self._pairs():
            if callable(serve := getattr(loss, "served_classifier", None)):
                classifier: nn.Linear = serve()
                return classifier
        return None

    def _pairs(self) -> list[tuple[LossTerm, nn.Module]]:
        return list(zip(self.terms, self.losses, strict=True))


def reads(loss: nn.Module) -> str:
    """Which part of Outputs a loss wants; "outputs" is all of them."""
    return str(getattr(loss, "reads", "embedding"))


def labels(loss: nn.Module) -> str:
    """What a loss takes for the label of a row: its "class", or the index of its "image"; both stay on the host."""
    return str(getattr(loss, "labels", "class"))


def _build(term: LossTerm, recipe: Recipe, model: Model, classes: int) -> nn.Module:
    embedding = recipe.model.reads == "embedding"  # then it is what stands for the feature, too
    loss = term.build(classes, recipe.model.dim, recipe.model.dim if embedding else model.encoder.dim)  # type: ignore[arg-type]
    wanted = {"embedding", "feature"} if reads(loss) == "outputs" else {reads(loss)}
    if "embedding" in wanted and model.head is None:
        raise ConfigError(f"loss {term.use}: reads the embedding, but the model has no head. Set model.head: mlp.")
    if "logits" in wanted and model.classifier is None:
        raise ConfigError(f"loss {term.use}: reads logits. Set model.classifier: true.")
    if hasattr(loss, "served_classifier") and model.classifier is not None:
        raise ConfigError(f"loss {term.use}: brings its own classifier. Set model.classifier: false.")
    return loss
