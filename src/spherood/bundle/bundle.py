"""The shipped detector: encoder, score and calibration in one folder; images or features in, verdicts out.

What a bundle says about an image is what the benchmark says: the same decoding, the same forward pass, the same score.
"""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from spherood.bundle.card import CARD, card
from spherood.bundle.decision import Decision, decide
from spherood.bundle.encoder import Encoder, brought_back, written
from spherood.bundle.fit import Fitted, defaults, fit, parts_of
from spherood.bundle.learned import (
    HALF,
    foreign_scores,
    learned_file,
    names_file,
    read_detector,
    read_thumbnails,
    thumbnails_file,
)
from spherood.bundle.manifest import FORMAT, Licences, Manifest, Promise, Results, Score, read_manifest, write_bundle
from spherood.bundle.origin import FunctionOrigin, Origin
from spherood.bundle.rows import Rows
from spherood.bundle.verdict import Neighbour, Verdict, reason
from spherood.data.decode import read_rgb, rgb
from spherood.data.preprocess import Preprocess
from spherood.detectors import Detector, Scorer
from spherood.detectors.detector import Array, Neighbours, as_tensor
from spherood.detectors.knn import has_bank
from spherood.errors import BundleError, ConfigError, ShapeError
from spherood.files import write_text
from spherood.models import infer
from spherood.outputs import Outputs
from spherood.sphere import normalize
from spherood.version import __version__

BATCH = 128
FEATURE_BATCH = 8192
NEIGHBOURS = 3

Picture = str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Bundle:
    """``Bundle.load(path).predict(["cat.png"])``."""

    model: nn.Module | None  # None: it reads features that someone else computes
    origin: Origin | None  # how the model is brought back
    preprocess: Preprocess | None  # None where there is no model
    classes: tuple[str, ...]
    score: Score | None  # None: a detector that has no name, and so cannot be saved
    detector: Detector
    class_mean: Tensor | None  # (C, F), unit rows; None without labels
    held_out_score: NDArray[np.float64]  # (n,), of ID images that took no part in training or fitting
    promise: Promise
    bank_names: Sequence[str] = ()  # of the training images in the bank of a k-NN
    held_out_class: NDArray[np.int64] | None = None  # (n,), predicted; where the promise goes by class
    thumbnails: Sequence[bytes] | None = None  # JPEGs, of the images in the bank
    half: bool = False  # the bank was rounded to half precision, and is stored so
    results: Results = field(default_factory=Results)
    licences: Licences = field(default_factory=Licences)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        feature: Array,
        label: Array | None = None,
        *,
        score: Any = None,
        held_out: Array | None = None,
        false_alarm_rate: float = 0.05,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> Bundle:
        """A bundle that reads features (N, F) of one's own network, label (N,) if there are any.

        score: as typed ("knn:k=10"), a Detector, or a fitted object of scikit-learn or PyOD; None chooses. held_out: ID
        features that calibrate and took no part in anything; else a part of `feature` does. CalibrationError, with the
        numbers, where there are too few. `spherood fit` does the same for images and files, and more.
        """
        known = Rows.of_arrays("known", feature, label)
        apart = None if held_out is None else Rows.of_arrays("held_out", held_out)
        candidates = defaults(known) if score is None else (score,)
        rate, several = false_alarm_rate, len(candidates) > 1
        parts = parts_of(known, apart, several=several, false_alarm_rate=rate, confidence=confidence, seed=seed)
        return cls.of(fit(parts, candidates, false_alarm_rate=rate, confidence=confidence))

    @classmethod
    def of(
        cls,
        fitted: Fitted,
        encoder: Encoder | None = None,
        *,
        half: bool = False,
        thumbnails: int | None = None,
        licences: Licences | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Bundle:
        """What was fitted, as a bundle; without an encoder it reads features.

        half: the bank was fitted so. thumbnails: side in pixels of the small images it keeps.
        """
        rows, banked = fitted.parts.fit, has_bank(fitted.detector)
        small = None
        if thumbnails is not None and banked and rows.images is not None:
            small = rows.images.thumbnails(thumbnails)
        return cls(
            model=None if encoder is None else encoder.model,
            origin=None if encoder is None else encoder.origin,
            preprocess=None if encoder is None else encoder.preprocess,
            classes=rows.classes,
            score=fitted.score,
            detector=fitted.detector,
            class_mean=fitted.class_mean,
            held_out_score=fitted.held_out_score,
            promise=fitted.promise,
            bank_names=list(rows.names) if banked else [],
            held_out_class=fitted.held_out_class,
            thumbnails=small,
            half=half,
            licences=licences or Licences(),
            provenance=dict(provenance or {}) | ({} if encoder is None else {"model": encoder.name}),
        )

    def save(self, folder: str | Path) -> None:
        """Write the bundle; one that was there before stays whole until this one is.

        BundleError, before anything is written, for a score or a network that cannot be brought back.
        """
        folder, manifest = Path(folder), self._manifest()
        others = {
            "held_out_score": torch.from_numpy(self.held_out_score),
            "class_mean": self.class_mean,
            "held_out_class": None if self.held_out_class is None else torch.from_numpy(self.held_out_class),
        }
        contents = {} if self.model is None or self.origin is None else written(self.model, self.origin)
        contents |= learned_file(self.detector, others, half=self.half) | names_file(self.bank_names)
        if self.thumbnails is not None:
            contents |= thumbnails_file(self.thumbnails)
        write_bundle(folder, manifest, contents)
        write_text(folder / CARD, card(read_manifest(folder)))

    def _manifest(self) -> Manifest:
        if isinstance(self.detector, Scorer):
            raise BundleError(
                f"{self.detector.wrapped}: its state is no tensors, so it cannot be bundled without running code on "
                "load. It works in this process; for a bundle, fit one of spherood's own scores."
            )
        if self.score is None:
            raise BundleError(
                f"{self.detector.name}: a bundle keeps a score by its name. Give it as 'name:setting=value', a class "
                "of one's own as 'package.module:Class'."
            )
        if self.model is not None and self.origin is None:
            raise BundleError(
                "the network came as an object, and a bundle must bring it back. Name it as package.module:function, "
                "or make a bundle that reads features and use it through spherood.Guard."
            )
        return Manifest(
            format=FORMAT,
            spherood=__version__,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            classes=self.classes,
            model=self.origin,
            preprocess=self.preprocess,
            reads=self.detector.reads,
            width=self.detector.width,
            score=self.score,
            promise=self.promise,
            results=self.results,
            licences=self.licences,
            provenance=dict(self.provenance),
            files={},
        )

    @classmethod
    def load(cls, folder: str | Path, *, trust: Collection[str] = ()) -> Bundle:
        """Read a bundle, every file checked against its hash. BundleError where it is none or was altered.

        trust: import paths of the bundle that may be imported: its `package.module:function`, a score of one's own.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        files = {role: folder / file.name for role, file in manifest.files.items()}
        learned = load_file(files["detector"])
        detector = read_detector(manifest.score, learned, str(folder), trust)
        model = None
        if manifest.model is not None:
            model = brought_back(manifest.model, files.get("model"), str(folder), trust)
        held_out_class = learned.get("held_out_class")
        return cls(
            model=model,
            origin=manifest.model,
            preprocess=manifest.preprocess,
            classes=manifest.classes,
            score=manifest.score,
            detector=detector,
            class_mean=learned.get("class_mean"),
            held_out_score=learned["held_out_score"].numpy(),
            promise=manifest.promise,
            bank_names=json.loads(files["bank"].read_text(encoding="utf-8")),
            held_out_class=None if held_out_class is None else held_out_class.numpy(),
            thumbnails=read_thumbnails(files["thumbnails"]) if "thumbnails" in files else None,
            half=any(value.dtype == HALF for value in learned.values()),
            results=manifest.results,
            licences=manifest.licences,
            provenance=manifest.provenance,
        )

    @classmethod
    def from_pretrained(
        cls, repo: str, *, revision: str | None = None, token: str | None = None, trust: Collection[str] = ()
    ) -> Bundle:
        """A bundle from a folder or, where none has that name, from the Hugging Face hub ("name/repository")."""
        from spherood.bundle.hub import pull

        folder = Path(repo) if Path(repo).is_dir() else pull(repo, revision=revision, token=token)
        return cls.load(folder, trust=trust)

    @property
    def code(self) -> list[str]:
        """Import paths that `load` must be trusted with; none for most bundles."""
        own = [] if self.score is None else foreign_scores(self.score)
        return [*own, self.origin.name] if isinstance(self.origin, FunctionOrigin) else own

    def threshold(self, false_alarm_rate: float | None = None) -> float:
        """Alarm above it. CalibrationError where the held-out scores are too few for another rate.

        Where the promise goes by class, that of the classes which share one.
        """
        reject = self.decision(false_alarm_rate).reject
        return reject if isinstance(reject, float) else reject.pooled

    def decision(self, false_alarm_rate: float | None = None) -> Decision:
        """The rule behind the verdicts; errors as `threshold`."""
        rate = self.promise.false_alarm_rate if false_alarm_rate is None else false_alarm_rate
        if rate not in self._decisions:
            self._decisions[rate] = decide(self.promise, self.held_out_score, self.held_out_class, rate)
        return self._decisions[rate]

    def predict(
        self, images: Sequence[Picture] | Array | Outputs, false_alarm_rate: float | None = None
    ) -> list[Verdict]:
        """A verdict per image: paths, Pillow images, or uint8 RGB arrays (H, W, 3); or per row of features (N, F).

        Features: a floating array or tensor of what the bundle reads, or Outputs of one's own network. ImageError names
        a file that cannot be read; ShapeError another width, NaN or infinity; CalibrationError as in `threshold`.
        """
        if isinstance(images, str | Path | Image.Image):
            raise ShapeError(f"Bundle.predict: expected a list of images, got one: {images}. Use predict([image]).")
        decision = self.decision(false_alarm_rate)
        verdicts: list[Verdict] = []
        if _are_features(images):
            outputs = images if isinstance(images, Outputs) else self._as_outputs(images)
            for start in range(0, len(outputs.feature), FEATURE_BATCH):
                verdicts.extend(self._judge(outputs.rows(start, start + FEATURE_BATCH), decision))
            return verdicts
        remaining = iter(images)
        while batch := list(islice(remaining, BATCH)):
            pixels = np.stack([self._pixels(image) for image in batch])
            verdicts.extend(self._judge(self.outputs(pixels), decision))
        return verdicts

    def outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        """What the network says of preprocessed pixels (B, S, S, 3). ConfigError where the bundle holds no network."""
        if self.model is None or self.preprocess is None:
            name, reads = getattr(self.origin, "name", None), self.detector.rows_read
            raise ConfigError(
                f"the bundle's network is {name}, code of your own. If you trust it, say so: "
                f"Bundle.load(folder, trust=['{name}']), or --trust {name}"
                if name
                else f"the bundle holds no network: it reads {reads}. Pass {reads} (N, "
                f"{self.detector.width or 'C'}), or wrap your network: spherood.Guard(model, bundle)."
            )
        layers = self.detector.reads == "layers"
        return infer(self.model, torch.from_numpy(pixels), self.preprocess, layers=layers)

    def thumbnail(self, neighbour: Neighbour) -> Image.Image:
        """The small image of a neighbour; ConfigError where the bundle keeps none."""
        if self.thumbnails is None:
            raise ConfigError("the bundle keeps no small images. Make it with: spherood fit ... --thumbnails")
        return Image.open(io.BytesIO(self.thumbnails[neighbour.row]))

    def pixels(self, picture: Image.Image) -> NDArray[np.uint8]:
        """An RGB picture as the network sees it, (S, S, 3)."""
        if self.preprocess is None:
            self.outputs(np.empty(0, np.uint8))  # its message
        assert self.preprocess is not None
        return self.preprocess.pixels(picture)

    @torch.no_grad()
    def _judge(self, outputs: Outputs, decision: Decision) -> Iterator[Verdict]:
        found, near = self.detector.score_with_neighbours(outputs, NEIGHBOURS)
        score = found.double().cpu().numpy()
        class_ = self.predicted(outputs)
        threshold, review = decision.thresholds(class_), decision.needs_review(score, class_)
        p_value = decision.p_values(score, class_)
        below = np.searchsorted(self._ordered, score, side="left") / len(self._ordered)
        neighbours = self._neighbours(near, len(score))
        for row in range(len(score)):
            is_ood = bool(score[row] > threshold[row])
            name = self.classes[class_[row]] if class_[row] >= 0 else None
            yield Verdict(
                is_ood,
                float(score[row]),
                float(p_value[row]),
                float(threshold[row]),
                name,
                neighbours[row],
                reason(is_ood, float(below[row]), name, needs_review=bool(review[row])),
                bool(review[row]),
            )

    def predicted(self, outputs: Outputs) -> NDArray[np.int64]:
        """The nearest class mean of each row, (B,); -1 where the bundle knows no classes or cannot see the feature."""
        if self.class_mean is None or outputs.feature.shape[1] != self.class_mean.shape[1]:
            return np.full(len(outputs.feature), -1, dtype=np.int64)
        nearest: NDArray[np.int64] = (
            (normalize(outputs.feature).float().cpu() @ self.class_mean.T).argmax(dim=1).numpy()
        )
        return nearest

    def _neighbours(self, near: Neighbours | None, rows: int) -> list[tuple[Neighbour, ...]]:
        if near is None or not self.bank_names:
            return [()] * rows
        return [
            tuple(Neighbour(self.bank_names[i], c, i) for i, c in zip(row, cosines, strict=True))
            for row, cosines in zip(near[1].tolist(), near[0].tolist(), strict=True)
        ]

    def _as_outputs(self, x: Array) -> Outputs:
        """Rows of what the detector reads; where that is not the feature, the feature is not known."""
        rows = as_tensor(x)
        if self.detector.reads == "feature":
            return Outputs(rows)
        unknown = rows.new_empty(len(rows), 0)
        if self.detector.reads == "layers":
            return Outputs(unknown, layers=(rows,))
        return Outputs(unknown, logits=rows) if self.detector.reads == "logits" else Outputs(unknown, embedding=rows)

    def _pixels(self, image: Picture) -> NDArray[np.uint8]:
        return self.pixels(_picture(image))

    @cached_property
    def _ordered(self) -> NDArray[np.float64]:
        ordered: NDArray[np.float64] = np.sort(self.held_out_score)
        return ordered

    @cached_property
    def _decisions(self) -> dict[float, Decision]:
        return {}


def _are_features(x: Any) -> TypeGuard[Array | Outputs]:
    if isinstance(x, Outputs):
        return True
    return isinstance(x, Tensor) or (isinstance(x, np.ndarray) and (x.ndim < 3 or x.dtype.kind == "f"))


def _picture(image: Picture) -> Image.Image:
    if isinstance(image, str | Path):
        return read_rgb(Path(image))
    if isinstance(image, Image.Image):
        return rgb(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ShapeError(f"Bundle.predict: expected uint8 RGB arrays (H, W, 3), got {image.dtype} {image.shape}.")
    return Image.fromarray(image)
