"""Accuracy: the share of images whose predicted class is their class.

    accuracy = #{i : predicted_i = label_i} / N

Of ID images: an OOD image has no class to be right about. Unit: fraction.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spherood.errors import ShapeError
from spherood.metrics.scores import check_vector


def accuracy(predicted: Any, label: Any) -> float:
    """Accuracy in [0, 1] of predicted classes (N,) and labels (N,), integers both; arrays, lists or tensors.

    ShapeError unless both are 1-D, non-empty, of integers and equally long.
    """
    guess = check_vector("accuracy", "predicted", predicted, "biu", "integer classes")
    truth = check_vector("accuracy", "label", label, "biu", "integer classes")
    if len(guess) != len(truth):
        raise ShapeError(
            f"accuracy: {len(guess)} predictions and {len(truth)} labels. Pass both for the same images, in one order."
        )
    return int(np.count_nonzero(guess == truth)) / len(truth)
