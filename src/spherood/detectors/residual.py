"""Residual: how much of a feature lies outside the directions in which known features vary most?

    s(h) = |R' (h - o)|          higher = more OOD; in the unit of the features

o = -W^+ b, the point where the classifier's logits are nearest to 0; R: eigenvectors of 1/N sum_i (h_i - o)(h_i - o)'
beyond the `dim` largest. dim=None: 1000 for D >= 2048, 512 for D >= 768, else D // 2.
A direction without training variance counts here, where `Mahalanobis` leaves it out.
Shapes: B batch, C classes, D dimension. Fit: one pass in float64, O(D^2) memory, any batching. Labels are not needed.
Source: Wang et al., CVPR 2022, arXiv:2203.10807 (equation number unchecked). OpenOOD fits R on validation images; here
it is fitted on what it is given.
"""

from __future__ import annotations

from numbers import Integral
from typing import Self

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.linear_head import copy_head, rows_under
from spherood.errors import ConfigError, FitError
from spherood.sphere import Moments, residual_basis, zero_point


class Residual(Detector):
    """``Residual(dim=None).fit(feature, classifier=classifier).score(feature)``."""

    needs_classifier = True
    laws = ("permutation", "rotation")
    origin: Tensor  # (D,), o
    basis: Tensor  # (D, D - dim), R

    def __init__(self, *, dim: int | None = None) -> None:
        super().__init__()
        self.dim = checked_dim(dim, self.name)
        self.declare("origin", "basis")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """The residual space of feature (N, D). FitError without classifier or where `dim` leaves no space."""
        self.origin, self.basis = residual_space(self, x, label, classifier, self.dim)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,)."""
        length: Tensor = torch.linalg.vector_norm((x - self.origin).to(self.basis.dtype) @ self.basis, dim=1)
        return length

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.origin.shape[-1]


def checked_dim(dim: int | None, name: str) -> int | None:
    """`dim`, or ConfigError where it is no whole number from 1 on."""
    if dim is not None and (not isinstance(dim, Integral) or dim < 1):
        raise ConfigError(f"{name}: dim must be a whole number of at least 1, got {dim}. Leave it out for the default.")
    return dim


def default_dim(columns: int) -> int:
    """The main directions of features with so many columns, where nobody says how many."""
    return 1000 if columns >= 2048 else 512 if columns >= 768 else columns // 2


def residual_space(
    detector: Detector, x: Features, label: Array | None, classifier: Classifier, dim: int | None
) -> tuple[Tensor, Tensor]:
    """o (D,) and R (D, D - dim), float32, of the features x; errors in the name of `detector`."""
    weight, bias = copy_head(detector, classifier)
    moments = Moments()
    for rows, _ in rows_under(weight, detector, x, label):
        moments.add(rows)
    columns = len(moments.mean)
    dim = default_dim(columns) if dim is None else dim
    if dim >= columns:
        raise FitError(
            f"{detector.name}.fit: dim={dim} leaves no residual of features with {columns} columns. "
            f"Use dim < {columns}; without dim it is {default_dim(columns)}."
        )
    origin = zero_point(weight, bias)
    return origin.to(weight), residual_basis(moments.about(origin), dim).to(weight)
