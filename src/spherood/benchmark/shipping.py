"""From an evaluated model to a bundle: what was measured is what ships."""

from __future__ import annotations

from spherood import naming
from spherood.benchmark.evaluation import Evaluated
from spherood.bundle import Promise, Score
from spherood.bundle.bundle import Bundle
from spherood.detectors import KNN
from spherood.errors import ConfigError
from spherood.models import Model


def why_no_bundle(evaluated: Evaluated, score: str) -> str:
    """The reason why this score cannot ship; empty where it can."""
    if not evaluated.evaluation.scores[score].calibrated:
        return "nothing calibrated a threshold: the protocol has no ID validation set"
    if evaluated.subject.settings is None:
        return "the network comes from a bundle, or is one that a bundle cannot rebuild"
    return ""


def make_bundle(evaluated: Evaluated, score: str) -> Bundle:
    """The bundle of one of the evaluated scores; ConfigError where `why_no_bundle` has a reason."""
    result, subject = evaluated.evaluation.scores[score], evaluated.subject
    reason, model, settings = why_no_bundle(evaluated, score), subject.model, subject.settings
    if reason or settings is None or not isinstance(model, Model):
        raise ConfigError(f"{subject.name}: no bundle of {score}: {reason}.")
    use, with_ = naming.parse_spec(result.spec)
    detector = evaluated.detectors[score]
    return Bundle(
        model=model,
        settings=settings,
        preprocess=subject.preprocess,
        classes=evaluated.classes,
        score=Score.model_validate({"use": use, "with": with_}),
        detector=detector,
        class_mean=evaluated.class_mean,
        held_out_score=result.held_out_score,
        promise=Promise(
            false_alarm_rate=result.false_alarm_rate,
            confidence=result.confidence,
            held_out=len(result.held_out_score),
            tried=len(result.sweep.auroc) if result.sweep else 1,
        ),
        bank_names=list(evaluated.train.images.names) if isinstance(detector, KNN) else [],
        provenance={"model": subject.name, "protocol": evaluated.protocol.name},
    )
