from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spherood.bundle.encoder import Encoder
from spherood.bundle.make import Made, Wanted, make
from spherood.bundle.reading import Reader
from spherood.calibration import expected_rate
from spherood.data import Preprocess
from spherood.errors import ConfigError
from spherood.features import FeatureStore
from spherood.models import ModelSettings, build_model
from spherood.report.guard import describe_guard, why_no_page
from spherood.report.page import render


def save(path: Path, rows: int, shift: float, seed: int) -> Path:
    label = np.arange(rows) % 3
    feature = 4 * np.eye(5)[label] + shift + np.random.default_rng(seed).normal(size=(rows, 5))
    np.savez(path, feature=feature, label=label)
    return path


def made(folder: Path, **more: object) -> Made:
    paths = {"known": save(folder / "known.npz", 400, 0, 0), "ood": {"far": save(folder / "far.npz", 50, -6, 1)}}
    return make(Wanted(**(paths | more)), Reader(None, FeatureStore(folder / "store")))  # type: ignore[arg-type]


def test_with_test_images_the_page_counts_false_alarms_on_them(tmp_path: Path) -> None:
    guard = made(tmp_path, test=save(tmp_path / "test.npz", 200, 0, 2))
    content = describe_guard(guard, "mine", ["spherood score it"])
    (evaluation,) = content.evaluations
    result = evaluation.scores[content.chosen[1]]
    assert (content.expected, content.id_images) == (None, "ID test images")
    assert len(result.id_score) == 200
    assert result.achieved.value == (result.id_score > result.threshold).mean()
    assert result.threshold == guard.bundle.threshold()
    assert result.metrics["far"].caught == guard.bundle.results.ood[0].caught.value


def test_without_any_the_held_out_images_are_drawn_and_no_test_is_claimed(tmp_path: Path) -> None:
    guard = made(tmp_path)
    content = describe_guard(guard, "mine", [])
    result = content.evaluations[0].scores[content.chosen[1]]
    assert math.isnan(result.achieved.value)
    np.testing.assert_array_equal(result.id_score, guard.fitted.held_out_score)
    assert content.expected == expected_rate(120, int((result.id_score > result.threshold).sum()))
    page = render(content)
    assert "not tested" in page
    assert "false alarms to expect" in page
    assert "false alarms on ID test images" not in page


def test_why_there_is_no_page_is_said(tmp_path: Path) -> None:
    alone = made(tmp_path, ood={})
    assert "--ood NAME=PATH" in why_no_page(alone)
    with pytest.raises(ConfigError, match="mine: no page: no OOD source was given"):
        describe_guard(alone, "mine", [])
    assert "by class" in why_no_page(made(tmp_path, by_class=True))


def test_images_are_shown_beside_the_nearest_fitted_ones(tmp_path: Path) -> None:
    for name, mean, count in (("id/dark", 60, 90), ("id/pale", 190, 90), ("odd", 128, 9)):
        (tmp_path / name).mkdir(parents=True)
        for row in range(count):
            pixels = (
                np.random.default_rng(1000 * mean + row).normal(mean, 25, (12, 12, 3)).clip(0, 255).astype(np.uint8)
            )
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"{row}.png")
    model = build_model(ModelSettings(encoder="resnet8", width=2), 2)
    reader = Reader(Encoder("net", model, Preprocess(size=12)), FeatureStore(tmp_path / "store"))
    wanted = Wanted(known=tmp_path / "id", ood={"odd": tmp_path / "odd"}, scores=["knn:k=2"], false_alarm_rate=0.1)
    guard = make(wanted, reader)
    content = describe_guard(guard, "net", [])
    assert [len(content.ood_like_id), len(content.id_like_ood)] == [9, 12]
    assert content.ood_like_id[0].score == min(one.score for one in content.ood_like_id)
    assert content.id_like_ood[0].score == pytest.approx(guard.fitted.held_out_score.max())
    assert content.id_like_ood[0].nearest_caption in guard.fitted.parts.fit.names
