"""A bundle as one ONNX graph: pixels, normalised, through the network and to the score. The threshold stays outside.

    pixels (B, S, S, 3) uint8  ->  score (B,); feature (B, F), logits (B, C), cosine and row (B, n) where there are any

A bundle without a network takes `rows` (B, F) float32. The bank of a k-NN lies in the graph, in half precision where
the bundle keeps it so. A network that is an ONNX file already is taken as it is, between our two ends of the graph.
Shapes: B images, S size, F feature width, C classes, n neighbours.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from spherood.bundle.foreign_graph import wrapped
from spherood.bundle.origin import FunctionOrigin, GraphOrigin, OnnxOrigin, Origin, ResNetOrigin, TimmOrigin, own_code
from spherood.bundle.torch_runtime import TorchRuntime
from spherood.bundle.tracing import Scoring, scoring_graph, traced
from spherood.data.preprocess import Preprocess
from spherood.data.tensors import normalised
from spherood.detectors import KNN, Detector
from spherood.errors import BundleError, optional
from spherood.models.onnx import OnnxEncoder
from spherood.outputs import Outputs

OPSET = 20
LIMIT = 2**31 - 2**20  # bytes of one ONNX file, less room for the graph itself


class Seeing(nn.Module):
    """Pixels (B, S, S, 3) to score, feature, logits and neighbours; which of these there are, `names` says.

    Without a preprocess: features (B, F), through a head.
    """

    def __init__(self, model: nn.Module, detector: Detector, preprocess: Preprocess | None) -> None:
        super().__init__()
        self.model, self.scoring, self.preprocess = model, Scoring(detector), preprocess
        self.reads = detector.reads
        self.names: list[str] = []

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """One pass for a classifier and its guard."""
        network: Any = getattr(self.model, "layered", self.model) if self.reads == "layers" else self.model
        outputs: Outputs = network(x if self.preprocess is None else normalised(x, self.preprocess))
        read = getattr(outputs, self.reads)
        score, *near = self.scoring.forward(torch.cat(tuple(read), dim=1) if self.reads == "layers" else read)
        found = {"score": score, "feature": outputs.feature}
        if outputs.logits is not None:
            found["logits"] = outputs.logits
        found |= zip(("cosine", "row"), near, strict=False)
        self.names = list(found)
        return tuple(found.values())


def graph_of(runtime: TorchRuntime, *, limit: int = LIMIT) -> tuple[bytes, GraphOrigin]:
    """The graph and what is told of it.

    BundleError for a score or network that cannot be a graph, with the reason, and for more than `limit` bytes;
    ConfigError for a foreign graph of too old an opset or fixed batch size; MissingExtraError without onnx.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        optional(module, "onnx", "spherood export")
    if reason := runtime.detector.no_graph:
        raise BundleError(f"{runtime.detector.name} cannot be exported: {reason}.")
    detector = _prepared(runtime)
    _check_size(runtime.model, detector, limit)
    if isinstance(runtime.model, OnnxEncoder) and runtime.preprocess is not None:
        content, names, opset = wrapped(runtime.model, detector, runtime.preprocess)
    elif runtime.model is None:
        if code := own_code(runtime.origin):
            raise BundleError(
                f"the bundle's network is {code}, code of your own. If you trust it, say so: --trust {code}"
            )
        if runtime.width is None:
            raise BundleError(
                f"{runtime.detector.name} was fitted on nothing and takes rows of any width: there is nothing to "
                "export. Use it on a bundle with a network."
            )
        content, names = scoring_graph(detector, runtime.width, OPSET)
        opset = OPSET
    else:
        seeing = Seeing(runtime.model.cpu().eval(), detector, runtime.preprocess).eval()
        if runtime.preprocess is None:
            name, x = "rows", torch.zeros(2, runtime.width or 0)
        else:
            size = runtime.preprocess.size
            name, x = "pixels", torch.zeros(2, size, size, 3, dtype=torch.uint8)
        with torch.no_grad():
            seeing(x)  # fills in its names
        content, names, opset = traced(seeing, x, name, seeing.names, OPSET), seeing.names, OPSET
    return content, GraphOrigin(network=told(runtime.origin), opset=opset, outputs=tuple(names))


def told(origin: Origin | None) -> str:
    """What the network is, for people."""
    if isinstance(origin, ResNetOrigin):
        return origin.encoder if origin.encoder != "none" else "a head on features"
    if isinstance(origin, OnnxOrigin):
        return f"ONNX file, output {origin.feature}"
    if isinstance(origin, TimmOrigin | FunctionOrigin):
        return origin.name
    return "none: it reads features"


def _prepared(runtime: TorchRuntime) -> Detector:
    """The detector on the CPU; a bank that was rounded to half precision as such, which searches the same rows."""
    if not runtime.half:
        return runtime.detector.cpu()
    detector = copy.deepcopy(runtime.detector).cpu()
    for part in detector.modules():
        if isinstance(part, KNN):
            part.bank, part.storage = part.bank.half(), "float16"
    return detector


def _check_size(model: nn.Module | None, detector: Detector, limit: int) -> None:
    parts = [detector] if model is None else [model, detector]
    tensors = [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    needed += len(model.content) if isinstance(model, OnnxEncoder) else 0
    if needed > limit:
        raise BundleError(
            f"the graph would hold {needed / 1e9:.1f} GB, and one ONNX file holds {limit / 1e9:.1f} GB. Make the bank "
            "smaller: spherood fit ... --coreset N, or --half"
        )
