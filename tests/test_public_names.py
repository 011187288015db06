"""The public surface is a promise: names, the order of parameters, defaults, and what must be given by keyword."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch

import spherood as so

SURFACE = "Bundle Guard Outputs Verdict calibration data detectors losses metrics models sphere testing training"
SIGNATURES = {
    "losses.CIDER": "(*, classes, dim=128, temperature=0.1, momentum=0.95, compactness_weight=2.0, "
    "base_temperatures=(0.07, 0.1), learnable=False, seed=0)",
    "losses.SupCon": "(*, temperature=0.1, base_temperature=0.07)",
    "losses.ReweightOOD": "(*, temperature=0.1, within=(2.0, 1.0), between=(5.0, 4.0))",
    "losses.PALM": "(*, classes, dim=128, prototypes_per_class=6, k=5, momentum=0.999, contrast_weight=1.0, "
    "temperature=0.1, epsilon=0.05, prototype_temperature=0.5, seed=0)",
    "losses.FixedPrototypes": "(*, classes, dim=128, temperature=0.1, base_temperature=0.07, seed=0)",
    "losses.SimCLR": "(*, temperature=0.5, base_temperature=0.07)",
    "losses.LogitNorm": "(*, temperature=0.04)",
    "losses.T2FNorm": "(*, classes, dim, temperature=0.1, ood_temperature=None, seed=0)",
    "losses.NPOS": "(*, classes, dim=128, feature_dim=512, start_epoch=40, temperature=0.1, momentum=0.95, "
    "dispersion_weight=0.5, compactness_weight=1.0, boundary_weight=0.1, queue=1000, k=300, select=200, pick=2, "
    "samples=600, noise=0.1, points=200, as_released=False, seed=0)",
    "losses.CrossEntropy": "()",
    "losses.Terms": "(total, parts=<factory>)",
    "detectors.KNN": "(*, k=50, storage='float32', per_class=None, seed=0)",
    "detectors.FaissKNN": "(*, k=50, index='IVF1024,Flat', probes=16)",
    "detectors.Mahalanobis": "(*, covariance='tied', unit=False, shrinkage=None, ridge=0.0)",
    "detectors.MSP": "()",
    "detectors.MaxLogit": "()",
    "detectors.Energy": "(*, temperature=1.0)",
    "detectors.GEN": "(*, gamma=0.1, m=100)",
    "detectors.ViM": "(*, dim=None)",
    "detectors.Residual": "(*, dim=None)",
    "detectors.RMDS": "(*, unit=False)",
    "detectors.SSD": "()",
    "detectors.VMF": "(*, temperature=0.1)",
    "detectors.PrototypeCosine": "()",
    "detectors.NNGuide": "(*, k=100, fraction=0.01, seed=0)",
    "detectors.FDBD": "(*, denominator='distance')",
    "detectors.KPCA": "(*, kernel='cosine', ratio=0.85, gamma=2.0, features=2048, seed=0)",
    "detectors.NCI": "(*, alpha=0.0001)",
    "detectors.ReAct": "(*, percentile=90.0)",
    "detectors.VRA": "(*, low=10.0, high=90.0)",
    "detectors.ASH": "(*, percentile=90.0)",
    "detectors.SCALE": "(*, percentile=85.0)",
    "detectors.SHE": "(*, metric='inner')",
    "detectors.DICE": "(*, percentile=90.0)",
    "detectors.KLMatching": "()",
    "detectors.GradNorm": "()",
    "detectors.Relation": "(*, power=1.0)",
    "detectors.TemperatureMSP": "()",
    "detectors.Detector.fit": "(self, x, label=None, classifier=None)",
    "detectors.Detector.score": "(self, x)",
    "Outputs": "(feature, embedding=None, logits=None, layers=None)",
    "metrics.auroc": "(id_score, ood_score)",
    "metrics.auroc_interval": "(id_score, ood_scores, confidence=0.95)",
    "metrics.aupr_in": "(id_score, ood_score)",
    "metrics.aupr_out": "(id_score, ood_score)",
    "metrics.average_precision": "(id_score, ood_score, positive='id')",
    "metrics.fpr_id_at_ood95": "(id_score, ood_score, rule=None)",
    "metrics.fpr_ood_at_id95": "(id_score, ood_score, rule=None)",
    "metrics.accuracy": "(predicted, label)",
    "metrics.paired_t": "(differences)",
    "calibration.threshold": "(held_out_score, false_alarm_rate=0.05, confidence=0.95, method='conditional')",
    "calibration.p_values": "(held_out_score, score)",
    "calibration.two_thresholds": "(held_out_score, reject_rate=0.01, review_rate=0.05, confidence=0.95)",
    "calibration.group_thresholds": "(held_out_score, held_out_group, false_alarm_rate=0.05, confidence=0.95, "
    "method='conditional')",
    "calibration.false_alarm_band": "(held_out_score, confidence=0.95)",
    "calibration.simultaneous": "(p_value, n, confidence=0.95, method='simes')",
    "calibration.discoveries": "(p_value, rate=0.1, null_share=1.0)",
    "calibration.least_discoveries": "(n, m, rate=0.1)",
    "calibration.weighted_p_values": "(held_out_score, weight, score, own_weight)",
    "calibration.effective_sample_size": "(weight)",
    "Bundle.load": "(folder, *, trust=())",
    "Bundle.fit": "(feature, label=None, *, score=None, held_out=None, false_alarm_rate=0.05, confidence=0.95, seed=0)",
    "Bundle.from_pretrained": "(repo, *, revision=None, token=None, trust=())",
    "Bundle.predict": "(self, images, false_alarm_rate=None)",
    "Guard": "(model, bundle, *, layer=None)",
    "testing.check_loss": "(loss, *, classes=5, dim=5, others=None, idle=(), laws=None, **settings)",
    "testing.check_detector": "(detector, *, ood=None, others=None, idle=(), laws=None, **settings)",
    "Verdict": "(is_ood, score, p_value, threshold, nearest_class, neighbours, reason, needs_review=False)",
}


def signature(thing: Callable[..., Any]) -> str:
    """Without annotations; a class that takes over its base's constructor, which for a module takes anything, is ()."""
    own = not isinstance(thing, type) or {"__init__", "__new__"} & vars(thing).keys()
    parameters = inspect.signature(thing).parameters.values() if own else ()
    return str(inspect.Signature([parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]))


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_signature_stays_as_it_was_promised(name: str) -> None:
    assert signature(attrgetter(name)(so)) == SIGNATURES[name]


def test_the_package_offers_these_names_and_each_is_there() -> None:
    assert so.__all__ == SURFACE.split()
    assert {*so.__all__, "__version__"} <= set(dir(so))
    assert all(getattr(so, name) is not None for name in so.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'spherood' has no attribute 'detector'"):
        so.detector  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("room", ["losses", "detectors", "metrics", "calibration", "testing"])
def test_a_room_offers_what_it_lists(room: str) -> None:
    offered = getattr(so, room)
    promised = {name.split(".")[1] for name in SIGNATURES if name.startswith(f"{room}.")}
    assert promised <= set(offered.__all__)
    assert all(hasattr(offered, name) for name in offered.__all__)


def test_what_others_read_off_cider_and_its_terms_is_there() -> None:
    cider = so.losses.CIDER(classes=10)
    assert dict(cider.named_buffers())["prototypes"].shape == (10, 128)
    terms = cider(torch.nn.functional.normalize(torch.randn(4, 128)), torch.arange(4))
    assert set(terms.parts) == {"compactness", "dispersion"}
    assert terms.total.shape == ()


def test_importing_the_package_loads_no_room() -> None:
    code = "import sys, spherood; print(*(name for name in sys.modules if name.startswith(('spherood.', 'torch'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["spherood.version"]


def test_the_version_is_the_same_wherever_it_is_written() -> None:
    root = Path(__file__).parents[1]
    citation = (root / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (\S+)$", citation, re.M) == [so.__version__]
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+),", changes, re.M)[0] == so.__version__
