from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spherood.detectors import KPCA
from spherood.errors import ConfigError, FitError
from spherood.sphere import normalize


def drawn(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, generator=generator, dtype=torch.float64) * torch.arange(1, dim + 1) + 1


@pytest.mark.parametrize(
    ("name", "settings", "directions", "atol"),
    [
        ("kpca_cop_evr0.85", {"ratio": 0.85}, 9, 3 * 5e-7),
        ("kpca_cop_evr0.95", {"ratio": 0.95}, 19, 3 * 5e-7),
        ("kpca_corp_g2_M256_evr0.8", {"kernel": "gaussian", "ratio": 0.8, "gamma": 2, "features": 256}, 35, 1e-6),
    ],
)
def test_the_scores_are_those_of_the_authors(
    resnet20: SimpleNamespace, name: str, settings: dict[str, Any], directions: int, atol: float
) -> None:
    judge = KPCA(**settings).fit(resnet20.train)
    assert judge.direction.shape[1] == directions
    np.testing.assert_allclose(judge.score(resnet20.query).double().numpy(), resnet20.score[name], rtol=0, atol=atol)


def test_a_cross_gives_the_distances_worked_out_by_hand() -> None:
    x, y, z = torch.eye(3)
    known = torch.stack([x + y, x - y, x + z / 4, x - z / 4])  # y varies more than x, and x more than z
    judge = KPCA(ratio=0.8).fit(known)
    assert judge.direction.shape == (3, 1)
    assert judge.direction.abs()[:, 0].tolist() == pytest.approx([0, 1, 0], abs=1e-6)
    middle = (0.5**0.5 + 4 / 17**0.5) / 2
    score = judge.score(torch.stack([7 * y, x, -2 * z]))
    by_hand = torch.tensor([middle, 1 - middle, (middle**2 + 1) ** 0.5])
    torch.testing.assert_close(score, by_hand, rtol=1e-5, atol=1e-6)


def test_the_scores_are_those_of_the_definition_in_float64() -> None:
    x, query = normalize(drawn(200)), normalize(drawn(30, 1))
    judge = KPCA(ratio=0.7).fit(drawn(200))
    _, share, axis = np.linalg.svd((x - x.mean(dim=0)).numpy(), full_matrices=False)
    q = int((np.cumsum(share**2) / np.sum(share**2) < 0.7).sum()) + 1
    assert 1 < q == judge.direction.shape[1] < 6
    left = (query - x.mean(dim=0)).numpy() @ axis[q:].T
    np.testing.assert_allclose(judge.score(drawn(30, 1)).numpy(), np.linalg.norm(left, axis=1), rtol=1e-5, atol=1e-6)


def test_turns_and_lengths_change_nothing() -> None:
    expected = KPCA(ratio=0.6).fit(drawn(200)).score(drawn(30, 1))
    turn, length = torch.linalg.qr(drawn(6, 3))[0], drawn(200, 4).abs()[:, :1] + 0.1
    moved = KPCA(ratio=0.6).fit(length * drawn(200) @ turn).score(7 * drawn(30, 1) @ turn)
    torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-5)


def test_the_more_directions_are_taken_the_less_is_left() -> None:
    scores = torch.stack([KPCA(ratio=ratio).fit(drawn(200)).score(drawn(30, 1)) for ratio in (0.3, 0.6, 0.9)])
    assert bool((scores.diff(dim=0) < 0).all())


def test_products_of_random_features_approach_the_gaussian_kernel() -> None:
    judge = KPCA(kernel="gaussian", gamma=1.5, features=20_000)
    unit = normalize(drawn(12))
    frequency, phase = judge._draw(unit)
    mapped = (2 / 20_000) ** 0.5 * torch.cos(unit @ frequency.T + phase)
    kernel = (-1.5 * torch.cdist(unit, unit).square()).exp()
    torch.testing.assert_close(mapped @ mapped.T, kernel, rtol=0, atol=0.04)  # 4 / sqrt(20,000) is 0.028


def test_gaussian_scores_depend_on_the_seed_and_on_nothing_else_that_is_random() -> None:
    first, again, other = (
        KPCA(kernel="gaussian", features=64, seed=seed).fit(drawn(200)).score(drawn(30, 1)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, rtol=1e-3)


@pytest.mark.parametrize("kernel", ["cosine", "gaussian"])
def test_features_that_do_not_vary_are_refused(kernel: Any) -> None:
    message = r"^KPCA\.fit: the features do not vary\. Is the encoder collapsed, or is there one image\?$"
    for x in (drawn(1), drawn(1).repeat(9, 1), (drawn(1) * torch.arange(1, 10)[:, None]).float()):
        with pytest.raises(FitError, match=message):
            KPCA(kernel=kernel, features=16).fit(x)


def test_a_ratio_that_leaves_no_direction_is_told() -> None:
    message = r"^KPCA\.fit: ratio=0\.999 takes all 6 directions, so that none is left to measure\. Lower it\.$"
    with pytest.raises(FitError, match=message):
        KPCA(ratio=0.999).fit(drawn(200))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "rbf"}, r"kernel must be 'cosine' or 'gaussian', got 'rbf'\."),
        ({"ratio": 1.0}, r"ratio must lie between 0 and 1, got 1\.0\. Try 0\.85\."),
        ({"ratio": 0}, r"ratio must lie between 0 and 1, got 0\."),
        ({"gamma": 0}, r"gamma must be > 0, got 0\. Try 2\."),
        ({"gamma": float("inf")}, r"gamma must be > 0, got inf\."),
        ({"features": 1}, r"features must be a whole number of at least 2, got 1\. Try 2048\."),
        ({"features": 64.5}, r"features must be a whole number of at least 2, got 64\.5\."),
        ({"seed": -1}, r"seed must be a whole number in \[0, 2\^32\), got -1\. Try 0\."),
        ({"seed": 0.5}, r"seed must be a whole number in \[0, 2\^32\), got 0\.5\."),
    ],
)
def test_a_setting_without_meaning_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^KPCA: {message}"):
        KPCA(**settings)
