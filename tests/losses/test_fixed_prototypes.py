from __future__ import annotations

from math import exp, log

import pytest
import torch
import torch.nn.functional as F

from spherood.errors import ConfigError, ShapeError
from spherood.losses import CIDER, FixedPrototypes
from spherood.losses.fixed_prototypes import spread
from spherood.sphere import normalize
from spherood.sphere.geometry import dispersion, least_angle_bound


def drawn(rows: int = 12, classes: int = 4, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    z = normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64))
    return z, torch.randint(classes, (rows,), generator=generator)


def test_at_its_own_corner_of_a_simplex_a_row_costs_what_is_worked_out_by_hand() -> None:
    loss = FixedPrototypes(classes=3, dim=2, temperature=0.5, base_temperature=0.25).double()
    terms = loss(loss.prototypes, torch.arange(3))
    assert terms.total.item() == pytest.approx(2 * (-2 + log(exp(2) + 2 * exp(-1))), rel=1e-6)


def test_it_is_the_compactness_of_cider_with_prototypes_that_stay() -> None:
    z, label = drawn()
    fixed = FixedPrototypes(classes=4, dim=6).double()
    cider = CIDER(classes=4, dim=6, momentum=1.0).double()
    cider.prototypes = fixed.prototypes
    torch.testing.assert_close(fixed(z, label).total, cider(z, label).parts["compactness"])


@pytest.mark.parametrize(("classes", "dim"), [(2, 1), (2, 8), (10, 9), (10, 128), (101, 100)])
def test_up_to_one_class_more_than_dimensions_the_simplex_bound_is_attained(classes: int, dim: int) -> None:
    mean, least = dispersion(spread(classes, dim))
    bound, name = least_angle_bound(classes, dim)
    assert name == "simplex"
    assert (mean, least) == pytest.approx((bound, bound), abs=1e-6)


@pytest.mark.parametrize(("classes", "dim", "share"), [(8, 4, 0.97), (100, 16, 0.9), (1000, 128, 0.9)])
def test_beyond_it_they_repel_each_other_close_to_the_bound_and_farther_than_by_chance(
    classes: int, dim: int, share: float
) -> None:
    _, least = dispersion(spread(classes, dim))
    by_chance = dispersion(torch.randn(classes, dim, generator=torch.Generator().manual_seed(0)))[1]
    bound, _ = least_angle_bound(classes, dim)
    assert share * bound < least <= bound + 1e-6
    assert least > by_chance + 5


def test_the_same_seed_gives_the_same_directions_and_another_one_others() -> None:
    assert torch.equal(spread(5, 4, seed=1), spread(5, 4, seed=1))
    assert not torch.allclose(spread(5, 4, seed=1), spread(5, 4, seed=2))


def test_training_moves_embeddings_and_no_prototype() -> None:
    z, label = drawn()
    loss = FixedPrototypes(classes=4, dim=6).double()
    before = loss.prototypes.clone()
    raw = z.clone().requires_grad_()
    for _ in range(200):
        (gradient,) = torch.autograd.grad(loss(F.normalize(raw, dim=1), label).total, raw)
        raw = (raw - 0.1 * gradient).detach().requires_grad_()
    assert torch.equal(loss.prototypes, before)
    assert bool(((F.normalize(raw, dim=1) @ before.T).argmax(dim=1) == label).all())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2 classes to tell apart, got 1"):
        FixedPrototypes(classes=1)
    with pytest.raises(ConfigError, match=r"temperatures must be > 0, got 0 and 0\.07"):
        FixedPrototypes(classes=3, temperature=0)
    with pytest.raises(ShapeError, match=r"embeddings have 6 columns, the prototypes 5\. Pass dim=6"):
        FixedPrototypes(classes=4, dim=5)(*drawn())
    with pytest.raises(ShapeError, match=r"labels run 0\.\.3, expected 0\.\.2"):
        FixedPrototypes(classes=3, dim=6)(*drawn())
