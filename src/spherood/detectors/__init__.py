"""Scores, one file each: ``Detector().fit(x, label).score(x)``; higher = more OOD."""

from spherood.detectors.ash import ASH
from spherood.detectors.combined import Combined
from spherood.detectors.detector import Detector
from spherood.detectors.dice import DICE
from spherood.detectors.energy import Energy
from spherood.detectors.faiss_knn import FaissKNN
from spherood.detectors.fdbd import FDBD
from spherood.detectors.gen import GEN
from spherood.detectors.gradnorm import GradNorm
from spherood.detectors.kl_matching import KLMatching
from spherood.detectors.knn import KNN
from spherood.detectors.kpca import KPCA
from spherood.detectors.layers import Layers
from spherood.detectors.mahalanobis import Mahalanobis
from spherood.detectors.max_logit import MaxLogit
from spherood.detectors.msp import MSP
from spherood.detectors.nci import NCI
from spherood.detectors.nnguide import NNGuide
from spherood.detectors.prototype_cosine import PrototypeCosine
from spherood.detectors.react import ReAct
from spherood.detectors.relation import Relation
from spherood.detectors.residual import Residual
from spherood.detectors.rmds import RMDS
from spherood.detectors.scale import SCALE
from spherood.detectors.scorer import Scorer as Scorer  # not listed: it wraps an object, which no name can give
from spherood.detectors.she import SHE
from spherood.detectors.ssd import SSD
from spherood.detectors.temperature_msp import TemperatureMSP
from spherood.detectors.vim import ViM
from spherood.detectors.vmf import VMF
from spherood.detectors.vra import VRA

__all__ = [
    "ASH",
    "DICE",
    "FDBD",
    "GEN",
    "KNN",
    "KPCA",
    "MSP",
    "NCI",
    "RMDS",
    "SCALE",
    "SHE",
    "SSD",
    "VMF",
    "VRA",
    "Combined",
    "Detector",
    "Energy",
    "FaissKNN",
    "GradNorm",
    "KLMatching",
    "Layers",
    "Mahalanobis",
    "MaxLogit",
    "NNGuide",
    "PrototypeCosine",
    "ReAct",
    "Relation",
    "Residual",
    "TemperatureMSP",
    "ViM",
]
