"""T2FNorm: a classifier trained on features of length 1/tau, asked afterwards about features of any length.

    L = CE( W (h / |h|) / tau + b, y )          training; b is not divided
    logits = W (h / tau_o) + b                  afterwards: an OOD image's feature is short, so its logits are small

h: the feature. The classifier (W, b) belongs to the loss, for the model gives features only; `served_classifier()` is
what goes on the model after training, so that accuracy and every score of logits (published: MSP) read the second line.
tau_o is tau, and 1 in the authors' fine-tuned ImageNet-1k.
A zero feature has no direction: its value is finite, its gradient 1e12-sized.
Shapes: N rows, F feature width, C classes. Units: tau none, L nats.
Source: Regmi et al., CVPR Workshops 2024, arXiv:2305.17797; sudarshanregmi/T2FNorm; equation numbers unchecked.
"""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherood.errors import ConfigError, ShapeError
from spherood.losses.terms import Terms, check_labelled
from spherood.sphere import at_least_float32, normalize


class T2FNorm(nn.Module):
    """``T2FNorm(classes=10, dim=512)(feature, label).total.backward()``; `dim` is the feature's width F."""

    reads = "feature"
    views = 1
    laws = ("permutation",)

    def __init__(
        self, *, classes: int, dim: int, temperature: float = 0.1, ood_temperature: float | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ConfigError(f"T2FNorm: needs at least 2 classes to tell apart, got {classes}.")
        self.temperature = temperature
        self.ood_temperature = temperature if ood_temperature is None else ood_temperature
        if not temperature > 0 or not self.ood_temperature > 0:
            raise ConfigError(
                f"T2FNorm: temperatures must be > 0, got {temperature} and {ood_temperature}. Try 0.1 and none."
            )
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs' generators too
            self.classifier = nn.Linear(dim, classes)

    def forward(self, feature: Tensor, label: Tensor) -> Terms:
        """Feature (N, F), of any length, and integer label (N,) to the loss; ShapeError otherwise."""
        weight, bias = self.classifier.weight, self.classifier.bias
        label = check_labelled("T2FNorm", feature, label, len(weight), what="feature")
        if feature.shape[1] != weight.shape[1]:
            raise ShapeError(
                f"T2FNorm: features have {feature.shape[1]} columns, the classifier {weight.shape[1]}. "
                f"Pass dim={feature.shape[1]} to the loss."
            )
        h = at_least_float32(feature)
        h = h.to(torch.promote_types(h.dtype, weight.dtype))
        logits = F.linear(normalize(h) / self.temperature, weight.to(h.dtype), bias.to(h.dtype))
        return Terms(F.cross_entropy(logits, label))

    @torch.no_grad()
    def served_classifier(self) -> nn.Linear:
        """The layer from the plain feature (B, F) to logits W h / tau_o + b (B, C); a copy, as of now."""
        served = deepcopy(self.classifier)
        served.weight /= self.ood_temperature
        return served
