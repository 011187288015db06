"""SimCLR: know each image again in its other views; no class labels.

SupCon's formula with the image's index as its label, so the positives of a row are the other views of its image. With
a Mahalanobis score on top it is the unsupervised detector SSD.
Shapes: N rows (all of view 1, then all of view 2), d dimension. Units: tau none, L nats.
Source: Chen et al., ICML 2020, arXiv:2002.05709 (equation number unchecked); HobbitLong/SupContrast, whose tau /
tau_b factor is kept.
"""

from __future__ import annotations

from torch import Tensor, nn

from spherood.errors import ConfigError
from spherood.losses.supcon import SupCon
from spherood.losses.terms import Terms, check_labelled


class SimCLR(nn.Module):
    """``SimCLR()(embedding, image_index).total.backward()``."""

    reads = "embedding"
    views = 2
    labels = "image"  # the engine passes each row the index of its image instead of its class
    laws = ("permutation", "rotation")

    def __init__(self, *, temperature: float = 0.5, base_temperature: float = 0.07) -> None:
        super().__init__()
        if not temperature > 0 or not base_temperature > 0:
            raise ConfigError(f"SimCLR: temperatures must be > 0, got {temperature} and {base_temperature}. Try 0.5.")
        self.contrast = SupCon(temperature=temperature, base_temperature=base_temperature)

    def forward(self, embedding: Tensor, label: Tensor) -> Terms:
        """Unit embedding (N, d) and the index of each row's image (N,) to the loss; ShapeError otherwise."""
        terms: Terms = self.contrast(embedding, check_labelled("SimCLR", embedding, label))
        return terms
