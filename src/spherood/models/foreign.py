"""Checkpoints that others trained: key names of each layout to our model, and what its input must look like.

    CIDER              encoder.* and head.*, `fc` present, never trained; ImageNet-100: torchvision's layers by number
    OpenOOD            conv1, layer1.., fc: a classifier; with backbone.* and head.*: CIDER, ReweightOOD, PALM, NPOS
    T2FNorm            backbone.* with backbone.fc, and `tau`
    torchvision, timm  conv1, layer1.., downsample, fc
    ResNet-20          module.*, linear: akamaster's CIFAR-10 networks, with option-A shortcuts

Nothing executes: a file is read by torch's `weights_only`, or as safetensors. What the keys cannot say comes from where
such networks are used: a 3 x 3 first convolution means CIFAR's 32 pixels, 7 x 7 means ImageNet's 224.
Source: the repositories' own model files; measured shapes in tests/models/test_foreign.py.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from spherood.data.preprocess import Preprocess, Triple
from spherood.errors import CheckpointError, ConfigError
from spherood.models.model import Model, ModelSettings, build_model
from spherood.models.resnet import STAGES, Depth
from spherood.models.state import load_state

SUFFIXES = frozenset({".bin", ".ckpt", ".pt", ".pth", ".safetensors", ".tar", ".th"})
Layout = Literal["CIDER", "OpenOOD", "T2FNorm", "ResNet-20"]
State = dict[str, Tensor]
Normalise = tuple[Triple, Triple]  # mean, standard deviation

IMAGENET: Normalise = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIDER: Normalise = ((0.491, 0.482, 0.447), (0.247, 0.244, 0.262))  # for CIFAR-100 too
OPENOOD: dict[int, Normalise] = {
    10: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    100: ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}  # 2, 3: no weights


@dataclass(frozen=True)
class Foreign:
    """A foreign network as one of ours."""

    model: Model
    settings: ModelSettings
    preprocess: Preprocess
    layout: Layout
    classes: int | None  # of its classifier; None where it has none


def read_foreign(path: Path, normalise: Normalise | None = None) -> Foreign:
    """The network in a checkpoint file. `normalise`: mean and std where neither layout nor classes tell them.

    CheckpointError where the file is absent, damaged, would execute code, or holds another architecture (the
    differences are listed); ConfigError where mean and std are needed and not given.
    """
    state, layout = _our_names(_weights(path), path)
    for key in ("head.weight", "head.2.weight", "classifier.weight"):
        if key in state and (state[key].ndim != 2 or len(state[key]) < 2):
            raise CheckpointError(f"{path}: {key} has shape {tuple(state[key].shape)}, expected two rows or more.")
    if layout == "T2FNorm":
        state = _without_temperature(state)
    settings = _settings(state, path)
    classes = len(state["classifier.weight"]) if "classifier.weight" in state else None
    model = build_model(settings, classes or 2)
    for key, value in model.state_dict().items():  # torch before 0.4.1 did not count batches, and nothing reads them
        if key.endswith(".num_batches_tracked"):
            state.setdefault(key, value)
    hint = "Known: ResNet-18, -34 and -50 of CIDER, OpenOOD and torchvision, and ResNet-20."
    load_state(model, state, f"the {layout} network that {path.name} seems to be ({settings.encoder})", hint)
    model.eval()
    mean, std = _statistics(layout, settings, classes, normalise, path)
    size = 224 if settings.stem == "imagenet" else 32
    return Foreign(model, settings, Preprocess(size=size, mean=mean, std=std), layout, classes)


def to_openood(model: Model, settings: ModelSettings) -> State:
    """The weights under the names that OpenOOD's networks load; ConfigError where it has no such network."""
    known = {("resnet18", "cifar"), ("resnet18", "imagenet"), ("resnet50", "imagenet")}
    plain = settings.width == 64 and settings.shortcut == "projection"
    tops = {(None, True), ("mlp", False)}  # its networks load strictly: not a key more, not one fewer
    if (settings.encoder, settings.stem) not in known or not plain or (settings.head, settings.classifier) not in tops:
        raise ConfigError(
            f"OpenOOD has no network like this {settings.encoder} of width {settings.width}, stem {settings.stem}, "
            f"shortcut {settings.shortcut}, head {settings.head or 'none'}, classifier "
            f"{'yes' if settings.classifier else 'no'}. It has ResNet-18 (stem cifar or imagenet) and ResNet-50 "
            "(imagenet), width 64, shortcut projection, with either a classifier or an MLP head."
        )
    prefix = "backbone." if settings.head else ""
    found = {}
    for key, value in model.state_dict().items():
        part, _, rest = key.partition(".")
        if part == "encoder":
            rest = rest.replace(".downsample.", ".shortcut.") if settings.stem == "cifar" else rest
            found[prefix + rest] = value
        elif part == "head":
            found[key] = value
        else:
            found[f"{prefix}fc.{rest}"] = value
    return found


def _weights(path: Path) -> State:
    """Every tensor of a file by its own name, without containers and `module.`."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint. Check the path.")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return {key.removeprefix("module."): value for key, value in load_file(path).items()}
        except SafetensorError as error:
            raise CheckpointError(f"{path}: not a readable safetensors file ({error}). Is the file whole?") from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = re.search(r"(?:GLOBAL|type|class) '?([\w.]+)'?", str(error).replace("WeightsUnpickler error", ""))
        raise CheckpointError(
            f"{path}: holds more than weights{f' ({kind.group(1)})' if kind else ''}; loading it would execute code, "
            'or it is damaged. Where you trust it, convert it once: python -c "import torch; '
            f"x = torch.load('{path}', weights_only=False); "
            "x = x.get('state_dict', x.get('model', x)) if isinstance(x, dict) else x; "
            "x = getattr(x, 'state_dict', lambda: x)(); torch.save({k: v for k, v in x.items() if torch.is_tensor(v)}, "
            f"'{path.with_suffix('.weights.pt')}')\""
        ) from None
    except Exception as error:  # damaged bytes are opcodes too: IndexError, struct.error, whatever they lead to
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: not a readable checkpoint ({reason}). Is the file whole?") from None
    for container in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
    if not isinstance(content, Mapping):
        content = {}
    named = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not named:
        raise CheckpointError(f"{path}: holds no weights by name. Save the network's state_dict.")
    return {key.removeprefix("module."): value for key, value in named.items()}


def _our_names(state: State, path: Path) -> tuple[State, Layout]:
    """encoder.*, head.*, classifier.*; the layout as the keys show it."""
    layout: Layout
    if any(key.startswith("encoder.") for key in state):
        layout = "CIDER"
        kept = {key: value for key, value in state.items() if not key.startswith("fc.")}
        if "encoder.0.weight" in state:
            kept = {_by_number(key): value for key, value in kept.items()}
    elif any(key.startswith("backbone.") for key in state):
        layout = "T2FNorm" if "tau" in state or "backbone.fc.weight" in state else "OpenOOD"
        kept = {_encoder(key.removeprefix("backbone."), key): value for key, value in state.items()}
    elif "linear.weight" in state:
        layout = "ResNet-20"
        kept = {_encoder(key.replace("linear.", "fc."), ""): value for key, value in state.items()}
    elif "conv1.weight" in state:
        layout = "OpenOOD"
        kept = {_encoder(key, ""): value for key, value in state.items()}
    else:
        some = ", ".join(list(state)[:4])
        raise CheckpointError(
            f"{path}: its keys ({some}, ...) are of no known layout. Known: CIDER, OpenOOD, ReweightOOD, T2FNorm, "
            "torchvision ResNets, ResNet-20. Your own network: package.module:function."
        )
    return {key.replace(".shortcut.", ".downsample."): value for key, value in kept.items()}, layout


def _encoder(key: str, original: str) -> str:
    """A name of the bare ResNet to ours; heads and `tau` keep theirs."""
    if key.startswith("fc."):
        return key.replace("fc.", "classifier.")
    return original if original.startswith(("head.", "tau")) else f"encoder.{key}"


def _by_number(key: str) -> str:
    parts = key.split(".")
    if parts[0] == "encoder":
        parts[1] = SEQUENTIAL.get(parts[1], parts[1])
    return ".".join(parts)


def _without_temperature(state: State) -> State:
    """T2FNorm scores W h / tau + b where trained from scratch, W h + b where fine-tuned on 1,000 classes."""
    tau = state.get("tau")
    kept = {key: value for key, value in state.items() if key != "tau"}
    if tau is not None and "classifier.weight" in kept and len(kept["classifier.weight"]) != 1000:
        kept["classifier.weight"] = kept["classifier.weight"] / tau
    return kept


def _settings(state: State, path: Path) -> ModelSettings:
    """Depth, width, stem, shortcut and head, read off the names and shapes."""
    blocks: dict[int, int] = {}
    for key in state:
        if match := re.match(r"encoder\.layer(\d)\.(\d+)\.", key):
            stage, number = int(match[1]), int(match[2])
            blocks[stage] = max(blocks.get(stage, 0), number + 1)
    shape = tuple(blocks[stage] for stage in sorted(blocks))
    bottleneck = any(".conv3." in key for key in state)
    depths: list[Depth] = [d for d, stages in STAGES.items() if stages == shape and (d == "resnet50") == bottleneck]
    first = state.get("encoder.conv1.weight")
    if not depths or first is None or first.ndim != 4 or not len(first):
        raise CheckpointError(
            f"{path}: {'bottleneck' if bottleneck else 'basic'} blocks {shape} per stage are no network that is known "
            f"here ({', '.join(STAGES)}). Your own network: package.module:function."
        )
    head: Literal["mlp", "linear"] | None = None
    dim = 128
    for kind, key in (("mlp", "head.2.weight"), ("linear", "head.weight")):
        if key in state:
            head, dim = kind, len(state[key])  # type: ignore[assignment]
    return ModelSettings(
        encoder=depths[0],
        width=len(first),
        stem="imagenet" if first.shape[-1] == 7 else "cifar",
        shortcut="projection" if any(".downsample." in key for key in state) else "pad",
        head=head,
        dim=dim,
        classifier="classifier.weight" in state,
    )


def _statistics(
    layout: Layout, settings: ModelSettings, classes: int | None, given: Normalise | None, path: Path
) -> Normalise:
    if settings.stem == "imagenet" or layout == "ResNet-20":
        return IMAGENET
    if layout == "CIDER":
        return CIDER
    if given is not None:
        return given
    if classes not in OPENOOD:
        raise ConfigError(
            f"{path}: the file does not say with which mean and std its images were normalised. "
            "Add `normalise: {mean: [...], std: [...]}` to the protocol, or give spherood fit a --preprocess."
        )
    return OPENOOD[classes]
