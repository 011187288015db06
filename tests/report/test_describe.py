"""From evaluations to a page's content, in a world of 14 training, 30 test and 12 + 5 OOD images on the unit circle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from spherood.benchmark.evaluation import Evaluated
from spherood.benchmark.protocol import load_protocol
from spherood.benchmark.result import Evaluation, Metrics, Rate, ScoreResult
from spherood.benchmark.subject import Subject
from spherood.data import ImageSet, Preprocess
from spherood.features import Stored
from spherood.models import Model
from spherood.outputs import Outputs
from spherood.report.describe import describe
from spherood.report.examples import id_like_ood, ood_like_id

HALVES = Metrics(0.5, 0.5, 0.5, 0.5, 0.5, 0.5)


def stored(name: str, degrees: Sequence[float], unreadable: int = 0) -> Stored:
    """Images whose first pixel is their own number; features of all lengths."""
    count = len(degrees)
    pixels = np.zeros((count, 2, 2, 3), dtype=np.uint8)
    pixels[:, 0, 0] = np.arange(count)[:, None]
    angle = torch.deg2rad(torch.tensor(degrees))
    feature = torch.stack([angle.cos(), angle.sin()], dim=1) * (1 + torch.arange(count) % 3)[:, None]
    images = ImageSet(name, pixels, np.zeros(count, dtype=np.int64), [f"{name} no. {row}" for row in range(count)])
    return Stored(images, Outputs(feature), {f"{row}.png": "damaged" for row in range(unreadable)})


def result(id_score: Sequence[float], ood_score: dict[str, Sequence[float]]) -> ScoreResult:
    return ScoreResult(
        name="knn",
        held_out_score=np.arange(9.0),
        id_score=np.array(id_score, dtype=np.float64),
        ood_score={name: np.array(score, dtype=np.float64) for name, score in ood_score.items()},
        metrics=dict.fromkeys(("near", "far", *ood_score), HALVES),
        threshold=7.5,
        false_alarm_rate=0.05,
        confidence=0.95,
        achieved=Rate(0.05, 0.01, 0.1),
    )


@pytest.fixture
def evaluated() -> Evaluated:
    id_score = [float(row % 15) for row in range(30)]
    ood_score = {"tin": [6.0 + row for row in range(12)], "svhn": [3.5, 20.0, 6.5, 21.0, 22.0]}
    evaluation = Evaluation(
        model="CIDER",
        protocol="demo/digits",
        kinds={"tin": "near", "svhn": "far"},
        absent={},
        accuracy={},
        scores={"knn": result(id_score, ood_score)},
        unavailable={},
        resize="both sides to 2 px, bilinear",
    )
    classes = tuple(f"class {number}" for number in range(21))
    model = Model(nn.Identity(), None, None)
    return Evaluated(
        evaluation=evaluation,
        subject=Subject("CIDER", model, Preprocess(size=2, resize="stretch"), classes),
        protocol=load_protocol("demo/digits"),
        classes=classes,
        train=stored("train", [10 * row for row in range(14)], unreadable=1),
        validation=stored("validation", [0.0] * 9, unreadable=2),
        test=stored("test", [4 * row for row in range(30)], unreadable=4),
        ood={"tin": stored("tin", [7 * row for row in range(12)]), "svhn": stored("svhn", [22.0] * 5, unreadable=8)},
        detectors={},
        class_mean=torch.eye(2),
    )


def test_the_twelve_ood_images_of_all_sets_that_look_most_like_id_come_first(evaluated: Evaluated) -> None:
    found = ood_like_id(evaluated, "knn")
    expected = [("svhn", 0, 3.5), ("tin", 0, 6.0), ("svhn", 2, 6.5), *(("tin", row, 6.0 + row) for row in range(1, 10))]
    assert [(it.caption, it.score) for it in found] == [
        (f"{name}: {name} no. {row}", score) for name, row, score in expected
    ]
    assert [int(it.pixels[0, 0, 0]) for it in found] == [row for _, row, _ in expected]


def test_the_twelve_id_images_that_look_most_ood_come_first_and_ties_in_their_order(evaluated: Evaluated) -> None:
    found = id_like_ood(evaluated, "knn")
    rows = [row for score in range(14, 8, -1) for row in (score, score + 15)]
    assert [it.caption for it in found] == [f"test no. {row}" for row in rows]
    assert [it.score for it in found] == [float(row % 15) for row in rows]
    assert [int(it.pixels[0, 0, 0]) for it in found] == rows


def test_beside_each_stands_the_training_image_in_the_nearest_direction(evaluated: Evaluated) -> None:
    for it in ood_like_id(evaluated, "knn"):
        degrees = 22 if it.caption.startswith("svhn") else 7 * int(it.pixels[0, 0, 0])
        nearest = round(degrees / 10)  # training images lie at 0, 10, 20, …
        assert it.nearest_caption == f"train no. {nearest}"
        assert it.nearest_pixels is not None
        assert int(it.nearest_pixels[0, 0, 0]) == nearest


def test_a_p_value_is_among_the_held_out_scores(evaluated: Evaluated) -> None:
    first, *_, last = ood_like_id(evaluated, "knn")
    assert (first.score, first.p_value) == (3.5, 6 / 10)  # of 0..8, five are at least 3.5
    assert (last.score, last.p_value) == (15.0, 1 / 10)


def test_fewer_than_twelve_images_are_all_shown(evaluated: Evaluated) -> None:
    few = replace(evaluated.evaluation, scores={"knn": result([1.0, 2.0], {"svhn": [3.0, 1.0]})})
    found = replace(evaluated, evaluation=few)
    assert [it.caption for it in ood_like_id(found, "knn")] == ["svhn: svhn no. 1", "svhn: svhn no. 0"]
    assert len(id_like_ood(found, "knn")) == 2


def test_the_facts_count_images_and_everything_that_was_skipped(evaluated: Evaluated) -> None:
    facts = dict(describe([evaluated], ("CIDER", "knn"), {}, []).facts)
    assert facts == {
        "protocol": "demo/digits, version 1",
        "classes": ", ".join(f"class {number}" for number in range(20)) + " …",
        "ID training images": "14",
        "ID images that calibrate": "9",
        "ID test images": "30",
        "OOD images": "tin (12), svhn (5)",
        "resize": "both sides to 2 px, bilinear",
        "unreadable images, skipped": "15",  # 1 + 2 + 4 + 8: of every set
        "in the bundle": "CIDER, knn",
    }


def test_several_models_stand_in_their_order_and_the_examples_are_of_the_one_shipped(evaluated: Evaluated) -> None:
    plain = replace(
        evaluated, evaluation=replace(evaluated.evaluation, model="plain"), test=stored("other", [0.0] * 30)
    )
    logs = {
        "CIDER": [{"epoch": 1, "step": 5, "loss": 3, "time": "noon"}, {"epoch": 2, "lr": 0.1, "loss": 2}],
        "plain": [],
    }
    content = describe([plain, evaluated], ("CIDER", "knn"), logs, ["spherood score bundle"])
    assert content.title == "plain · CIDER"
    assert [one.model for one in content.evaluations] == ["plain", "CIDER"]
    assert content.chosen == ("CIDER", "knn")
    assert all(it.caption.startswith("test no. ") for it in content.id_like_ood)
    assert content.history == {"CIDER": [{"epoch": 1.0, "loss": 3.0}, {"epoch": 2.0, "loss": 2.0}], "plain": []}
    assert content.next_steps == ["spherood score bundle"]
    assert content.lead == evaluated.protocol.about


def test_the_page_of_the_content_names_its_files(evaluated: Evaluated, tmp_path: Path) -> None:
    pytest.importorskip("altair")
    from spherood.report import write_page

    write_page(tmp_path / "report.html", describe([evaluated], ("CIDER", "knn"), {}, ["spherood score b"]))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "svhn no. 0" in text
    assert "spherood score b" in text


def test_the_geometry_of_each_model_is_said_in_words_where_it_is_known(evaluated: Evaluated) -> None:
    found = {"compactness": 11.78, "least_angle": 28.4, "least_angle_bound": 101.5, "least_angle_bound_name": "simplex"}
    known = replace(evaluated, evaluation=replace(evaluated.evaluation, geometry=found | {"separability": 17.65}))
    lonely = replace(evaluated.evaluation, model="SupCon", geometry=found | {"separability": None})
    facts = dict(describe([known, replace(evaluated, evaluation=lonely)], ("CIDER", "knn"), {}, []).facts)
    said = "images 11.8° from their class's direction on average; class directions at least 28° apart, 102° at best "
    assert facts["geometry, CIDER"].startswith(said + "(simplex bound); OOD 17.")
    assert facts["geometry, SupCon"] == said + "(simplex bound)"
    assert not any("geometry" in name for name, _ in describe([evaluated], ("CIDER", "knn"), {}, []).facts)
