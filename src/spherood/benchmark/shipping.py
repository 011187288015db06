"""From an evaluated model to a bundle: what was measured is what ships."""

from __future__ import annotations

from spherood import naming
from spherood.benchmark.evaluation import Evaluated
from spherood.benchmark.result import ScoreResult
from spherood.bundle import Promise, Score
from spherood.bundle.bundle import Bundle
from spherood.bundle.expectation import share
from spherood.bundle.manifest import Measured, Results, Share
from spherood.bundle.torch_runtime import TorchRuntime
from spherood.detectors.knn import has_bank
from spherood.errors import ConfigError


def why_no_bundle(evaluated: Evaluated, score: str) -> str:
    """The reason why this score cannot ship; empty where it can."""
    if not evaluated.evaluation.scores[score].calibrated:
        return "nothing calibrated a threshold: the protocol has no ID validation set"
    if evaluated.subject.origin is None:
        return "the network comes from a bundle, or is one that a bundle cannot bring back"
    return ""


def make_bundle(evaluated: Evaluated, score: str) -> Bundle:
    """The bundle of one of the evaluated scores; ConfigError where `why_no_bundle` has a reason."""
    result, subject = evaluated.evaluation.scores[score], evaluated.subject
    if reason := why_no_bundle(evaluated, score):
        raise ConfigError(f"{subject.name}: no bundle of {score}: {reason}.")
    use, with_ = naming.parse_spec(result.spec)
    detector = evaluated.detectors[score]
    achieved, tests = result.achieved, len(evaluated.test.images)
    return Bundle(
        runtime=TorchRuntime(detector, subject.model, subject.origin, subject.preprocess),
        classes=evaluated.classes,
        score=Score.model_validate({"use": use, "with": with_}),
        class_mean=evaluated.class_mean.numpy(),
        held_out_score=result.held_out_score,
        promise=Promise(
            false_alarm_rate=result.false_alarm_rate,
            confidence=result.confidence,
            held_out=len(result.held_out_score),
            tried=len(result.sweep.auroc) if result.sweep else 1,
        ),
        bank_names=list(evaluated.train.images.names) if has_bank(detector) else [],
        results=Results(
            false_alarms=Share(of=tests, value=achieved.value, low=achieved.low, high=achieved.high),
            ood=tuple(_measured(name, result) for name in evaluated.ood),
            notes=evaluated.evaluation.notes,
        ),
        provenance={"model": subject.name, "protocol": evaluated.protocol.name},
    )


def _measured(name: str, result: ScoreResult) -> Measured:
    caught = share(result.ood_score[name] > result.threshold)
    return Measured(name=name, caught=caught, auroc=result.metrics[name].auroc)
