from __future__ import annotations

import pytest
import torch

from spherood.detectors import KNN
from spherood.detectors.labelled import labelled
from spherood.errors import FitError

ROWS = torch.eye(4)


def test_batches_come_as_they_were_given_with_their_labels() -> None:
    given = [(ROWS[:1], torch.tensor([2])), (ROWS[1:], torch.tensor([0, 1, 0]))]
    for (rows, label), (given_rows, given_label) in zip(labelled(KNN(), given, None), given, strict=True):
        assert torch.equal(rows, given_rows)
        assert torch.equal(label, given_label)


def test_a_batch_without_labels_is_told_when_it_comes_and_a_missing_class_at_the_end() -> None:
    stream = labelled(KNN(), [(ROWS, torch.arange(4)), (ROWS, None)], None)
    next(stream)
    with pytest.raises(FitError, match=r"^KNN\.fit: needs labels\. Call fit\(feature, label\)\.$"):
        next(stream)
    stream = labelled(KNN(), [(ROWS[:2], torch.tensor([0, 4])), (ROWS[:2], torch.tensor([1, 0]))], None)
    next(stream), next(stream)
    with pytest.raises(FitError, match=r"^KNN\.fit: class 2 has no sample\. Labels must run 0\.\.C-1 without gaps\.$"):
        next(stream)
