"""How a bundle brings its network back: ours by its settings, ONNX by its file, timm's by name, anyone's by path.

Free of torch. Nothing that a bundle names is imported unless the user names it too (`trust`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from spherood.schema import Strict


class ResNetOrigin(Strict):
    """A model of ours: its ModelSettings, the outputs of its classifier, and weights beside.

    Its encoder is one of our ResNets, or another that a head was trained on.
    """

    kind: Literal["resnet"] = "resnet"
    settings: dict[str, Any]
    outputs: int = Field(default=2, ge=1)  # read where there is a classifier

    @property
    def encoder(self) -> str:
        """As in a recipe."""
        return str(self.settings.get("encoder", "resnet18"))


class OnnxOrigin(Strict):
    """An ONNX file in the bundle, and which of its outputs are read."""

    kind: Literal["onnx"] = "onnx"
    feature: str
    logits: str | None = None


class TimmOrigin(Strict):
    """A network of timm, and weights beside."""

    kind: Literal["timm"] = "timm"
    name: str


class FunctionOrigin(Strict):
    """`package.module:function` of the user's own code, and the hash of the weights that it must give."""

    kind: Literal["function"] = "function"
    name: str
    sha256: str


class GraphOrigin(Strict):
    """One ONNX graph in the bundle that holds everything from pixels, or rows of features, to the score."""

    kind: Literal["graph"] = "graph"
    network: str  # what it was, for people
    opset: int
    outputs: tuple[str, ...]  # score first


Origin = Annotated[ResNetOrigin | OnnxOrigin | TimmOrigin | FunctionOrigin | GraphOrigin, Field(discriminator="kind")]


def own_code(origin: Origin | None) -> str | None:
    """Import path of the user's own code that the network is made by, where it is."""
    if isinstance(origin, FunctionOrigin):
        return origin.name
    if isinstance(origin, ResNetOrigin) and ":" in origin.encoder and not origin.encoder.startswith("timm:"):
        return origin.encoder
    return None
