"""The shipped detector: encoder, score and calibration in one folder; images or features in, verdicts out.

What a bundle says about an image is what the benchmark says: the same decoding, the same forward pass, the same score.
Free of torch, so that a bundle which was exported runs without it; runtime.py says what carries it out.
"""

from __future__ import annotations

import datetime
import importlib.util
import io
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spherood.bundle.bank import names_file, read_thumbnails, thumbnails_file
from spherood.bundle.card import CARD, card
from spherood.bundle.decision import Decision, decide
from spherood.bundle.manifest import FORMAT, Licences, Manifest, Promise, Results, Score, read_manifest, write_bundle
from spherood.bundle.origin import GraphOrigin
from spherood.bundle.runtime import Runtime, Seen, read_calibration
from spherood.bundle.trust import foreign_code
from spherood.bundle.verdict import Neighbour, Verdict, reason
from spherood.data.decode import read_rgb, rgb
from spherood.data.preprocess import Preprocess
from spherood.errors import BundleError, ConfigError, ShapeError
from spherood.files import write_text
from spherood.outputs import Outputs
from spherood.version import __version__

if TYPE_CHECKING:
    from spherood.bundle.encoder import Encoder
    from spherood.bundle.fit import Fitted
    from spherood.detectors.detector import Array

BATCH = 128
FEATURE_BATCH = 8192
RATES = 64  # whose decisions are kept

Picture = str | Path | Image.Image | NDArray[np.uint8]


@dataclass(frozen=True)
class Bundle:
    """``Bundle.load(path).predict(["cat.png"])``."""

    runtime: Runtime
    classes: tuple[str, ...]
    score: Score | None  # None: a detector that has no name, and so cannot be saved
    class_mean: NDArray[np.float32] | None  # (C, F), unit rows; None without labels
    held_out_score: NDArray[np.float64]  # (n,), of ID images that took no part in training or fitting
    promise: Promise
    bank_names: Sequence[str] = ()  # of the training images in the bank of a k-NN
    held_out_class: NDArray[np.int64] | None = None  # (n,), predicted; where the promise goes by class
    thumbnails: Sequence[bytes] | None = None  # JPEGs, of the images in the bank
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
        from spherood.bundle.fit import defaults, fit, parts_of
        from spherood.bundle.rows import Rows

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
        from spherood.bundle.torch_runtime import TorchRuntime
        from spherood.detectors.knn import has_bank

        rows, banked = fitted.parts.fit, has_bank(fitted.detector)
        small = None
        if thumbnails is not None and banked and rows.images is not None:
            small = rows.images.thumbnails(thumbnails)
        if encoder is None:
            runtime = TorchRuntime(fitted.detector, half=half)
        else:
            runtime = TorchRuntime(fitted.detector, encoder.model, encoder.origin, encoder.preprocess, half)
        return cls(
            runtime=runtime,
            classes=rows.classes,
            score=fitted.score,
            class_mean=None if fitted.class_mean is None else fitted.class_mean.numpy(),
            held_out_score=fitted.held_out_score,
            promise=fitted.promise,
            bank_names=list(rows.names) if banked else [],
            held_out_class=fitted.held_out_class,
            thumbnails=small,
            licences=licences or Licences(),
            provenance=dict(provenance or {}) | ({} if encoder is None else {"model": encoder.name}),
        )

    def save(self, folder: str | Path) -> None:
        """Write the bundle; one that was there before stays whole until this one is.

        BundleError, before anything is written, for a score or a network that cannot be brought back.
        """
        folder = Path(folder)
        arrays = {
            "held_out_score": self.held_out_score,
            "class_mean": self.class_mean,
            "held_out_class": self.held_out_class,
        }
        kept = {name: np.ascontiguousarray(value) for name, value in arrays.items() if value is not None}
        contents = self.runtime.contents(self.score, kept) | names_file(self.bank_names)
        if self.thumbnails is not None:
            contents |= thumbnails_file(self.thumbnails)
        write_bundle(folder, self._manifest(), contents)
        write_text(folder / CARD, card(read_manifest(folder)))

    def _manifest(self) -> Manifest:
        assert self.score is not None  # without one the runtime has refused
        return Manifest(
            format=FORMAT,
            spherood=__version__,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            classes=self.classes,
            model=self.runtime.origin,
            preprocess=self.preprocess,
            reads=self.runtime.reads,
            width=self.runtime.width,
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
        MissingExtraError where onnxruntime, or torch, is needed and not installed.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        files = {role: folder / file.name for role, file in manifest.files.items()}
        calibration = read_calibration(files["detector"])
        return cls(
            runtime=_runtime(manifest, files, str(folder), trust),
            classes=manifest.classes,
            score=manifest.score,
            class_mean=calibration.get("class_mean"),
            held_out_score=calibration["held_out_score"],
            promise=manifest.promise,
            bank_names=json.loads(files["bank"].read_text(encoding="utf-8")),
            held_out_class=calibration.get("held_out_class"),
            thumbnails=read_thumbnails(files["thumbnails"]) if "thumbnails" in files else None,
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
        return foreign_code(self.score, self.runtime.origin)

    @property
    def preprocess(self) -> Preprocess | None:
        """How its images are made; None where it reads rows of features."""
        return self.runtime.preprocess

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
            if len(self._decisions) >= RATES:
                self._decisions.clear()
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
            rows: Any = images
            for start in range(0, len(images.feature if isinstance(images, Outputs) else rows), FEATURE_BATCH):
                stop = start + FEATURE_BATCH
                part = images.rows(start, stop) if isinstance(images, Outputs) else rows[start:stop]
                verdicts.extend(self.judged(self.runtime.of_rows(part), decision))
            return verdicts
        remaining: Iterator[Any] = iter(images)  # of pictures
        while batch := list(islice(remaining, BATCH)):
            pixels = np.stack([self.pixels(_picture(image)) for image in batch])
            verdicts.extend(self.judged(self.runtime.of_pixels(pixels), decision))
        return verdicts

    def judged(self, seen: Seen, decision: Decision) -> Iterator[Verdict]:
        """The verdicts on what the runtime saw, by `decision()`."""
        score, class_ = seen.score, self.predicted(seen.feature, len(seen.score))
        threshold, review = decision.thresholds(class_), decision.needs_review(score, class_)
        p_value = decision.p_values(score, class_)
        below = np.searchsorted(self._ordered, score, side="left") / len(self._ordered)
        neighbours = self._neighbours(seen)
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

    def predicted(self, feature: NDArray[np.float32] | None, rows: int) -> NDArray[np.int64]:
        """The nearest class mean of each feature, (B,); -1 where the bundle knows no classes or not the feature."""
        if self.class_mean is None or feature is None or feature.shape[1] != self.class_mean.shape[1]:
            return np.full(rows, -1, dtype=np.int64)
        nearest: NDArray[np.int64] = (feature @ self.class_mean.T).argmax(axis=1)  # whatever the feature's length
        return nearest

    def thumbnail(self, neighbour: Neighbour) -> Image.Image:
        """The small image of a neighbour; ConfigError where the bundle keeps none."""
        if self.thumbnails is None:
            raise ConfigError("the bundle keeps no small images. Make it with: spherood fit ... --thumbnails")
        return Image.open(io.BytesIO(self.thumbnails[neighbour.row]))

    def pixels(self, picture: Image.Image) -> NDArray[np.uint8]:
        """An RGB picture as the network sees it, (S, S, 3). ConfigError where the bundle holds no network."""
        if self.preprocess is None:
            self.runtime.of_pixels(np.empty(0, np.uint8))  # its message
        assert self.preprocess is not None
        return self.preprocess.pixels(picture)

    def _neighbours(self, seen: Seen) -> list[tuple[Neighbour, ...]]:
        if seen.near is None or not self.bank_names:
            return [()] * len(seen.score)
        return [
            tuple(Neighbour(self.bank_names[i], c, i) for i, c in zip(row, cosines, strict=True))
            for row, cosines in zip(seen.near[1].tolist(), seen.near[0].tolist(), strict=True)
        ]

    @cached_property
    def _ordered(self) -> NDArray[np.float64]:
        ordered: NDArray[np.float64] = np.sort(self.held_out_score)
        return ordered

    @cached_property
    def _decisions(self) -> dict[float, Decision]:
        return {}


def _runtime(manifest: Manifest, files: Mapping[str, Path], where: str, trust: Collection[str]) -> Runtime:
    if isinstance(manifest.model, GraphOrigin):
        from spherood.bundle.onnx_runtime import OnnxRuntime

        return OnnxRuntime.load(manifest, manifest.model, files, where)
    if importlib.util.find_spec("torch") is None:
        raise BundleError(
            f"{where}: runs on torch, which is not installed here. Install it (pip install torch), or where it is "
            "installed make a bundle that needs none: spherood export BUNDLE"
        )
    from spherood.bundle.torch_runtime import TorchRuntime

    return TorchRuntime.load(manifest, files, where, trust)


def _are_features(x: Any) -> bool:
    if isinstance(x, Outputs):
        return True
    torch = sys.modules.get("torch")  # who has a tensor has imported it
    tensor = torch is not None and isinstance(x, torch.Tensor)
    return tensor or (isinstance(x, np.ndarray) and (x.ndim < 3 or x.dtype.kind == "f"))


def _picture(image: Picture) -> Image.Image:
    if isinstance(image, str | Path):
        return read_rgb(Path(image))
    if isinstance(image, Image.Image):
        return rgb(image)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ShapeError(f"Bundle.predict: expected uint8 RGB arrays (H, W, 3), got {image.dtype} {image.shape}.")
    return Image.fromarray(image)
