"""Whatever turns images into Outputs."""

from spherood.models.foreign import Foreign, read_foreign
from spherood.models.inference import choose_device, infer
from spherood.models.model import Model, ModelSettings, build_model, weights_hash
from spherood.models.resnet import ResNet
from spherood.models.state import load_state

__all__ = [
    "Foreign",
    "Model",
    "ModelSettings",
    "ResNet",
    "build_model",
    "choose_device",
    "infer",
    "load_state",
    "read_foreign",
    "weights_hash",
]
