"""A foreign ONNX network inside our graph: its nodes as they are, pixels made for it before, the score after.

    pixels uint8 -> float, channels first, / 255, - mean, / std -> its graph -> feature -> the score's graph

Our nodes bear the prefix `spherood_`. A graph of an older opset than the score needs is converted by onnx.
Shapes: B images, S size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spherood.bundle.tracing import scoring_graph
from spherood.data.preprocess import Preprocess
from spherood.detectors import Detector
from spherood.errors import ConfigError, optional
from spherood.models.onnx import OnnxEncoder

PREFIX = "spherood_"
LEAST = 18  # opset that torch's exporter begins with


def wrapped(encoder: OnnxEncoder, detector: Detector, preprocess: Preprocess) -> tuple[bytes, list[str], int]:
    """The graph, the names of its outputs and its opset. ConfigError for a fixed batch size or too old an opset."""
    onnx: Any = optional("onnx", "onnx", "spherood export")
    if isinstance(encoder.axes[0], int):
        raise ConfigError(
            f"{encoder.source}: takes batches of {encoder.axes[0]} and no others. Export the network with a dynamic "
            "batch size first."
        )
    model = _converted(onnx, onnx.load_model_from_string(encoder.content), encoder.source)
    opset = _opset(model)
    read = getattr(encoder(torch.zeros(1, 3, preprocess.size, preprocess.size)), detector.reads)
    content, names = scoring_graph(detector, read.shape[1], opset)
    scoring = onnx.compose.add_prefix(onnx.load_model_from_string(content), PREFIX)
    graph = model.graph
    size = preprocess.size
    half = encoder.dtype.itemsize == 2
    nodes = [*_before(onnx, encoder.entry, preprocess, half=half), *graph.node]
    outputs = {name: f"{PREFIX}{name}" for name in names}
    outputs |= {"feature": f"{PREFIX}feature"} | ({} if encoder.logits is None else {"logits": f"{PREFIX}logits"})
    for name, tensor in (("feature", encoder.feature), ("logits", encoder.logits)):
        if tensor is not None:
            nodes += [
                onnx.helper.make_node("Flatten", [tensor], [f"{PREFIX}flat_{name}"], axis=1),
                onnx.helper.make_node("Cast", [f"{PREFIX}flat_{name}"], [outputs[name]], to=onnx.TensorProto.FLOAT),
            ]
    source = outputs["logits" if detector.reads == "logits" else "feature"]
    nodes += [onnx.helper.make_node("Identity", [source], [f"{PREFIX}rows"]), *scoring.graph.node]
    nodes += [onnx.helper.make_node("Identity", [tensor], [name]) for name, tensor in outputs.items()]
    taken = {name for node in graph.node for name in (*node.input, *node.output)} & set(outputs)
    if taken:
        raise ConfigError(
            f"{encoder.source}: has tensors called {', '.join(sorted(taken))}, as our outputs are. Rename them."
        )
    kinds = {output.name.removeprefix(PREFIX): output.type.tensor_type.elem_type for output in scoring.graph.output}
    float_ = onnx.TensorProto.FLOAT
    made = onnx.helper.make_graph(
        nodes,
        "spherood",
        [onnx.helper.make_tensor_value_info("pixels", onnx.TensorProto.UINT8, ["batch", size, size, 3])],
        [
            onnx.helper.make_tensor_value_info(
                name, kinds.get(name, float_), ["batch"] if name == "score" else ["batch", None]
            )
            for name in outputs
        ],
        initializer=[*graph.initializer, *_constants(onnx, preprocess), *scoring.graph.initializer],
    )
    made.sparse_initializer.extend(graph.sparse_initializer)
    imports = {entry.domain: entry.version for entry in (*scoring.opset_import, *model.opset_import)}
    whole = onnx.helper.make_model(
        made,
        opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in imports.items()],
        functions=[*model.functions, *scoring.functions],
        ir_version=max(model.ir_version, scoring.ir_version),
    )
    onnx.checker.check_model(whole)
    serialised: bytes = whole.SerializeToString()
    return serialised, list(outputs), opset


def _before(onnx: Any, entry: str, preprocess: Preprocess, *, half: bool) -> list[Any]:
    node, p = onnx.helper.make_node, PREFIX
    kind = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
    return [
        node("Cast", ["pixels"], [f"{p}float"], to=onnx.TensorProto.FLOAT),
        node("Transpose", [f"{p}float"], [f"{p}first"], perm=[0, 3, 1, 2]),
        node("Div", [f"{p}first", f"{p}255"], [f"{p}scaled"]),
        node("Sub", [f"{p}scaled", f"{p}mean"], [f"{p}centred"]),
        node("Div", [f"{p}centred", f"{p}std"], [f"{p}normalised"]),
        node("Cast", [f"{p}normalised"], [entry], to=kind),
    ]


def _constants(onnx: Any, preprocess: Preprocess) -> list[Any]:
    values: dict[str, NDArray[np.float32]] = {"255": np.float32(255).reshape(1)}
    values |= {
        name: np.array(value, np.float32).reshape(3, 1, 1)
        for name, value in (("mean", preprocess.mean), ("std", preprocess.std))
    }
    return [onnx.numpy_helper.from_array(value, f"{PREFIX}{name}") for name, value in values.items()]


def _converted(onnx: Any, model: Any, source: str) -> Any:
    opset = _opset(model)
    if opset >= LEAST:
        return model
    try:
        return onnx.version_converter.convert_version(model, LEAST)
    except Exception as error:  # whatever its C++ raises
        reason = str(error).partition("\n")[0][:200]
        raise ConfigError(
            f"{source}: is of opset {opset}, the score needs {LEAST}, and onnx cannot convert it ({reason}). Export "
            f"the network again with opset_version={LEAST} or newer."
        ) from None


def _opset(model: Any) -> int:
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
