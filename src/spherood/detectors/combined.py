"""Several scores as one: how unlikely is each of them, taken together?

    s(x) = sum_j -log p_j(x)          higher = more OOD; nats

p_j(x): share of reference rows on which score j is at least as high (surprise.py). No weight is fitted to OOD of any
kind. k-NN and Mahalanobis see different OOD: together they catch more than either, on a ResNet-20 for CIFAR-10 66 %
where the two catch 62 and 64 % (docs/guard.md).
Shapes: B batch, J scores, M knots. Fit: two fits of every score, so `x` must be re-iterable.
Source: Fisher, Statistical Methods for Research Workers, 1925, section 21.1 (unchecked). The scores are dependent, so
the sum has no chi-square law: calibrate it as any score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from spherood import naming
from spherood.detectors.detector import Array, Classifier, Detector, Features, Neighbours
from spherood.detectors.surprise import curve_of, divided, summed
from spherood.errors import ConfigError


class Combined(Detector):
    """``Combined(scores=["knn:k=10", "mahalanobis:unit=true"]).fit(feature, label).score(feature)``."""

    laws = ("rotation", "scale")  # every fifth row is a reference: their order counts
    knot: Tensor  # (J, M), reference scores, rising
    surprise: Tensor  # (J, M), -log p at each
    slope: Tensor  # (J,), of -log p beyond the last knot

    def __init__(self, *, scores: Sequence[str] = ("knn:k=10", "mahalanobis:unit=true")) -> None:
        super().__init__()
        if isinstance(scores, str) or len(scores) < 2:
            raise ConfigError(
                f"Combined: scores must be two or more of them, got {scores!r}. Name a single one itself."
            )
        members = [naming.build("detectors", *naming.parse_spec(text)) for text in scores]
        parts = {member.reads for member in members}
        if len(parts) > 1:
            raise ConfigError(f"Combined: {', '.join(scores)} read {' and '.join(sorted(parts))}. Combine alike ones.")
        if parts == {"layers"}:
            raise ConfigError("Combined: the scores read layers. Combine within each layer: layers:score=combined.")
        self.reads = members[0].reads  # type: ignore[misc]
        self.needs_classifier = any(member.needs_classifier for member in members)  # type: ignore[misc]
        self.members = nn.ModuleList(members)
        self.declare("knot", "surprise", "slope")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Fit every score, and the curve of its p-value. FitError as theirs, and where x can be read only once."""
        rest, reference = divided(self, x, label)
        curves = [curve_of(member, rest, reference, classifier) for member in self._members()]
        for member in self._members():
            member.fit(x, label, classifier)
        self.knot, self.surprise, self.slope = (torch.stack(some) for some in zip(*curves, strict=True))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """What the scores read, (B, D), to score (B,), float64."""
        return self._sum([member(x) for member in self._members()])

    def forward_with_neighbours(self, x: Tensor, n: int) -> tuple[Tensor, Neighbours | None]:
        """The score, and the neighbours that one of the scores looked up anyway."""
        found = [member.forward_with_neighbours(x, n) for member in self._members()]
        return self._sum([score for score, _ in found]), next((near for _, near in found if near is not None), None)

    @property
    def no_graph(self) -> str:
        """That of the first score which has a reason."""
        return next((member.no_graph for member in self._members() if member.no_graph), "")

    def _sum(self, scores: Sequence[Tensor]) -> Tensor:
        return summed(scores, self.knot, self.surprise, self.slope)

    @property
    def width(self) -> int | None:
        """Columns of what the scores were fitted on."""
        return next((member.width for member in self._members() if member.width is not None), None)

    def _members(self) -> list[Detector]:
        return list(self.members)  # type: ignore[arg-type]  # ModuleList holds modules of any kind
