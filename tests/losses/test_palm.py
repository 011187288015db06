from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spherood.errors import ConfigError, ShapeError
from spherood.losses import PALM
from spherood.sphere import normalize

GOLDEN = Path(__file__).parents[1] / "golden"
TIGHT = {"rtol": 1e-9, "atol": 1e-12}


def drawn(rows: int, classes: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64))
    return z, torch.randint(classes, (rows,), generator=generator)


def made(classes: int = 4, dim: int = 6, **changed: Any) -> PALM:
    """In float64, its prototypes all over the sphere."""
    loss = PALM(**{"classes": classes, "dim": dim, "prototypes_per_class": 3, "k": 2, "momentum": 0.5, **changed})
    loss = loss.double()
    loss.prototypes = drawn(len(loss.prototypes), 1, dim, seed=7)[0]
    return loss


def sinkhorn(loss: PALM, z: Tensor, prototypes: Tensor) -> Tensor:
    """Plainly, as released: float64 carries e^(2/epsilon) for every epsilon that it is called with here."""
    q = (z @ prototypes.T / loss.epsilon).exp()
    for _ in range(3):
        q = q / q.sum(dim=0)
        q = q / q.sum(dim=1, keepdim=True)
    return q


def assign(loss: PALM, z: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shares that move the prototypes, weights of the rows, and the moved prototypes, by loops and without gradient."""
    old, z = loss.prototypes.detach(), z.detach()
    mine = [[j for j in range(len(old)) if j % loss.classes == int(y)] for y in label]
    q, share, weight = sinkhorn(loss, z, old), torch.zeros(len(z), len(old)).double(), torch.zeros(len(z), len(old))
    for i, own in enumerate(mine):
        best = sorted(own, key=lambda j, i=i: -float(q[i, j]))[: loss.kept]
        share[i, best] = q[i, best] / q[i, best].sum()
    chosen = share > 0
    share = share / share.sum(dim=0).clamp(min=1e-12)
    moved = normalize(loss.momentum * old + (1 - loss.momentum) * share.T @ z)
    weight = sinkhorn(loss, z, moved) * chosen
    return share, weight / weight.sum(dim=1, keepdim=True), moved


def slow(loss: PALM, z: Tensor, label: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """Both terms by loops; assignments, and the prototypes of the first term, are constants taken from `held`."""
    share, weight, constant = assign(loss, held, label)
    old = loss.prototypes.detach()
    moved = [loss.momentum * old[j] + (1 - loss.momentum) * share[:, j] @ z for j in range(len(old))]
    moved = [row / row.norm() for row in moved]
    mle = contrast = torch.zeros(()).double()
    for i in range(len(z)):
        logit = constant @ z[i] / loss.temperature
        mle = mle - (weight[i] @ logit - logit.logsumexp(dim=0)) / len(z)
    for j in range(len(moved)):
        others = {o: moved[j] @ moved[o] / loss.prototype_temperature for o in range(len(moved)) if o != j}
        kin = [cosine for o, cosine in others.items() if o % loss.classes == j % loss.classes]
        pull = torch.stack(kin).mean() if kin else torch.zeros(())
        contrast = contrast - (pull - torch.stack(list(others.values())).logsumexp(dim=0)) / len(moved)
    return mle, contrast


def check(loss: PALM, z: Tensor, label: Tensor) -> None:
    """New prototypes, value and parts, each with its gradient, of one step against the loops."""
    z = z.detach().clone().requires_grad_()
    mle, contrast = slow(loss, z, label, z.detach())
    moved = assign(loss, z, label)[2]
    terms = loss(z, label)
    torch.testing.assert_close(loss.prototypes, moved, **TIGHT)
    total = mle + loss.contrast_weight * contrast
    for pair in ((terms.total, total), (terms.parts["mle"], mle), (terms.parts["contrast"], contrast)):
        torch.testing.assert_close(*pair, **TIGHT)
        torch.testing.assert_close(*(torch.autograd.grad(it, z, retain_graph=True)[0] for it in pair), **TIGHT)


@pytest.mark.parametrize("name", ["cifar10", "cifar10_posinit", "cifar100", "k0", "lambda0", "absent"])
def test_one_step_gives_the_values_and_gradients_of_the_released_code(name: str) -> None:
    file = np.load(GOLDEN / f"palm_{name}.npz")
    g = {key: torch.from_numpy(np.asarray(file[key])) for key in file}
    start, weight = g["proto_raw"].double(), float(g["lambda_pcon"])
    loss = PALM(
        classes=int(g["n_classes"]),
        dim=start.shape[1],
        prototypes_per_class=int(g["n_proto_per_class"]),
        k=int(g["k"]),
        momentum=float(g["proto_m"]),
        contrast_weight=weight,
        temperature=float(g["temperature"]),
        epsilon=float(g["epsilon"]),
        prototype_temperature=float(g["pcon_temperature"]),
    ).double()
    loss.prototypes = start = start / start.norm(dim=1, keepdim=True)
    raw = g["raw_features"].double().requires_grad_()
    z = raw / raw.norm(dim=1, keepdim=True)
    terms = loss(z, g["labels"])
    terms.total.backward()
    torch.testing.assert_close(terms.total.detach(), g["loss"], **TIGHT)
    torch.testing.assert_close(terms.parts["mle"].detach(), g["mle"], **TIGHT)
    torch.testing.assert_close(weight * terms.parts["contrast"].detach(), g["proto_contra_weighted"], **TIGHT)
    torch.testing.assert_close(loss.prototypes, g["prototypes_after"], **TIGHT)
    torch.testing.assert_close(raw.grad, g["grad_raw"], **TIGHT)
    if "assignment_before" in g:
        torch.testing.assert_close(loss._log_sinkhorn(z.detach(), start).exp(), g["assignment_before"], **TIGHT)


def test_the_gradient_is_that_of_the_formula_with_assignments_and_first_prototypes_held() -> None:
    z, label = drawn(5, 3, 4)
    loss = made(3, 4, contrast_weight=0.7)
    assert torch.autograd.gradcheck(lambda x: sum(slow(loss, x, label, z)), z.clone().requires_grad_())
    check(loss, z, label)


DEGENERATE = {
    "one class": [1, 1, 1, 1],
    "a class seen once": [0, 0, 3, 0],
    "every class once": [3, 1, 0, 2],
    "two classes absent": [0, 3, 3, 0],
}


@pytest.mark.parametrize("label", DEGENERATE.values(), ids=DEGENERATE)
def test_a_degenerate_batch_has_the_value_and_gradient_of_the_formula(label: list[int]) -> None:
    check(made(), drawn(len(label), 4, 6)[0], torch.tensor(label))


def test_a_single_row_has_the_value_of_the_formula() -> None:
    check(made(k=0), drawn(1, 4, 6)[0], torch.tensor([2]))  # all prototypes are equally its own: with k = 2 any two


def test_a_prototype_far_from_every_row_still_takes_its_share() -> None:
    z, label = drawn(6, 2, 6)
    loss = made(2)
    axis = torch.eye(6, dtype=torch.float64)[0]
    loss.prototypes = normalize(loss.prototypes * 0.1 + torch.tensor([1.0, -1.0]).repeat(3)[:, None] * axis)
    z = normalize(0.1 * z + axis)  # class 1 waits at the other pole: e^-40 at epsilon .05
    check(loss, z, label)


@pytest.mark.parametrize("epsilon", [0.05, 0.005, 0.0005])
def test_at_small_epsilon_float32_stays_finite_and_near_float64(epsilon: float) -> None:
    z, label = drawn(24, 4, 6)
    exact, rough = made(epsilon=epsilon), made(epsilon=epsilon).float()
    x = z.float().requires_grad_()
    total = rough(x, label).total
    total.backward()
    torch.testing.assert_close(total.detach().double(), exact(z, label).total, rtol=1e-4, atol=0)
    torch.testing.assert_close(rough.prototypes.double(), exact.prototypes, rtol=0, atol=1e-3)
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


def test_row_j_of_the_prototypes_belongs_to_class_j_mod_classes() -> None:
    z, _ = drawn(5, 4, 6)
    loss = made(4, 6, k=0)
    before = loss.prototypes
    loss(z, torch.full((5,), 2))
    moved = (loss.prototypes - before).norm(dim=1) > 1e-3
    assert moved.nonzero().flatten().tolist() == [2, 6, 10]


def test_rows_planted_on_their_own_prototypes_are_nearly_free_and_on_those_of_another_class_dear() -> None:
    z = torch.eye(6, dtype=torch.float64)
    for turn, low, high in ((0, 0.0, 0.01), (1, 9.0, 11.0)):  # a cosine of 1 to pass by costs 1 / temperature
        loss = made(3, 6, prototypes_per_class=2, k=1, momentum=1.0)
        loss.prototypes = z
        mle = float(loss(z, (torch.arange(6) + turn) % 3).parts["mle"])
        assert low < mle < high


def test_the_prototypes_begin_as_unit_rows_of_the_positive_orthant_by_their_seed() -> None:
    start = PALM(classes=50, dim=128).prototypes
    assert start.shape == (300, 128)
    torch.testing.assert_close(start.norm(dim=1), torch.ones(300))
    assert bool((start >= 0).all())
    assert float((start @ start.T).mean()) == pytest.approx(0.75, abs=0.01)  # 1/4 over 1/3, of uniform numbers
    assert torch.equal(PALM(classes=50, dim=128).prototypes, start)
    assert not torch.equal(PALM(classes=50, dim=128, seed=1).prototypes, start)


def test_one_prototype_a_class_has_no_sibling_to_pull() -> None:
    loss = made(2, 2, prototypes_per_class=1, momentum=1.0)
    loss.prototypes = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    parts = loss(torch.eye(2, dtype=torch.float64), torch.tensor([0, 1])).parts
    assert float(parts["contrast"]) == pytest.approx(0.6 / 0.5, rel=1e-12)


def test_k_beyond_the_prototypes_of_a_class_and_zero_both_mean_all_of_them() -> None:
    z, label = drawn(12, 4, 6)
    totals = {k: float(made(k=k)(z, label).total) for k in (0, 2, 3, 9)}
    assert totals[0] == totals[3] == totals[9] != totals[2]


def test_momentum_one_keeps_the_prototypes_and_the_contrast_then_sends_no_gradient() -> None:
    z, label = drawn(12, 4, 6)
    loss = made(momentum=1.0)
    before = loss.prototypes
    x = z.clone().requires_grad_()
    terms = loss(x, label)
    torch.testing.assert_close(loss.prototypes, before, rtol=0, atol=1e-15)
    with_contrast = torch.autograd.grad(terms.total, x)[0]
    without = torch.autograd.grad(made(momentum=1.0, contrast_weight=0.0)(x, label).total, x)[0]
    torch.testing.assert_close(with_contrast, without, rtol=0, atol=1e-15)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 20), st.integers(2, 5), st.integers(2, 8), st.integers(0, 999))
def test_neither_a_turn_of_the_world_nor_another_order_of_rows_changes_a_value(
    rows: int, classes: int, dim: int, seed: int
) -> None:
    z, label = drawn(rows, classes, dim, seed)
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    order = torch.randperm(rows, generator=generator)
    still, turned, shuffled = (made(classes, dim) for _ in range(3))
    turned.prototypes = still.prototypes @ turn
    expected = still(z, label).total
    torch.testing.assert_close(turned(z @ turn, label).total, expected, **TIGHT)
    torch.testing.assert_close(turned.prototypes, still.prototypes @ turn, rtol=0, atol=1e-9)
    torch.testing.assert_close(shuffled(z[order], label[order]).total, expected, **TIGHT)
    torch.testing.assert_close(shuffled.prototypes, still.prototypes, rtol=0, atol=1e-9)


def test_two_forwards_before_one_backward_give_each_its_own_gradient() -> None:
    (first, label), (second, _) = drawn(12, 4, 6), drawn(12, 4, 6, seed=1)

    def grads(together: bool) -> list[Tensor]:
        loss = made()
        xs = [first.clone().requires_grad_(), second.clone().requires_grad_()]
        totals = []
        for x in xs:
            totals.append(loss(x, label).total)
            if not together:
                totals[-1].backward()
        if together:
            torch.stack(totals).sum().backward()
        return [x.grad for x in xs if x.grad is not None]

    for ours, alone in zip(grads(True), grads(False), strict=True):
        torch.testing.assert_close(ours, alone, **TIGHT)


def test_a_reload_goes_on_where_the_run_stopped() -> None:
    z, label = drawn(12, 3, 5)
    loss, resumed = PALM(classes=3, dim=5), PALM(classes=3, dim=5, seed=7)
    loss(z.float(), label)
    resumed.load_state_dict(loss.state_dict())
    assert torch.equal(resumed.prototypes, loss.prototypes)
    assert torch.equal(resumed(z.float(), label).total, loss(z.float(), label).total)


def test_the_memory_carries_no_graph_and_stays_unit_in_its_type() -> None:
    z, label = drawn(12, 3, 5)
    loss = PALM(classes=3, dim=5, momentum=0.5)
    loss(z.float().requires_grad_(), label)
    assert not loss.prototypes.requires_grad
    assert loss.prototypes.dtype == torch.float32
    torch.testing.assert_close(loss.prototypes.norm(dim=1), torch.ones(18))


def test_no_value_is_needed_on_the_host() -> None:
    x, label = torch.empty(12, 5, device="meta"), torch.empty(12, device="meta").long()  # a shape, and no numbers
    x.requires_grad_()
    PALM(classes=3, dim=5).to("meta")(x, label).total.backward()
    assert x.grad is not None


def test_labels_out_of_range_are_told_with_the_number_of_classes() -> None:
    z, _ = drawn(3, 3, 5)
    with pytest.raises(ShapeError, match=r"PALM: labels run 0\.\.99, expected 0\.\.9\. Pass classes=100"):
        PALM(classes=10, dim=5)(z, torch.tensor([0, 4, 99]))


def test_another_width_is_told_with_the_setting_to_change() -> None:
    z, label = drawn(6, 3, 5)
    with pytest.raises(ShapeError, match=r"PALM: embeddings have 5 columns, the prototypes 128\. Pass dim=5"):
        PALM(classes=3)(z, label)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"classes": 1}, "needs classes >= 2, .* got 1, 6 and 5"),
        ({"prototypes_per_class": 0}, "prototypes_per_class >= 1 .* got 3, 0 and 5"),
        ({"k": -1}, "k >= 0, got 3, 6 and -1"),
        ({"temperature": 0.0}, r"must be > 0, got 0\.0, 0\.05 and 0\.5"),
        ({"epsilon": float("nan")}, r"must be > 0, got 0\.1, nan and 0\.5"),
        ({"prototype_temperature": -0.5}, r"must be > 0, got 0\.1, 0\.05 and -0\.5"),
        ({"momentum": 1.1}, r"momentum must lie in \[0, 1\], got 1\.1"),
        ({"momentum": -0.1}, r"momentum must lie in \[0, 1\], got -0\.1"),
    ],
)
def test_a_setting_without_meaning_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"PALM: .*{message}"):
        PALM(**{"classes": 3, **setting})
