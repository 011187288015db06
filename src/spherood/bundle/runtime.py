"""What carries a bundle out: pixels or rows in, scores out. Torch does, or one ONNX graph without torch. Free of torch.

Shapes: B images, S size, F feature width, n neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from spherood.bundle.manifest import Contents, Score
from spherood.bundle.origin import Origin
from spherood.data.preprocess import Preprocess

NEIGHBOURS = 3  # of every image, where there is a bank


class Seen(NamedTuple):
    """What a runtime sees in B images."""

    score: NDArray[np.float64]  # (B,), higher = more OOD
    feature: NDArray[np.float32] | None  # (B, F), as the score reads or might have read it; None where it is not known
    logits: NDArray[np.float32] | None = None  # (B, C), of the model's own classifier
    near: tuple[NDArray[np.float32], NDArray[np.int64]] | None = None  # cosine, row of the bank, (B, n), nearest first


class Runtime(Protocol):
    """torch_runtime.py and onnx_runtime.py."""

    @property
    def preprocess(self) -> Preprocess | None:
        """How its images are made; None where it reads rows of features."""

    @property
    def origin(self) -> Origin | None:
        """How the network is brought back."""

    @property
    def reads(self) -> str:
        """feature, embedding, logits or layers."""

    @property
    def width(self) -> int | None:
        """Columns of what it reads; None where any will do."""

    def of_pixels(self, pixels: NDArray[np.uint8]) -> Seen:
        """Preprocessed images (B, S, S, 3). ConfigError where it holds no network."""

    def of_rows(self, x: Any) -> Seen:
        """Rows (B, F) of what it reads, or Outputs. ShapeError for another width, NaN or infinity."""

    def on_one_core(self) -> Self:
        """The same for one of several threads, each of which keeps to one core; called in that thread."""

    def contents(self, score: Score | None, calibration: Mapping[str, NDArray[Any]]) -> Contents:
        """The files of a bundle. BundleError for what cannot be brought back."""


def rows_read(reads: str) -> str:
    """`features`, `embeddings`, `logits` or `layers`, for messages."""
    return reads.removesuffix("s") + "s"


def read_calibration(file: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a bundle that belong to no detector: held-out scores and classes, class means."""
    from safetensors import safe_open

    with safe_open(file, framework="np") as found:
        return {name: found.get_tensor(name) for name in found.keys() if not name.startswith(PREFIX)}  # noqa: SIM118


PREFIX = "detector."  # of what a detector learned
