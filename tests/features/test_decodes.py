"""What another question about the same images costs: no decoding, no forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from spherood.benchmark.evaluation import evaluate
from spherood.benchmark.protocol import Protocol
from spherood.benchmark.subject import Subject
from spherood.data import ImageSet, Preprocess
from spherood.features import FeatureStore
from spherood.models import ModelSettings, build_model

COUNT = {"train/a": 8, "train/b": 8, "validation/a": 30, "validation/b": 30, "test/a": 5, "test/b": 5, "new": 6}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    for place, count in COUNT.items():
        (tmp_path / "data" / place).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / place / f"{number}.png")
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Set and name of the images read so far."""
    read: list[tuple[str, str]] = []
    plain = ImageSet.read

    def counted(images: ImageSet, index: int) -> Image.Image:
        read.append((images.name, images.names[index]))
        return plain(images, index)

    monkeypatch.setattr(ImageSet, "read", counted)
    return read


def test_another_score_or_another_k_reads_no_image_again(
    tmp_path: Path, data: Path, decoded: list[tuple[str, str]]
) -> None:
    parts: dict[str, Any] = {part: {"folder": part} for part in ("train", "validation", "test")}
    content: dict[str, Any] = {"name": "toy", "about": "Noise.", "version": "1", "id": parts}
    protocol = Protocol.model_validate(content | {"far": {"new": {"folder": "new"}}})

    def run(*scores: str) -> list[str]:
        settings = ModelSettings(encoder="resnet8", width=2, head="linear", dim=4, classifier=True)
        subject = Subject("m", build_model(settings, 2, 0), Preprocess(size=8), 2)  # a new one of the same weights
        store = FeatureStore(tmp_path / "store")
        return list(evaluate(subject, protocol, data, store, scores).evaluation.scores)

    assert run("knn:k=3") == ["knn:k=3"]
    assert len(decoded) == len(set(decoded)) == sum(COUNT.values())
    decoded.clear()
    assert run("knn:k=3", "knn:k=5", "msp", "mahalanobis:unit=true")[1:] == ["knn:k=5", "msp", "mahalanobis:unit=true"]
    assert run("msp") == ["msp"]
    assert decoded == []
