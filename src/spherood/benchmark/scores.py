"""Detectors fitted and asked: every score from the stored features, every k of k-NN from one search."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from spherood import metrics, naming
from spherood.benchmark.result import Scores, Sweep
from spherood.detectors import KNN, Detector
from spherood.errors import ConfigError
from spherood.features import Stored
from spherood.progress import progress

TILE = 2048  # rows scored between two updates of the progress bar

Detectors = dict[str, Detector]


def build_scores(scores: Sequence[str]) -> dict[str, Detectors]:
    """Score as typed -> its settings as unfitted detectors: one, or of a sweep (`knn:k=50/100`) every combination.

    The first setting varies fastest, as in OpenOOD's search. ConfigError for an unknown name or setting.
    """
    return {
        text: {one: naming.build("detectors", *naming.parse_spec(one)) for one in _expanded(text)} for text in scores
    }


def reads_layers(candidates: Mapping[str, Detectors]) -> bool:
    """Whether one of the scores reads inner layers, which are extracted only then."""
    return any(detector.reads == "layers" for some in candidates.values() for detector in some.values())


def _expanded(text: str) -> list[str]:
    name, *settings = naming.split_unquoted(text, ":")
    choices = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        values = naming.split_unquoted(value, "/")
        if "" in values and len(values) > 1:
            raise ConfigError(f"'{text}': a sweep separates values by one slash: {name}:{key}=50/100.")
        choices.append([f"{key}{equals}{one}" for one in values])
    return [":".join([name, *reversed(one)]) for one in itertools.product(*reversed(choices))]


def fit_all(detectors: Mapping[str, Detector], train: Stored, classifier: torch.nn.Linear | None) -> None:
    """Fit every detector on the ID training set; k-NN of any k that keep the same rows alike share one bank."""
    for some in _banks(detectors):
        widest = _widest(some).fit(train.batches())
        for one in some.values():
            one.share(widest)
    for detector in detectors.values():
        if not isinstance(detector, KNN):
            detector.fit(train.batches(), classifier=classifier)


def too_large(detectors: Mapping[str, Detector], train: Stored) -> list[str]:
    """What to say of a k that reaches the training images of a class: there the AUROC falls and then inverts."""
    least = int(np.bincount(train.images.label).min())
    return [
        f"{text}: k reaches the {least:,} training images of the rarest class, where the AUROC of k-NN falls and then "
        f"inverts. Use a k well below {least:,}."
        for text, detector in detectors.items()
        if isinstance(detector, KNN) and detector.k >= min(least, detector.per_class or least)
    ]


def score_all(detectors: Mapping[str, Detector], sets: Mapping[str, Stored]) -> dict[str, dict[str, Scores]]:
    """Score -> set -> scores (N,)."""
    parts: dict[str, dict[str, list[Scores]]] = {text: {name: [] for name in sets} for text in detectors}
    banks = _banks(detectors)
    what = f"{len(detectors)} scores" if len(detectors) > 1 else "score"
    with progress(what, sum(len(stored.images) for stored in sets.values())) as advance:
        for name, stored in sets.items():
            for start in range(0, len(stored.images), TILE):
                rows = stored.outputs.rows(start, start + TILE)
                for some in banks:
                    found = _widest(some).score_at(rows, [detector.k for detector in some.values()])
                    for text, column in zip(some, found.double().numpy().T, strict=True):
                        parts[text][name].append(column.copy())
                for text, detector in detectors.items():
                    if not isinstance(detector, KNN):
                        parts[text][name].append(detector.score(rows).double().numpy())
                advance(len(rows.feature))
    return {text: {name: np.concatenate(some) for name, some in of.items()} for text, of in parts.items()}


def choose(candidates: Mapping[str, Detector], scored: Mapping[str, Mapping[str, Scores]], ood: Sequence[str]) -> Sweep:
    """The first setting with the largest AUROC of "validation" against the OOD validation sets (OpenOOD's APS)."""
    found = {}
    for text in candidates:
        of = scored[text]
        found[text] = metrics.auroc(of["validation"], np.concatenate([of[f"validation OOD {name}"] for name in ood]))
    return Sweep(max(found, key=lambda text: found[text]), found, tuple(ood))


def _banks(detectors: Mapping[str, Detector]) -> list[dict[str, KNN]]:
    """The k-NN, those together that keep the same rows in the same type."""
    found: dict[tuple[object, ...], dict[str, KNN]] = {}
    for text, one in detectors.items():
        if isinstance(one, KNN):
            found.setdefault((one.storage, one.per_class, one.seed), {})[text] = one
    return list(found.values())


def _widest(some: Mapping[str, KNN]) -> KNN:
    """The k-NN with the largest k: its neighbours hold those of every smaller k."""
    return max(some.values(), key=lambda one: one.k)
