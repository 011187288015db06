from __future__ import annotations

from math import e, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spherood.detectors import VRA, ReAct
from spherood.errors import ConfigError, FitError


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], len(weight))
    made.load_state_dict({"weight": weight, "bias": bias})
    return made


def drawn(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)).abs()


CLASSIFIER = linear(drawn(4, 9) - 0.7, torch.tensor([0.5, -1.0, 2.0, 0.0]))


def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace) -> None:
    score = VRA(low=10, high=90).fit(resnet20.validation, classifier=resnet20.classifier).score(resnet20.query)
    np.testing.assert_allclose(score.double().numpy(), resnet20.score["vra_90_10"], rtol=0, atol=3 * 4e-6)


def test_activations_are_cut_and_raised_at_the_percentiles_worked_out_by_hand() -> None:
    feature = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 10.0]])  # of six values 20 % is 1, 80 % is 4
    judge = VRA(low=20, high=80).fit(feature, classifier=linear(torch.eye(2), torch.zeros(2)))
    assert judge.limits.tolist() == pytest.approx([1, 4])
    score = judge.score(torch.tensor([[9.0, 0.0], [3.0, 2.0]]))
    assert score.tolist() == pytest.approx([-log(e**4 + e), -log(e**3 + e**2)], rel=1e-6)


def test_with_nothing_raised_it_is_react() -> None:
    query = drawn(30, 1).clamp(min=0.5)  # above every tenth activation
    judge = VRA(low=10, high=80).fit(drawn(50), classifier=CLASSIFIER)
    assert float(judge.limits[0]) < 0.5
    torch.testing.assert_close(
        judge.score(query), ReAct(percentile=80).fit(drawn(50), classifier=CLASSIFIER).score(query)
    )


def test_nothing_beyond_the_limits_counts() -> None:
    judge = VRA().fit(drawn(50), classifier=CLASSIFIER)
    query, (low, high) = drawn(30, 1), judge.limits.tolist()
    beyond = torch.where(query > high, query + 100, torch.where(query < low, query - 100, query))
    assert bool((query < low).any())
    assert bool((query > high).any())
    torch.testing.assert_close(judge.score(beyond), judge.score(query))


def test_what_cannot_be_fitted_is_told() -> None:
    with pytest.raises(FitError, match=r"^VRA\.fit: needs the model's classifier"):
        VRA().fit(drawn(50))
    with pytest.raises(FitError, match=r"^VRA\.fit: reads the batches twice, and a generator gives them once\."):
        VRA().fit(((rows, None) for rows in [drawn(50)]), classifier=CLASSIFIER)


@pytest.mark.parametrize(("low", "high"), [(-1, 90), (90, 90), (90, 10), (10, 101)])
def test_percentiles_that_do_not_rise_within_their_range_are_refused(low: float, high: float) -> None:
    message = rf"^VRA: percentiles must rise within \[0, 100\], got low={low} and high={high}\. Try 10, 90\.$"
    with pytest.raises(ConfigError, match=message):
        VRA(low=low, high=high)
