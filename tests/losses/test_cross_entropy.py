from __future__ import annotations

from math import e, log

import pytest
import torch

from spherood.errors import ShapeError
from spherood.losses import CrossEntropy


def test_two_rows_give_the_value_worked_out_by_hand() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    by_hand = (log(1 + e) - 1 + log(1 + e**3)) / 2
    assert float(CrossEntropy()(logits, torch.tensor([0, 0])).total) == pytest.approx(by_hand, rel=1e-12)


def test_adding_a_number_to_a_row_of_logits_changes_nothing() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.tensor([0, 1, 2, 3, 0, 1])
    torch.testing.assert_close(CrossEntropy()(logits + 100, label).total, CrossEntropy()(logits, label).total)


def test_a_label_beyond_the_logits_is_told() -> None:
    with pytest.raises(ShapeError, match=r"CrossEntropy: labels run 0\.\.4, expected 0\.\.3"):
        CrossEntropy()(torch.zeros(2, 4), torch.tensor([0, 4]))
