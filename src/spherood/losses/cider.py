"""CIDER: pull each embedding to its class prototype, push the prototypes apart.

    L = w L_comp + L_dis
    L_comp = (tau/tau_c) 1/N sum_i [ -z_i . p_{y_i} / tau + lse_c z_i . p_c / tau ]         p without gradient
    L_dis  = (tau/tau_d) 1/C sum_c [ lse_{c' != c} p_c . p_c' / tau - log(C - 1) ]          p with gradient

First the prototypes advance over the batch (sphere/prototypes.py); both terms see the advanced ones. The gradient of
L_dis reaches the encoder through that advance. tau_c = .07 and tau_d = .1 only scale the terms: at tau = .1 the
effective weight of compactness is w 10/7. The published numbers were found with these defaults.
`learnable`: the prototypes are a parameter, p its rows at unit length. Nothing advances, so `momentum` has no effect;
`start` sets the parameter. The gradient of both terms reaches it. For L_dis that is the released DisLPLoss; for L_comp
it is our reading: nothing else would tie a prototype to its class, and an early script of the authors (commit 0dc8aab)
hands the parameter to L_comp undetached. There w weighs L_dis; here it stays on L_comp.

Departures from the released code, none changes a value where that code gives one: the own prototype is masked with
-inf before the log-sum-exp (the released form overflows below tau = .0112), and a class without a sample in the
initial set is an error instead of NaN.
Shapes: N rows (all of view 1, then all of view 2), d dimension, C classes. Units: tau none, L nats.
L_dis at tau = .1: +10 when all prototypes are one, about -10/(C - 1) at the simplex.
Source: Ming et al., ICLR 2023, arXiv:2203.04450 (equation numbers unchecked); deeplearning-wisc/cider.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherood.errors import ConfigError, DataError
from spherood.losses.terms import Terms, check_labelled
from spherood.sphere import ClassMeans, advance, at_least_float32, normalize


class CIDER(nn.Module):
    """``CIDER(classes=10)(embedding, label).total.backward()``; parts: compactness, dispersion, both unweighted."""

    reads = "embedding"
    views = 2
    laws = ("rotation",)  # the moving average depends on the order of rows
    prototypes: Tensor  # (C, d), unit rows; of any length where they are learnt

    def __init__(
        self,
        *,
        classes: int,
        dim: int = 128,
        temperature: float = 0.1,
        momentum: float = 0.95,
        compactness_weight: float = 2.0,
        base_temperatures: tuple[float, float] = (0.07, 0.1),
        learnable: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ConfigError(f"CIDER: needs at least 2 classes to push apart, got {classes}.")
        if not temperature > 0 or not all(base > 0 for base in base_temperatures):
            raise ConfigError(f"CIDER: temperatures must be > 0, got {temperature} and {base_temperatures}. Try 0.1.")
        if not 0 <= momentum <= 1:
            raise ConfigError(f"CIDER: momentum must lie in [0, 1], got {momentum}. Try 0.95.")
        self.temperature, self.momentum, self.compactness_weight = temperature, momentum, compactness_weight
        self.base_temperatures, self.learnable = base_temperatures, learnable
        start = normalize(torch.randn(classes, dim, generator=torch.Generator().manual_seed(seed)))
        if learnable:
            self.prototypes = nn.Parameter(start)
        else:
            self.register_buffer("prototypes", start)

    @torch.no_grad()
    def start(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Set each prototype to the direction of its class's mean unit embedding over the ID training set.

        batches: (embedding (B, d), label (B,)). DataError where a class has no sample.
        """
        classes, dim = self.prototypes.shape
        means = ClassMeans(classes)
        for embedding, label in batches:
            label = check_labelled("CIDER.start", embedding, label.cpu(), classes, dim=dim)
            means.add(normalize(embedding), label)
        if means.absent:
            raise DataError(
                f"CIDER.start: no sample of class {means.absent[0]} in the ID training set. Drop or fill it."
            )
        direction = means.direction.to(self.prototypes)
        if self.learnable:
            self.prototypes.copy_(direction)  # in place: the optimiser holds this very tensor
        else:
            self.prototypes = direction

    def forward(self, embedding: Tensor, label: Tensor) -> Terms:
        """Unit embedding (N, d) and integer label (N,) to the loss; ShapeError otherwise."""
        classes, dim = self.prototypes.shape
        label_here = check_labelled("CIDER", embedding, label, classes, dim=dim)
        z = at_least_float32(embedding)
        z = z.to(torch.promote_types(z.dtype, self.prototypes.dtype))
        old = self.prototypes.to(z.dtype)
        prototypes = normalize(old) if self.learnable else advance(old, z, label, self.momentum)
        towards = prototypes if self.learnable else prototypes.detach()
        tau, (tau_compactness, tau_dispersion) = self.temperature, self.base_temperatures

        compactness = tau / tau_compactness * F.cross_entropy(z @ towards.T / tau, label_here)

        own = torch.eye(len(prototypes), dtype=torch.bool, device=z.device)
        between = (prototypes @ prototypes.T / tau).masked_fill(own, -torch.inf).logsumexp(dim=1)  # (C,)
        dispersion = tau / tau_dispersion * (between - log(len(prototypes) - 1)).mean()

        if not self.learnable:
            self.prototypes = prototypes.detach()
        return Terms(
            self.compactness_weight * compactness + dispersion,
            {"compactness": compactness, "dispersion": dispersion},
        )
