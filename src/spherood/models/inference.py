"""One way from pixels to Outputs, used by training's start, by evaluation and by the bundle: so they agree."""

from __future__ import annotations

import os

import torch
from torch import Tensor, nn

from spherood.data.preprocess import Preprocess
from spherood.data.tensors import normalised
from spherood.errors import ConfigError
from spherood.outputs import Outputs


@torch.inference_mode()
def infer(model: nn.Module, pixels: Tensor, preprocess: Preprocess | None, *, layers: bool = False) -> Outputs:
    """uint8 pixels (B, S, S, 3) to Outputs on the CPU, in float32, with the model in evaluation mode.

    preprocess None: `pixels` are features (B, F), for a model that takes those. layers: those too, where the model has
    a `layered` forward or its Outputs hold them.
    """
    model.eval()
    device = next((weight.device for weight in model.parameters()), pixels.device)
    forward = getattr(model, "layered", model) if layers else model
    x = pixels.to(device)
    found: Outputs = forward(x if preprocess is None else normalised(x, preprocess))
    inner = tuple(layer.float().cpu() for layer in found.layers) if layers and found.layers else None
    return Outputs(found.feature.float().cpu(), _home(found.embedding), _home(found.logits), inner)


def choose_device(name: str) -> torch.device:
    """ "auto" is a GPU where there is one (each process its own), else the CPU; ConfigError where it is lacking."""
    if name == "auto":
        name = (
            f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name}: not usable here ({reason}). Choose auto or cpu.") from None


def infer_all(model: nn.Module, x: Tensor, preprocess: Preprocess | None, batch: int) -> Outputs:
    """As `infer`, any number (N, ...), so many at a time; without layers."""
    parts = [infer(model, some, preprocess) for some in x.split(batch)]
    first = parts[0]
    return Outputs(
        torch.cat([part.feature for part in parts]),
        None if first.embedding is None else torch.cat([part.embedding for part in parts]),  # type: ignore[misc]
        None if first.logits is None else torch.cat([part.logits for part in parts]),  # type: ignore[misc]
    )


def _home(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().cpu()
