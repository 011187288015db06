"""An encoder with what stands on it: images to Outputs(feature, embedding, logits).

The encoder is one of our ResNets, a network of timm, anyone's own, or none: then the model takes features.
Shapes: B images, S size, F feature width, D embedding width, C classes.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, get_args

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from spherood.data.preprocess import Preprocess
from spherood.errors import ConfigError, nearest
from spherood.models.custom import from_function, from_timm, timm_network
from spherood.models.resnet import Depth, ResNet, Shortcut
from spherood.outputs import Outputs
from spherood.schema import Strict
from spherood.sphere import normalize

NONE, TIMM = "none", "timm:"


class ModelSettings(Strict):
    """Encoder; a projection head to `dim` (or none); a classifier (or none).

    encoder: a ResNet, of this width, stem and shortcut; `timm:NAME`; `package.module:function`; or `none`, for features
    that somebody has already. features: how many values the encoder gives; training fills it in where the name of the
    encoder does not tell. reads: what scores take for the feature: the encoder's, or, of a model whose encoder was
    frozen, the embedding.
    """

    encoder: str = "resnet18"
    width: int = Field(default=64, ge=1)
    stem: Literal["cifar", "imagenet"] = "cifar"
    shortcut: Shortcut = "projection"
    features: int | None = Field(default=None, ge=1)
    head: Literal["mlp", "linear"] | None = None
    dim: int = Field(default=128, ge=2)
    classifier: bool = False
    reads: Literal["feature", "embedding"] = "feature"

    @field_validator("encoder")
    @classmethod
    def _known(cls, name: str) -> str:
        known = (*get_args(Depth), NONE)
        if name not in known and ":" not in name:
            raise ValueError(
                f"there is no '{name}'. {nearest(name, known)} Others: timm:NAME, or your own package.module:function."
            )
        return name

    @model_validator(mode="after")
    def _reads_what_there_is(self) -> ModelSettings:
        if self.reads == "embedding" and self.head is None:
            raise ValueError("reads: embedding needs a head. Set head: linear, or mlp.")
        return self

    @property
    def ours(self) -> bool:
        """Whether the encoder is one of our ResNets."""
        return self.encoder in get_args(Depth)


class Rows(nn.Module):
    """The encoder of a model without one: features (B, F) as they are."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, features: Tensor) -> Tensor:
        """The same."""
        return features


class FeatureOf(nn.Module):
    """Anyone's network as an encoder: its feature alone, `dim` wide."""

    def __init__(self, network: nn.Module, dim: int) -> None:
        super().__init__()
        self.network, self.dim = network, dim

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, S, S) to features (B, F)."""
        feature: Tensor = self.network(images).feature
        return feature


class Model(nn.Module):
    """``Model(encoder, head, classifier)(images) -> Outputs``; head or classifier may be None.

    reads="embedding": the unit embedding stands for the feature too, in everything that reads one.
    """

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module | None,
        classifier: nn.Linear | None,
        reads: Literal["feature", "embedding"] = "feature",
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.classifier, self.reads = encoder, head, classifier, reads

    @property
    def on_features(self) -> Model:
        """What stands on the encoder, as a model that takes its features; it shares the weights."""
        return Model(Rows(self.encoder.dim), self.head, self.classifier, self.reads)  # type: ignore[arg-type]

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
        return Outputs(embedding if self.reads == "embedding" and embedding is not None else feature, embedding, logits)


def build_model(settings: ModelSettings, classes: int, seed: int = 0) -> Model:
    """A freshly initialised model; the same seed gives the same weights and leaves torch's own generator untouched.

    A timm network comes without its pretrained weights; a user's function gives what it gives. ConfigError where that
    cannot be made, or where `features` is not known (`settled` finds it).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = _encoder(settings)
        dim: int = encoder.dim  # type: ignore[assignment]
        head: nn.Module | None = None
        if settings.head == "linear":
            head = nn.Linear(dim, settings.dim)
        elif settings.head == "mlp":
            head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, settings.dim))
        classifier = nn.Linear(dim, classes) if settings.classifier else None
    return Model(encoder, head, classifier, settings.reads)


def pretrained(settings: ModelSettings) -> tuple[nn.Module, Preprocess]:
    """A network of timm with its weights, or a user's own, and how its images are made."""
    if settings.encoder.startswith(TIMM):
        return from_timm(settings.encoder.removeprefix(TIMM))
    return from_function(settings.encoder)


def settled(settings: ModelSettings) -> tuple[ModelSettings, Preprocess]:
    """Of an encoder of others, `features` filled in, asked with a black image; and how its images are made."""
    network, preprocess = pretrained(settings)
    with torch.inference_mode():
        black = torch.zeros(1, 3, preprocess.size, preprocess.size)
        features = network.eval()(black).feature.shape[1]
    return settings.model_copy(update={"features": features}), preprocess


def _encoder(settings: ModelSettings) -> nn.Module:
    if settings.ours:
        depth: Any = settings.encoder
        return ResNet(depth, width=settings.width, stem=settings.stem, shortcut=settings.shortcut)
    if settings.features is None:
        raise ConfigError(f"model.encoder: {settings.encoder}: how many features it gives is not known. Set features.")
    if settings.encoder == NONE:
        return Rows(settings.features)
    if settings.encoder.startswith(TIMM):
        return FeatureOf(timm_network(settings.encoder.removeprefix(TIMM)), settings.features)
    return FeatureOf(from_function(settings.encoder)[0], settings.features)


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes and bytes of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
