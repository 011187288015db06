"""Real photographs from folder to table and bundle, through a small network with random weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from spherood.benchmark.evaluation import evaluate
from spherood.benchmark.protocol import Protocol
from spherood.benchmark.shipping import make_bundle
from spherood.benchmark.subject import Subject
from spherood.bundle.bundle import Bundle
from spherood.bundle.encoder import origin_of
from spherood.data import Preprocess
from spherood.features import FeatureStore
from spherood.models import ModelSettings, build_model

PROTOCOL = Protocol.model_validate(
    {
        "name": "textures",
        "about": "Ten textures known, photographs of scenes new.",
        "version": "1",
        "id": {part: {"folder": "texture32", "part": part, "count": n} for part, n in
               (("train", 720), ("validation", 240), ("test", 240))},
        "far": {"scenes": {"folder": "scenes", "count": 240}, "svhn": {"folder": "svhn"}},
    }
)  # fmt: skip
SCORES = ["knn:k=10", "mahalanobis:unit=true", "msp"]


def test_textures_and_scenes_go_from_folders_to_a_table_and_a_bundle_that_agrees(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("texture32", "scenes")
    subprocess.run([sys.executable, shared_data / "unpack.py", tmp_path, *names], check=True, capture_output=True)
    classes = tuple(sorted(folder.name for folder in (tmp_path / "texture32").iterdir()))
    settings = ModelSettings(encoder="resnet8", width=8, classifier=True)
    subject = Subject(
        "random", build_model(settings, len(classes)), Preprocess(size=32), classes, origin_of(settings, len(classes))
    )
    found = evaluate(subject, PROTOCOL, tmp_path, FeatureStore(tmp_path / "features"), SCORES)
    assert "skipped" not in capsys.readouterr().err

    assert found.evaluation.absent == {"svhn": "far"}
    assert found.evaluation.accuracy["k-NN"] > 0.2  # chance is .1: random convolutions keep colour and contrast
    for text, result in found.evaluation.scores.items():
        assert (len(result.held_out_score), len(result.id_score), len(result.ood_score["scenes"])) == (240, 240, 240)
        assert all(np.isfinite(score).all() for score in (result.id_score, result.ood_score["scenes"]))
        assert result.achieved.low <= 0.05, text
    files = list(found.ood["scenes"].images.images)[::12]
    assert len(files) == 20
    for text in SCORES:
        make_bundle(found, text).save(tmp_path / "bundle")
        verdicts = Bundle.load(tmp_path / "bundle").predict(files)  # 100 x 100 photographs, resized by the bundle
        measured = found.evaluation.scores[text]
        np.testing.assert_allclose([it.score for it in verdicts], measured.ood_score["scenes"][::12], rtol=1e-5)
        assert {it.threshold for it in verdicts} == {measured.threshold}
