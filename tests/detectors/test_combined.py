from __future__ import annotations

import numpy as np
import pytest
import torch

from spherood.detectors import KNN, Combined, Mahalanobis
from spherood.errors import ConfigError, FitError


def two_caps(rows: int = 500, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    label = torch.arange(rows) % 2
    noise = torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))
    return 3 * torch.eye(5)[label] + 0.5 * noise, label


def test_the_score_is_the_sum_of_the_surprises_worked_out_apart() -> None:
    x, label = two_caps()
    query = two_caps(40, 1)[0]
    last = torch.arange(500) % 5 == 4
    expected = np.zeros(40)
    for member in (KNN(k=10), Mahalanobis(unit=True)):
        reference = np.sort(member.fit(x[~last], label[~last]).score(x[last]).double().numpy())
        score = member.fit(x, label).score(query).double().numpy()
        at_least = 100 - reference.searchsorted(score, side="left")
        expected += -np.log((1 + at_least) / 101) * (at_least > 0)
        expected[at_least == 0] = np.nan  # beyond the reference: the straight tail
    found = Combined().fit(x, label).score(query).numpy()
    inside = np.isfinite(expected)
    assert inside.sum() > 30
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.35)  # straight lines between steps of 1 / 101
    assert np.corrcoef(found[inside], expected[inside])[0, 1] > 0.99


def test_what_lies_beyond_every_reference_score_is_still_told_apart() -> None:
    judge = Combined().fit(*two_caps())
    far = judge.score(torch.tensor([[0.0, 0, -1, 0, 0], [-1.0, -1, 0, 0, 0], [-0.5, -1, -1, 0, 0]]))
    assert len(set(far.tolist())) == 3


def test_it_catches_what_either_score_alone_overlooks() -> None:
    """Mahalanobis takes the middle of a ring for its centre, k-NN with few neighbours is blind to a far, dense blob."""
    x, label = two_caps(2000)
    id_score = Combined().fit(x, label).score(two_caps(500, 2)[0])
    ood = torch.randn(500, 5, generator=torch.Generator().manual_seed(3))
    ood_score = Combined().fit(x, label).score(ood)
    assert (ood_score > id_score.quantile(0.95)).float().mean() > 0.8


def test_the_neighbours_are_those_of_the_knn_and_the_score_is_the_score() -> None:
    x, label = two_caps()
    judge, query = Combined().fit(x, label), two_caps(7, 1)[0]
    score, near = judge.score_with_neighbours(query, 3)
    assert near is not None
    torch.testing.assert_close(score, judge.score(query))
    expected = KNN(k=10).fit(x).score_with_neighbours(query, 3)[1]
    assert torch.equal(near[1], expected[1])
    assert near[0].shape == (7, 3)


def test_members_of_another_kind_change_the_score() -> None:
    x, label = two_caps()
    other = Combined(scores=["knn:k=3", "mahalanobis"]).fit(x, label)
    assert not torch.allclose(other.score(x[:9]), Combined().fit(x, label).score(x[:9]))


def test_scores_that_read_different_parts_and_a_single_score_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"knn, msp read feature and logits\. Combine alike ones"):
        Combined(scores=["knn", "msp"])
    for scores in (["knn"], "knn"):
        with pytest.raises(ConfigError, match="two or more"):
            Combined(scores=scores)


def test_scores_of_layers_are_combined_within_each_layer() -> None:
    with pytest.raises(ConfigError, match=r"the scores read layers\. Combine within each layer: layers:score=combined"):
        Combined(scores=["layers", "layers:score='knn:k=3'"])


def test_too_few_rows_to_compare_with_are_told() -> None:
    with pytest.raises(FitError, match="needs 5 rows or more"):
        Combined(scores=["knn:k=1", "mahalanobis"]).fit(*two_caps(4))
