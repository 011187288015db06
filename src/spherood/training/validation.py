"""How a run stands, measured while it trains, without looking at test OOD: ID accuracy, geometry, validation OOD.

Training images without views are the bank that k-NN votes from and whose class means are taken; others are asked about:
those of `validation.id` where the recipe names some, else further training images (rows then say so: the network has
learnt those by heart, and only the trend means something). AUROC is that of k-NN, k = 10, on the unit feature, against
each set of `validation.ood`, which must not be test OOD.
Each validation is a row of validation.jsonl; embedding.npz holds the embeddings of the last one, for pictures.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spherood.detectors import KNN
from spherood.errors import DataError
from spherood.files import written_aside
from spherood.metrics import accuracy, auroc
from spherood.models import Model
from spherood.models.inference import infer_all
from spherood.outputs import Outputs
from spherood.sphere import ClassMeans, normalize
from spherood.sphere.classify import by_class_mean, by_neighbours
from spherood.sphere.geometry import dispersion, geometry
from spherood.training.reading import Examples, Further, Reading
from spherood.training.recipe import Recipe

FILE = "validation.jsonl"
SAMPLE = "embedding.npz"
VOTES, K = 50, 10
BATCH = 128


class Validation:
    """``Validation(recipe, reading, examples)(network, prototypes)``: one row, in plain numbers."""

    def __init__(self, recipe: Recipe, reading: Reading, examples: Examples) -> None:
        self.preprocess, self.classes = reading.preprocess, examples.classes
        wanted = recipe.validation.images
        order = np.random.default_rng([recipe.seed, 1]).permutation(len(examples.label))
        half = min(wanted, len(order) // 2)
        self.bank, self.bank_label = examples.take(order[:half]), examples.label[order[:half]]
        self.held_out = recipe.validation.id is not None
        if recipe.validation.id is None:
            self.query, self.label = examples.take(order[half : 2 * half]), examples.label[order[half : 2 * half]]
        else:
            found = reading.further(recipe.validation.id, "validation ID", wanted)
            self.query, self.label = found.x, torch.from_numpy(_as_trained(found, examples.classes))
        self.ood = {name: reading.further(source, name, wanted).x for name, source in recipe.validation.ood.items()}

    def __call__(self, model: Model, prototypes: Tensor | None) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The row, and the sample that pictures are drawn from."""
        bank, query = self._outputs(model, self.bank), self._outputs(model, self.query)
        unit, known = normalize(query.feature), normalize(bank.feature)
        means = ClassMeans(len(self.classes))
        means.add(known, self.bank_label)
        row: dict[str, Any] = {
            "of": "held-out images" if self.held_out else "training images",
            "accuracy": {
                "class mean": accuracy(by_class_mean(unit, means.direction.float()), self.label),
                "k-NN": accuracy(by_neighbours(unit, known, self.bank_label, len(self.classes), VOTES), self.label),
            },
        }
        embedding, ood = _on_sphere(query), {name: self._outputs(model, x) for name, x in self.ood.items()}
        unlike = torch.cat([_on_sphere(one) for one in ood.values()]) if ood else None
        try:
            row["geometry"] = asdict(geometry(embedding, self.label, ood=unlike, classes=len(self.classes)))
        except DataError as error:
            print(f"no geometry: {error}", file=sys.stderr)
        if prototypes is not None and len(prototypes) > 1:
            mean_angle, least_angle = dispersion(prototypes)
            row["prototypes"] = {"dispersion": mean_angle, "least_angle": least_angle}
        if ood:
            judge = KNN(k=min(K, len(known))).fit(bank)
            id_score = judge.score(query)
            row["auroc"] = {name: auroc(id_score, judge.score(one)) for name, one in ood.items()}
        sample = {
            "embedding": normalize(embedding).numpy(),
            "label": self.label.numpy(),
            "classes": np.array(self.classes),
        }
        if prototypes is not None and prototypes.shape[1] == embedding.shape[1]:
            sample["prototypes"] = normalize(prototypes.detach().cpu().float()).numpy()
        return row, sample

    def _outputs(self, model: Model, pixels: Tensor) -> Outputs:
        return infer_all(model, pixels, self.preprocess, BATCH)


def _on_sphere(outputs: Outputs) -> Tensor:
    """What training brought onto the sphere: the embedding, or the feature of a network without a head."""
    return outputs.feature if outputs.embedding is None else outputs.embedding


def write_sample(run: Path, sample: dict[str, NDArray[Any]]) -> None:
    """embedding.npz, whole or as it was."""
    with written_aside(run / SAMPLE) as aside, aside.open("wb") as file:
        np.savez(file, **sample)  # type: ignore[arg-type]


def criterion(row: dict[str, Any], best: str) -> float | None:
    """The number by which a checkpoint is the best one: an accuracy, or the mean AUROC on validation OOD."""
    if best == "auroc":
        return float(np.mean(list(row["auroc"].values()))) if row.get("auroc") else None
    value: float = row["accuracy"][best]
    return value


def _as_trained(images: Further, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Labels by the training set's classes; DataError for a class that it does not have."""
    label, named = images.label, len(images.classes or classes)
    if label.min() < 0 or label.max() >= named:  # a label -1 would count as the last class
        raise DataError(f"{images.name}: labels run {label.min()}..{label.max()}, expected 0..{named - 1}.")
    if not images.classes:
        return label
    unknown = [name for name in images.classes if name not in classes]
    if unknown:
        raise DataError(
            f"{images.name}: class '{unknown[0]}' is none of the training set's ({', '.join(classes[:8])})."
        )
    known: NDArray[np.int64] = np.array([classes.index(name) for name in images.classes])[label]
    return known
