"""Scores, one file each: ``Detector().fit(x, label).score(x)``; higher = more OOD."""

from spherood.detectors.combined import Combined
from spherood.detectors.detector import Detector
from spherood.detectors.knn import KNN
from spherood.detectors.mahalanobis import Mahalanobis
from spherood.detectors.msp import MSP
from spherood.detectors.scorer import Scorer as Scorer  # not listed: it wraps an object, which no name can give

__all__ = ["KNN", "MSP", "Combined", "Detector", "Mahalanobis"]
