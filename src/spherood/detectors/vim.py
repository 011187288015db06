"""Virtual-logit matching: does the part of a feature that no class explains outweigh the evidence of the classes?

    s(h) = alpha |R' (h - o)| - log sum_c exp(z_c),   z = W h + b          higher = more OOD; in the unit of logits

o, R, dim: as in `Residual`. alpha = mean_i max_c z_ic / mean_i |R' (h_i - o)| over the training features: on average
the residual weighs as much as the largest logit.
Shapes: B batch, C classes, D dimension. Fit: two passes in float64, O(D^2) memory, any batching; `x` must be
re-iterable. Labels are not needed.
Source: Wang et al., CVPR 2022, arXiv:2203.10807 (equation number unchecked).
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.linear_head import copy_head, free_energy, logits, rows_under
from spherood.detectors.residual import checked_dim, residual_space
from spherood.detectors.two_passes import refuse_generator
from spherood.errors import FitError
from spherood.sphere import float64


class ViM(Detector):
    """``ViM(dim=None).fit(feature, classifier=classifier).score(feature)``."""

    needs_classifier = True
    laws = ("permutation", "rotation")
    origin: Tensor  # (D,), o
    basis: Tensor  # (D, D - dim), alpha R
    weight: Tensor  # (C, D), W
    bias: Tensor  # (C,), b

    def __init__(self, *, dim: int | None = None) -> None:
        super().__init__()
        self.dim = checked_dim(dim, self.name)
        self.declare("origin", "basis", "weight", "bias")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Residual space and alpha of feature (N, D). FitError as of `Residual`, and where alpha has no meaning."""
        refuse_generator(self, x)
        weight, bias = copy_head(self, classifier)
        origin, basis = residual_space(self, x, label, classifier, self.dim)
        rows_, largest, residual, length = 0, 0.0, 0.0, 0.0
        for rows, _ in rows_under(weight, self, x, label):
            h = float64(rows)
            off = h - float64(origin)
            rows_ += len(rows)
            largest += float(logits(h, weight, bias).amax(dim=1).sum())
            residual += float(torch.linalg.vector_norm(off @ float64(basis), dim=1).sum())
            length += float(torch.linalg.vector_norm(off, dim=1).sum())
        if not residual > len(basis) * torch.finfo(torch.float32).eps * length:
            raise FitError(
                f"{self.name}.fit: {rows_} features have nothing beyond their {len(basis) - basis.shape[1]} main "
                "directions. Use a smaller dim, or more features."
            )
        if not largest > 0:
            raise FitError(
                f"{self.name}.fit: the largest logit is {largest / rows_:.3g} on average, and a residual that weighs "
                "as much would count for ID. Is this the classifier of these features?"
            )
        self.origin, self.basis, self.weight, self.bias = origin, largest / residual * basis, weight, bias
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,), float64."""
        energy = free_energy(x, self.weight, self.bias)  # (B,)
        residual: Tensor = torch.linalg.vector_norm((x - self.origin).to(self.basis.dtype) @ self.basis, dim=1)  # (B,)
        return energy + residual.to(energy)

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.origin.shape[-1]
