"""Maximum softmax probability at the temperature that suits held-out images.

    s(z) = -max_c softmax(z / T)_c          higher = more OOD; in [-1, -1/C]

T: lowers the mean of -log softmax(z / T)[y] over the fitted logits, from 1.5 by L-BFGS with steps of 0.01 and 50 of
them, as in the authors' code and OpenOOD. That ends before the minimum: 1.76 on a ResNet-20 for CIFAR-10, whose minimum
lies at 2.55. Fit it on held-out logits: on training logits a network is too sure.
Shapes: B batch, C classes. Fit: O(N C) memory in float64, any batching.
Source: Guo et al., ICML 2017, arXiv:1706.04599; gpleiss/temperature_scaling (unchecked).
"""

from __future__ import annotations

import math
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.errors import FitError
from spherood.sphere import float64

START, STEP, STEPS = 1.5, 0.01, 50


class TemperatureMSP(Detector):
    """``TemperatureMSP().fit(held_out_logits, label).score(logits)``."""

    reads = "logits"
    laws = ("permutation",)
    temperature: Tensor  # (), T

    def __init__(self) -> None:
        super().__init__()
        self.declare("temperature")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Temperature of logits (N, C), label (N,). FitError without labels or where none suits them."""
        logits, labels = [], []
        for rows, part_label in self.batches(x, label):
            if part_label is None:
                raise FitError("TemperatureMSP.fit: needs labels. Call fit(logits, label).")
            if int(part_label.max()) >= rows.shape[1]:
                raise FitError(
                    f"TemperatureMSP.fit: labels reach {int(part_label.max())}, the logits have {rows.shape[1]} "
                    "columns. Drop unknown labels."
                )
            logits.append(float64(rows))
            labels.append(part_label.to(logits[-1].device))
        temperature = _temperature(torch.cat(logits), torch.cat(labels))
        if not 0 < float(temperature) < math.inf:
            raise FitError(
                f"TemperatureMSP.fit: the search for a temperature ended at {float(temperature):.4g}. Give it more "
                "held-out logits, wrong guesses among them."
            )
        self.temperature = temperature.float()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) to score (B,), float64."""
        z = float64(x)
        return -(z / self.temperature.to(z)).softmax(dim=1).amax(dim=1)


def _temperature(logits: Tensor, label: Tensor) -> Tensor:
    """T, a scalar, for logits (N, C) and label (N,)."""
    temperature = logits.new_tensor(START).requires_grad_()
    search = torch.optim.LBFGS([temperature], lr=STEP, max_iter=STEPS)

    def loss() -> Tensor:
        search.zero_grad()
        with torch.enable_grad():
            nll = F.cross_entropy(logits / temperature, label)
        nll.backward()
        return nll

    search.step(loss)
    return temperature.detach()
