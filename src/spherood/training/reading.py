"""What a recipe trains and validates on, as its network takes it.

Pixels; or, where the encoder is frozen and no view changes an image, the features that it gives, computed once and kept
in the feature store; or features that somebody has already (`data: {features: FILE}`, `model.encoder: none`).
Shapes: N rows, S size, F feature width.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spherood.data import ImageSet, Preprocess, Source
from spherood.data.feature_file import FeatureSet, read_features
from spherood.errors import DataError
from spherood.features import FeatureStore, Stored
from spherood.models import Model
from spherood.models.custom import Features
from spherood.models.model import NONE, settled
from spherood.training.fine_tuning import Trained
from spherood.training.on_disk import OnDisk
from spherood.training.pixels import TrainingSet, load_pixels, read_pixels
from spherood.training.recipe import Recipe

MEMORY = 0.25  # of the machine's, for the training set


@dataclass(frozen=True)
class FeatureRows:
    """feature (N, F) float32 and label (N,); `classes` names the labels."""

    feature: Tensor
    label: Tensor
    classes: tuple[str, ...]

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Features (B, F) of these rows."""
        return self.feature[torch.from_numpy(rows)]

    def on(self, device: torch.device) -> Tensor:
        """All of them, on the device."""
        return self.feature.to(device)


Examples = TrainingSet | OnDisk | FeatureRows


@dataclass(frozen=True)
class Further:
    """Images, or features, beside the training set: x as the network takes it, label (n,) by these classes."""

    name: str
    x: Tensor
    label: NDArray[np.int64]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """``Reading.of(recipe, data)``: the sources of a recipe, and how they are read.

    recipe: with what it leaves to its encoder, see `complete`. known: the training set before it is read. encoder:
    computes features once, where the recipe freezes it.
    """

    recipe: Recipe
    data: Path
    known: ImageSet | FeatureSet
    encoder: nn.Module | None = None
    store: FeatureStore | None = None

    @classmethod
    def of(cls, recipe: Recipe, data: Path) -> Reading:
        """What is found there; DataError where it is absent, and for features without labels."""
        if recipe.model.encoder != NONE:
            known = recipe.data.load(data)
            return cls(complete(recipe, known), data, known)
        rows = features_of(recipe.data, data)
        if rows.label is None:
            raise DataError(
                f"{rows.name}: a head is trained with labels, and there are none. Save them beside the feature as "
                "label, or name a .npy: data.labels."
            )
        if len(rows.classes) < 2:
            raise DataError(f"{rows.name}: all rows are of one class, and a head learns to tell classes apart.")
        return cls(complete(recipe, rows), data, rows)

    def through(self, model: Model, trained: Trained, store: FeatureStore) -> Reading:
        """The same for this model: its features, where its encoder is frozen and no view changes an image."""
        if isinstance(self.known, FeatureSet) or not (trained.encoder_is_frozen and self.recipe.views.still):
            return self
        return replace(self, encoder=Features(model.encoder), store=store)

    @property
    def of_features(self) -> bool:
        """Whether features are read, and the network begins after its encoder."""
        return self.encoder is not None or isinstance(self.known, FeatureSet)

    @property
    def preprocess(self) -> Preprocess | None:
        """How pixels are made; None for features."""
        return None if self.of_features else self.recipe.preprocess

    def network(self, model: Model) -> Model:
        """What takes that which is read: the model, or what stands on its encoder."""
        return model.on_features if self.of_features else model

    def training_set(self) -> Examples:
        """In memory where all pixels take at most a quarter of it, else in their files. DataError for its data."""
        known, preprocess = self.known, self.recipe.preprocess
        if isinstance(known, FeatureSet):
            assert known.label is not None  # `of` has looked
            return FeatureRows(
                torch.from_numpy(np.asarray(known.feature)), torch.from_numpy(known.label), known.classes
            )
        if self.encoder is not None:
            known.check_classes("training")
            stored = self._stored(known)
            stored.images.check_classes("training")
            return FeatureRows(stored.outputs.feature, torch.from_numpy(stored.images.label), known.classes)
        wanted = 3 * len(known) * preprocess.size**2
        if wanted <= MEMORY * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
            return load_pixels(known, preprocess)
        print(
            f"note: {known.name}: {wanted / 1e9:,.1f} GB of pixels stay on disk, decoded as they are needed.",
            file=sys.stderr,
        )
        return OnDisk(known, preprocess)

    def further(self, source: Source, name: str, most: int) -> Further:
        """At most so many of another source, drawn; DataError where none can be read."""
        if isinstance(self.known, FeatureSet):
            found = features_of(source, self.data)
            found = found.subset(np.sort(np.random.default_rng(0).permutation(len(found))[:most]))
            label = np.full(len(found), -1) if found.label is None else found.label
            return Further(name, torch.from_numpy(np.asarray(found.feature)), label, found.classes)
        images = source.load(self.data, name).draw(most)
        if self.encoder is not None:
            stored = self._stored(images)
            return Further(name, stored.outputs.feature, stored.images.label, images.classes)
        pixels, readable = read_pixels(images, self.recipe.preprocess)
        if not len(readable):
            raise DataError(f"{images.name}: none of {len(images)} images can be read.")
        return Further(name, torch.from_numpy(pixels), images.label[readable], images.classes)

    def _stored(self, images: ImageSet) -> Stored:
        assert self.encoder is not None and self.store is not None  # noqa: PT018 - they come together
        return self.store.read(self.encoder, self.recipe.preprocess, images)


def complete(recipe: Recipe, known: ImageSet | FeatureSet) -> Recipe:
    """The recipe with what it leaves to its encoder: how wide its features are, and, of others, how images are made."""
    settings, preprocess = recipe.model, recipe.preprocess
    if settings.ours:
        return recipe
    if isinstance(known, FeatureSet):
        settings = settings.model_copy(update={"features": known.feature.shape[1]})
    else:
        settings, own = settled(settings)
        preprocess = preprocess if "preprocess" in recipe.model_fields_set else own
    return recipe.model_copy(update={"model": settings, "preprocess": preprocess})


def features_of(source: Source, data: Path) -> FeatureSet:
    """Of a source that is a file of features; DataError where it is absent."""
    path, labels = source.where(data), source.labels
    assert path is not None  # a recipe without an encoder has files of features, see Recipe
    if not path.is_file():
        raise DataError(f"{path}: no such file of features. Check the path, and where --data points.")
    return read_features(path, labels=None if labels is None else data / labels)
