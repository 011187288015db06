from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def resnet20() -> SimpleNamespace:
    """Features and logits of a real network, and the references' scores turned so that higher = more OOD."""
    g = np.load(Path(__file__).parents[1] / "golden" / "scores_resnet20.npz")
    classifier = torch.nn.Linear(64, 10)
    classifier.load_state_dict({"weight": torch.from_numpy(g["fc_weight"]), "bias": torch.from_numpy(g["fc_bias"])})
    return SimpleNamespace(
        train=g["train_feat"],
        label=g["train_label"],
        validation=g["val_feat"],
        validation_label=g["val_label"],
        validation_logits=g["val_logits"],
        query=np.concatenate([g["id_feat"], g["ood_feat"]]),
        classifier=classifier,
        train_logits=g["train_logits"],
        query_logits=np.concatenate([g["id_logits"], g["ood_logits"]]),
        score={key.removeprefix("conf/"): -g[key].astype(float) for key in g if key.startswith("conf/")},
    )
