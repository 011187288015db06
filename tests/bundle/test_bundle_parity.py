"""A bundle says about an image what the evaluation measured: relative 1e-5, through files and through arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spherood.benchmark.evaluation import Evaluated, evaluate
from spherood.benchmark.protocol import Protocol
from spherood.benchmark.shipping import make_bundle
from spherood.benchmark.subject import Subject
from spherood.bundle import Bundle
from spherood.bundle.encoder import origin_of
from spherood.data import Preprocess
from spherood.features import FeatureStore
from spherood.models import ModelSettings, build_model

SCORES = ("knn:k=5", "mahalanobis:unit=true:shrinkage=0.1", "msp")
SETTINGS = ModelSettings(encoder="resnet8", width=4, head="mlp", dim=8, classifier=True)
PROTOCOL = Protocol.model_validate(
    {
        "name": "stripes",
        "about": "Two directions of stripes known, checks new.",
        "version": "1",
        "false_alarm_rate": 0.1,
        "id": {part: {"folder": "id", "part": part} for part in ("train", "validation", "test")},
        "near": {"checks": {"folder": "checks"}},
    }
)


def drawn(kind: str, row: int) -> NDArray[np.uint8]:
    """Stripes or checks with noise, of several sizes."""
    draw = np.random.default_rng(row)
    height, width = 12 + row % 5, 14
    y, x = np.mgrid[:height, :width]
    wave = {"across": y % 4 < 2, "along": x % 4 < 2, "checks": (x + y) % 4 < 2}[kind]
    return (80 + 90 * wave[..., None] + draw.normal(0, 25, (height, width, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    folder = tmp_path_factory.mktemp("stripes")
    for kind, place, count in (("across", "id/across", 90), ("along", "id/along", 90), ("checks", "checks", 25)):
        (folder / place).mkdir(parents=True)
        for row in range(count):
            Image.fromarray(drawn(kind, row)).save(folder / place / f"{row:03}.png")
    subject = Subject(
        "random", build_model(SETTINGS, 2), Preprocess(size=10), ("across", "along"), origin_of(SETTINGS, 2)
    )
    return evaluate(subject, PROTOCOL, folder, FeatureStore(folder / ".features"), SCORES)


@pytest.mark.parametrize("text", SCORES)
@pytest.mark.parametrize("through", ["files", "arrays"])
def test_the_bundle_scores_as_the_evaluation_did(evaluated: Evaluated, tmp_path: Path, text: str, through: str) -> None:
    make_bundle(evaluated, text).save(tmp_path)
    bundle = Bundle.load(tmp_path)
    result = evaluated.evaluation.scores[text]
    assert bundle.threshold() == result.threshold
    assert bundle.promise.false_alarm_rate == 0.1
    for images, measured in (
        (evaluated.test.images, result.id_score),
        (evaluated.ood["checks"].images, result.ood_score["checks"]),
    ):
        files = [path for path in images.images if isinstance(path, Path)]
        assert len(files) == len(measured)
        found = bundle.predict(files if through == "files" else [np.asarray(Image.open(path)) for path in files])
        np.testing.assert_allclose([it.score for it in found], measured, rtol=1e-5)
        differ = [it for it, score in zip(found, measured, strict=True) if it.is_ood != (score > result.threshold)]
        assert all(abs(it.score - result.threshold) <= 1e-5 * abs(result.threshold) for it in differ)


def test_the_bundle_keeps_the_names_of_the_bank_for_knn_alone(evaluated: Evaluated) -> None:
    assert make_bundle(evaluated, SCORES[0]).bank_names == evaluated.train.images.names
    assert make_bundle(evaluated, SCORES[1]).bank_names == []


def test_a_training_image_is_its_own_nearest_neighbour(evaluated: Evaluated) -> None:
    bundle = make_bundle(evaluated, SCORES[0])
    path, name = evaluated.train.images.images[7], evaluated.train.images.names[7]
    first, *others = bundle.predict([path])[0].neighbours
    assert (first.name, len(others)) == (name, 2)
    assert first.cosine == pytest.approx(1, abs=1e-5)


def test_provenance_says_where_a_bundle_comes_from(evaluated: Evaluated) -> None:
    bundle = make_bundle(evaluated, SCORES[0])
    assert bundle.provenance == {"model": "random", "protocol": "stripes"}
    assert bundle.score.model_dump() == {"use": "knn", "with_": {"k": 5}}
    assert bundle.classes == ("across", "along")
