"""ID accuracy of a model, also of one without a classifier: nearest class mean, neighbours, linear probe, classifier.

(The references report an argmax over the embedding's coordinates for such models, which means nothing.)
Shapes: N training rows, B test rows, F feature width, C classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from spherood.detectors import KNN
from spherood.features import Stored
from spherood.metrics import accuracy
from spherood.sphere import normalize
from spherood.sphere.classify import by_class_mean, by_neighbours, linear_probe

K = 50
PROBE_ROWS = 50_000


def id_accuracy(train: Stored, test: Stored, class_mean: Tensor, bank: Tensor | None = None) -> dict[str, float]:
    """Fractions by "class mean" (nearest unit direction), "k-NN" (majority of 50), "linear probe" (logistic regression
    on at most 50,000 training features, drawn at random) and, if it has one, "classifier".

    class_mean: unit rows (C, F). bank: the training features as unit rows, where somebody has them already. Test images
    without a label (-1) are left out; with none left, no accuracy.
    """
    known = torch.from_numpy(test.images.label >= 0)
    label = torch.from_numpy(test.images.label)[known]
    if len(label) == 0:
        return {}
    unit = normalize(test.outputs.feature[known])
    if bank is None:
        bank = KNN(k=1).fit(train.batches()).bank  # in batches: all rows at once would take twice the memory
    own = torch.from_numpy(train.images.label)
    found = {
        "class mean": accuracy(by_class_mean(unit, class_mean), label),
        "k-NN": accuracy(by_neighbours(unit, bank, own, len(class_mean), K), label),
    }
    probe = linear_probe(*_drawn(train), len(class_mean))
    found["linear probe"] = accuracy(probe(test.outputs.feature[known]), label)
    if test.outputs.logits is not None:
        found["classifier"] = accuracy(test.outputs.logits[known].argmax(dim=1), label)
    return found


def _drawn(train: Stored) -> tuple[Tensor, Tensor]:
    """Feature (n, F) and label (n,) of at most PROBE_ROWS training images; in batches, or the whole map would stay."""
    drawn = np.zeros(len(train.images), dtype=bool)
    drawn[np.random.default_rng(0).permutation(len(drawn))[:PROBE_ROWS]] = True
    parts, start = [], 0
    for outputs, _ in train.batches():
        rows = torch.from_numpy(np.flatnonzero(drawn[start : start + len(outputs.feature)]))
        parts.append(outputs.feature[rows])
        start += len(outputs.feature)
    return torch.cat(parts), torch.from_numpy(train.images.label[drawn])
