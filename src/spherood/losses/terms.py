"""What every loss gives back, and the check that every loss begins with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spherood.errors import ShapeError


@dataclass(frozen=True)
class Terms:
    """A scalar to minimise, and its named, unweighted parts where there are several; each part has its own gradient."""

    total: Tensor
    parts: Mapping[str, Tensor] = field(default_factory=dict)


def check_labelled(
    name: str, x: Tensor, label: Tensor, classes: int | None = None, *, dim: int | None = None, what: str = "embedding"
) -> Tensor:
    """The label as int64 on x's device. ShapeError unless x (N, d) is floating, label (N,) integer, and N at least 1;
    with `dim`, the width of a loss's prototypes, also unless d is that.

    Labels on the CPU are also checked to lie in 0..classes-1; on a GPU that would stall the step.
    """
    if x.ndim != 2 or label.ndim != 1 or len(x) != len(label) or len(x) == 0:
        raise ShapeError(
            f"{name}: expected {what} (N, d) and label (N,), got {tuple(x.shape)} and {tuple(label.shape)}. "
            f"Use {what}.transpose(0, 1).flatten(0, 1) and label.repeat(views)."
        )
    if not x.is_floating_point() or label.is_floating_point():
        raise ShapeError(f"{name}: expected a floating {what} and integer labels, got {x.dtype} and {label.dtype}.")
    if dim is not None and x.shape[1] != dim:
        raise ShapeError(
            f"{name}: {what}s have {x.shape[1]} columns, the prototypes {dim}. Pass dim={x.shape[1]} to the loss."
        )
    if classes is not None and label.device.type == "cpu":
        low, high = int(label.min()), int(label.max())
        if low < 0 or high >= classes:
            raise ShapeError(
                f"{name}: labels run {low}..{high}, expected 0..{classes - 1}. "
                f"Pass classes={max(high + 1, 2)}, or drop unknown labels."
            )
    return label.to(x.device, torch.int64, non_blocking=True)
