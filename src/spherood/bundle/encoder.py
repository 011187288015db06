"""Whatever turns images into Outputs, found by what a user types, and brought back out of a bundle."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from spherood.bundle.manifest import Contents
from spherood.bundle.origin import FunctionOrigin, OnnxOrigin, Origin, ResNetOrigin, TimmOrigin, own_code
from spherood.data.preprocess import Preprocess
from spherood.data.source import Source
from spherood.errors import BundleError, CheckpointError, ConfigError, MissingExtraError, nearest
from spherood.models import Model, ModelSettings, build_model, load_state, read_foreign, weights_hash
from spherood.models.custom import from_function, from_timm, timm_network
from spherood.models.foreign import SUFFIXES, Normalise
from spherood.models.model import NONE
from spherood.schema import parse
from spherood.training.checkpoint import BEST, LAST, Checkpoint


@dataclass(frozen=True)
class Encoder:
    """A network, how its images are made, and what a bundle needs to bring it back."""

    name: str
    model: nn.Module
    preprocess: Preprocess | None  # None: the model is a head, and takes features
    classes: tuple[str, ...] | int | None = None  # their names, only their number (a foreign classifier), or not known
    origin: Origin | None = None  # None: it cannot be brought back
    trained_on: Source | None = None  # where that is which trained it, of a run

    @property
    def images(self) -> Preprocess:
        """How its images are made; ConfigError where it takes none."""
        if self.preprocess is None:
            raise ConfigError(
                f"{self.name}: is a head on features, and images are wanted here. Make a guard of it and measure that: "
                "spherood fit FEATURES --encoder RUN --held-out FEATURES --ood NAME=FEATURES"
            )
        return self.preprocess


def find_encoder(
    text: str,
    run: Path,
    wanted_by: str,
    *,
    preprocess: Preprocess | None = None,
    feature: str | None = None,
    logits: str | None = None,
) -> Encoder:
    """A run, a checkpoint file, an ONNX file, `package.module:function`, or a network of timm.

    run: the folder that a run of this name has. preprocess: replaces the encoder's own; an ONNX file has none. feature,
    logits: outputs of an ONNX file. ConfigError where nothing of that name is found, CheckpointError where a file does
    not fit.
    """
    path = Path(text)
    if path.suffix == ".onnx":
        return onnx_encoder(path, preprocess, feature, logits)
    if feature or logits:
        raise ConfigError(f"{wanted_by}: {text} is no .onnx file, and only such a file has outputs by name.")
    if is_of_a_run(path):
        found = run_encoder(path.parent.parent, path)
    elif path.is_file():
        found = foreign_encoder(path, None if preprocess is None else (preprocess.mean, preprocess.std))
    elif folder := next((one for one in (run, path) if (one / LAST).is_file()), None):
        found = run_encoder(folder)
    elif ":" in text:
        found = function_encoder(text)
    else:
        found = timm_encoder(text, run, wanted_by)
    if preprocess is None:
        return found
    if found.preprocess is None:
        raise ConfigError(f"{wanted_by}: {text} is a head on features, and --preprocess is about images. Leave it out.")
    return replace(found, preprocess=preprocess)


def is_of_a_run(path: Path) -> bool:
    """Whether this file is one of the checkpoints that `spherood train` leaves in a run."""
    return path.is_file() and path.parent.name == LAST.parent.name and path.name in (LAST.name, BEST.name)


def run_encoder(folder: Path, file: Path | None = None) -> Encoder:
    """The trained network of a run, by default of its last checkpoint."""
    checkpoint = Checkpoint.load(file or folder / LAST)
    recipe, model = checkpoint.recipe, checkpoint.build_model()
    settings = recipe.model.model_copy(update={"classifier": model.classifier is not None})  # a loss may bring its own
    name = folder.absolute().name if file is None else f"{folder.absolute().name} {file.stem}"
    origin = origin_of(settings, len(checkpoint.classes))
    preprocess = None if recipe.model.encoder == NONE else recipe.preprocess
    return Encoder(name, model, preprocess, checkpoint.classes, origin, recipe.data)


def origin_of(settings: ModelSettings, outputs: int) -> ResNetOrigin:
    """How a model of ours is brought back; outputs: of its classifier, where it has one."""
    return ResNetOrigin(settings=settings.model_dump(mode="json"), outputs=outputs)


def foreign_encoder(path: Path, normalise: Normalise | None = None) -> Encoder:
    """A checkpoint that others trained."""
    found = read_foreign(path, normalise)
    origin = origin_of(found.settings, found.classes or 2)
    return Encoder(path.name, found.model, found.preprocess, found.classes, origin)


def function_encoder(name: str) -> Encoder:
    """A user's own network; the user's code runs."""
    model, preprocess = from_function(name)
    return Encoder(name, model, preprocess, None, FunctionOrigin(name=name, sha256=weights_hash(model)))


def onnx_encoder(path: Path, preprocess: Preprocess | None, feature: str | None, logits: str | None) -> Encoder:
    """An ONNX file; ConfigError without a preprocess: such a file does not say how its images are made."""
    from spherood.models.onnx import from_onnx

    model = from_onnx(path, feature, logits)
    if preprocess is None:
        raise ConfigError(
            f"{path}: an ONNX file does not say how its images are made. Write size, resize, mean and std into a YAML "
            "file and pass it: --preprocess FILE.yaml"
        )
    if model.size not in (None, preprocess.size):
        raise ConfigError(f"{path}: takes images of {model.size} px, the preprocess makes {preprocess.size} px.")
    return Encoder(path.name, model, preprocess, None, OnnxOrigin(feature=model.feature, logits=model.logits))


def timm_encoder(name: str, run: Path, wanted_by: str) -> Encoder:
    """A pretrained network of timm; where timm is absent and nothing else bears the name, the message says both."""
    if "/" in name or Path(name).suffix in SUFFIXES:
        raise CheckpointError(
            f"{wanted_by}: no run at {run}, no checkpoint and no folder {name}. Train one with: "
            "spherood train --recipe RECIPE.yaml --run NAME"
        )
    try:
        model, preprocess = from_timm(name)
    except MissingExtraError as error:
        known = [folder.name for folder in run.parent.glob("*") if (folder / LAST).is_file()]
        hint = f" {nearest(name, known)}" if known else ""
        raise CheckpointError(
            f"{wanted_by}: no run at {run}.{hint} Train one with: spherood train --recipe RECIPE.yaml --run "
            f"{name}\nIt could be a network of timm, but {error}"
        ) from None
    last = getattr(model, "classifier", None)
    return Encoder(name, model, preprocess, getattr(last, "out_features", None), TimmOrigin(name=name))


def written(model: nn.Module, origin: Origin) -> Contents:
    """The files of a bundle that bring the model back: none for a user's own function."""
    if isinstance(origin, FunctionOrigin):
        return {}
    if isinstance(origin, OnnxOrigin):
        content: bytes = model.content  # type: ignore[assignment]
        return {"model": (".onnx", lambda path: _write(path, content))}
    # Copies: a layer under two names, such as timm's classifier, would be memory that safetensors refuses to share.
    weights = {name: value.clone(memory_format=torch.contiguous_format) for name, value in model.state_dict().items()}
    return {"model": (".safetensors", lambda path: save_file(weights, path))}


def brought_back(origin: Origin, file: Path | None, where: str, trust: Collection[str]) -> nn.Module | None:
    """The network of a bundle; None for a user's function that is not in `trust`. BundleError where it is another."""
    if (code := own_code(origin)) is not None and code not in trust:
        return None
    if isinstance(origin, FunctionOrigin):
        model, _ = from_function(origin.name)
        if weights_hash(model) != origin.sha256:
            raise BundleError(
                f"{where}: {origin.name} gives other weights than those it was calibrated with. Load the same weights, "
                "or fit a new bundle with: spherood fit"
            )
        return model
    if file is None:
        raise BundleError(f"{where}: the manifest names no file for its model. Copy the bundle again.")
    if isinstance(origin, OnnxOrigin):
        from spherood.models.onnx import from_onnx

        return from_onnx(file, origin.feature, origin.logits).eval()
    if isinstance(origin, TimmOrigin):
        network = timm_network(origin.name)
        load_state(network, load_file(file), f"timm's {origin.name}", "Is it another version of timm?")
        return network.eval()
    assert isinstance(origin, ResNetOrigin)  # a graph is no network: onnx_runtime.py reads it
    settings = parse(ModelSettings, origin.settings, f"{where}: model")
    ours: Model = build_model(settings, origin.outputs)
    ours.load_state_dict(load_file(file))
    return ours.eval()


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
