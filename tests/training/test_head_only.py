"""A head trained on features that somebody has already: no image, no encoder."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from spherood.errors import ConfigError, DataError, TrainingError
from spherood.models import build_model, infer
from spherood.training import Recipe, train
from spherood.training.log import read_log
from spherood.training.validation import FILE as VALIDATION

Make = Callable[..., Recipe]
HEAD = {"encoder": "none", "head": "linear", "dim": 6, "reads": "embedding"}


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """300 rows of 12 features in three classes that one direction each tells apart."""
    rng = np.random.default_rng(0)
    label = np.arange(300) % 3
    feature = rng.normal(size=(300, 12)).astype(np.float32)
    feature[np.arange(300), label] += 4
    np.savez(tmp_path / "known.npz", feature=feature, label=np.array(["cat", "dog", "owl"])[label])
    np.savez(tmp_path / "strange.npz", feature=feature[:20] - 8)
    np.save(tmp_path / "bare.npy", feature)
    np.save(tmp_path / "label.npy", label)
    np.savez(tmp_path / "one.npz", feature=feature, label=np.zeros(300, dtype=np.int64))
    return tmp_path


@pytest.fixture
def head_only(recipe: Make) -> Make:
    def make(**keys: Any) -> Recipe:
        settled = {
            "data": {"features": "known.npz"},
            "model": HEAD,
            "loss": [{"use": "supcon"}],
            "views": {},
            "training": {"epochs": 4, "batch": 100},
        }
        return recipe(**settled | keys)

    return make


def test_training_is_that_of_a_plain_loop(features: Path, head_only: Make) -> None:
    ours = head_only(model=HEAD | {"classifier": True}, loss=[{"use": "cross_entropy"}])
    found = train(ours, features / "run", features)
    known = np.load(features / "known.npz")
    x, y = torch.from_numpy(known["feature"]), torch.from_numpy(np.unique(known["label"], return_inverse=True)[1])
    plain = build_model(found.recipe.model, 3, ours.seed)
    optimiser = torch.optim.SGD(plain.parameters(), lr=1.0, momentum=0.9, nesterov=True, weight_decay=1e-4)
    for epoch in range(4):
        order = torch.from_numpy(np.random.default_rng([0, epoch]).permutation(300))
        for step, rows in enumerate(order.split(100)):
            optimiser.param_groups[0]["lr"] = ours.schedule.at(3 * epoch + step, 12, 3)
            optimiser.zero_grad()
            F.cross_entropy(plain.classifier(x[rows]), y[rows]).backward()  # type: ignore[misc]
            optimiser.step()
    torch.testing.assert_close(found.model["classifier.weight"], plain.classifier.weight.data)  # type: ignore[union-attr]


def test_the_embedding_stands_for_the_feature_and_tells_the_classes_apart(features: Path, head_only: Make) -> None:
    found = train(head_only(), features / "run", features)
    assert found.classes == ("cat", "dog", "owl")
    assert found.recipe.model.features == 12
    model, known = found.build_model(), np.load(features / "known.npz")
    outputs = infer(model, torch.from_numpy(known["feature"]), None)
    assert torch.equal(outputs.feature, outputs.embedding)  # type: ignore[arg-type]
    torch.testing.assert_close(outputs.feature.norm(dim=1), torch.ones(300))
    same = torch.from_numpy(known["label"][:, None] == known["label"])
    cosine = outputs.feature @ outputs.feature.T
    assert cosine[same].mean() > cosine[~same].mean() + 0.8


def test_labels_may_lie_beside_a_plain_array(features: Path, head_only: Make) -> None:
    found = train(head_only(data={"features": "bare.npy", "labels": "label.npy"}), features / "a", features)
    theirs = train(head_only(), features / "b", features)
    assert torch.equal(found.model["head.weight"], theirs.model["head.weight"])


def test_one_pass_is_one_row_of_the_batch_for_nothing_tells_two_views_apart(features: Path, head_only: Make) -> None:
    train(head_only(), features / "run", features)
    assert [row["step"] for row in read_log(features / "run")] == [3, 6, 9, 12]


def test_validation_measures_on_features_too(features: Path, head_only: Make) -> None:
    kept = {"id": {"features": "known.npz"}, "ood": {"strange": {"features": "strange.npz"}}}
    train(head_only(validation=kept), features / "run", features)
    row = read_log(features / "run", VALIDATION)[-1]
    assert row["of"] == "held-out images"
    assert row["accuracy"]["k-NN"] > 0.9
    assert row["auroc"]["strange"] > 0.9
    assert (features / "run" / "checkpoints" / "best.pt").is_file()


def test_an_interrupted_run_goes_on_to_the_same_bits(
    features: Path,
    head_only: Make,
    before_step: Callable[[Callable[[int], None]], None],
    assert_same_run: Callable[[Path, Path], None],
) -> None:
    train(head_only(), features / "whole", features)
    before_step(lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 7 else None)
    with pytest.raises(TrainingError):
        train(head_only(), features / "cut", features)
    train(head_only(), features / "cut", features, resume=True)
    assert_same_run(features / "whole", features / "cut")


@pytest.mark.parametrize("loss", ["cider", "reweightood", "palm", "fixed_prototypes"])
def test_any_loss_on_the_sphere_trains_a_head(loss: str, features: Path, head_only: Make) -> None:
    found = train(head_only(loss=[{"use": loss}]), features / "run", features)
    assert torch.isfinite(found.model["head.weight"]).all()


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"data": {"features": "bare.npy"}}, DataError, "a head is trained with labels, and there are none."),
        ({"data": {"features": "one.npz"}}, DataError, "all rows are of one class"),
        ({"data": {"features": "gone.npz"}}, DataError, "gone.npz: no such file of features."),
        ({"fine_tuning": {"weights": "net.pth"}}, ConfigError, "none brings its own weights"),
        ({"model": HEAD | {"head": None, "reads": "feature"}}, ConfigError, "the model has no head."),
    ],
)
def test_what_cannot_be_trained_is_told_and_leaves_nothing(
    keys: dict[str, Any], error: type[Exception], message: str, features: Path, head_only: Make
) -> None:
    with pytest.raises(error) as told:
        train(head_only(**keys), features / "run", features)
    assert message in str(told.value)
    assert not (features / "run").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data": {"arrays": "x.npy"}}, "images need an encoder"),
        ({"model": {"encoder": "resnet8", "head": "mlp"}}, "model.encoder: none goes with data"),
        ({"validation": {"ood": {"far": {"sample": "noise"}}}}, "in validation too"),
        ({"data": {"features": "known.npz", "draw": 5}}, "Choose rows before you save them."),
        ({"model": HEAD | {"head": None}}, "reads: embedding needs a head. Set head: linear, or mlp."),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(keys: dict[str, Any], message: str, head_only: Make) -> None:
    with pytest.raises(ConfigError) as told:
        head_only(**keys)
    assert message in str(told.value)
