"""Two models, two scores, two OOD sets and an absent one: small enough to check by hand. Figures are told apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from spherood.benchmark.result import Evaluation, Metrics, Rate, ScoreResult
from spherood.report import Content, Example


def score_result(name: str, seed: int) -> ScoreResult:
    draw = np.random.default_rng(seed)
    id_score = draw.normal(0, 1, 400).round(2)  # rounded: ties at the thresholds
    ood_score = {"svhn": draw.normal(3, 1, 300).round(2), "tin": draw.normal(1, 1, 200).round(2)}
    figure = {
        set_: Metrics(*(0.5 + seed / 10 + j / 100 + k / 1000 for j in range(6))) for k, set_ in enumerate(ood_score)
    }
    return ScoreResult(
        name=name,
        held_out_score=draw.normal(0, 1, 100),
        id_score=id_score,
        ood_score=ood_score,
        metrics={**figure, "far": figure["svhn"], "near": figure["tin"]},
        threshold=float(np.sort(id_score)[379]),  # a score of the set: the image on the threshold raises no alarm
        false_alarm_rate=0.05,
        confidence=0.95,
        achieved=Rate(0.0421, 0.0312, 0.0579),
    )


def evaluation(model: str, scores: list[ScoreResult], unavailable: dict[str, str]) -> Evaluation:
    return Evaluation(
        model=model,
        protocol="toy",
        kinds={"svhn": "far", "tin": "near"},
        absent={"textures": "far"},
        accuracy={"class mean": 0.9123, "k-NN": 0.9345 if model == "CIDER" else 0.9245},
        scores={score.name: score for score in scores},
        unavailable=unavailable,
    )


def example(number: int, score: float, nearest: bool) -> Example:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Example(pixels, f"digits/7 no. {number}", score, 0.25, pixels if nearest else None, f"digits/1 no. {number}")


@pytest.fixture(scope="session")
def content() -> Content:
    return Content(
        title="Digits against letters",
        lead="Two models.",
        facts=[("training images", "648")],
        evaluations=[
            evaluation("plain", [score_result("knn", 1), score_result("msp", 2)], {}),
            evaluation("CIDER", [score_result("knn", 3)], {"msp": "CIDER has no classifier, and msp reads logits"}),
        ],
        chosen=("CIDER", "knn"),
        ood_like_id=[example(1, 0.5, True), example(2, 9.0, True)],
        id_like_ood=[example(3, 9.0, False)],
        history={"CIDER": [{"epoch": 1.0, "loss": 3.0}, {"epoch": 2.0, "loss": 2.0}], "plain": []},
        next_steps=["spherood score runs/demo/bundle photos/ -o verdicts.csv"],
    )


HOSTILE = "</script><script>window.hacked = 1</script>"


@pytest.fixture(scope="session")
def hostile(content: Content) -> Content:
    """Every name that a user or a folder may choose, chosen badly."""

    def renamed(one: Evaluation) -> Evaluation:
        scores = {
            name: dataclasses.replace(
                score,
                ood_score={HOSTILE if key == "svhn" else key: value for key, value in score.ood_score.items()},
                metrics={HOSTILE if key == "svhn" else key: value for key, value in score.metrics.items()},
            )
            for name, score in one.scores.items()
        }
        return dataclasses.replace(
            one,
            model=one.model + HOSTILE,
            kinds={HOSTILE: "far", "tin": "near"},
            unavailable=dict.fromkeys(one.unavailable, HOSTILE),
            scores=scores,
        )

    return dataclasses.replace(
        content,
        title=HOSTILE,
        lead=HOSTILE,
        facts=[(HOSTILE, HOSTILE)],
        evaluations=[renamed(one) for one in content.evaluations],
        chosen=("CIDER" + HOSTILE, "knn"),
        ood_like_id=[dataclasses.replace(content.ood_like_id[0], caption='" onerror="window.hacked = 1' + HOSTILE)],
        history={HOSTILE: content.history["CIDER"]},
        next_steps=[HOSTILE],
    )


@pytest.fixture
def result_with() -> Callable[..., ScoreResult]:
    """A ScoreResult whose scores matter and whose figures do not."""

    def make(id_score: list[float], ood_score: dict[str, list[float]], threshold: float) -> ScoreResult:
        return dataclasses.replace(
            score_result("knn", 0),
            id_score=np.array(id_score, dtype=np.float64),
            ood_score={name: np.array(score, dtype=np.float64) for name, score in ood_score.items()},
            threshold=threshold,
        )

    return make
