"""ID accuracy of a model, also of one without a classifier: nearest class mean, k nearest neighbours, classifier.

(The references report an argmax over the embedding's coordinates for such models, which means nothing.)
Shapes: N training rows, B test rows, F feature width, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spherood.detectors import KNN
from spherood.features import Stored
from spherood.metrics import accuracy
from spherood.sphere import nearest, normalize

K = 50


def id_accuracy(train: Stored, test: Stored, class_mean: Tensor, bank: Tensor | None = None) -> dict[str, float]:
    """Fractions by "class mean" (nearest unit direction), "k-NN" (majority of 50) and, if it has one, "classifier".

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
    _, neighbour = nearest(unit, bank, min(K, len(bank)))
    vote = torch.from_numpy(train.images.label)[neighbour]  # (B, 50)
    votes = torch.zeros(len(unit), len(class_mean), dtype=torch.int16)  # (B, C); one-hot votes take (B, 50, C)
    votes.scatter_add_(1, vote, torch.ones_like(vote, dtype=torch.int16))
    found = {
        "class mean": accuracy((unit @ class_mean.T).argmax(dim=1), label),
        "k-NN": accuracy(votes.argmax(dim=1), label),
    }
    if test.outputs.logits is not None:
        found["classifier"] = accuracy(test.outputs.logits[known].argmax(dim=1), label)
    return found
