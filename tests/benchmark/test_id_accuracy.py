from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spherood.benchmark.accuracy import id_accuracy
from spherood.benchmark.evaluation import Evaluated
from spherood.data import ImageSet
from spherood.features import Stored
from spherood.outputs import Outputs

ANGLE = torch.pi / 180


def at(degrees: list[float]) -> Tensor:
    """Directions in the plane, of lengths that must not matter."""
    angle = ANGLE * torch.tensor(degrees)
    length = 1 + torch.arange(len(degrees)) % 3
    return torch.stack([angle.cos(), angle.sin()], dim=1) * length[:, None]


def stored(degrees: list[float], label: list[int], logits: Tensor | None = None) -> Stored:
    pixels = np.zeros((len(label), 1, 1, 3), dtype=np.uint8)
    images = ImageSet("x", pixels, np.array(label), [str(row) for row in range(len(label))], ("a", "b"))
    return Stored(images, Outputs(at(degrees), None, logits), {})


MEANS = torch.nn.functional.normalize(at([0, 90]))


def test_class_mean_neighbours_probe_and_classifier_answer_as_worked_out_by_hand() -> None:
    train = stored([0.0] * 52 + [40.0] * 40, [0] * 52 + [1] * 40)  # class 1 lies far from the mean it is given
    test = stored([2, 39, 50, 80], [0, 1, 1, 0], logits=torch.tensor([[1.0, 2.0], [1, 2], [2, 1], [2, 1]]))
    found = id_accuracy(train, test, MEANS)
    assert found == {
        "class mean": 0.5,  # 2 -> a, 39 -> a (wrong), 50 -> b, 80 -> b (wrong)
        "k-NN": 0.75,  # of 50 neighbours: 2 -> a; 39, 50, 80 -> 40 times b and 10 times a (the last is wrong)
        "linear probe": 0.75,  # its line lies between 0 and 40: the last is wrong
        "classifier": 0.5,
    }


def test_fifty_neighbours_vote_where_there_are_as_many() -> None:
    train = stored([0.0] * 24 + [60.0] * 26 + [70.0] * 40, [0] * 24 + [1] * 26 + [0] * 40)
    assert id_accuracy(train, stored([1], [1]), MEANS)["k-NN"] == 1.0  # 24 : 26; of all 90 rows, a would win


def test_test_images_without_a_label_are_left_out_and_none_but_those_give_no_accuracy() -> None:
    train = stored([0, 90], [0, 1])
    found = id_accuracy(train, stored([0, 80, 5], [1, -1, 0]), MEANS)
    assert found == {"class mean": 0.5, "k-NN": 0.5, "linear probe": 0.5}
    assert id_accuracy(train, stored([0, 80], [-1, -1]), MEANS) == {}


def test_the_evaluation_reports_the_accuracy_of_slow_loops(evaluated: Evaluated, world: Path) -> None:
    unit = {}
    for part in ("train", "test"):
        feature = np.load(world / f"{part}.npy").mean(axis=(1, 2))
        unit[part] = feature / np.linalg.norm(feature, axis=1, keepdims=True)
    label = {part: np.load(world / f"{part}.labels.npy") for part in unit}
    mean = np.stack([unit["train"][label["train"] == c].mean(axis=0) for c in (0, 1)])
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(evaluated.class_mean.numpy(), mean, rtol=1e-5)
    right = sum(int((mean @ u).argmax()) == y for u, y in zip(unit["test"], label["test"], strict=True))
    assert evaluated.evaluation.accuracy["class mean"] == right / 50
    feature = np.load(world / "test.npy").mean(axis=(1, 2)) / 255
    guess = (9 * feature @ [-1, 1, 0] > 9 * feature @ [1, -1, 0] + 0.5).astype(int)
    assert evaluated.evaluation.accuracy["classifier"] == pytest.approx((guess == label["test"]).mean())
    assert set(evaluated.evaluation.accuracy) == {"class mean", "k-NN", "linear probe", "classifier"}
