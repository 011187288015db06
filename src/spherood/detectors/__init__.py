"""Scores, one file each: ``Detector().fit(x, label).score(x)``; higher = more OOD."""

from spherood.detectors.detector import Detector
from spherood.detectors.knn import KNN
from spherood.detectors.mahalanobis import Mahalanobis
from spherood.detectors.msp import MSP

__all__ = ["KNN", "MSP", "Detector", "Mahalanobis"]
