from __future__ import annotations

import pytest
import torch
from torch import nn

from spherood.detectors import KNN
from spherood.detectors.linear_head import copy_head, free_energy, grand_mean, logits, rows_under
from spherood.errors import FitError, ShapeError


def test_two_classes_give_the_logits_and_the_energy_worked_out_by_hand() -> None:
    weight, bias = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([0.5, 4.5])
    feature = torch.tensor([[2.0, 1.0]])
    assert logits(feature, weight, bias).tolist() == [[4.5, 3.5]]
    energy = free_energy(feature, weight, bias)
    torch.testing.assert_close(energy, -torch.tensor([4.5, 3.5], dtype=torch.float64).logsumexp(0)[None])


def test_a_sum_that_float32_would_round_keeps_its_digits() -> None:
    weight, bias = torch.tensor([[1e8, 1.0, -1e8]]), torch.zeros(1)
    assert logits(torch.ones(1, 3), weight, bias).item() == 1.0


def test_a_copy_stays_when_training_goes_on_and_a_missing_bias_is_zero() -> None:
    classifier = nn.Linear(2, 3, bias=False)
    before = classifier.weight.detach().clone()
    weight, bias = copy_head(KNN(), classifier)
    with torch.no_grad():
        classifier.weight.add_(1)
    assert torch.equal(weight, before)
    assert bias.tolist() == [0, 0, 0]


def test_the_mean_of_a_stream_is_that_of_its_rows_not_of_its_batches() -> None:
    batches = [torch.tensor([[1.0, 10.0]]), torch.tensor([[3.0, 0.0], [5.0, 2.0]])]
    mean = grand_mean((rows, None) for rows in batches)
    assert mean.dtype == torch.float64
    assert mean.tolist() == [3.0, 4.0]


def test_rows_come_with_their_labels_and_another_width_is_told_with_both_numbers() -> None:
    rows, label = torch.ones(3, 2), torch.arange(3)
    ((found, found_label),) = rows_under(torch.ones(4, 2), KNN(), rows, label)
    assert torch.equal(found, rows)
    assert found_label is not None
    assert torch.equal(found_label, label)
    message = r"^KNN\.fit: features have 2 columns, the classifier reads 5\. Pass features and classifier of one"
    with pytest.raises(ShapeError, match=message):
        list(rows_under(torch.ones(4, 5), KNN(), rows, None))


def test_a_classifier_that_is_missing_is_asked_for() -> None:
    with pytest.raises(FitError, match=r"^KNN\.fit: needs the model's classifier\. Call fit\(feature, label, "):
        copy_head(KNN(), None)
