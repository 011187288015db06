"""Kernel PCA: how much of a feature lies outside the directions in which known ones vary?

    s(h) = |(I - U U') (f(u) - m)|          higher = more OOD

u: unit feature; f: kernel="cosine" u itself (CoP), kernel="gaussian" M random Fourier features of it,
sqrt(2 / M) cos(O u + b), whose products approach exp(-gamma |u - v|^2) (CoRP); m: mean of f(u_i) over the fitted
features; U: its first q principal directions, q the fewest that explain the share `ratio` of the variance.
O: normal of variance 2 gamma; b: uniform on [0, 2 pi); both from NumPy's legacy generator, whose numbers never change,
drawn as the authors' code does. Theirs for CIFAR-10: ratio 0.85 (cosine), 0.8 with gamma 2 and 2,048 features
(gaussian); the best ratio differs widely between networks.
Shapes: B batch, D dimension, M = features (gaussian) or D (cosine). Fit: one pass in float64, O(M^2) memory, any
batching, and the eigenvectors of an M x M matrix: 10 s for M = 2,048. Labels are not needed.
Source: Fang et al., NeurIPS 2024, arXiv:2402.02949; fanghenshaometeor/ood-kernel-pca.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.errors import ConfigError, FitError
from spherood.sphere import Moments, float64, normalize

Kernel = Literal["cosine", "gaussian"]


class KPCA(Detector):
    """``KPCA(ratio=0.85).fit(feature).score(feature)``."""

    laws = ("permutation", "rotation", "scale")  # of the cosine kernel; the frequencies of the gaussian one do not turn
    mean: Tensor  # (M,)
    direction: Tensor  # (M, q), U
    frequency: Tensor  # (M, D), O; gaussian only, as is the phase
    phase: Tensor  # (M,), b

    def __init__(
        self,
        *,
        kernel: Kernel = "cosine",
        ratio: float = 0.85,
        gamma: float = 2.0,
        features: int = 2048,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if kernel not in get_args(Kernel):
            raise ConfigError(f"KPCA: kernel must be 'cosine' or 'gaussian', got '{kernel}'.")
        if not 0 < ratio < 1:
            raise ConfigError(f"KPCA: ratio must lie between 0 and 1, got {ratio}. Try 0.85.")
        if not 0 < gamma < math.inf:
            raise ConfigError(f"KPCA: gamma must be > 0, got {gamma}. Try 2.")
        if not isinstance(features, Integral) or features < 2:
            raise ConfigError(f"KPCA: features must be a whole number of at least 2, got {features}. Try 2048.")
        if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
            raise ConfigError(f"KPCA: seed must be a whole number in [0, 2^32), got {seed}. Try 0.")
        self.kernel: Kernel = kernel
        self.ratio: float = ratio
        self.gamma: float = gamma
        self.features: int = features
        self.seed: int = seed
        self.declare("mean", "direction", *(("frequency", "phase") if kernel == "gaussian" else ()))

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Mean and principal directions of feature (N, D). FitError where nothing varies or nothing is left over."""
        moments, drawn = Moments(), (torch.empty(0), torch.empty(0))
        for rows, _ in self.batches(x, label):
            mapped = normalize(float64(rows))
            if self.kernel == "gaussian":
                drawn = drawn if len(drawn[1]) else self._draw(mapped)
                mapped = _fourier(mapped, *drawn)
            moments.add(mapped)

        variance, direction = torch.linalg.eigh(moments.total)
        variance, direction = variance.flip(0).clamp(min=0), direction.flip(1)
        rounding = len(variance) * torch.finfo(torch.float32).eps ** 2  # features of one direction, as float32 has them
        if not float(variance.sum()) > rounding:
            raise FitError("KPCA.fit: the features do not vary. Is the encoder collapsed, or is there one image?")
        q = int((variance.cumsum(0) < self.ratio * variance.sum()).sum()) + 1
        if q == len(variance):
            raise FitError(
                f"KPCA.fit: ratio={self.ratio} takes all {q} directions, so that none is left to measure. Lower it."
            )
        self.mean, self.direction = moments.mean.float(), direction[:, :q].float()
        if self.kernel == "gaussian":
            self.frequency, self.phase = (part.float() for part in drawn)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,)."""
        unit = normalize(x).to(self.mean.dtype)
        mapped = unit if self.kernel == "cosine" else _fourier(unit, self.frequency, self.phase)
        apart = mapped - self.mean
        left = apart - apart @ self.direction @ self.direction.T  # |a|^2 - |a U|^2 would cancel
        score: Tensor = torch.linalg.vector_norm(left, dim=1)
        return score

    def _draw(self, like: Tensor) -> tuple[Tensor, Tensor]:
        legacy = np.random.RandomState(self.seed)
        frequency = math.sqrt(2 * self.gamma) * legacy.normal(size=(self.features, like.shape[1]))
        phase = 2 * math.pi * legacy.rand(self.features)
        return torch.from_numpy(frequency).to(like), torch.from_numpy(phase).to(like)

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return (self.frequency if self.kernel == "gaussian" else self.mean).shape[-1]


def _fourier(unit: Tensor, frequency: Tensor, phase: Tensor) -> Tensor:
    """Random Fourier features (B, M) of unit (B, D)."""
    return math.sqrt(2 / len(phase)) * torch.cos(unit @ frequency.T + phase)
