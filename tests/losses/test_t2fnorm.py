from __future__ import annotations

from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spherood.errors import ConfigError, ShapeError
from spherood.losses import T2FNorm

TIGHT = {"rtol": 1e-9, "atol": 1e-12}


def golden(case: str) -> dict[str, Any]:
    file = np.load(Path(__file__).parents[1] / "golden" / "t2fnorm.npz")
    return {key[2:]: torch.from_numpy(file[key]) for key in file if key.startswith(f"{case}_")}


def with_weights(weight: Tensor, bias: Tensor, **settings: float) -> T2FNorm:
    classes, dim = weight.shape
    loss = T2FNorm(classes=classes, dim=dim, **settings).double()
    loss.classifier.load_state_dict({"weight": weight, "bias": bias})
    return loss


def drawn(rows: int, dim: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    feature = torch.rand(rows, dim, generator=generator, dtype=torch.float64) + 0.1
    return feature, torch.randint(classes, (rows,), generator=generator)


@pytest.mark.parametrize("case", "abc")
def test_values_and_gradients_are_those_of_the_released_code(case: str) -> None:
    g = golden(case)
    loss = with_weights(g["weight"], g["bias"], temperature=float(g["tau"]))
    feature = g["features"].double().requires_grad_()
    total = loss(feature, g["labels"]).total
    total.backward()
    torch.testing.assert_close(total.detach(), g["loss"], **TIGHT)
    torch.testing.assert_close(feature.grad, g["grad_features"], **TIGHT)
    if case != "c":  # not in the file
        torch.testing.assert_close(loss.classifier.weight.grad, g["grad_weight"], **TIGHT)
        torch.testing.assert_close(loss.classifier.bias.grad, g["grad_bias"], **TIGHT)


@pytest.mark.parametrize(("case", "ood_temperature"), [("a", None), ("b", None), ("c", 1.0)])
def test_the_served_classifier_gives_the_released_logits_at_ood_time(case: str, ood_temperature: float | None) -> None:
    g = golden(case)
    loss = with_weights(g["weight"], g["bias"], temperature=float(g["tau"]), ood_temperature=ood_temperature)
    logits = loss.served_classifier()(g["features"].double())
    torch.testing.assert_close(logits[: len(g["logits_ood"])], g["logits_ood"], **TIGHT)
    torch.testing.assert_close(logits.softmax(dim=1).amax(dim=1), g["score"], **TIGHT)
    assert torch.equal(logits.argmax(dim=1), g["pred"])


def test_a_feature_of_length_five_gives_the_value_worked_out_by_hand() -> None:
    loss = with_weights(torch.eye(2), torch.tensor([0.0, 0.3]), temperature=0.5)
    total = loss(torch.tensor([[3.0, 4.0]], dtype=torch.float64), torch.tensor([0])).total
    assert total.item() == pytest.approx(log(1 + exp(0.8 / 0.5 + 0.3 - 0.6 / 0.5)), rel=1e-7)
    served = loss.served_classifier()(torch.tensor([3.0, 4.0], dtype=torch.float64))
    assert served.tolist() == pytest.approx([3 / 0.5, 4 / 0.5 + 0.3], rel=1e-7)


def test_the_served_classifier_is_a_copy_that_training_does_not_move() -> None:
    loss = T2FNorm(classes=3, dim=4)
    before, served = loss.classifier.weight.detach().clone(), loss.served_classifier()
    assert torch.equal(loss.classifier.weight, before)
    with torch.no_grad():
        loss.classifier.weight.zero_()
        loss.classifier.bias.fill_(7)
    torch.testing.assert_close(served.weight, before / 0.1)
    assert served.bias.max().item() < 7
    assert T2FNorm(classes=3, dim=4).double().served_classifier().weight.dtype == torch.float64


def test_the_gradient_is_that_of_the_value() -> None:
    feature, label = drawn(4, 6, 3)
    loss = T2FNorm(classes=3, dim=6, temperature=0.5).double()
    assert torch.autograd.gradcheck(lambda x: loss(x, label).total, feature.requires_grad_())


@given(st.integers(1, 9), st.integers(2, 8), st.floats(-3, 3), st.integers(0, 999))
def test_longer_or_shorter_features_change_no_value_and_no_row_is_told_to_grow(
    rows: int, dim: int, power: float, seed: int
) -> None:
    feature, label = drawn(rows, dim, 3, seed)
    loss = T2FNorm(classes=3, dim=dim).double()
    longer = (10**power * feature).requires_grad_()
    total = loss(longer, label).total
    torch.testing.assert_close(total, loss(feature, label).total, **TIGHT)
    (gradient,) = torch.autograd.grad(total, longer)
    assert float((gradient * longer.detach()).sum(dim=1).abs().max()) <= 1e-9


@given(st.integers(1, 9), st.integers(0, 999))
def test_neither_the_order_of_rows_nor_that_of_the_classes_changes_the_value(rows: int, seed: int) -> None:
    feature, label = drawn(rows, 4, 5, seed)
    generator = torch.Generator().manual_seed(seed)
    order, place = torch.randperm(rows, generator=generator), torch.randperm(5, generator=generator)
    loss = T2FNorm(classes=5, dim=4).double()
    expected = loss(feature, label).total
    torch.testing.assert_close(loss(feature[order], label[order]).total, expected, **TIGHT)
    other = with_weights(loss.classifier.weight[place], loss.classifier.bias[place])
    torch.testing.assert_close(other(feature, place.argsort()[label]).total, expected, **TIGHT)


def test_a_seed_gives_the_classifier_and_leaves_torchs_own_generator_alone() -> None:
    before = torch.get_rng_state()
    first, same, other = (T2FNorm(classes=3, dim=4, seed=seed).classifier for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.weight, same.weight)
    assert torch.equal(first.bias, same.bias)
    assert not torch.equal(first.weight, other.weight)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_zero_feature_has_the_value_of_the_bias_and_a_finite_gradient(rows: int) -> None:
    loss = T2FNorm(classes=4, dim=5)
    feature, label = torch.zeros(rows, 5, requires_grad=True), torch.ones(rows).long()
    total = loss(feature, label).total
    total.backward()
    torch.testing.assert_close(total, -loss.classifier.bias.log_softmax(dim=0)[1])
    assert feature.grad is not None
    assert bool(feature.grad.isfinite().all())


def test_another_width_is_told_with_the_setting_to_change() -> None:
    with pytest.raises(
        ShapeError, match=r"T2FNorm: features have 3 columns, the classifier 4\. Pass dim=3 to the loss"
    ):
        T2FNorm(classes=2, dim=4)(torch.ones(2, 3), torch.tensor([0, 1]))


def test_labels_out_of_range_are_told_with_the_number_of_classes() -> None:
    with pytest.raises(ShapeError, match=r"T2FNorm: labels run 0\.\.3, expected 0\.\.2\. Pass classes=4"):
        T2FNorm(classes=3, dim=4)(torch.ones(2, 4), torch.tensor([0, 3]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"classes": 1}, r"T2FNorm: needs at least 2 classes to tell apart, got 1\."),
        ({"temperature": 0.0}, r"T2FNorm: temperatures must be > 0, got 0\.0 and None\. Try 0\.1 and none\."),
        ({"ood_temperature": -1.0}, r"got 0\.1 and -1\.0"),
        ({"temperature": float("nan")}, "got nan and None"),
    ],
)
def test_a_setting_without_meaning_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        T2FNorm(**{"classes": 3, "dim": 4, **setting})
