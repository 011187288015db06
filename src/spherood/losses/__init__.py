"""Training objectives, one file each: ``loss(x, label) -> Terms``."""

from spherood.losses.cider import CIDER
from spherood.losses.cross_entropy import CrossEntropy
from spherood.losses.supcon import SupCon
from spherood.losses.terms import Terms

__all__ = ["CIDER", "CrossEntropy", "SupCon", "Terms"]
