"""Training objectives, one file each: ``loss(x, label) -> Terms``."""

from spherood.losses.cider import CIDER
from spherood.losses.cross_entropy import CrossEntropy
from spherood.losses.fixed_prototypes import FixedPrototypes
from spherood.losses.logitnorm import LogitNorm
from spherood.losses.npos import NPOS
from spherood.losses.palm import PALM
from spherood.losses.reweightood import ReweightOOD
from spherood.losses.simclr import SimCLR
from spherood.losses.supcon import SupCon
from spherood.losses.t2fnorm import T2FNorm
from spherood.losses.terms import Terms

__all__ = [
    "CIDER",
    "NPOS",
    "PALM",
    "CrossEntropy",
    "FixedPrototypes",
    "LogitNorm",
    "ReweightOOD",
    "SimCLR",
    "SupCon",
    "T2FNorm",
    "Terms",
]
