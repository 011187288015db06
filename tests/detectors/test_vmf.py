from __future__ import annotations

from math import e, inf, log, nan
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from spherood.detectors import VMF, PrototypeCosine
from spherood.errors import ConfigError, FitError


def drawn(rows: int, seed: int = 0, dim: int = 5) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def label_of(rows: int) -> Tensor:
    return torch.arange(rows) % 3


@pytest.mark.parametrize("tau", [0.05, 0.1, 1])
def test_the_scores_are_those_of_ink_less_a_constant_in_units_of_tau(resnet20: SimpleNamespace, tau: float) -> None:
    score = VMF(temperature=tau).fit(resnet20.train, resnet20.label).score(resnet20.query)
    ink = tau * (score.double().numpy() - log(10))
    np.testing.assert_allclose(ink, resnet20.score[f"ink_tau{tau}"], rtol=0, atol=3 * 4e-7)


def test_three_points_against_one_give_the_scores_worked_out_by_hand() -> None:
    x, y, z = torch.eye(3)
    feature, label = torch.stack([x, 4 * x, x, y]), torch.tensor([0, 0, 0, 1])
    score = VMF(temperature=0.5).fit(feature, label).score(torch.stack([x, y, 3 * z, x + y, -x]))
    both = e ** (2 / 2**0.5)
    by_hand = -torch.tensor([(e**2 + 1) / 2, (e**2 + 1) / 2, 1.0, both, (e**-2 + 1) / 2]).log()
    torch.testing.assert_close(score, by_hand)


def test_more_images_of_a_class_do_not_make_the_others_ood() -> None:
    x, query, label = drawn(60), drawn(30, 1), label_of(60)
    many = x[label == 0].repeat(50, 1)
    score = VMF().fit(torch.cat([x, many]), torch.cat([label, torch.zeros(len(many), dtype=torch.int64)])).score(query)
    torch.testing.assert_close(score, VMF().fit(x, label).score(query))


def test_turns_and_lengths_and_the_order_of_classes_change_nothing() -> None:
    x, query, label = drawn(60), drawn(30, 1), label_of(60)
    expected = VMF().fit(x, label).score(query)
    turn, length = torch.linalg.qr(drawn(5, 2))[0], drawn(60, 3).abs()[:, :1] + 0.1
    for moved, changed_query, changed_label in [
        (x @ turn, query @ turn, label),
        (length * x, 7 * query, label),
        (x, query, 2 - label),
    ]:
        score = VMF().fit(moved, changed_label).score(changed_query)
        torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-5)


def test_a_low_temperature_asks_for_the_nearest_prototype_and_a_high_one_for_their_mean() -> None:
    x, query, label = drawn(60), drawn(30, 1), label_of(60)
    low = 1e-4 * VMF(temperature=1e-4).fit(x, label).score(query)
    torch.testing.assert_close(low, PrototypeCosine().fit(x, label).score(query), rtol=0, atol=2e-4)
    judge = VMF(temperature=100.0).fit(x, label)
    high = 100 * judge.score(query)
    mean = 100 * judge.weight.double().mean(dim=0)
    torch.testing.assert_close(high.double(), -(query / query.norm(dim=1, keepdim=True)) @ mean, rtol=0, atol=1e-2)


def test_a_reload_brings_its_own_temperature() -> None:
    x, label = drawn(60), label_of(60)
    fitted, other = VMF(temperature=0.5).fit(x, label), VMF()
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other.score(x), fitted.score(x))


def test_missing_labels_and_a_class_without_sample_are_told() -> None:
    with pytest.raises(FitError, match=r"VMF\.fit: needs labels\. Call fit\(feature, label\)\."):
        VMF().fit(drawn(9))
    with pytest.raises(FitError, match=r"VMF\.fit: class 2 has no sample\. Labels must run 0\.\.C-1 without gaps\."):
        VMF().fit(drawn(9), torch.tensor([0, 1, 3] * 3))


@pytest.mark.parametrize("temperature", [0.0, -1.0, inf, nan])
def test_a_temperature_without_meaning_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"^VMF: temperature must be > 0 and finite, got .*\. Try 0\.1\.$"):
        VMF(temperature=temperature)
