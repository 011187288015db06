"""The shipped detector: model, score and calibration in one folder; images in, verdicts out.

What a bundle says about an image is what the benchmark says: the same decoding, the same forward pass, the same score.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from spherood import calibration, naming
from spherood.bundle.manifest import FORMAT, Manifest, Promise, Score, read_manifest, shared_confidence, write_bundle
from spherood.bundle.verdict import Neighbour, Verdict, reason
from spherood.data.decode import read_rgb
from spherood.data.preprocess import Preprocess
from spherood.detectors import KNN, Detector
from spherood.errors import ShapeError
from spherood.files import write_text
from spherood.models import Model, ModelSettings, build_model, infer
from spherood.schema import parse
from spherood.sphere import nearest, normalize
from spherood.version import __version__

BATCH = 128
NEIGHBOURS = 3

Picture = str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Bundle:
    """``Bundle.load(path).predict(["cat.png"])``."""

    model: Model
    settings: ModelSettings
    preprocess: Preprocess
    classes: tuple[str, ...]
    score: Score
    detector: Detector
    class_mean: Tensor  # (C, F), unit rows
    held_out_score: NDArray[np.float64]  # (n,), of ID images that took no part in training or fitting
    promise: Promise
    bank_names: Sequence[str] = ()  # of the training images in a KNN's bank
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Write the bundle; one that was there before stays whole until this one is."""
        detector = {f"detector.{name}": value.contiguous() for name, value in self.detector.state_dict().items()}
        learned = detector | {"class_mean": self.class_mean, "held_out_score": torch.from_numpy(self.held_out_score)}
        weights = {name: value.contiguous() for name, value in self.model.state_dict().items()}
        manifest = Manifest(
            format=FORMAT,
            spherood=__version__,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            classes=self.classes,
            model=self.settings.model_dump(mode="json"),
            preprocess=self.preprocess,
            score=self.score,
            promise=self.promise,
            provenance=dict(self.provenance),
            files={},
        )
        names = json.dumps(list(self.bank_names), ensure_ascii=False)
        write_bundle(
            folder,
            manifest,
            {
                "model": (".safetensors", lambda path: save_file(weights, path)),
                "detector": (".safetensors", lambda path: save_file(learned, path)),
                "bank": (".json", lambda path: write_text(path, names)),
            },
        )

    @classmethod
    def load(cls, folder: str | Path) -> Bundle:
        """Read a bundle, every file checked against its hash. BundleError where it is none or was altered."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        files = {role: folder / file.name for role, file in manifest.files.items()}
        settings = parse(ModelSettings, manifest.model, f"{folder}: model")
        model = build_model(settings, len(manifest.classes))
        model.load_state_dict(load_file(files["model"]))
        model.eval()
        learned = load_file(files["detector"])
        detector = naming.build("detectors", manifest.score.use, manifest.score.with_)
        prefix = "detector."
        detector.load_state_dict(
            {key.removeprefix(prefix): value for key, value in learned.items() if key.startswith(prefix)}
        )
        return cls(
            model=model,
            settings=settings,
            preprocess=manifest.preprocess,
            classes=manifest.classes,
            score=manifest.score,
            detector=detector,
            class_mean=learned["class_mean"],
            held_out_score=learned["held_out_score"].numpy(),
            promise=manifest.promise,
            bank_names=json.loads(files["bank"].read_text(encoding="utf-8")),
            provenance=manifest.provenance,
        )

    def threshold(self, false_alarm_rate: float | None = None) -> float:
        """Alarm above it. CalibrationError where the held-out scores are too few for another rate."""
        rate = self.promise.false_alarm_rate if false_alarm_rate is None else false_alarm_rate
        confidence = shared_confidence(self.promise.confidence, self.promise.tried)
        return calibration.threshold(self.held_out_score, rate, confidence)

    def predict(self, images: Sequence[Picture], false_alarm_rate: float | None = None) -> list[Verdict]:
        """A verdict per image: paths, Pillow images, or uint8 RGB arrays (H, W, 3).

        ImageError names a file that cannot be read; CalibrationError as in `threshold`.
        """
        if isinstance(images, str | Path | Image.Image):
            raise ShapeError(f"Bundle.predict: expected a list of images, got one: {images}. Use predict([image]).")
        threshold = self.threshold(false_alarm_rate)
        verdicts: list[Verdict] = []
        remaining = iter(images)
        while batch := list(islice(remaining, BATCH)):
            pixels = np.stack([self.preprocess.pixels(_picture(image)) for image in batch])
            verdicts.extend(self._judge(torch.from_numpy(pixels), threshold))
        return verdicts

    @torch.no_grad()
    def _judge(self, pixels: Tensor, threshold: float) -> Iterator[Verdict]:
        outputs = infer(self.model, pixels, self.preprocess)
        score = self.detector.score(outputs).double().numpy()
        p_value = calibration.p_values(self.held_out_score, score)
        below = np.searchsorted(np.sort(self.held_out_score), score, side="left") / len(self.held_out_score)
        unit = normalize(outputs.feature)
        class_ = (unit @ self.class_mean.T).argmax(dim=1).tolist()
        neighbours = self._neighbours(unit)
        for row in range(len(score)):
            is_ood, name = bool(score[row] > threshold), self.classes[class_[row]]
            why = reason(is_ood, float(below[row]), name)
            yield Verdict(is_ood, float(score[row]), float(p_value[row]), threshold, name, neighbours[row], why)

    def _neighbours(self, unit: Tensor) -> list[tuple[Neighbour, ...]]:
        if not (isinstance(self.detector, KNN) and self.bank_names):
            return [()] * len(unit)
        cosine, index = nearest(unit, self.detector.bank, min(NEIGHBOURS, len(self.bank_names)))
        return [
            tuple(Neighbour(self.bank_names[i], c) for i, c in zip(row, cosines, strict=True))
            for row, cosines in zip(index.tolist(), cosine.tolist(), strict=True)
        ]


def _picture(image: Picture) -> Image.Image:
    if isinstance(image, str | Path):
        return read_rgb(Path(image))
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ShapeError(f"Bundle.predict: expected uint8 RGB arrays (H, W, 3), got {image.dtype} {image.shape}.")
    return Image.fromarray(image)
