"""What a model says about a batch of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Outputs(NamedTuple):
    """Feature, embedding and logits of B images; what a model does not have is None.

    feature (B, F): the encoder's output before any head, not normalised; published scores read it.
    embedding (B, D): the projection head's output, unit length; contrastive losses read it.
    logits (B, C): of a classifier on the feature.
    layers: features of inner layers, each (B, F_i), from the first on; only where they were asked for.
    """

    feature: Tensor
    embedding: Tensor | None = None
    logits: Tensor | None = None
    layers: tuple[Tensor, ...] | None = None

    def at(self, index: Tensor) -> Outputs:
        """The images of these numbers, in that order."""
        return Outputs(
            self.feature[index],
            None if self.embedding is None else self.embedding[index],
            None if self.logits is None else self.logits[index],
            None if self.layers is None else tuple(layer[index] for layer in self.layers),
        )

    def rows(self, start: int, stop: int) -> Outputs:
        """The images start..stop-1."""
        return Outputs(
            self.feature[start:stop],
            None if self.embedding is None else self.embedding[start:stop],
            None if self.logits is None else self.logits[start:stop],
            None if self.layers is None else tuple(layer[start:stop] for layer in self.layers),
        )
