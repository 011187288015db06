"""Torch modules as ONNX graphs with one input of any batch size; a detector among them.

Shapes: B rows, F feature width, n neighbours.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from spherood.bundle.runtime import NEIGHBOURS
from spherood.detectors import Detector
from spherood.errors import BundleError


class Scoring(nn.Module):
    """What the detector reads (B, F) to its score and, where it has a bank, neighbours."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        """score (B,), cosine and row (B, n)."""
        score, near = self.detector.forward_with_neighbours(rows, NEIGHBOURS)
        return (score,) if near is None else (score, *near)


def scoring_graph(detector: Detector, width: int, opset: int) -> tuple[bytes, list[str]]:
    """The detector alone: `rows` (B, F) float32 to score and neighbours; the names of its outputs."""
    scoring, rows = Scoring(detector).eval(), torch.zeros(2, width)
    with torch.no_grad():
        names = ["score", "cosine", "row"][: len(scoring(rows))]
    return traced(scoring, rows, "rows", names, opset), names


def traced(module: nn.Module, example: Tensor, name: str, outputs: list[str], opset: int) -> bytes:
    """The module as ONNX: one input of that name, any batch size. BundleError where torch cannot trace it."""
    with _quiet(), torch.no_grad():
        try:
            program: Any = torch.onnx.export(
                module,
                (example,),
                input_names=[name],
                output_names=outputs,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().partition("\n")[0]
            raise BundleError(
                f"the network cannot become a graph: {reason}. Export it to ONNX yourself, and fit a bundle on that "
                "file: spherood fit --encoder FILE.onnx --feature-output NAME"
            ) from None
    content: bytes = program.model_proto.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's notes are about libraries that are not there, and about itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
