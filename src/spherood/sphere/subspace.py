"""The directions in which features vary least: what of a feature lies there, few known ones have.

Shapes: D dimension, C classes, q main directions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spherood.sphere.unit import float64


def residual_basis(second_moment: Tensor, dim: int) -> Tensor:
    """Orthonormal columns (D, D - q) beyond the q = dim main directions of a second moment (D, D)."""
    direction: Tensor = torch.linalg.eigh(second_moment).eigenvectors  # (D, D), least first
    return direction[:, : len(second_moment) - dim]


def zero_point(weight: Tensor, bias: Tensor) -> Tensor:
    """o = -W^+ b, (D,), float64: the shortest feature whose logits W o + b come nearest to 0, W (C, D), b (C,).

    Singular values below max(C, D) eps_float32 of the largest count as 0.
    """
    rtol = max(weight.shape) * torch.finfo(torch.float32).eps
    point: Tensor = -torch.linalg.pinv(float64(weight), rtol=rtol) @ float64(bias)
    return point
