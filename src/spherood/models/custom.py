"""Anyone's network as one of ours: by import path, or by its name in timm.

A function without arguments gives the network and its Preprocess. The network takes normalised images
(B, 3, S, S) and gives Outputs, or features (B, F). timm needs torchvision, so it is asked for only where it is wanted.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from torch import Tensor, nn

from spherood.data.preprocess import Preprocess
from spherood.errors import ConfigError, MissingExtraError, nearest
from spherood.outputs import Outputs


class Features(nn.Module):
    """A network whose output is its features: ``Features(network)(images) -> Outputs``."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.classifier: nn.Linear | None = None

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, S, S) to Outputs; ConfigError where the network gives neither Outputs nor (B, F)."""
        found = self.network(images)
        if isinstance(found, Outputs):
            return found
        if not (isinstance(found, Tensor) and found.ndim == 2 and len(found) == len(images)):
            got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(f"the network gave {got}, expected spherood.Outputs or features ({len(images)}, F).")
        return Outputs(found)


class Timm(nn.Module):
    """A timm classifier: pooled features before its last layer, and its logits where that layer is linear."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        last = network.get_classifier()
        self.classifier = last if isinstance(last, nn.Linear) else None

    def forward(self, images: Tensor) -> Outputs:
        """Images (B, 3, S, S) to feature (B, F) and logits (B, C)."""
        feature = self.network.forward_head(self.network.forward_features(images), pre_logits=True)
        return Outputs(feature, logits=None if self.classifier is None else self.classifier(feature))


def from_function(name: str) -> tuple[nn.Module, Preprocess]:
    """`package.module:function` called; ConfigError where it cannot be imported or gives something else."""
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{name}: cannot be imported: {error}. Write it as package.module:function.") from None
    found = function()
    network, preprocess = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
    if not (isinstance(network, nn.Module) and isinstance(preprocess, Preprocess)):
        raise ConfigError(
            f"{name}: gave {type(found).__name__}, expected a pair (torch.nn.Module, spherood.data.Preprocess): the "
            "network and how its images are made."
        )
    return Features(network).eval(), preprocess


def timm_network(name: str, *, pretrained: bool = False) -> Timm:
    """A timm network without its weights; ConfigError for an unknown name, MissingExtraError without timm."""
    timm = _timm(name)
    return Timm(timm.create_model(name, pretrained=pretrained))


def from_timm(name: str) -> tuple[nn.Module, Preprocess]:
    """A pretrained timm network, and how its images are made; errors as `timm_network`."""
    timm = _timm(name)
    network = timm_network(name, pretrained=True)
    config = timm.data.resolve_model_data_config(network.network)
    size, kernel = int(config["input_size"][-1]), config["interpolation"]
    if kernel not in ("bilinear", "bicubic"):
        raise ConfigError(f"timm's {name} wants {kernel} interpolation; bilinear and bicubic are known here.")
    preprocess = Preprocess(
        size=size,
        short_side=int(size / config["crop_pct"]),
        kernel=kernel,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    return network.eval(), preprocess


def _timm(name: str) -> Any:
    try:
        timm = importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision made for another torch
        raise MissingExtraError(
            f"{name}: timm cannot be imported ({str(error).splitlines()[0]}). It needs torch and torchvision of one "
            "release: pip install timm"
        ) from None
    if not timm.is_model(name):
        raise ConfigError(f"timm has no network '{name}'. {nearest(name, timm.list_models())}")
    return timm


def source_of(model: nn.Module) -> str:
    """The code of every class in a network that is not torch's or ours: another forward pass gives other features."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}  # forward may be inherited
    foreign = [kind for kind in kinds if not kind.__module__.startswith(("torch.", "spherood.", "builtins"))]
    found = []
    for kind in sorted(foreign, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}"):
        try:
            found.append(inspect.getsource(kind))
        except (OSError, TypeError):  # typed at a prompt
            found.append(kind.__qualname__)
    return "\n".join(found)
