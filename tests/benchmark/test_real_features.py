"""A trained ResNet-20's features of real images, from detector to metric: the figures of FACTS-scores 6."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import spherood as so
from spherood.benchmark.accuracy import id_accuracy
from spherood.data import ImageSet
from spherood.detectors import KNN, MSP, Detector, Mahalanobis
from spherood.features import Stored
from spherood.outputs import Outputs
from spherood.sphere import ClassMeans, normalize


@pytest.fixture(scope="module")
def resnet20() -> SimpleNamespace:
    g = np.load(Path(__file__).parents[1] / "golden" / "scores_resnet20.npz")

    def outputs(part: str) -> Outputs:
        return Outputs(torch.from_numpy(g[f"{part}_feat"]), None, torch.from_numpy(g[f"{part}_logits"]))

    label = {part: g[f"{part}_label"].astype(np.int64) for part in ("train", "id")}
    ood = outputs("ood")
    sets = {
        name: Outputs(ood.feature[g["ood_set"] == number], None, ood.logits[g["ood_set"] == number])  # type: ignore[index]
        for number, name in enumerate(("cifar100", "mnist"))
    }
    return SimpleNamespace(train=outputs("train"), validation=outputs("val"), test=outputs("id"), label=label, ood=sets)


@pytest.mark.parametrize(
    ("detector", "cifar100", "mnist"),
    [
        # AUROC with all images; here 250 of each set, so within .04
        (KNN(k=50), 0.874, 0.971),
        (Mahalanobis(unit=True), 0.852, 0.992),
        (MSP(), 0.860, 0.913),
    ],
    ids=["knn", "mahalanobis", "msp"],
)
def test_scores_of_real_images_tell_known_from_new_as_published(
    resnet20: SimpleNamespace, detector: Detector, cifar100: float, mnist: float
) -> None:
    detector.fit(resnet20.train, resnet20.label["train"])
    id_score = detector.score(resnet20.test)
    for name, expected in (("cifar100", cifar100), ("mnist", mnist)):
        assert so.metrics.auroc(id_score, detector.score(resnet20.ood[name])) == pytest.approx(expected, abs=0.04)


def test_unit_mahalanobis_is_above_98_percent_on_mnist_and_keeps_its_promise_on_cifar10(
    resnet20: SimpleNamespace,
) -> None:
    detector = Mahalanobis(unit=True).fit(resnet20.train, resnet20.label["train"])
    id_score, mnist = detector.score(resnet20.test), detector.score(resnet20.ood["mnist"])
    assert so.metrics.auroc(id_score, mnist) > 0.98
    threshold = so.calibration.threshold(detector.score(resnet20.validation), 0.05)
    alarms = int((id_score > threshold).sum())
    assert so.metrics.clopper_pearson(alarms, len(id_score))[0] <= 0.05
    assert float((mnist > threshold).double().mean()) > 0.9


def test_the_accuracy_of_the_trained_network_is_its_published_one(resnet20: SimpleNamespace) -> None:
    def stored(part: str, outputs: Outputs) -> Stored:
        label = resnet20.label[part]
        pixels = np.zeros((len(label), 1, 1, 3), dtype=np.uint8)
        return Stored(ImageSet(part, pixels, label, [""] * len(label)), outputs, {})

    means = ClassMeans(10)
    means.add(normalize(resnet20.train.feature), torch.from_numpy(resnet20.label["train"]))
    found = id_accuracy(stored("train", resnet20.train), stored("id", resnet20.test), means.direction.float())
    assert found["classifier"] == pytest.approx(0.928)  # 91.73 % on all 10,000
    assert found["k-NN"] == pytest.approx(0.92, abs=0.02)
    assert found["class mean"] == pytest.approx(0.92, abs=0.02)
