"""What is known of N images, or of N rows of features that a user brought: Outputs, labels, names.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spherood.data.duplicates import SmallPictures, small_pictures
from spherood.data.feature_file import FeatureSet
from spherood.data.image_set import ImageSet
from spherood.detectors import Detector
from spherood.detectors.detector import Array, as_tensor
from spherood.errors import ShapeError
from spherood.features import Stored
from spherood.features.store import FIT_ROWS
from spherood.metrics.scores import Scores
from spherood.models.inference import infer_all
from spherood.outputs import Outputs


@dataclass(frozen=True)
class Rows:
    """`label` (N,) is None where nothing is labelled; `images` are there where the rows came from images.

    given: the features (N, G) that a head turned into these, where one did.
    """

    name: str
    outputs: Outputs
    label: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    names: Sequence[str] = ()
    images: ImageSet | None = None
    given: Tensor | None = None

    @classmethod
    def of_images(cls, stored: Stored) -> Rows:
        """The features of images."""
        images = stored.images
        label = images.label if len(images.label) and images.label.min() >= 0 else None
        return cls(
            images.name, stored.outputs, label, images.classes if label is not None else (), images.names, images
        )

    @classmethod
    def of_features(cls, found: FeatureSet) -> Rows:
        """Features from a file."""
        outputs = Outputs(as_tensor(found.feature), logits=None if found.logits is None else as_tensor(found.logits))
        return cls(found.name, outputs, found.label, found.classes, found.names)

    def through(self, head: nn.Module) -> Rows:
        """What a head gives for these features. ShapeError where it was trained on features of another width."""
        feature, width = self.outputs.feature, head.get_submodule("encoder").dim
        if feature.shape[1] != width:
            raise ShapeError(
                f"{self.name}: features have {feature.shape[1]} columns, the head was trained on {width}. Use features "
                "of the same encoder."
            )
        return replace(self, outputs=infer_all(head, feature, None, FIT_ROWS), given=feature)

    @classmethod
    def of_arrays(cls, name: str, feature: Array, label: Array | None = None) -> Rows:
        """Features (N, F) in hand, integer labels (N,) in 0..C-1. ShapeError otherwise."""
        rows = as_tensor(feature)
        if rows.ndim != 2 or not rows.is_floating_point() or not len(rows):
            raise ShapeError(f"{name}: expected floating features (N, F), got {rows.dtype} {tuple(rows.shape)}.")
        if label is None:
            return cls(name, Outputs(rows))
        numbers = np.asarray(label)
        if numbers.shape != (len(rows),) or numbers.dtype.kind not in "iu" or numbers.min() < 0:
            raise ShapeError(
                f"{name}: expected integer labels ({len(rows)},) from 0 on, got {numbers.dtype} {numbers.shape}."
            )
        classes = tuple(map(str, range(int(numbers.max()) + 1)))
        return cls(name, Outputs(rows), numbers.astype(np.int64), classes)

    def __len__(self) -> int:
        return len(self.outputs.feature)

    @cached_property
    def small_pictures(self) -> SmallPictures | None:
        """What is looked at for near-duplicates, read once; None where the rows came from no images."""
        return None if self.images is None else small_pictures(self.images)

    def subset(self, index: NDArray[np.int64]) -> Rows:
        """The rows at `index`, in that order."""
        return replace(
            self,
            outputs=self.outputs.at(torch.from_numpy(index)),
            label=None if self.label is None else self.label[index],
            names=[self.names[i] for i in index] if len(self.names) else (),
            images=None if self.images is None else self.images.subset(index),
            given=None if self.given is None else self.given[torch.from_numpy(index)],
        )

    def batches(self) -> Batches:
        """(Outputs, label) in order, as often as one likes: what a detector's `fit` reads."""
        return Batches(self)

    def scored(self, detector: Detector) -> Scores:
        """(N,), float64."""
        score: Scores = detector.score(self.outputs).double().cpu().numpy()
        return score


@dataclass(frozen=True)
class Batches:
    """Re-iterable, and of known size."""

    rows: Rows

    @property
    def total(self) -> int:
        """How many rows all batches have together."""
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Outputs, NDArray[np.int64] | None]]:
        label = self.rows.label
        for start in range(0, len(self.rows), FIT_ROWS):
            stop = start + FIT_ROWS
            yield self.rows.outputs.rows(start, stop), None if label is None else label[start:stop]
