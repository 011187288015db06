"""From a bundle that needs torch to one that needs none: image by image compared, then calibrated through its graph.

The difference between the two scores a and b of one image is relative: |a - b| / max(|a|, m), m the median of |a|,
since a score may cross 0. Above TOLERANCE for any image, or with a verdict that turns though its score lies farther
than that from the threshold, there is no bundle. Verdicts that turn within it are counted.
Shapes: n held-out images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from spherood import calibration
from spherood.bundle.bundle import BATCH, FEATURE_BATCH, Bundle
from spherood.bundle.graph import graph_of
from spherood.bundle.held_out import held_out_images, held_out_rows
from spherood.bundle.onnx_runtime import OnnxRuntime
from spherood.bundle.runtime import Runtime, Seen
from spherood.bundle.torch_runtime import TorchRuntime
from spherood.data.loading import blocks
from spherood.errors import BundleError, DataError
from spherood.metrics.scores import Scores
from spherood.progress import progress
from spherood.version import __version__

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Exported:
    """The bundle that needs no torch, and how far it is from the other."""

    bundle: Bundle
    images: int  # compared: the n held-out ones
    largest: float  # relative difference of a score
    turned: int  # verdicts that differ, all within TOLERANCE of the threshold


def export(bundle: Bundle, folder: Path, held_out: Path | None = None) -> Exported:
    """The exported bundle; folder: where `bundle` lies. held_out: ID images that trained nothing; None: those that
    calibrated it, where they are remembered.

    BundleError where the score or the network cannot become a graph, and where the graph's scores or verdicts differ;
    CalibrationError where the images are too few for the promise.
    """
    ours = bundle.runtime
    if not isinstance(ours, TorchRuntime):
        raise BundleError(f"{folder}: is exported already. Use it as it is.")
    promise = bundle.promise
    if ours.preprocess is None:
        rows = held_out_rows(folder, held_out)
        parts: Iterator[NDArray[np.generic]] = (rows[i : i + FEATURE_BATCH] for i in range(0, len(rows), FEATURE_BATCH))
        count = len(rows)
    else:
        images = held_out_images(folder, held_out)
        parts = (_whole(block.pixels, block.unreadable) for block in blocks(images, ours.preprocess, BATCH))
        count = len(images)
    calibration.exceedances_or_refuse(count, promise.false_alarm_rate, promise.each)
    graph, origin = graph_of(ours)
    theirs = OnnxRuntime(graph, origin, ours.reads, ours.width, ours.preprocess)
    ours_seen, theirs_seen = _both(ours, theirs, parts, count)
    largest = _compared(ours_seen.score, theirs_seen.score)
    turned = _turned(bundle, ours_seen, theirs_seen)
    class_ = bundle.predicted(theirs_seen.feature, count) if promise.by_class else None
    exported = replace(
        bundle,
        runtime=theirs,
        held_out_score=theirs_seen.score,
        held_out_class=class_,
        promise=promise.model_copy(update={"held_out": count}),
        provenance=dict(bundle.provenance) | {"exported": f"spherood {__version__}, torch {torch.__version__}"},
    )
    exported.decision()  # refused where a promise by class cannot be kept
    return Exported(exported, count, largest, turned)


def _whole(pixels: NDArray[np.uint8], unreadable: dict[int, str]) -> NDArray[np.uint8]:
    if unreadable:
        raise DataError(f"held-out image: {next(iter(unreadable.values()))} Calibration needs every image: remove it.")
    return pixels


def _both(ours: Runtime, theirs: Runtime, parts: Iterator[NDArray[np.generic]], count: int) -> tuple[Seen, Seen]:
    found = []
    with progress("comparing and calibrating", count) as advance:
        for part in parts:
            found.append((_seen(ours, part), _seen(theirs, part)))
            advance(len(part))
    return _joined([one for one, _ in found]), _joined([other for _, other in found])


def _seen(runtime: Runtime, part: NDArray[np.generic]) -> Seen:
    return runtime.of_pixels(part) if part.dtype == np.uint8 else runtime.of_rows(part)  # type: ignore[arg-type]


def _joined(parts: list[Seen]) -> Seen:
    feature = [part.feature for part in parts if part.feature is not None]
    return Seen(np.concatenate([part.score for part in parts]), np.concatenate(feature) if feature else None)


def _compared(ours: Scores, theirs: Scores) -> float:
    """The largest relative difference; BundleError above TOLERANCE."""
    difference = np.abs(ours - theirs) / _scale(ours, ours)
    worst = int(difference.argmax())
    if not difference[worst] <= TOLERANCE:
        raise BundleError(
            f"the graph is another score: image {worst} has {theirs[worst]:.6g} where torch says {ours[worst]:.6g}, a "
            f"relative difference of {difference[worst]:.1g} (at most {TOLERANCE:g} is let through). Nothing was "
            "written. Please report the network."
        )
    return float(difference[worst])


def _turned(bundle: Bundle, ours: Seen, theirs: Seen) -> int:
    """Verdicts that differ near the threshold; BundleError where one differs farther away."""
    threshold = bundle.decision().thresholds(bundle.predicted(ours.feature, len(ours.score)))
    turned = (ours.score > threshold) != (theirs.score > threshold)
    far = turned & (np.abs(ours.score - threshold) > TOLERANCE * _scale(ours.score, threshold))
    if far.any():
        row = int(far.argmax())
        raise BundleError(
            f"the graph turns verdicts: image {row} has {theirs.score[row]:.6g}, torch says {ours.score[row]:.6g}, and "
            f"the threshold is {threshold[row]:.6g}. Nothing was written. Please report the network."
        )
    return int(turned.sum())


def _scale(score: Scores, at: Scores) -> Scores:
    scale: Scores = np.maximum(np.abs(at), max(float(np.median(np.abs(score))), np.finfo(np.float64).tiny))
    return scale
