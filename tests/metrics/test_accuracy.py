from __future__ import annotations

import numpy as np
import pytest
import torch

from spherood.errors import ShapeError
from spherood.metrics import accuracy


def test_three_right_of_four_is_three_quarters() -> None:
    assert accuracy([0, 1, 2, 2], [0, 1, 2, 0]) == 0.75


def test_integers_of_any_width_compare_by_value() -> None:
    assert accuracy(np.array([200, 3], dtype=np.uint8), torch.tensor([200, -3])) == 0.5


def test_other_lengths_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"2 predictions and 3 labels\. Pass both for the same images"):
        accuracy([0, 1], [0, 1, 2])


def test_logits_and_fractions_are_not_classes() -> None:
    with pytest.raises(ShapeError, match=r"accuracy: expected predicted \(N,\), got \(2, 10\)"):
        accuracy(np.zeros((2, 10)), [0, 1])
    with pytest.raises(ShapeError, match=r"expected label \(N,\) of integer classes, got dtype float64"):
        accuracy([0, 1], [0.0, 1.0])
    with pytest.raises(ShapeError, match=r"expected predicted \(N,\) of integer classes, got dtype float64"):
        accuracy([0.2, 0.9], [0, 1])
    with pytest.raises(ShapeError, match="predicted is empty"):
        accuracy([], [])
