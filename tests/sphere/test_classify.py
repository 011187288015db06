from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from spherood.sphere import classify, normalize
from spherood.sphere.classify import DECAY, by_class_mean, by_neighbours, linear_probe


def test_a_row_is_of_the_class_whose_mean_is_nearest() -> None:
    mean = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, -0.8]])
    rows = torch.tensor([[0.8, 0.6], [0.6, 0.8], [-1.0, 0.0], [0.28, -0.96]])
    assert by_class_mean(rows, mean).tolist() == [0, 1, 2, 2]  # the last: cosines .28, -.96, .6


def angles(*degrees: float) -> Tensor:
    turn = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([turn.cos(), turn.sin()], dim=1)


@pytest.mark.parametrize(("k", "expected"), [(1, [1, 0]), (3, [0, 0]), (7, [2, 2]), (50, [2, 2])])
def test_a_row_is_of_the_class_that_most_of_its_neighbours_have(k: int, expected: list[int]) -> None:
    bank, label = angles(2, 10, 11, 30, 31, 32, 33), torch.tensor([1, 0, 0, 2, 2, 2, 2])
    assert by_neighbours(angles(0, 12), bank, label, 3, k).tolist() == expected


def test_more_votes_than_an_octet_holds_are_counted() -> None:
    bank = angles(*np.linspace(0, 40, 400).tolist())
    label = torch.tensor([0] * 100 + [1] * 300)  # 300 is 44 in an octet
    assert by_neighbours(angles(0.0), bank, label, 2, 400).tolist() == [1]


@given(seed=st.integers(0, 10**6), k=st.integers(1, 12))
def test_votes_are_those_of_a_slow_count(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    bank, rows = (normalize(torch.randn(n, 3, generator=generator)) for n in (12, 5))
    label = torch.randint(4, (12,), generator=generator)
    for row, found in zip(rows, by_neighbours(rows, bank, label, 4, k).tolist(), strict=True):
        near = label[(bank @ row).argsort(descending=True)[:k]].tolist()
        assert near.count(found) == max(near.count(class_) for class_ in range(4))


def caps(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Three classes of 20 rows around three axes."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.arange(60) % 3
    return torch.eye(3)[label] + 0.2 * torch.randn(60, 3, generator=generator), label


def test_a_probe_learns_what_a_plane_can_tell_apart() -> None:
    probe = linear_probe(*caps(), classes=3)
    assert probe(torch.eye(3)).tolist() == [0, 1, 2]
    x, label = caps(1)
    assert float((probe(x) == label).float().mean()) > 0.95


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_a_probe_sees_neither_the_place_nor_the_scale_of_its_rows(factor: float) -> None:
    x, label = caps()
    rows, _ = caps(1)
    plain, other = linear_probe(x, label, 3), linear_probe(factor * (x + 5), label, 3)
    assert torch.equal(plain(rows), other(factor * (rows + 5)))


def test_a_probe_is_the_minimum_of_the_stated_loss() -> None:
    x, label = caps()
    rows = 3 * torch.randn(500, 3, generator=torch.Generator().manual_seed(2))
    unit = (x - x.mean(dim=0)) / (x - x.mean(dim=0)).square().mean().sqrt()
    # theirs is C sum of the losses + |W|^2 / 2, the bias free as well
    theirs = LogisticRegression(C=1 / (DECAY * len(x)), tol=1e-8, max_iter=10_000).fit(unit.numpy(), label.numpy())
    asked = (rows - x.mean(dim=0)) / (x - x.mean(dim=0)).square().mean().sqrt()
    same = linear_probe(x, label, 3)(rows).numpy() == theirs.predict(asked.numpy())
    assert same.mean() > 0.98


def test_the_decay_counts_as_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classify, "DECAY", 0.04)  # at 1e-4 it hardly moves the border
    x, label = torch.tensor([[0.0]] * 97 + [[1.0]] * 3), torch.tensor([0] * 97 + [1] * 3)
    grid, mean, scale = torch.linspace(0, 1, 1001)[:, None], x.mean(), x.std(correction=0)
    # of two classes W is (-w, w) / 2 and |W|^2 half of w^2, which theirs counts whole
    theirs = LogisticRegression(C=2 / (0.04 * 100), tol=1e-8).fit(((x - mean) / scale).numpy(), label.numpy())
    border = (theirs.predict(((grid - mean) / scale).numpy()) == 0).mean()
    assert float((linear_probe(x, label, 2)(grid) == 0).float().mean()) == pytest.approx(border, abs=0.002)
    assert border == pytest.approx(0.75, abs=0.01)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1,000 to learn from, 797 to be asked about."""
    found = load_digits()
    x, y = torch.from_numpy(found.data).float(), torch.from_numpy(found.target)
    return x[:1000], y[:1000], x[1000:], y[1000:]


def test_on_digits_a_probe_is_as_good_as_scikit_learns(digits: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    x, y, asked, expected = digits
    found = linear_probe(x, y, 10)(asked)
    mean, scale = x.mean(), x.std()
    theirs = LogisticRegression(C=1 / (DECAY * len(x)), max_iter=2000).fit(((x - mean) / scale).numpy(), y.numpy())
    ours = float((found == expected).float().mean())
    assert ours == pytest.approx(theirs.score(((asked - mean) / scale).numpy(), expected.numpy()), abs=0.01)
    assert ours > 0.88


def test_a_probe_is_the_same_at_every_call_also_in_inference_mode_and_leaves_its_rows_alone(
    digits: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    x, y, asked, _ = (part[:300] for part in digits)
    before = x.clone()
    torch.manual_seed(1)
    first = linear_probe(x, y, 10)(asked)
    torch.manual_seed(2)
    with torch.inference_mode():
        second = linear_probe(x.clone(), y.clone(), 10)(
            asked.clone()
        )  # made here, they may not be saved for a gradient
    with torch.no_grad():
        third = linear_probe(x, y, 10)(asked)
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert torch.equal(x, before)
    assert not x.requires_grad


def test_a_probe_of_rows_that_are_all_alike_gives_the_commonest_class() -> None:
    found = linear_probe(torch.ones(5, 4), torch.tensor([1, 1, 1, 0, 2]), 3)(torch.ones(2, 4))
    assert found.tolist() == [1, 1]
