"""Writes docs/scores.md: every score on a real network and real images, with what it needs and what it costs.

    python docs/make_scores.py DATA RESNET20 [--store FOLDER]

DATA holds cifar10/train, cifar10/test, cifar100/test, tin/val, mnist/test, texture32, texture, scenes, flowers, steel
and imagenet-sample as folders of classes; RESNET20 is the checkpoint resnet20-cifar10.th of
akamaster/pytorch_resnet_cifar10. About fifteen minutes on two cores. What is said beside the numbers stands in
docs/scores-notes.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from spherood import metrics, naming
from spherood.data import Source
from spherood.detectors import Detector
from spherood.errors import MissingExtraError
from spherood.features import FeatureStore, Stored
from spherood.models.foreign import read_foreign

PLACE = Path(__file__).with_name("scores.md")
NOTES = Path(__file__).with_name("scores-notes.md")
OOD = {
    "cifar100": "cifar100/test",
    "tin": "tin/val",
    "mnist": "mnist/test",
    "texture32": "texture32",
    "texture": "texture",
    "scenes": "scenes",
    "flowers": "flowers",
    "steel": "steel",
    "imagenet": "imagenet-sample",
}
SETTINGS = {  # what is shown beside the defaults
    "knn": ["knn", "knn:k=10", "knn:k=10:storage=float16", "knn:k=10:storage=bfloat16", "knn:k=10:per_class=500"],
    "mahalanobis": [
        "mahalanobis",
        "mahalanobis:shrinkage=ledoit-wolf",
        "mahalanobis:unit=true",
        "mahalanobis:covariance=total:unit=true",
    ],
    "layers": ["layers", 'layers:score="knn:k=10"'],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("resnet20", type=Path)
    parser.add_argument("--store", type=Path, default=Path("runs/.features"))
    given = parser.parse_args()
    found = read_foreign(given.resnet20, None)
    store = FeatureStore(given.store)

    def read(folder: str) -> Stored:
        return store.read(found.model, found.preprocess, Source(folder=folder).load(given.data), layers=True)

    train, test = read("cifar10/train"), read("cifar10/test")
    ood = {name: read(folder) for name, folder in OOD.items()}
    rows = list(lines(train, test, ood, found.model.classifier))
    head = ["score", "needs", *OOD, "fit, s", "10,000 images, s", "holds, MB"]
    table = [head, ["---"] * len(head), *rows]
    text = NOTES.read_text(encoding="utf-8") + "\n" + "\n".join(f"| {' | '.join(row)} |" for row in table) + "\n"
    PLACE.write_text(text, encoding="utf-8")


def lines(
    train: Stored, test: Stored, ood: dict[str, Stored], classifier: torch.nn.Linear | None
) -> Iterator[list[str]]:
    for name in sorted(naming.members("detectors")):
        for text in SETTINGS.get(name, [name]):
            try:
                detector: Detector = naming.build("detectors", *naming.parse_spec(text))
            except MissingExtraError as error:
                yield [f"`{text}`", str(error), *["–"] * (len(ood) + 3)]
                continue
            begin = time.perf_counter()
            detector.fit(train.batches(), classifier=classifier)
            fitted = time.perf_counter()
            id_score = score(detector, test)
            scored = time.perf_counter()
            auroc = [metrics.auroc(id_score, score(detector, stored)) for stored in ood.values()]
            holds = sum(buffer.numel() * buffer.element_size() for buffer in detector.buffers())
            print(f"{text:45} {' '.join(f'{100 * value:5.1f}' for value in auroc)}", flush=True)
            yield [
                f"`{text}`",
                needs(detector),
                *(f"{100 * value:.1f}" for value in auroc),
                f"{fitted - begin:.2f}",
                f"{scored - fitted:.2f}",
                f"{holds / 1e6:.2f}",
            ]


def score(detector: Detector, stored: Stored) -> np.ndarray:
    parts = [
        detector.score(stored.outputs.rows(start, start + 2048)).double().numpy()
        for start in range(0, len(stored.images), 2048)
    ]
    return np.concatenate(parts)


def needs(detector: Detector) -> str:
    return f"{detector.reads}, classifier" if detector.needs_classifier else detector.reads


if __name__ == "__main__":
    main()
