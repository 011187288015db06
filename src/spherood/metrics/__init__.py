"""How well scores separate ID from OOD, as plain fractions. Arrays in, Python floats out; higher score = more OOD."""

from spherood.metrics.accuracy import accuracy
from spherood.metrics.delong import auroc_interval
from spherood.metrics.fpr import fpr_id_at_ood95, fpr_ood_at_id95
from spherood.metrics.intervals import clopper_pearson
from spherood.metrics.paired import paired_t
from spherood.metrics.precision_recall import aupr_in, aupr_out, average_precision
from spherood.metrics.roc import auroc

__all__ = [
    "accuracy",
    "aupr_in",
    "aupr_out",
    "auroc",
    "auroc_interval",
    "average_precision",
    "clopper_pearson",
    "fpr_id_at_ood95",
    "fpr_ood_at_id95",
    "paired_t",
]
