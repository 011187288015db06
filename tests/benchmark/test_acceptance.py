"""The real ResNet-20 on real images, from its checkpoint to the table: the figures that independent code measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from spherood.benchmark.evaluation import evaluate
from spherood.benchmark.protocol import Protocol
from spherood.benchmark.subject import find_subjects
from spherood.features import FeatureStore

SCORES = {"knn": "knn:k=50", "msp": "msp", "raw": "mahalanobis", "unit": "mahalanobis:unit=true"}
FIGURES = {  # AUROC, FPR ID at OOD 95, FPR OOD at ID 95
    "texture32": {
        "knn": (0.9465, 0.2707, 0.2742),
        "msp": (0.8764, 0.3674, 0.6775),
        "raw": (0.8376, 0.5936, 0.5950),
        "unit": (0.9599, 0.2403, 0.2008),
    },
    "scenes": {
        "knn": (0.8549, 0.5610, 0.5583),
        "msp": (0.8645, 0.3595, 0.7625),
        "raw": (0.5788, 0.8500, 0.9292),
        "unit": (0.8802, 0.5274, 0.4583),
    },
    "mnist": {
        "knn": (0.9706, 0.1477, 0.1532),
        "msp": (0.9126, 0.2418, 0.6042),
        "raw": (0.5992, 0.6900, 0.9991),
        "unit": (0.9921, 0.0366, 0.0364),
    },
    "cifar100": {
        "knn": (0.8740, 0.4523, 0.5724),
        "msp": (0.8603, 0.4102, 0.7269),
        "raw": (0.6089, 0.8286, 0.9335),
        "unit": (0.8521, 0.5345, 0.6191),
    },
    "tin": {
        "knn": (0.8923, 0.3757, 0.5283),
        "msp": (0.8717, 0.3797, 0.7029),
        "raw": (0.5985, 0.8301, 0.9498),
        "unit": (0.8709, 0.4607, 0.5813),
    },
}
PROTOCOL = Protocol.model_validate(
    {
        "name": "resnet20",
        "version": "1",
        "about": "The bank is the first 2,000 files of each class; all of CIFAR-10's test images are ID.",
        "resize": "stretch",
        "id": {"train": {"folder": "cifar10/train", "per_class": 2000}, "test": {"folder": "cifar10/test"}},
        "near": {"cifar100": {"folder": "cifar100/test"}, "tin": {"folder": "tin/val"}},
        "far": {name: {"folder": folder} for name, folder in (("mnist", "mnist/test"), ("texture32", "texture32"))}
        | {"scenes": {"folder": "scenes"}},
    }
)


def test_the_real_network_has_the_figures_that_others_measured(shared_data: Path, tmp_path: Path) -> None:
    sets = ["cifar10-train", "cifar10-test", "cifar100-test", "tin-val", "mnist", "texture32", "scenes"]
    subprocess.run([sys.executable, shared_data / "unpack.py", tmp_path, *sets], check=True, capture_output=True)
    (subject,) = find_subjects(str(shared_data / "resnet20-cifar10.th"), tmp_path / "runs", PROTOCOL)
    found = evaluate(subject, PROTOCOL, tmp_path, FeatureStore(tmp_path / "store"), list(SCORES.values())).evaluation
    assert found.accuracy["classifier"] == pytest.approx(0.9173, abs=1e-6)
    for name, rows in FIGURES.items():
        within = 0.03 if name == "scenes" else 0.01  # 240 images
        for score, expected in rows.items():
            measured = found.scores[SCORES[score]].metrics[name]
            figures = (measured.auroc, measured.fpr_id_at_ood95, measured.fpr_ood_at_id95)
            assert figures == pytest.approx(expected, abs=within), (name, score)
