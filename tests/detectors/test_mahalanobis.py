from __future__ import annotations

from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor

from spherood.detectors import Mahalanobis
from spherood.detectors.mahalanobis import Covariance
from spherood.errors import ConfigError, FitError
from spherood.metrics import auroc
from spherood.naming import build, parse_spec
from spherood.sphere import normalize

CROSS = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
TWO_CROSSES = torch.cat([CROSS, CROSS + torch.tensor([10.0, 0.0])])  # tied covariance diag(1/2, 2)
LABEL = torch.tensor([0] * 4 + [1] * 4)
BOTH = pytest.mark.parametrize("covariance", get_args(Covariance))


def drawn(rows: int, seed: int = 0, dim: int = 5) -> Tensor:
    """Classes in turn, apart and correlated, in float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    noise = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    return noise @ shape + 4 * torch.eye(dim, dtype=torch.float64)[torch.arange(rows) % 3]


def label_of(rows: int) -> Tensor:
    return torch.arange(rows) % 3


def from_definition(x: Tensor, label: Tensor, query: Tensor, covariance: str) -> Tensor:
    mean = torch.stack([x[label == c].mean(dim=0) for c in label.unique()])
    off = x - (mean[label] if covariance == "tied" else x.mean(dim=0))
    inverse = torch.linalg.pinv(off.T @ off / (len(x) - (covariance == "total")), hermitian=True)
    apart = query[:, None] - mean
    distance = torch.einsum("bcd,de,bce->bc", apart, inverse, apart).amin(dim=1)
    return distance / 2 if covariance == "total" else distance


@pytest.mark.parametrize(
    ("name", "settings", "rtol"),
    [
        ("mds", {}, 3 * 1.1e-6),
        ("mds_normalized", {"unit": True}, 3 * 9e-7),
        ("reweightood", {"unit": True}, 3 * 9e-7),
        ("cider_maha_totalcov", {"unit": True, "covariance": "total"}, 3 * 1.2e-6),
    ],
)
def test_the_scores_are_those_of_the_references(
    resnet20: SimpleNamespace, name: str, settings: dict[str, Any], rtol: float
) -> None:
    score = Mahalanobis(**settings).fit(resnet20.train, resnet20.label).score(resnet20.query)
    np.testing.assert_allclose(score.double().numpy(), resnet20.score[name], rtol=rtol, atol=0)


def test_two_crosses_give_the_distances_worked_out_by_hand() -> None:
    query = torch.tensor([[1.0, 2.0], [10.0, 2.0]])
    tied = Mahalanobis().fit(TWO_CROSSES, LABEL).score(query)
    torch.testing.assert_close(tied, torch.tensor([1 / 0.5 + 4 / 2, 4 / 2]))
    total = Mahalanobis(covariance="total").fit(TWO_CROSSES, LABEL).score(query)
    torch.testing.assert_close(total, torch.tensor([7 / 204 + 4 * 7 / 16, 4 * 7 / 16]) / 2)
    shrunk = Mahalanobis(shrinkage=0.5).fit(TWO_CROSSES, LABEL).score(query)
    torch.testing.assert_close(shrunk, torch.tensor([1 / 0.875 + 4 / 1.625, 4 / 1.625]))
    ridged = Mahalanobis(ridge=0.2).fit(TWO_CROSSES, LABEL).score(query)  # tr(S)/D = 5/4
    torch.testing.assert_close(ridged, torch.tensor([1 / 0.75 + 4 / 2.25, 4 / 2.25]))
    both = Mahalanobis(shrinkage=0.5, ridge=0.2).fit(TWO_CROSSES, LABEL).score(query)
    torch.testing.assert_close(both, torch.tensor([1 / 1.125 + 4 / 1.875, 4 / 1.875]))
    round_ = Mahalanobis(shrinkage=1.0).fit(TWO_CROSSES, LABEL).score(query)
    torch.testing.assert_close(round_, torch.tensor([5 / 1.25, 4 / 1.25]))


@BOTH
def test_the_scores_are_those_of_the_definition_in_float64(covariance: Covariance) -> None:
    x, query = drawn(200), drawn(50, 1) + 2
    score = Mahalanobis(covariance=covariance).fit(x, label_of(200)).score(query)
    expected = from_definition(x, label_of(200), query, covariance)
    torch.testing.assert_close(score.double(), expected, rtol=1e-4, atol=1e-5)


@BOTH
def test_no_stretch_turn_or_shift_of_the_space_changes_a_score(covariance: Covariance) -> None:
    x, query, label = drawn(200), drawn(50, 1), label_of(200)
    map_ = drawn(5, 7)
    expected = Mahalanobis(covariance=covariance).fit(x, label).score(query)
    moved = Mahalanobis(covariance=covariance).fit(x @ map_ + 30, label).score(query @ map_ + 30)
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-4)


@BOTH
def test_on_unit_features_neither_turn_nor_length_changes_a_score(covariance: Covariance) -> None:
    x, query, label = drawn(200), drawn(50, 1), label_of(200)
    turn = torch.linalg.qr(drawn(5, 7))[0]
    length = drawn(200, 3).abs()[:, :1] + 0.1
    expected = Mahalanobis(covariance=covariance, unit=True).fit(x, label).score(query)
    moved = Mahalanobis(covariance=covariance, unit=True).fit(length * x @ turn, label).score(7 * query @ turn)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)


@BOTH
@pytest.mark.parametrize(("dtype", "far_off"), [(torch.float32, 1e4), (torch.float64, 1e4), (torch.float64, 1e7)])
def test_features_far_from_zero_lose_no_digits(covariance: Covariance, dtype: torch.dtype, far_off: float) -> None:
    x, query, label = (drawn(200) + far_off).to(dtype), (drawn(50, 1) + far_off).to(dtype), label_of(200)
    near = Mahalanobis(covariance=covariance).fit(x.double() - far_off, label).score(query.double() - far_off)
    far = Mahalanobis(covariance=covariance).fit(x, label).score(query)
    torch.testing.assert_close(far, near, rtol=1e-4, atol=1e-4)


def test_batches_sorted_by_class_leave_the_moments_as_they_are() -> None:
    x, query, label = drawn(201), drawn(50, 1), label_of(201)
    batches = [(x[label == c], label[label == c]) for c in (2, 0, 1)]
    torch.testing.assert_close(Mahalanobis().fit(batches).score(query), Mahalanobis().fit(x, label).score(query))


@BOTH
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_low_rank_features_give_the_distances_within_their_plane(covariance: Covariance, scale: float) -> None:
    plane = torch.linalg.qr(drawn(8, 5, dim=8))[0][:5]  # 5 of 8 directions
    x, query, label = drawn(200), drawn(50, 1), label_of(200)
    expected = Mahalanobis(covariance=covariance).fit(x, label).score(query)
    judge = Mahalanobis(covariance=covariance).fit((scale * x @ plane).float(), label)
    assert judge.whitening.shape == (8, 5)
    torch.testing.assert_close(judge.score((scale * query @ plane).float()), expected, rtol=1e-3, atol=1e-4)
    anywhere = judge.score(drawn(50, 3, dim=8))
    assert bool(anywhere.isfinite().all())
    assert float(anywhere.min()) >= 0


def test_tight_classes_far_apart_keep_the_digits_of_the_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    centre = normalize(torch.randn(10, 16, generator=generator, dtype=torch.float64))
    label = torch.arange(500) % 10
    x = centre[label] + 1e-4 * torch.randn(500, 16, generator=generator, dtype=torch.float64)
    score = Mahalanobis().fit(x, label).score(x)
    expected = from_definition(x, label, x, "tied")  # about 16, beside products of 1e8
    torch.testing.assert_close(score.double(), expected, rtol=1e-2, atol=0)


def test_shrinkage_zero_is_none_and_one_tenth_is_not() -> None:
    x, query, label = drawn(200), drawn(50, 1), label_of(200)
    expected = Mahalanobis().fit(x, label).score(query)
    torch.testing.assert_close(Mahalanobis(shrinkage=0.0).fit(x, label).score(query), expected)
    assert not torch.allclose(Mahalanobis(shrinkage=0.1).fit(x, label).score(query), expected, rtol=1e-2)


@BOTH
@pytest.mark.parametrize("unit", [False, True])
def test_ledoit_wolf_is_that_of_scikit_learn_on_centred_rows(covariance: Covariance, unit: bool) -> None:
    x, query, label = drawn(60, dim=8), drawn(50, 1, dim=8), label_of(60)
    judge = Mahalanobis(covariance=covariance, unit=unit, shrinkage="ledoit-wolf").fit(x, label)
    seen, asked = (normalize(x), normalize(query)) if unit else (x, query)
    mean = torch.stack([seen[label == c].mean(dim=0) for c in range(3)])
    off = seen - (mean[label] if covariance == "tied" else seen.mean(dim=0))
    precision = torch.from_numpy(LedoitWolf(assume_centered=True).fit(off.numpy()).precision_)
    if covariance == "total":
        precision *= 59 / 60 / 2  # 1/(N-1), and half the distance
    apart = asked[:, None] - mean
    expected = torch.einsum("bcd,de,bce->bc", apart, precision, apart).amin(dim=1)
    torch.testing.assert_close(judge.score(query).double(), expected, rtol=1e-5, atol=0)
    found = judge.whitening.double() @ judge.whitening.double().T
    torch.testing.assert_close(found, precision * (2 if covariance == "total" else 1), rtol=1e-6, atol=1e-6)


@BOTH
def test_ledoit_wolf_reads_batches_of_any_size_twice_and_refuses_a_generator(covariance: Covariance) -> None:
    x, query, label = drawn(61), drawn(50, 1), label_of(61)
    batches = [(x[:1], label[:1]), (x[1:40], label[1:40]), (x[40:], label[40:])]
    judge = Mahalanobis(covariance=covariance, shrinkage="ledoit-wolf")
    expected = judge.fit(x, label).score(query)
    torch.testing.assert_close(judge.fit(batches).score(query), expected)
    with pytest.raises(FitError, match=r"Mahalanobis\.fit: reads the batches twice, and a generator gives them once"):
        judge.fit(iter(batches))


def test_ledoit_wolf_is_named_in_a_spec() -> None:
    x, label = drawn(60), label_of(60)
    judge = build("detectors", *parse_spec("mahalanobis:shrinkage=ledoit-wolf")).fit(x, label)
    assert torch.equal(judge.score(x), Mahalanobis(shrinkage="ledoit-wolf").fit(x, label).score(x))


@pytest.mark.parametrize("settings", [{"ridge": 1e-6}, {"shrinkage": 1e-6}, {"shrinkage": "ledoit-wolf"}], ids=str)
def test_shrinkage_or_a_ridge_leaves_no_direction_out_and_a_scale_changes_no_score(settings: dict[str, Any]) -> None:
    plane = torch.linalg.qr(drawn(8, 5, dim=8))[0][:5]  # 5 of 8 directions
    x, query, label = drawn(2000) @ plane, drawn(50, 1, dim=8), label_of(2000)
    judge = Mahalanobis(**settings).fit(x, label)
    assert judge.whitening.shape == (8, 8)
    assert bool((judge.score(query) > 1 + judge.score(query @ plane.T @ plane)).all())
    torch.testing.assert_close(Mahalanobis(**settings).fit(1e-3 * x, label).score(1e-3 * query), judge.score(query))


def test_even_a_ridge_below_rounding_gives_numbers() -> None:
    plane = torch.linalg.qr(drawn(8, 5, dim=8))[0][:5]
    score = Mahalanobis(ridge=1e-20).fit(drawn(200) @ plane, label_of(200)).score(drawn(50, 1, dim=8))
    assert bool(score.isfinite().all())
    assert float(score.min()) >= 0


def test_a_direction_counts_from_2_eps_of_the_largest_variance_on() -> None:
    assert Mahalanobis().fit(CROSS * torch.tensor([2.0, 1.1 * (2.0**-22) ** 0.5]), LABEL[:4]).whitening.shape == (2, 2)
    assert Mahalanobis().fit(CROSS * torch.tensor([2.0, 0.9 * (2.0**-22) ** 0.5]), LABEL[:4]).whitening.shape == (2, 1)


def rank_20(rows: int, seed: int) -> Tensor:
    """Unit features within 20 of 512 directions, in float32: ten clouds, means and noise of widths 1 to 10^-5.5."""
    mean = torch.randn(10, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noise = torch.randn(rows, 20, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    width = torch.logspace(0, -5.5, 20, dtype=torch.float64)
    plane = torch.linalg.qr(drawn(512, 5, dim=20))[0].T
    return normalize((mean[torch.arange(rows) % 10] + 0.2 * noise) * width @ plane).float()


@pytest.mark.parametrize(
    "settings", [{}, {"covariance": "total"}, {"ridge": 1e-3}, {"shrinkage": "ledoit-wolf"}], ids=str
)
def test_rank_20_at_condition_1e11_keeps_other_classes_above_known_ones(settings: dict[str, Any]) -> None:
    train, known, other = *rank_20(3000, 0).split([2000, 1000]), rank_20(500, 7)
    judge = Mahalanobis(unit=True, **settings).fit(train, torch.arange(2000) % 10)
    id_score, ood_score = judge.score(known), judge.score(other)
    assert bool(torch.cat([id_score, ood_score]).isfinite().all())
    assert float(id_score.min()) >= 0
    assert auroc(id_score.numpy(), ood_score.numpy()) > 0.95


def test_there_the_recipe_released_with_cider_gives_negative_distances_and_hardly_tells_them_apart() -> None:
    train, known, other = *rank_20(3000, 0).split([2000, 1000]), rank_20(500, 7)
    total = torch.cov(train.double().T)
    variance = torch.linalg.eigvalsh(total)
    assert 1e11 < float(variance[-1] / variance[-20]) < 1e12
    precision = torch.linalg.pinv(total, hermitian=True).float()  # the cast that does it
    mean = torch.stack([train[torch.arange(2000) % 10 == c].mean(dim=0) for c in range(10)])

    def released(x: Tensor) -> Tensor:
        apart = x[:, None] - mean
        return torch.einsum("bcd,de,bce->bc", apart, precision, apart).amin(dim=1) / 2

    assert int((released(known) < 0).sum()) > 500
    assert auroc(released(known).numpy(), released(other).numpy()) < 0.7


def test_labels_that_are_missing_are_asked_for() -> None:
    for x in (drawn(9), [(drawn(9), None)]):
        with pytest.raises(FitError, match=r"Mahalanobis\.fit: needs labels\. Call fit\(feature, label\)"):
            Mahalanobis().fit(x)


def test_a_class_without_a_sample_is_named_by_number() -> None:
    with pytest.raises(FitError, match=r"Mahalanobis\.fit: class 2 has no sample\. Labels must run 0\.\.C-1"):
        Mahalanobis().fit(drawn(9), torch.tensor([0, 1, 3] * 3))


def test_features_that_do_not_vary_within_classes_are_refused() -> None:
    for x, label in [
        (drawn(3), label_of(3)),  # each class one image
        (drawn(3).repeat(7, 1) + 0.1, label_of(21)),  # each class one image, seven times: only rounding varies
        (torch.ones(9, 4), label_of(9)),
    ]:
        with pytest.raises(FitError, match="the features do not vary"):
            Mahalanobis().fit(x, label)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"covariance": "full"}, "covariance must be 'tied' or 'total', got 'full'"),
        ({"shrinkage": 1.5}, r"shrinkage must lie in \[0, 1\] or be 'ledoit-wolf', got 1\.5"),
        ({"shrinkage": -0.1}, r"shrinkage must lie in \[0, 1\] or be 'ledoit-wolf', got -0\.1"),
        ({"shrinkage": "oas"}, r"shrinkage must lie in \[0, 1\] or be 'ledoit-wolf', got 'oas'"),
        ({"ridge": -0.1}, r"ridge must be at least 0 and finite, got -0\.1\. Try 0\.01"),
        ({"ridge": float("nan")}, r"ridge must be at least 0 and finite, got nan"),
        ({"ridge": float("inf")}, r"ridge must be at least 0 and finite, got inf"),
    ],
)
def test_a_setting_without_meaning_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mahalanobis(**setting)
