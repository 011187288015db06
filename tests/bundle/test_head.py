"""A bundle whose network is a head: features go in, through the head, and are judged by what it makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spherood.bundle import Bundle, Promise, Score
from spherood.bundle.encoder import find_encoder
from spherood.bundle.export import export
from spherood.bundle.held_out import remember
from spherood.bundle.make import Made, Wanted, make
from spherood.bundle.reading import Reader
from spherood.bundle.torch_runtime import TorchRuntime
from spherood.detectors import KNN
from spherood.errors import ConfigError, DataError, ShapeError
from spherood.features import FeatureStore
from spherood.models import infer
from spherood.training import Recipe, train, train_head

WIDTH = 8


def rows(count: int, seed: int, away: float = 0.0) -> NDArray[np.float32]:
    """Three classes along three axes, `away` along a fourth."""
    rng = np.random.default_rng(seed)
    feature = rng.normal(0, 0.4, (count, WIDTH)).astype(np.float32)
    feature[np.arange(count), np.arange(count) % 3] += 3
    feature[:, 3] += away
    return feature


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads")
    for name, count, seed, away in (("known", 300, 0, 0.0), ("other", 400, 1, 0.0), ("new", 100, 2, 0.0)):
        np.savez(folder / f"{name}.npz", feature=rows(count, seed, away), label=np.arange(count) % 3)
    np.savez(folder / "strange.npz", feature=rows(100, 3, away=6.0))
    known = np.load(folder / "known.npz")
    train_head(known["feature"], known["label"], dim=4, epochs=4, batch=100, run=folder / "runs" / "head")
    return folder


def made(place: Path, known: str = "other.npz", scores: str = "knn:k=5", **more: Any) -> Made:
    encoder = find_encoder(str(place / "runs" / "head"), place / "runs" / "head", "test")
    return make(
        Wanted(place / known, scores=[scores], **more), Reader(encoder, FeatureStore(place / ".features"), place)
    )


@pytest.mark.parametrize("score", ["knn:k=5", "mahalanobis:unit=true"])
def test_a_verdict_on_features_is_that_on_what_the_head_makes_of_them(place: Path, score: str, tmp_path: Path) -> None:
    found = made(place, scores=score)
    found.bundle.save(tmp_path / "bundle")
    bundle = Bundle.load(tmp_path / "bundle")
    assert (bundle.runtime.reads, bundle.runtime.width, bundle.preprocess, bundle.code) == ("feature", WIDTH, None, [])
    feature = np.load(place / "new.npz")["feature"]
    head = find_encoder(str(place / "runs" / "head"), place / "runs" / "head", "test").model
    embedding = infer(head, torch.from_numpy(feature), None).embedding
    assert embedding is not None
    expected = found.fitted.detector.score(embedding)
    np.testing.assert_allclose([it.score for it in bundle.predict(feature)], expected.numpy(), rtol=1e-5)
    assert [it.nearest_class for it in bundle.predict(feature)[:3]] == ["0", "1", "2"]


def test_what_is_strange_is_caught_and_what_is_known_is_not(place: Path) -> None:
    found = made(place, ood={"strange": place / "strange.npz"}, test=place / "new.npz")
    assert found.bundle.results.ood[0].auroc is not None
    assert found.bundle.results.ood[0].auroc > 0.9
    assert found.bundle.results.false_alarms is not None
    assert found.bundle.results.false_alarms.value < 0.1


def test_rows_that_trained_the_head_do_not_calibrate(place: Path) -> None:
    with pytest.raises(DataError, match=r"90 of 90 held-out rows trained head, first row 0: it knows them too well"):
        made(place, "known.npz")
    made(place, "known.npz", held_out=place / "other.npz")


def test_where_the_training_features_are_gone_it_is_said(place: Path) -> None:
    (place / "runs" / "head" / "known.npz").rename(place / "aside.npz")
    try:
        notes = made(place).bundle.results.notes
    finally:
        (place / "aside.npz").rename(place / "runs" / "head" / "known.npz")
    assert any(note.startswith("The rows that trained head are not under") for note in notes)


def test_exported_it_says_the_same_without_torch(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    found = made(place, scores="knn:k=5")
    folder = tmp_path / "bundle"
    found.bundle.save(folder)
    remember(folder, found.fitted.parts.calibrate, "feature")
    graph = export(Bundle.load(folder), folder).bundle
    graph.save(tmp_path / "exported")
    feature = np.load(place / "new.npz")["feature"]
    ours, theirs = found.bundle.predict(feature), Bundle.load(tmp_path / "exported").predict(feature)
    np.testing.assert_allclose([it.score for it in theirs], [it.score for it in ours], rtol=1e-4, atol=1e-6)
    assert [it.nearest_class for it in theirs] == [it.nearest_class for it in ours]


def test_features_of_another_encoder_are_refused(place: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", feature=np.zeros((90, 9), np.float32), label=np.arange(90) % 3)
    with pytest.raises(ShapeError, match="features have 9 columns, the head was trained on 8"):
        made(place, str(tmp_path / "wide.npz"))
    bundle = made(place).bundle
    with pytest.raises(ShapeError, match=r"expected floating features \(N, 8\), as the head was trained on"):
        bundle.predict(np.zeros((2, 9), np.float32))
    feature = rows(3, 0)
    feature[1, 2] = np.nan
    with pytest.raises(ShapeError, match="1 of 3 rows hold NaN or infinity, the first is row 1"):
        bundle.predict(feature)


def test_images_for_a_head_are_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ConfigError, match="head is a head on features, and needs a file of them"):
        made(place, str(tmp_path / "photos"))
    head = find_encoder(str(place / "runs" / "head"), place / "runs" / "head", "test")
    with pytest.raises(ConfigError, match="is a head on features, and images are wanted here"):
        head.images  # noqa: B018
    with pytest.raises(ConfigError, match="the bundle holds no network: it reads features"):
        made(place).bundle.predict([np.zeros((8, 8, 3), np.uint8)])


OWN = """
import torch
from torch import nn
from spherood.data import Preprocess

class Rows(nn.Module):
    def forward(self, images):
        return images[:, 0].flatten(1)

def encoder():
    return Rows(), Preprocess(size=4, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""


def test_a_head_on_ones_own_encoder_is_brought_back_by_who_trusts_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows_of.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (400, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "y.npy", np.arange(400) % 2)
    recipe = {
        "name": "own",
        "data": {"arrays": "x.npy", "labels": "y.npy"},
        "views": {},
        "model": {"encoder": "rows_of:encoder", "head": "linear", "dim": 4, "reads": "embedding"},
        "fine_tuning": {"train": ["head"]},
        "loss": [{"use": "supcon"}],
        "training": {"epochs": 1, "batch": 100},
    }
    run = tmp_path / "runs" / "own"
    train(Recipe.model_validate(recipe), run, tmp_path)
    encoder = find_encoder(str(run), run, "test")
    feature = infer(encoder.model, torch.from_numpy(images), encoder.images).feature
    detector = KNN(k=5).fit(feature[:200])
    held_out = detector.score(feature[200:]).double().numpy()
    score, promise = (
        Score.model_validate({"use": "knn", "with": {"k": 5}}),
        Promise(false_alarm_rate=0.05, confidence=0.95, held_out=200),
    )
    runtime = TorchRuntime(detector, encoder.model, encoder.origin, encoder.preprocess)
    Bundle(runtime, (), score, None, held_out, promise).save(tmp_path / "bundle")
    assert Bundle.load(tmp_path / "bundle").code == ["rows_of:encoder"]
    with pytest.raises(ConfigError, match="the bundle's network is rows_of:encoder, code of your own"):
        Bundle.load(tmp_path / "bundle").predict(list(images[:2]))
    trusted = Bundle.load(tmp_path / "bundle", trust=["rows_of:encoder"])
    expected = detector.score(feature[:5])
    np.testing.assert_allclose([it.score for it in trusted.predict(list(images[:5]))], expected.numpy(), rtol=1e-5)
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "`rows_of:encoder`, code that is not in here, with a linear head, weights in safetensors" in card
    assert "trust=['rows_of:encoder']" in card


def test_the_card_says_what_it_is(place: Path, tmp_path: Path) -> None:
    made(place).bundle.save(tmp_path / "bundle")
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "none: it reads features, which go through a linear head, weights in safetensors" in card
    assert "bundle.predict(features):  # (N, 8)" in card


@pytest.mark.parametrize(
    ("feature", "label", "got"),
    [
        (np.zeros(5, np.float32), np.zeros(5, int), "(5,)"),
        (np.zeros((5, 2), np.float32), np.zeros(4, int), "int64 (4,)"),
        (np.zeros((5, 2), np.float32), np.zeros(5), "float64 (5,)"),
    ],
)
def test_arrays_that_do_not_go_together_are_told(feature: Any, label: Any, got: str) -> None:
    with pytest.raises(ShapeError, match=r"train_head: expected features \(N, F\) and integer labels \(N,\)") as told:
        train_head(feature, label)
    assert got in str(told.value)


def test_the_same_call_gives_the_same_head_and_another_loss_another() -> None:
    feature, label = rows(120, 0), np.arange(120) % 3
    first, again = (train_head(feature, torch.from_numpy(label), dim=4, epochs=2) for _ in range(2))
    other = train_head(feature, label, dim=4, epochs=2, loss="cider:temperature=0.2")
    weights = [model.get_submodule("head").weight for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])  # type: ignore[arg-type]
    assert not torch.equal(weights[0], weights[2])  # type: ignore[arg-type]
    assert torch.equal(*first(torch.from_numpy(feature))[:2])
