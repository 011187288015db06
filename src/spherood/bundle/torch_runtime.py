"""A bundle carried out by torch: its network, then its detector.

Shapes: B images, S size, F feature width, n neighbours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from spherood.bundle.encoder import brought_back, written
from spherood.bundle.learned import HALF, learned_file, read_detector
from spherood.bundle.manifest import Contents, Manifest, Score
from spherood.bundle.origin import Origin, own_code
from spherood.bundle.runtime import NEIGHBOURS, Seen, rows_read
from spherood.data.preprocess import Preprocess
from spherood.detectors import Detector, Scorer
from spherood.detectors.detector import as_tensor
from spherood.errors import BundleError, ConfigError, ShapeError
from spherood.models import infer
from spherood.outputs import Outputs


@dataclass(frozen=True)
class TorchRuntime:
    """``TorchRuntime(detector, model, origin, preprocess)``; without a model it reads rows.

    A model without a preprocess is a head: rows of the features that it was trained on go through it.
    """

    detector: Detector
    model: nn.Module | None = None
    origin: Origin | None = None
    preprocess: Preprocess | None = None
    half: bool = False  # the bank was rounded to half precision, and is stored so

    @classmethod
    def load(cls, manifest: Manifest, files: Mapping[str, Path], where: str, trust: Collection[str]) -> Self:
        """From the checked files of a bundle; errors as of `Bundle.load`."""
        learned = load_file(files["detector"])
        detector = read_detector(manifest.score, learned, where, trust)
        model = None
        if manifest.model is not None:
            model = brought_back(manifest.model, files.get("model"), where, trust)
        half = any(value.dtype == HALF for value in learned.values())
        return cls(detector, model, manifest.model, manifest.preprocess, half)

    @property
    def reads(self) -> str:
        """feature, embedding, logits or layers."""
        return self.detector.reads if self.head is None else "feature"

    @property
    def width(self) -> int | None:
        """Columns of what it reads; None where any will do."""
        return self.detector.width if self.head is None else int(self.head.get_submodule("encoder").dim)  # type: ignore[arg-type]

    @property
    def head(self) -> nn.Module | None:
        """What rows go through first, where that is a model."""
        return self.model if self.preprocess is None else None

    def outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        """What the network says of preprocessed pixels (B, S, S, 3). ConfigError where the bundle holds no network."""
        if self.model is None or self.preprocess is None:
            name, reads = own_code(self.origin), rows_read(self.reads)
            raise ConfigError(
                f"the bundle's network is {name}, code of your own. If you trust it, say so: "
                f"Bundle.load(folder, trust=['{name}']), or --trust {name}"
                if name
                else f"the bundle holds no network: it reads {reads}. Pass {reads} (N, "
                f"{self.width or 'C'}), or wrap your network: spherood.Guard(model, bundle)."
            )
        layers = self.detector.reads == "layers"
        return infer(self.model, torch.from_numpy(pixels), self.preprocess, layers=layers)

    def of_pixels(self, pixels: NDArray[np.uint8]) -> Seen:
        """Preprocessed images (B, S, S, 3). ConfigError where it holds no network."""
        return self._seen(self.outputs(pixels))

    def of_rows(self, x: Any) -> Seen:
        """Rows (B, F) of what the detector reads, or Outputs. ShapeError for another width, NaN or infinity."""
        if self.head is not None:
            rows = self._checked(as_tensor(x.feature if isinstance(x, Outputs) else x))
            return self._seen(infer(self.head, rows, None))
        if isinstance(x, Outputs):
            embedding, logits = (None if part is None else as_tensor(part) for part in (x.embedding, x.logits))
            return self._seen(Outputs(as_tensor(x.feature), embedding, logits, x.layers))
        return self._seen(self._as_outputs(as_tensor(x)))

    def on_one_core(self) -> Self:
        """torch counts the threads of each thread."""
        torch.set_num_threads(1)
        return self

    def contents(self, score: Score | None, calibration: Mapping[str, NDArray[Any]]) -> Contents:
        """Weights and what was learned. BundleError for a score or a network that cannot be brought back."""
        if isinstance(self.detector, Scorer):
            raise BundleError(
                f"{self.detector.wrapped}: its state is no tensors, so it cannot be bundled without running code on "
                "load. It works in this process; for a bundle, fit one of spherood's own scores."
            )
        if score is None:
            raise BundleError(
                f"{self.detector.name}: a bundle keeps a score by its name. Give it as 'name:setting=value', a class "
                "of one's own as 'package.module:Class'."
            )
        if self.model is not None and self.origin is None:
            raise BundleError(
                "the network came as an object, and a bundle must bring it back. Name it as package.module:function, "
                "or make a bundle that reads features and use it through spherood.Guard."
            )
        network = {} if self.model is None or self.origin is None else written(self.model, self.origin)
        return network | learned_file(self.detector, calibration, half=self.half)

    def _checked(self, rows: Tensor) -> Tensor:
        """Rows for the head, (B, F) float32; ShapeError otherwise."""
        if rows.ndim != 2 or rows.shape[1] != self.width or not rows.is_floating_point():
            raise ShapeError(
                f"expected floating features (N, {self.width}), as the head was trained on, got {rows.dtype} "
                f"{tuple(rows.shape)}. Was it trained on another encoder?"
            )
        bad = torch.nonzero(~torch.isfinite(rows).all(dim=1))
        if len(bad):
            raise ShapeError(
                f"{len(bad)} of {len(rows)} rows hold NaN or infinity, the first is row {int(bad[0])}. Drop them, or "
                "look for the image or the layer they come from."
            )
        return rows.float()

    @torch.no_grad()
    def _seen(self, outputs: Outputs) -> Seen:
        score, near = self.detector.score_with_neighbours(outputs, NEIGHBOURS)
        feature = outputs.feature if outputs.feature.shape[1] else None
        return Seen(
            score.double().cpu().numpy(),
            None if feature is None else _numbers(feature),
            None if outputs.logits is None else _numbers(outputs.logits),
            None if near is None else (_numbers(near[0]), near[1].cpu().numpy()),
        )

    def _as_outputs(self, rows: Tensor) -> Outputs:
        """Rows of what the detector reads; where that is not the feature, the feature is not known."""
        if self.detector.reads == "feature":
            return Outputs(rows)
        unknown = rows.new_empty(len(rows), 0)
        if self.detector.reads == "layers":
            return Outputs(unknown, layers=(rows,))
        return Outputs(unknown, logits=rows) if self.detector.reads == "logits" else Outputs(unknown, embedding=rows)


def _numbers(x: Tensor) -> NDArray[np.float32]:
    numbers: NDArray[np.float32] = x.detach().float().cpu().numpy()
    return numbers
