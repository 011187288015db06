from __future__ import annotations

from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spherood.errors import ConfigError
from spherood.losses import ReweightOOD, SupCon, reweightood
from spherood.sphere import normalize

GOLDEN = Path(__file__).parents[1] / "golden"
TIGHT = {"rtol": 1e-9, "atol": 1e-12}


def golden(name: str) -> list[dict[str, Any]]:
    """The cases of a file: six of the sweep, one of any other."""
    file = np.load(GOLDEN / f"reweightood_{name}.npz")
    g = {key: file[key] for key in file}
    if not g["temp"].shape:
        return [g]
    return [{key: g[key] if key in ("raw_features", "labels") else g[key][i] for key in g} for i in range(6)]


def drawn(rows: int, classes: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64))
    return z, torch.randint(classes, (rows,), generator=generator)


def lse(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).logsumexp(dim=0) if terms else torch.tensor(-torch.inf)


def slow(loss: ReweightOOD, z: Tensor, label: Tensor, held: Tensor) -> tuple[Tensor, Tensor]:
    """A and B by a double loop over the pairs i < j; `held` are the rows that the weights are taken from."""
    kinds: dict[bool, list[Tensor]] = {True: [], False: []}
    for i in range(len(z)):
        for j in range(i + 1, len(z)):
            same, cosine = bool(label[i] == label[j]), float(held[i] @ held[j].detach())
            slope, offset = loss.within if same else loss.between
            sign = -1 if same else 1
            weight = 1 / (1 + exp(-sign * (slope * cosine - offset)))
            kinds[same].append(sign * weight * (z[i] @ z[j]) / loss.temperature)
    return lse(kinds[True]), lse(kinds[False])


def check(loss: ReweightOOD, z: Tensor, label: Tensor) -> None:
    """Value and parts, each with its gradient, against the double loop."""
    z = z.detach().clone().requires_grad_()
    parts = slow(loss, z, label, z.detach())
    terms = loss(z, label)
    expected = torch.nn.functional.elu(sum(parts)) if all(part.isfinite() for part in parts) else 0 * z.sum()
    pairs = [(terms.total, expected)]
    for name, part in zip(("positive", "negative"), parts, strict=True):
        pairs.append((terms.parts[name], part if part.isfinite() else 0 * z.sum()))
    for ours, other in pairs:
        torch.testing.assert_close(ours, other, **TIGHT)
        gradients = [torch.autograd.grad(it, z, retain_graph=True)[0] for it in (ours, other)]
        torch.testing.assert_close(*gradients, **TIGHT)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet200", "imagenet1k", "elu", "sweep"])
def test_values_and_gradients_are_those_of_the_released_code(name: str) -> None:
    for g in golden(name):
        raw = torch.from_numpy(g["raw_features"]).double().requires_grad_()
        within, between = (float(g["m_w"]), float(g["c_w"])), (float(g["m_b"]), float(g["c_b"]))
        loss = ReweightOOD(temperature=float(g["temp"]), within=within, between=between)
        terms = loss(raw / raw.norm(dim=1, keepdim=True), torch.from_numpy(g["labels"]))
        terms.total.backward()
        torch.testing.assert_close(terms.total.detach(), torch.as_tensor(g["loss"]), **TIGHT)
        torch.testing.assert_close(terms.parts["positive"].detach(), torch.as_tensor(g["positive_term"]), **TIGHT)
        torch.testing.assert_close(terms.parts["negative"].detach(), torch.as_tensor(g["negative_term"]), **TIGHT)
        torch.testing.assert_close(raw.grad, torch.from_numpy(g["grad_raw"]), **TIGHT)


def test_three_rows_give_the_value_worked_out_by_hand() -> None:
    x, y = torch.eye(2, dtype=torch.float64)
    terms = ReweightOOD(temperature=0.5)(torch.stack([x, y, x]), torch.tensor([4, 9, 4]))
    positive = -1 / (1 + exp(2 * 1 - 1)) / 0.5
    negative = log(2)  # two pairs at cosine 0
    assert float(terms.parts["positive"]) == pytest.approx(positive, rel=1e-12)
    assert float(terms.parts["negative"]) == pytest.approx(negative, rel=1e-12)
    assert float(terms.total) == pytest.approx(positive + negative, rel=1e-12)
    easier = ReweightOOD(temperature=0.25)(torch.stack([x, y, x]), torch.tensor([4, 9, 4])).total
    assert float(easier) == pytest.approx(exp(2 * positive + negative) - 1, rel=1e-12)  # below 0 the ELU bends


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(2, 5), st.integers(1, 10), st.integers(0, 999))
def test_each_pair_counts_once_in_blocks_of_any_size(rows: int, classes: int, dim: int, block: int, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reweightood, "BLOCK", block)
        check(ReweightOOD(), *drawn(rows, classes, dim, seed))


def test_more_rows_than_a_block_give_the_value_of_the_whole_upper_triangle() -> None:
    z, label = drawn(reweightood.BLOCK + 44, 6, 8)
    i, j = torch.triu_indices(len(z), len(z), offset=1)
    cosine, same = (z[i] * z[j]).sum(dim=1), label[i] == label[j]
    positive = (-(1 - 2 * cosine).sigmoid() * cosine / 0.1)[same].logsumexp(dim=0)
    negative = ((5 * cosine - 4).sigmoid() * cosine / 0.1)[~same].logsumexp(dim=0)
    parts = ReweightOOD()(z, label).parts
    torch.testing.assert_close(parts["positive"], positive, **TIGHT)
    torch.testing.assert_close(parts["negative"], negative, **TIGHT)


def test_the_gradient_is_that_of_the_formula_with_its_weights_held() -> None:
    z, label = drawn(7, 3, 4)
    loss = ReweightOOD()
    assert torch.autograd.gradcheck(lambda x: sum(slow(loss, x, label, z)), z.clone().requires_grad_())
    check(loss, z, label)


DEGENERATE = {"one row": [2], "one class": [1, 1, 1, 1], "every class once": [3, 1, 0, 2]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("label", DEGENERATE.values(), ids=DEGENERATE)
def test_a_batch_without_a_pair_of_either_kind_gives_zero_with_a_zero_gradient(
    label: list[int], dtype: torch.dtype
) -> None:
    z = drawn(len(label), 4, 6)[0]
    x = z.to(dtype).requires_grad_()
    with torch.autograd.set_detect_anomaly(True):  # no NaN on the way either
        terms = ReweightOOD()(x, torch.tensor(label))
        terms.total.backward()
    assert float(terms.total.detach()) == 0
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))
    check(ReweightOOD(), z, torch.tensor(label))  # the part that has pairs is told, the other reads 0


@pytest.mark.parametrize("label", DEGENERATE.values(), ids=DEGENERATE)
def test_such_a_batch_leaves_the_other_loss_of_a_sum_alone(label: list[int]) -> None:
    z, y = drawn(len(label), 4, 6)[0], torch.tensor(label)
    x, alone = z.clone().requires_grad_(), z.clone().requires_grad_()
    (ReweightOOD()(x, y).total + SupCon()(x, y).total).backward()
    SupCon()(alone, y).total.backward()
    assert x.grad is not None
    assert alone.grad is not None
    assert torch.equal(x.grad, alone.grad)
    assert bool(alone.grad.any()) == (label == DEGENERATE["one class"])


def test_a_row_that_is_no_number_is_not_taken_for_a_batch_without_pairs() -> None:
    z, label = drawn(8, 3, 4)
    z[2] = torch.nan
    assert bool(ReweightOOD()(z, label).total.isnan())


@pytest.mark.parametrize("temperature", [0.005, 0.0005])
def test_at_small_temperatures_float32_stays_finite_and_near_float64(temperature: float) -> None:
    z, label = drawn(16, 4, 8)
    loss = ReweightOOD(temperature=temperature)
    x = z.float().requires_grad_()
    total = loss(x, label).total
    total.backward()
    torch.testing.assert_close(total.detach().double(), loss(z, label).total, rtol=1e-4, atol=0)
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 6), st.integers(2, 8), st.integers(0, 999))
def test_neither_a_turn_nor_another_order_of_rows_changes_the_value(
    rows: int, classes: int, dim: int, seed: int
) -> None:
    z, label = drawn(rows, classes, dim, seed)
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    order = torch.randperm(rows, generator=generator)
    expected = ReweightOOD()(z, label).total
    torch.testing.assert_close(ReweightOOD()(z @ turn, label).total, expected, **TIGHT)
    torch.testing.assert_close(ReweightOOD()(z[order], label[order]).total, expected, **TIGHT)
    torch.testing.assert_close(ReweightOOD()(z, 7 - label).total, expected, **TIGHT)  # the classes' names carry nothing


def test_no_value_is_needed_on_the_host() -> None:
    x, label = torch.empty(300, 8, device="meta"), torch.empty(300, device="meta").long()  # a shape, and no numbers
    x.requires_grad_()
    ReweightOOD()(x, label).total.backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"temperature": 0.0}, r"temperature must be > 0, got 0\.0\. Try 0\.1"),
        ({"temperature": float("nan")}, "temperature must be > 0, got nan"),
        ({"within": (2.0,)}, r"within and between are \(slope, offset\), got \(2\.0,\) and \(5\.0, 4\.0\)"),
        ({"between": (5.0, 4.0, 3.0)}, r"got \(2\.0, 1\.0\) and \(5\.0, 4\.0, 3\.0\)"),
    ],
)
def test_a_setting_without_meaning_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^ReweightOOD: .*{message}"):
        ReweightOOD(**setting)
