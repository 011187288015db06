"""What holds for every loss of the room; a new one is walked without being named here."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spherood.errors import ShapeError
from spherood.losses import Terms
from spherood.naming import build, members
from spherood.sphere import normalize

CLASSES = DIM = 5  # so that the same rows can serve as embeddings and as logits
EVERY = pytest.mark.parametrize("name", members("losses"))
SHAPES = ("classes", "dim")


def make(name: str, **changed: Any) -> nn.Module:
    known = inspect.signature(members("losses")[name]).parameters
    sizes = {"classes": CLASSES, "dim": DIM}
    loss: nn.Module = build("losses", name, {key: sizes[key] for key in SHAPES if key in known} | changed)
    return loss


def rows(n: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = normalize(torch.randn(n, DIM, generator=generator))
    return x, torch.randint(CLASSES, (n,), generator=generator)


def step(loss: nn.Module, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().clone().requires_grad_()
    terms = loss(x, label)
    assert isinstance(terms, Terms)
    assert terms.total.shape == ()
    terms.total.backward()
    assert x.grad is not None
    return terms.total.detach(), x.grad


def test_the_room_offers_its_losses_by_file_name() -> None:
    offered = {"cider", "cross_entropy", "logitnorm", "palm", "reweightood", "simclr", "supcon"}
    assert offered <= members("losses").keys()


@EVERY
def test_a_loss_says_what_it_reads_and_how_many_views(name: str) -> None:
    loss = make(name)
    assert loss.reads in ("embedding", "logits", "feature")
    assert loss.views in (1, 2)
    assert getattr(loss, "labels", "class") in ("class", "image")  # what the engine knows to pass


@EVERY
@pytest.mark.parametrize("label", [[3], [2, 2, 2], [0, 0, 4], [4, 3, 2, 1, 0]], ids=str)
def test_a_degenerate_batch_has_a_finite_value_and_gradient(name: str, label: list[int]) -> None:
    total, gradient = step(make(name), rows(len(label))[0], torch.tensor(label))
    assert bool(total.isfinite())
    assert bool(gradient.isfinite().all())


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_are_computed_in_float32_at_least(name: str, dtype: torch.dtype) -> None:
    x, label = rows()
    half = x.to(dtype)
    total, gradient = step(make(name), half, label)
    expected, expected_gradient = step(make(name).double(), half.double(), label)
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=2e-2, atol=1e-3)
    assert make(name).to(dtype)(half, label).total.dtype == torch.float32  # the whole module in half precision


@EVERY
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_integer_type_mean_the_same(name: str, dtype: torch.dtype) -> None:
    x, label = rows()
    assert torch.equal(step(make(name), x, label.to(dtype))[0], step(make(name), x, label)[0])


@EVERY
def test_every_setting_changes_something(name: str) -> None:
    x, label = rows()
    reference = make(name)
    for key, parameter in inspect.signature(members("losses")[name]).parameters.items():
        if key in SHAPES or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        value = parameter.default
        others: list[Any] = []
        match value:
            case bool():
                others = [not value]
            case int():
                others = [value + 1]
            case float():
                others = [value / 2]
            case tuple():
                others = [(*value[:i], value[i] / 2, *value[i + 1 :]) for i in range(len(value))]
        assert others, f"{name}: say here how to change {key}={value!r}"
        for other in others:
            changed = make(name, **{key: other})
            assert not torch.equal(step(changed, x, label)[0], step(make(name), x, label)[0]), f"{key}={other}"
    assert torch.equal(step(reference, x, label)[0], step(make(name), x, label)[0])  # and nothing else does


@EVERY
def test_two_forwards_before_one_backward_work(name: str) -> None:
    loss, (x, label) = make(name), rows()
    x.requires_grad_()
    (loss(x, label).total + loss(x, label).total).backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


@EVERY
def test_a_reloaded_loss_goes_on_with_the_same_numbers(name: str) -> None:
    loss, resumed, (x, label) = make(name), make(name), rows()
    step(loss, x, label)
    resumed.load_state_dict(loss.state_dict())
    assert torch.equal(step(resumed, x, label)[0], step(loss, x, label)[0])


@EVERY
@pytest.mark.parametrize(
    ("x", "label", "message"),
    [
        (torch.zeros(64, 2, DIM), torch.zeros(64).long(), r"got \(64, 2, 5\) and \(64,\)\. Use .*flatten\(0, 1\)"),
        (torch.zeros(4, DIM), torch.zeros(3).long(), r"expected .* \(N, d\) and label \(N,\), got \(4, 5\) and \(3,\)"),
        (torch.zeros(4, DIM), torch.zeros(4, 1).long(), r"got \(4, 5\) and \(4, 1\)"),
        (torch.zeros(0, DIM), torch.zeros(0).long(), r"got \(0, 5\) and \(0,\)"),
        (torch.zeros(4, DIM), torch.zeros(4), r"integer labels, got torch\.float32 and torch\.float32"),
        (torch.zeros(4, DIM).long(), torch.zeros(4).long(), r"a floating .*, got torch\.int64 and torch\.int64"),
    ],
    ids=["views apart", "lengths differ", "label in a column", "no row", "float labels", "integer rows"],
)
def test_a_wrong_shape_or_type_is_told_with_the_way_out(name: str, x: Tensor, label: Tensor, message: str) -> None:
    loss = make(name)
    with pytest.raises(ShapeError, match=rf"^{type(loss).__name__}: .*{message}"):
        loss(x, label)
