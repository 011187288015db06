from __future__ import annotations

from collections.abc import Mapping
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from spherood.errors import ConfigError, DataError, ShapeError
from spherood.losses import CIDER
from spherood.sphere import normalize

GOLDEN = Path(__file__).parents[1] / "golden"
TIGHT = {"rtol": 1e-9, "atol": 1e-12}


def golden(name: str) -> dict[str, Any]:
    return dict(np.load(GOLDEN / f"{name}.npz"))


def from_golden(g: Mapping[str, Any], **changed: float) -> CIDER:
    start = torch.from_numpy(g["proto_raw"]).double()
    loss = CIDER(
        **{
            "classes": int(g["n_classes"]),
            "dim": start.shape[1],
            "temperature": float(g["temperature"]),
            "momentum": float(g["proto_m"]),
            "compactness_weight": float(g["w"]),
            "base_temperatures": (float(g["base_temperature_comp"]), float(g["base_temperature_dis"])),
            **changed,
        }
    ).double()
    loss.prototypes = start / start.norm(dim=1, keepdim=True)
    return loss


def gradients(loss: CIDER, g: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Of the total with respect to the raw rows and to the unit ones."""
    raw = torch.from_numpy(g["raw_features"]).double().requires_grad_()
    z = raw / raw.norm(dim=1, keepdim=True)
    return torch.autograd.grad(loss(z, torch.from_numpy(g["labels"])).total, (raw, z))


def check_step(loss: CIDER, g: Mapping[str, Any]) -> None:
    """One step of `loss` against values, prototypes and every gradient in g."""
    weight, start = loss.compactness_weight, loss.prototypes
    z = normalize(torch.from_numpy(g["raw_features"]).double())
    terms = loss(z, torch.from_numpy(g["labels"]))
    after = loss.prototypes
    ours = {"total": terms.total, "prototypes_after": after, **terms.parts}

    loss.prototypes = start
    ours["grad_total_raw"], total_z = gradients(loss, g)
    loss.prototypes, loss.compactness_weight = start, 0.0
    ours["grad_dispersion_raw"], dispersion_z = gradients(loss, g)
    ours["grad_compactness_raw"] = (ours["grad_total_raw"] - ours["grad_dispersion_raw"]) / weight
    # the file holds the sum of three backward passes (total, dispersion, compactness), as its own raw gradients show
    ours["grad_total_features"] = total_z + dispersion_z + (total_z - dispersion_z) / weight
    loss.prototypes, loss.compactness_weight = after, weight

    stored = {"total", "compactness", "dispersion", "prototypes_after"} | {key for key in g if key.startswith("grad_")}
    for key in stored:
        torch.testing.assert_close(ours[key], torch.as_tensor(g[key]), **TIGHT, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("name", ["cider_once", "cider_oneview", "cider_absent"])
@pytest.mark.parametrize("part", ["compactness", "dispersion"])
def test_each_part_has_its_own_gradient(name: str, part: str) -> None:
    g = golden(name)
    raw = torch.from_numpy(g["raw_features"]).double().requires_grad_()
    terms = from_golden(g)(raw / raw.norm(dim=1, keepdim=True), torch.from_numpy(g["labels"]))
    (found,) = torch.autograd.grad(terms.parts[part], raw)
    torch.testing.assert_close(found, torch.from_numpy(g[f"grad_{part}_raw"]), **TIGHT)


def drawn(rows: int, classes: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64))
    return z, torch.randint(classes, (rows,), generator=generator)


def slow(loss: CIDER, z: Tensor, label: Tensor) -> tuple[float, float, Tensor]:
    """Compactness, dispersion and new prototypes by plain loops over Eq. 4-7, in float64."""
    tau, (tau_c, tau_d) = loss.temperature, loss.base_temperatures
    p = list(loss.prototypes.double())
    for row, y in zip(z.double(), label.tolist(), strict=True):
        moved = loss.momentum * p[y] + (1 - loss.momentum) * row
        p[y] = moved / moved.norm()
    compactness = dispersion = 0.0
    for row, y in zip(z.double(), label.tolist(), strict=True):
        cosine = [float(row @ other) for other in p]
        compactness += log(sum(exp((c - cosine[y]) / tau) for c in cosine)) / len(z)
    for c, own in enumerate(p):
        cosine = [float(own @ other) for o, other in enumerate(p) if o != c]
        top = max(cosine)
        lse = top / tau + log(sum(exp((x - top) / tau) for x in cosine))
        dispersion += (lse - log(len(cosine))) / len(p)
    return tau / tau_c * compactness, tau / tau_d * dispersion, torch.stack(p)


@pytest.mark.parametrize("name", ["c10", "c100", "once", "oneview", "absent"])
def test_one_step_gives_the_values_and_gradients_of_the_released_code(name: str) -> None:
    g = golden(f"cider_{name}")
    check_step(from_golden(g), g)


@pytest.mark.parametrize("i", range(35))
def test_every_temperature_and_momentum_gives_the_released_values(i: int) -> None:
    g = golden("cider_sweep")
    g = {key: value[i] if value.shape[:1] == (35,) else value for key, value in g.items()}
    check_step(from_golden(g), g)


def test_four_steps_carry_the_prototypes_as_the_released_code_does() -> None:
    g = golden("cider_seq")
    loss = from_golden(g)
    for i in range(4):
        check_step(loss, {key: value[i] if value.shape[:1] == (4,) else value for key, value in g.items()})


@pytest.mark.parametrize("rows", ["features", "raw_features"])
def test_start_gives_the_released_initial_prototypes_in_any_batching(rows: str) -> None:
    g = golden("cider_init")
    x, label = torch.from_numpy(g[rows]).double(), torch.from_numpy(g["labels"])
    for size in (int(g["batch"]), 1, 60):
        loss = CIDER(classes=int(g["n_classes"]), dim=x.shape[1]).double()
        loss.start(zip(x.split(size), label.split(size), strict=True))
        torch.testing.assert_close(loss.prototypes, torch.from_numpy(g["prototypes"]), **TIGHT)


def test_dispersion_alone_moves_the_weights_of_the_encoder() -> None:
    x, label = drawn(9, 4, 6)
    encoder = nn.Linear(6, 5).double()

    def dispersion(weight: Tensor) -> Tensor:
        loss = CIDER(classes=4, dim=5, momentum=0.6, compactness_weight=0).double()
        return loss(normalize(x @ weight.T + encoder.bias.detach()), label).total

    assert torch.autograd.gradcheck(dispersion, encoder.weight)
    (gradient,) = torch.autograd.grad(dispersion(encoder.weight), encoder.weight)
    assert float(gradient.norm()) > 1e-2


DEGENERATE = {
    "one row": [2],
    "one class": [1, 1, 1, 1],
    "a class seen once": [0, 0, 3, 0],
    "every class once": [3, 1, 0, 2],
    "two classes absent": [0, 3, 3, 0],
}


@pytest.mark.parametrize("label", DEGENERATE.values(), ids=DEGENERATE)
def test_a_degenerate_batch_has_the_value_of_the_formula_and_a_finite_gradient(label: list[int]) -> None:
    z = drawn(len(label), 4, 6)[0].float().requires_grad_()
    loss = CIDER(classes=4, dim=6, momentum=0.5)
    compactness, dispersion, prototypes = slow(loss, z.detach(), torch.tensor(label))
    terms = loss(z, torch.tensor(label))
    terms.total.backward()
    assert terms.parts["compactness"].item() == pytest.approx(compactness, rel=1e-5)
    assert terms.parts["dispersion"].item() == pytest.approx(dispersion, rel=1e-5)
    torch.testing.assert_close(loss.prototypes, prototypes.float())
    assert z.grad is not None
    assert bool(z.grad.isfinite().all())
    assert bool(z.grad.any())


def test_two_classes_disperse_by_their_only_cosine() -> None:
    loss = CIDER(classes=2, dim=2, momentum=1.0).double()
    loss.prototypes = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    parts = loss(torch.eye(2, dtype=torch.float64), torch.tensor([0, 1])).parts
    assert float(parts["dispersion"]) == pytest.approx(0.6 / 0.1, rel=1e-12)


def test_equal_prototypes_give_plus_ten_and_a_simplex_gives_its_minimum() -> None:
    loss = CIDER(classes=3, dim=2, momentum=1.0).double()
    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    loss.prototypes = x.repeat(3, 1)
    assert float(loss(x, torch.tensor([0])).parts["dispersion"]) == pytest.approx(10, rel=1e-12)
    angle = 2 * torch.pi / 3 * torch.arange(3, dtype=torch.float64)
    loss.prototypes = torch.stack([angle.cos(), angle.sin()], dim=1)
    assert float(loss(x, torch.tensor([0])).parts["dispersion"]) == pytest.approx(-10 / 2, rel=1e-12)


def test_at_temperature_0_005_float32_stays_finite_and_true() -> None:
    z, label = drawn(16, 5, 8)
    loss = CIDER(classes=5, dim=8, temperature=0.005, momentum=0.5)
    compactness, dispersion, _ = slow(loss, z, label)
    x = z.float().requires_grad_()
    terms = loss(x, label)
    terms.total.backward()
    assert terms.parts["compactness"].item() == pytest.approx(compactness, rel=1e-4)
    assert terms.parts["dispersion"].item() == pytest.approx(dispersion, rel=1e-4)
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(2, 6), st.integers(2, 8), st.integers(0, 999))
def test_turning_embeddings_and_prototypes_changes_no_value(rows: int, classes: int, dim: int, seed: int) -> None:
    z, label = drawn(rows, classes, dim, seed)
    square = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turn = torch.linalg.qr(square)[0]
    still, turned = (CIDER(classes=classes, dim=dim).double() for _ in range(2))
    turned.prototypes = still.prototypes @ turn
    expected = still(z, label)
    torch.testing.assert_close(turned(z @ turn, label).total, expected.total, **TIGHT)
    torch.testing.assert_close(turned.prototypes, still.prototypes @ turn, rtol=0, atol=1e-12)


def test_two_forwards_before_one_backward_give_each_its_own_gradient() -> None:
    (first, label), (second, _) = drawn(12, 3, 5), drawn(12, 3, 5, seed=1)

    def grads(together: bool) -> list[Tensor]:
        loss = CIDER(classes=3, dim=5, momentum=0.5).double()
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
    loss, resumed = CIDER(classes=3, dim=5), CIDER(classes=3, dim=5, seed=7)
    loss(z.float(), label)
    resumed.load_state_dict(loss.state_dict())
    assert torch.equal(resumed.prototypes, loss.prototypes)
    assert torch.equal(resumed(z.float(), label).total, loss(z.float(), label).total)


def test_the_memory_carries_no_graph_and_is_unit_from_the_first_moment() -> None:
    z, label = drawn(12, 3, 5)
    loss = CIDER(classes=3, dim=5)
    torch.testing.assert_close(loss.prototypes.norm(dim=1), torch.ones(3))
    loss(z.float().requires_grad_(), label)
    assert not loss.prototypes.requires_grad
    assert loss.prototypes.dtype == torch.float32


def learnt(prototypes: Tensor, **changed: Any) -> CIDER:
    classes, dim = prototypes.shape
    loss = CIDER(**{"classes": classes, "dim": dim, "learnable": True} | changed).double()
    loss.load_state_dict({"prototypes": prototypes})
    return loss


def test_learnable_prototypes_disperse_with_the_value_and_gradient_of_the_released_code() -> None:
    g = golden("cider_learnable")
    loss = learnt(
        torch.from_numpy(g["prototypes"]).double(),
        temperature=float(g["temperature"]),
        base_temperatures=(0.07, float(g["base_temperature_dis"])),
        compactness_weight=0.0,
    )
    z, label = drawn(4, *loss.prototypes.shape)
    terms = loss(z, label)
    terms.total.backward()
    torch.testing.assert_close(terms.parts["dispersion"].detach(), torch.as_tensor(g["dispersion"]), **TIGHT)
    torch.testing.assert_close(loss.prototypes.grad, torch.from_numpy(g["grad_prototypes"]), **TIGHT)


def test_the_compactness_of_learnable_prototypes_pulls_rows_and_prototypes_towards_each_other() -> None:
    x, y = torch.eye(2, dtype=torch.float64)
    z = x[None].clone().requires_grad_()
    loss = learnt(torch.stack([3 * (0.6 * x + 0.8 * y), 0.5 * y]), temperature=0.5)
    compactness = loss(z, torch.tensor([0])).parts["compactness"]
    compactness.backward()
    assert compactness.item() == pytest.approx(0.5 / 0.07 * log(1 + exp((0.0 - 0.6) / 0.5)), rel=1e-12)
    assert z.grad is not None
    assert loss.prototypes.grad is not None
    wrong = exp(-0.6 / 0.5) / (1 + exp(-0.6 / 0.5)) / 0.07  # the share of class 1, times (tau/tau_c) / tau
    by_hand = wrong * torch.tensor([[-(1 - 0.36) / 3, 0.48 / 3], [1 / 0.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(loss.prototypes.grad, by_hand, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(z.grad, wrong * torch.tensor([[-0.6, 1 - 0.8]], dtype=torch.float64))


def test_learnable_prototypes_do_not_advance_and_momentum_has_no_effect_on_them() -> None:
    z, label = drawn(12, 3, 5)
    totals = []
    for momentum in (0.0, 0.5, 1.0):
        loss = CIDER(classes=3, dim=5, learnable=True, momentum=momentum).double()
        before = loss.prototypes.detach().clone()
        totals.append(loss(z, label).total.item())
        assert torch.equal(loss.prototypes, before)
    assert totals[0] == totals[1] == totals[2]
    assert isinstance(loss.prototypes, nn.Parameter)


def test_learnable_prototypes_of_another_length_have_the_same_value() -> None:
    z, label = drawn(12, 3, 5)
    loss = CIDER(classes=3, dim=5, learnable=True).double()
    expected = loss(z, label).total
    with torch.no_grad():
        loss.prototypes *= torch.tensor([[0.1], [3.0], [40.0]])
    torch.testing.assert_close(loss(z, label).total, expected, **TIGHT)


def test_start_sets_the_very_parameter_that_an_optimiser_holds() -> None:
    z, label = drawn(12, 3, 5)
    moving, loss = (CIDER(classes=3, dim=5, learnable=learnable).double() for learnable in (False, True))
    optimiser = torch.optim.SGD(loss.parameters(), lr=0.1)
    for it in (moving, loss):
        it.start([(z, label)])
    assert torch.equal(loss.prototypes, moving.prototypes)
    loss(z, label).total.backward()
    optimiser.step()
    assert not torch.equal(loss.prototypes, moving.prototypes)
    assert loss.state_dict().keys() == moving.state_dict().keys() == {"prototypes"}


def test_start_with_an_absent_class_names_it_and_leaves_the_prototypes() -> None:
    z, label = drawn(12, 3, 5)
    loss = CIDER(classes=4, dim=5)
    before = loss.prototypes
    with pytest.raises(DataError, match=r"CIDER\.start: no sample of class 3 in the ID training set"):
        loss.start([(z, label)])
    assert loss.prototypes is before


def test_labels_out_of_range_are_told_with_the_number_of_classes() -> None:
    z, _ = drawn(3, 3, 5)
    with pytest.raises(ShapeError, match=r"CIDER: labels run 0\.\.99, expected 0\.\.9\. Pass classes=100"):
        CIDER(classes=10, dim=5)(z, torch.tensor([0, 4, 99]))
    with pytest.raises(ShapeError, match=r"labels run -1\.\.4, expected 0\.\.9"):
        CIDER(classes=10, dim=5)(z, torch.tensor([0, 4, -1]))
    with pytest.raises(ShapeError, match=r"CIDER\.start: labels run 0\.\.99"):
        CIDER(classes=10, dim=5).start([(z, torch.tensor([0, 4, 99]))])


def test_another_width_is_told_with_the_setting_to_change() -> None:
    z, label = drawn(6, 3, 5)
    with pytest.raises(ShapeError, match=r"CIDER: embeddings have 5 columns, the prototypes 128\. Pass dim=5"):
        CIDER(classes=3)(z, label)
    with pytest.raises(ShapeError, match=r"CIDER\.start: embeddings have 5 columns"):
        CIDER(classes=3).start([(z, label)])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"classes": 1}, "needs at least 2 classes to push apart, got 1"),
        ({"temperature": 0.0}, r"temperatures must be > 0, got 0\.0"),
        ({"temperature": float("nan")}, "temperatures must be > 0, got nan"),
        ({"base_temperatures": (0.07, -0.1)}, r"temperatures must be > 0, got 0\.1 and \(0\.07, -0\.1\)"),
        ({"momentum": 1.1}, r"momentum must lie in \[0, 1\], got 1\.1"),
        ({"momentum": -0.1}, r"momentum must lie in \[0, 1\], got -0\.1"),
    ],
)
def test_a_setting_without_meaning_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CIDER(**{"classes": 3, **setting})
