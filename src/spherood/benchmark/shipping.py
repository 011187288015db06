"""From an evaluated model to a bundle: what was measured is what ships."""

from __future__ import annotations

from spherood import naming
from spherood.benchmark.evaluation import Evaluated
from spherood.bundle import Promise, Score
from spherood.bundle.bundle import Bundle
from spherood.detectors import KNN
from spherood.models import ModelSettings


def make_bundle(evaluated: Evaluated, score: str, settings: ModelSettings) -> Bundle:
    """The bundle of one of the evaluated scores; `settings` rebuild its model."""
    use, with_ = naming.parse_spec(score)
    result, subject = evaluated.evaluation.scores[score], evaluated.subject
    detector = evaluated.detectors[score]
    return Bundle(
        model=subject.model,
        settings=settings,
        preprocess=subject.preprocess,
        classes=subject.classes,
        score=Score.model_validate({"use": use, "with": with_}),
        detector=detector,
        class_mean=evaluated.class_mean,
        held_out_score=result.held_out_score,
        promise=Promise(
            false_alarm_rate=result.false_alarm_rate,
            confidence=result.confidence,
            held_out=len(result.held_out_score),
        ),
        bank_names=list(evaluated.train.images.names) if isinstance(detector, KNN) else [],
        provenance={"model": subject.name, "protocol": evaluated.protocol.name},
    )
