"""Anyone's ONNX file as an encoder: onnxruntime runs the graph on the CPU, a name says which tensor is the feature.

The file is taken as it is: nothing in it is trained, and no gradient flows. It has one input, normalised images. The
feature may be a tensor inside the graph, which is then made an output in memory. A graph whose batch size is fixed is
fed in batches of that size; the last one is filled up with zeros, whose rows are dropped.

Shapes: B images, S size, F feature width, C classes, H and W of a map.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spherood.errors import CheckpointError, ConfigError, MissingExtraError, ShapeError, optional
from spherood.outputs import Outputs

INPUTS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
OUTPUTS = frozenset({*INPUTS, "tensor(double)"})
# A tensor whose values lie in another file: external_data, its first key "location", then data_location = EXTERNAL.
# Looked for in the bytes, since onnxruntime reads such a file where one happens to lie in the working directory.
EXTERNAL = re.compile(rb"\n\x08location\x12.{1,400}?p\x01", re.DOTALL)

Shape = Sequence[int | str | None]  # of an axis its length, the name of a dynamic one, or nothing


class OnnxEncoder(nn.Module):
    """``from_onnx(path)(images) -> Outputs``. content: the file's bytes. feature, logits: the tensors that are read."""

    def __init__(self, content: bytes, session: Any, source: str, feature: str, logits: str | None) -> None:
        super().__init__()
        self.content, self.session, self.source = content, session, source
        self.feature, self.logits = feature, logits
        entry = session.get_inputs()[0]
        self.entry, self.dtype, self.axes = entry.name, INPUTS[entry.type], tuple(entry.shape)
        # Its one weight, so that the device and the hash of its weights are found where other networks have theirs.
        self.digest = nn.Parameter(torch.tensor(list(hashlib.sha256(content).digest())).byte(), requires_grad=False)

    @property
    def size(self) -> int | None:
        """S where the graph fixes it."""
        height, width = self.axes[2:]
        return height if isinstance(height, int) and height == width else None

    def forward(self, images: Tensor) -> Outputs:
        """Normalised images (B, 3, S, S) to feature (B, F) and logits (B, C) or None: float32, on the images' device.

        ShapeError for images that the graph does not take; ConfigError where it gives anything but a row for each.
        """
        takes = ("B", 3, *self.axes[2:])
        if images.ndim != 4 or not len(images) or any(_differ(*pair) for pair in zip(images.shape, takes, strict=True)):
            raise ShapeError(
                f"{self.source}: takes images {_shown(takes)}, got {_shown(images.shape)}. Set the size in "
                "the preprocess."
            )
        x = images.detach().to("cpu", self.dtype).numpy()
        step = self.axes[0] if isinstance(self.axes[0], int) else len(x)
        parts = [self._rows(x[start : start + step], step) for start in range(0, len(x), step)]
        feature, *logits = (torch.cat(part).to(images.device) for part in zip(*parts, strict=True))
        return Outputs(feature, logits=logits[0] if logits else None)

    def _rows(self, x: NDArray[Any], batch: int) -> list[Tensor]:
        """The tensors that are read, for at most `batch` images."""
        filled = np.concatenate([x, np.zeros((batch - len(x), *x.shape[1:]), x.dtype)]) if len(x) < batch else x
        names = [self.feature] if self.logits is None else [self.feature, self.logits]
        try:
            found = self.session.run(names, {self.entry: filled})
        except Exception as error:  # its errors have no base of their own
            raise ShapeError(
                f"{self.source}: the graph fails on images {_shown(filled.shape)} ({_reason(error)}). Does it take "
                "another size?"
            ) from None
        for name, value in zip(names, found, strict=True):
            _check_shape(self.source, name, value.shape)
            if len(value) != len(filled):
                raise ConfigError(
                    f"{self.source}: '{name}' is {_shown(value.shape)} for {len(filled)} images, expected a row for "
                    "each. Export the graph with a dynamic batch size."
                )
        return [torch.from_numpy(value).flatten(1)[: len(x)].float() for value in found]

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy that shares the session, which cannot be copied and never changes."""
        memo[id(self.session)] = self.session
        copied = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def extra_repr(self) -> str:
        """What the features depend on: the file and the names."""
        return f"sha256={bytes(self.digest.tolist()).hex()}, feature={self.feature}, logits={self.logits}"


def from_onnx(path: Path, feature: str | None = None, logits: str | None = None) -> OnnxEncoder:
    """The graph of a file. feature: an output or inner tensor, by default the only output; logits: likewise, or none.

    CheckpointError where the file is absent, damaged, no ONNX or not alone; ConfigError where its input is not one
    batch of images, or a tensor does not exist or is not one row per image; MissingExtraError without onnxruntime.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such ONNX file. Check the path.")
    content = path.read_bytes()
    if EXTERNAL.search(content):
        raise CheckpointError(
            f"{path}: its weights lie in a file of their own, expected one file (which ONNX limits to 2 GB). Make it "
            f"one: python -c \"import onnx; onnx.save(onnx.load('{path}'), '{path.with_suffix('.one.onnx')}')\""
        )
    session = _session(content, path)
    _check_input(session.get_inputs(), path)
    outputs = {output.name: output.shape for output in session.get_outputs()}
    if feature is None:
        if len(outputs) != 1:
            raise ConfigError(
                f"{path}: has {len(outputs)} outputs: {_listed(outputs)}. Name the one that is the feature."
            )
        (feature,) = outputs
    inner = [name for name in (feature, logits) if name is not None and name not in outputs]
    if inner:
        session = _session(_extended(content, inner, outputs, path), path)
    for output in session.get_outputs():
        if output.name in (feature, logits):
            if output.type not in OUTPUTS:
                raise ConfigError(f"{path}: '{output.name}' is {output.type}, expected a tensor of floats.")
            if output.shape:  # else of a shape that shows when it runs
                _check_shape(path, output.name, output.shape)
    return OnnxEncoder(content, session, str(path), feature, logits).eval()


def _session(content: bytes, path: Path) -> Any:
    runtime = optional("onnxruntime", "onnx", str(path))
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # the errors come as exceptions too
    options.add_session_config_entry("session.load_model_format", "ONNX")  # not its own format, which onnx cannot read
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no base of their own
        raise CheckpointError(
            f"{path}: onnxruntime cannot load it ({_reason(error)}). Is it a whole ONNX file?"
        ) from None


def _extended(content: bytes, names: Iterable[str], outputs: dict[str, Shape], path: Path) -> bytes:
    """The graph with inner tensors as outputs; ConfigError where it has none of that name."""
    hint = f"Outputs: {_listed(outputs)}."
    try:
        onnx = optional("onnx", "onnx", "An inner tensor")
    except MissingExtraError as error:
        raise ConfigError(f"{path}: has no output '{next(iter(names))}'. {hint} {error}") from None
    model = onnx.load_model_from_string(content)
    known = [*outputs, *(name for node in model.graph.node for name in node.output if name not in outputs)]
    for name in names:
        if name not in known:
            near = ", ".join(f"'{one}'" for one in difflib.get_close_matches(name, known, n=3, cutoff=0.5))
            raise ConfigError(f"{path}: has no tensor '{name}'. {f'Nearest: {near}. ' if near else ''}{hint}")
        model.graph.output.append(onnx.ValueInfoProto(name=name))  # onnxruntime finds out type and shape
    extended: bytes = model.SerializeToString()
    return extended


def _check_input(inputs: Sequence[Any], path: Path) -> None:
    """ConfigError unless it is one batch of images, float32 or float16, channels first."""
    if len(inputs) != 1:
        listed = _listed({entry.name: entry.shape for entry in inputs}) or "none"
        raise ConfigError(f"{path}: has {len(inputs)} inputs ({listed}), expected one: images (B, 3, S, S).")
    entry, shape = inputs[0], inputs[0].shape
    if entry.type not in INPUTS:
        raise ConfigError(
            f"{path}: input '{entry.name}' is {entry.type}, expected tensor(float): normalised images. Export the "
            "network without what it does to the pixels before."
        )
    if len(shape) == 4 and shape[1] != 3 and shape[3] == 3:
        raise ConfigError(
            f"{path}: input '{entry.name}' is {_shown(shape)}: NHWC, channels last; expected NCHW, images (B, 3, S, "
            f"S). Put a Transpose before it; tf2onnx does with --inputs-as-nchw {entry.name}"
        )
    if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        raise ConfigError(f"{path}: input '{entry.name}' is {_shown(shape)}, expected images (B, 3, S, S).")


def _check_shape(source: Path | str, name: str, shape: Shape) -> None:
    """ConfigError where it cannot be one row per image."""
    if len(shape) == 4 and any(isinstance(axis, int) and axis != 1 for axis in shape[2:]):
        raise ConfigError(
            f"{source}: '{name}' is {_shown(shape)}, a map for each feature; expected (B, F) or (B, F, 1, 1). Name a "
            "tensor after the pooling, or add a GlobalAveragePool to the graph."
        )
    if len(shape) not in (2, 4):
        raise ConfigError(f"{source}: '{name}' is {_shown(shape)}, expected (B, F) or (B, F, 1, 1).")


def _differ(axis: int, wanted: int | str | None) -> bool:
    return isinstance(wanted, int) and axis != wanted


def _listed(shapes: dict[str, Shape]) -> str:
    return ", ".join(f"'{name}' {_shown(shape)}" for name, shape in shapes.items())


def _shown(shape: Shape) -> str:
    return f"({', '.join('?' if axis is None else str(axis) for axis in shape)}{',' if len(shape) == 1 else ''})"


def _reason(error: Exception) -> str:
    """Its first line, without onnxruntime's number and name of the kind."""
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)).partition("\n")[0].rstrip(". ")
