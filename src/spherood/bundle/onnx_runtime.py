"""A bundle carried out by one ONNX graph: onnxruntime and NumPy, no torch.

The graph takes `pixels` (B, S, S, 3) uint8, or `rows` (B, F) float32 where the bundle reads features, and gives
`score` (B,), and where it has them `feature`, `logits`, `cosine` and `row` (of the neighbours).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from spherood.bundle.manifest import Contents, Manifest, Score
from spherood.bundle.origin import GraphOrigin
from spherood.bundle.runtime import Seen, rows_read
from spherood.data.preprocess import Preprocess
from spherood.errors import BundleError, ConfigError, ShapeError, optional
from spherood.outputs import Outputs


@dataclass(frozen=True)
class OnnxRuntime:
    """graph: the bytes of the file."""

    graph: bytes
    origin: GraphOrigin
    reads: str
    width: int | None
    preprocess: Preprocess | None = None
    cores: int = 0  # of one call; 0: all

    @classmethod
    def load(cls, manifest: Manifest, origin: GraphOrigin, files: Mapping[str, Path], where: str) -> Self:
        """From the checked files of a bundle. MissingExtraError without onnxruntime, BundleError where it fails."""
        if "model" not in files:
            raise BundleError(f"{where}: the manifest names no file for its graph. Copy the bundle again.")
        loaded = cls(files["model"].read_bytes(), origin, manifest.reads, manifest.width, manifest.preprocess)
        optional("onnxruntime", "onnx", where)
        try:
            names = {output.name for output in loaded._session.get_outputs()}
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise BundleError(
                f"{where}: onnxruntime cannot run its graph of opset {origin.opset} ({_reason(error)}). Update it: "
                "pip install -U onnxruntime"
            ) from None
        if missing := set(origin.outputs) - names:
            raise BundleError(f"{where}: its graph gives no {', '.join(sorted(missing))}. Export the bundle again.")
        return loaded

    def of_pixels(self, pixels: NDArray[np.uint8]) -> Seen:
        """Preprocessed images (B, S, S, 3). ConfigError where the graph takes rows."""
        if self.preprocess is None:
            reads = rows_read(self.reads)
            raise ConfigError(f"the bundle's graph takes {reads}, no images. Pass {reads} (N, {self.width or 'C'}).")
        return self._seen("pixels", pixels)

    def of_rows(self, x: Any) -> Seen:
        """Rows (B, F) of what the graph reads, or Outputs. ShapeError for another width, NaN or infinity."""
        reads = rows_read(self.reads)
        if self.preprocess is not None:
            raise ConfigError(
                f"the bundle's graph goes from images to the score at once and takes no {reads}. Pass images, or use "
                "the bundle that it was exported from."
            )
        found = getattr(x, self.reads) if isinstance(x, Outputs) else x
        if found is None:
            raise ConfigError(f"the bundle reads {reads}, which these Outputs do not hold.")
        rows = np.asarray(found)
        if rows.ndim != 2 or rows.dtype.kind != "f":
            raise ShapeError(f"expected floating {reads} (N, {self.width or 'C'}), got {rows.dtype} {rows.shape}.")
        if self.width is not None and rows.shape[1] != self.width:
            raise ShapeError(
                f"{reads} have {rows.shape[1]} columns, the fitted ones had {self.width}. Was it fitted on another "
                "encoder?"
            )
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(bad):
            raise ShapeError(
                f"{len(bad)} of {len(rows)} rows hold NaN or infinity, the first is row {bad[0]}. Drop them, or look "
                "for the image or the layer they come from."
            )
        return self._seen("rows", rows.astype(np.float32, copy=False))

    def on_one_core(self) -> Self:
        """One session of one core, for all threads of a process."""
        return self._single

    def contents(self, score: Score | None, calibration: Mapping[str, NDArray[Any]]) -> Contents:
        """The graph, and what calibrates it."""
        arrays = dict(calibration)
        return {
            "model": (".onnx", lambda path: _write(path, self.graph)),
            "detector": (".safetensors", lambda path: save_file(arrays, path)),
        }

    @cached_property
    def _single(self) -> Self:
        return type(self)(self.graph, self.origin, self.reads, self.width, self.preprocess, cores=1)

    @cached_property
    def _session(self) -> Any:
        runtime = optional("onnxruntime", "onnx", "An exported bundle")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.cores
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it starves whoever decodes
        options.log_severity_level = 4  # the errors come as exceptions too
        return runtime.InferenceSession(self.graph, options, providers=["CPUExecutionProvider"])

    def _seen(self, name: str, value: NDArray[Any]) -> Seen:
        if not len(value):
            return Seen(np.empty(0), None)
        found = dict(zip(self.origin.outputs, self._session.run(list(self.origin.outputs), {name: value}), strict=True))
        near = (found["cosine"], found["row"]) if "row" in found else None
        return Seen(found["score"].astype(np.float64), found.get("feature"), found.get("logits"), near)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(". ")
