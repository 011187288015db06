"""What is evaluated, found by what a user types: a run, a bundle, anyone's checkpoint, trials, a function."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from spherood.benchmark.protocol import Protocol
from spherood.bundle.bundle import Bundle
from spherood.bundle.encoder import foreign_encoder, function_encoder, is_of_a_run, run_encoder, timm_encoder
from spherood.bundle.manifest import MANIFEST
from spherood.bundle.origin import Origin
from spherood.bundle.torch_runtime import TorchRuntime
from spherood.data import Preprocess
from spherood.errors import CheckpointError, ConfigError
from spherood.models.foreign import SUFFIXES
from spherood.schema import write_yaml
from spherood.training.checkpoint import LAST, Checkpoint
from spherood.training.recipe import Recipe

EPOCH = re.compile(r"checkpoint_(\d+)\.pth\.tar")
NAMELESS = re.compile(r"(best|last|latest|final|model|checkpoint(_\d+)?|s\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Subject:
    """The model that is evaluated: its name in the table, the names of its classes, and how its input is made."""

    name: str
    model: nn.Module
    preprocess: Preprocess
    classes: tuple[str, ...] | int | None  # their names, only their number (a foreign classifier), or not known
    origin: Origin | None = None  # brings it back, for a new bundle; None where none is to be made
    group: str = ""  # subjects that differ in their seed alone
    seed: str = ""


def find_subjects(text: str, run: Path, protocol: Protocol, epoch: int | None = None) -> list[Subject]:
    """One subject, or one per trial of a folder. `run`: the folder that a run of this name has.

    ConfigError where nothing of that name is found, CheckpointError where a file does not fit.
    """
    path = Path(text)
    if is_of_a_run(path):
        return [_run(path.parent.parent, protocol, path)]
    if path.is_file():
        return [_foreign(path, protocol)]
    for folder in (run, path):
        if (folder / LAST).is_file():
            return [_run(folder, protocol)]
        if (folder / MANIFEST).is_file():
            return [_bundle(folder, protocol)]
    if path.is_dir():
        return _folder(path, protocol, epoch)
    found = function_encoder(text) if ":" in text else timm_encoder(text, run, "spherood evaluate")
    return [Subject(found.name, found.model, found.images, found.classes, found.origin)]


def _run(folder: Path, protocol: Protocol, file: Path | None = None) -> Subject:
    found, recipe = run_encoder(folder, file), Checkpoint.load(file or folder / LAST).recipe
    return Subject(
        name=found.name,
        model=found.model,
        preprocess=protocol.applied_to(found.images),
        classes=found.classes,
        origin=found.origin,
        group=_group(recipe),
        seed=str(recipe.seed),
    )


def _group(recipe: Recipe) -> str:
    """The recipe's name, with a hash of everything in it but the seed: what --set changed is another experiment."""
    same = recipe.model_copy(update={"seed": 0})
    return f"{recipe.name}#{hashlib.sha256(write_yaml(same).encode()).hexdigest()[:8]}"


def _bundle(folder: Path, protocol: Protocol) -> Subject:
    """Without an origin: measuring what was shipped must not ship another."""
    bundle = Bundle.load(folder)
    name = folder.parent.name if folder.name == "bundle" else folder.name
    runtime = bundle.runtime
    if not isinstance(runtime, TorchRuntime):
        raise ConfigError(f"{folder}: an exported bundle holds no network apart from its score. Name the network.")
    if runtime.model is None or runtime.preprocess is None:
        raise ConfigError(f"{folder}: a bundle that reads features has no network to evaluate. Name the network.")
    return Subject(name, runtime.model, protocol.applied_to(runtime.preprocess), bundle.classes)


def _foreign(path: Path, protocol: Protocol) -> Subject:
    stem = path.name.removesuffix(".tar").rpartition(".")[0] or path.name
    name = path.absolute().parent.name if NAMELESS.fullmatch(stem) else stem
    given = protocol.normalise
    found = foreign_encoder(path, (given.mean, given.std) if given else None)
    return Subject(name, found.model, protocol.applied_to(found.images), found.classes, found.origin)


def _folder(path: Path, protocol: Protocol, epoch: int | None) -> list[Subject]:
    """Trials s0, s1, ...; or CIDER's checkpoints by epoch; or a folder with one checkpoint in it."""
    trials = sorted(path.glob("s[0-9]*/best.ckpt"), key=lambda file: int(re.sub(r"\D", "", file.parent.name) or 0))
    if trials:
        name = path.absolute().name
        return [
            replace(_foreign(file, protocol), name=f"{name} {file.parent.name}", group=name, seed=file.parent.name)
            for file in trials
        ]
    epochs = {int(match[1]): file for file in path.iterdir() if (match := EPOCH.fullmatch(file.name))}
    if epochs:
        if epoch is not None and epoch not in epochs:
            raise ConfigError(f"{path}: no checkpoint of epoch {epoch}. There are: {_few(sorted(epochs))}.")
        file = epochs[max(epochs) if epoch is None else epoch]
        return [replace(_foreign(file, protocol), name=path.absolute().name, group=path.absolute().name)]
    files = [file for file in sorted(path.iterdir()) if file.is_file() and file.suffix in SUFFIXES]
    if len(files) != 1:
        raise CheckpointError(
            f"{path}: expected a run ({LAST}), a bundle ({MANIFEST}), trials (s0/best.ckpt), CIDER's "
            f"checkpoint_N.pth.tar or one checkpoint, found {len(files)} checkpoints. Name the file."
        )
    return [_foreign(files[0], protocol)]


def _few(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[-8:]))
