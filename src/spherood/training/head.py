"""A head for features that somebody already has, in one call; nothing but arrays goes in, and a model comes out.

    model = train_head(feature, label)          # SupCon on a linear head
    unit = model(feature).feature               # what a score reads now

It is an ordinary run of a recipe with `model.encoder: none`, see training/reading.py.
Shapes: N rows, F feature width.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from spherood import naming
from spherood.data import Source
from spherood.detectors.detector import Array, as_tensor
from spherood.errors import ShapeError
from spherood.files import written_aside
from spherood.models import Model, ModelSettings
from spherood.schema import parse
from spherood.training.engine import train
from spherood.training.recipe import Recipe

FILE = "known.npz"  # what trained the head, kept beside it: whoever calibrates must not use it again


def train_head(
    feature: Array,
    label: Array,
    *,
    loss: str = "supcon",
    dim: int = 128,
    epochs: int = 10,
    batch: int = 512,
    lr: float = 0.05,
    seed: int = 0,
    run: Path | None = None,
) -> Model:
    """A linear head on features (N, F) with integer labels (N,), on the CPU, in evaluation mode.

    loss: as typed, "cider:temperature=0.2". run: a folder that keeps it as a run, for `spherood fit FEATURES --encoder
    RUN`. Errors as `train`; ShapeError where labels and features do not go together.
    """
    rows, classes = as_tensor(feature).detach().float().cpu(), np.asarray(_host(label))
    if rows.ndim != 2 or classes.shape != (len(rows),) or classes.dtype.kind not in "iu":
        raise ShapeError(
            f"train_head: expected features (N, F) and integer labels (N,), got {tuple(rows.shape)} and "
            f"{classes.dtype} {classes.shape}."
        )
    use, settings = naming.parse_spec(loss)
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside, "head") if run is None else Path(run)
        known = folder.absolute() / FILE
        recipe = parse(
            Recipe,
            {
                "name": "head",
                "data": Source(features=str(known)),
                "model": ModelSettings(encoder="none", head="linear", dim=dim, reads="embedding"),
                "loss": [{"use": use, "with": settings}],
                "schedule": {"lr": lr, "warmup_epochs": 0},
                "training": {"epochs": epochs, "batch": batch},
                "validation": {"every": 0},
                "seed": seed,
            },
            "train_head",
        )
        with written_aside(known) as part, part.open("wb") as file:
            np.savez(file, feature=rows.numpy(), label=classes)
        return train(recipe, folder, Path(), device="cpu").build_model().eval()


def _host(x: Array) -> Array:
    return x.detach().cpu().numpy() if isinstance(x, Tensor) else x
