"""What holds for every loss of the room; a new one is walked without being named here.

Named are settings only: those that suit small batches, and what is to be known of settings that do not show by
themselves.
"""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spherood.errors import ShapeError
from spherood.naming import build, members
from spherood.outputs import Outputs
from spherood.testing import check_loss

DIM, WIDTH = 5, 6  # of embedding and logits, of a feature beside an embedding
SMALL: dict[str, dict[str, Any]] = {  # where the default waits for more rows
    "npos": {"queue": 8, "k": 3, "select": 4, "samples": 9, "points": 2, "start_epoch": 1},
}
KNOWN: dict[str, dict[str, Any]] = {
    "npos": {"others": {"start_epoch": 20_000}},  # one epoch later both epochs of the check lie on the same side
}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("cider", {"learnable": True, "idle": ["momentum"], "laws": ["permutation", "rotation"]}),
]
ALL = [(name, SMALL.get(name, {}) | KNOWN.get(name, {})) for name in members("losses")] + VARIANTS
EVERY = pytest.mark.parametrize("name", members("losses"))


def make(name: str) -> nn.Module:
    sizes = {"classes": DIM, "dim": DIM, "feature_dim": WIDTH}
    known = inspect.signature(members("losses")[name]).parameters
    settings = {key: size for key, size in sizes.items() if key in known} | SMALL.get(name, {})
    loss: nn.Module = build("losses", name, settings)
    return loss


def test_the_room_offers_its_losses_by_file_name() -> None:
    offered = {"cider", "cross_entropy", "logitnorm", "palm", "reweightood", "simclr", "supcon"}
    assert offered <= members("losses").keys()


@pytest.mark.parametrize(("name", "settings"), ALL, ids=str)
def test_a_loss_keeps_the_contract(name: str, settings: dict[str, Any]) -> None:
    check_loss(name, **settings)


@EVERY
def test_a_loss_wants_one_view_or_two(name: str) -> None:
    assert make(name).views in (1, 2)


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
        loss(Outputs(torch.zeros(len(x), WIDTH), x) if loss.reads == "outputs" else x, label)
