"""An encoder with what stands on it: images to Outputs(feature, embedding, logits).

Shapes: B images, S size, F feature width, D embedding width, C classes.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from spherood.models.resnet import Depth, ResNet, Shortcut
from spherood.outputs import Outputs
from spherood.schema import Strict
from spherood.sphere import normalize


class ModelSettings(Strict):
    """Encoder by name, width, stem and shortcut; a projection head to `dim` (or none); a classifier (or none)."""

    encoder: Depth = "resnet18"
    width: int = Field(default=64, ge=1)
    stem: Literal["cifar", "imagenet"] = "cifar"
    shortcut: Shortcut = "projection"
    head: Literal["mlp", "linear"] | None = None
    dim: int = Field(default=128, ge=2)
    classifier: bool = False


class Model(nn.Module):
    """``Model(encoder, head, classifier)(images) -> Outputs``; head or classifier may be None."""

    def __init__(self, encoder: nn.Module, head: nn.Module | None, classifier: nn.Linear | None) -> None:
        super().__init__()
        self.encoder, self.head, self.classifier = encoder, head, classifier

    def forward(self, images: Tensor) -> Outputs:
        """Normalised images (B, 3, S, S) to feature (B, F), unit embedding (B, D) or None, logits (B, C) or None."""
        return self._outputs(self.encoder(images))

    def layered(self, images: Tensor) -> Outputs:
        """As `forward`, with `layers` too where the encoder has `pooled_stages`, as ours have."""
        if not hasattr(self.encoder, "pooled_stages"):
            return self._outputs(self.encoder(images))
        layers: tuple[Tensor, ...] = self.encoder.pooled_stages(images)  # type: ignore[operator]
        return self._outputs(layers[-1])._replace(layers=layers)

    def _outputs(self, feature: Tensor) -> Outputs:
        embedding = None if self.head is None else normalize(self.head(feature))
        logits = None if self.classifier is None else self.classifier(feature)
        return Outputs(feature, embedding, logits)


def build_model(settings: ModelSettings, classes: int, seed: int = 0) -> Model:
    """A freshly initialised model; the same seed gives the same weights and leaves torch's own generator untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = ResNet(settings.encoder, width=settings.width, stem=settings.stem, shortcut=settings.shortcut)
        head: nn.Module | None = None
        if settings.head == "linear":
            head = nn.Linear(encoder.dim, settings.dim)
        elif settings.head == "mlp":
            head = nn.Sequential(nn.Linear(encoder.dim, encoder.dim), nn.ReLU(), nn.Linear(encoder.dim, settings.dim))
        classifier = nn.Linear(encoder.dim, classes) if settings.classifier else None
    return Model(encoder, head, classifier)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
