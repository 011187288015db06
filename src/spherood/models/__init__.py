"""Whatever turns images into Outputs."""

from spherood.models.inference import choose_device, infer
from spherood.models.model import Model, ModelSettings, build_model, weights_hash
from spherood.models.resnet import ResNet

__all__ = ["Model", "ModelSettings", "ResNet", "build_model", "choose_device", "infer", "weights_hash"]
