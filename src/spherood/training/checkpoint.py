"""A training run's state in one file: weights, prototypes, optimiser, position. Whole or absent; nothing executes."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spherood.errors import CheckpointError, TrainingError
from spherood.files import written_aside
from spherood.models import Model, build_model, load_state
from spherood.schema import parse, write_yaml
from spherood.training.objective import Objective
from spherood.training.recipe import Recipe

FORMAT = 1
LAST, BEST = Path("checkpoints", "last.pt"), Path("checkpoints", "best.pt")
UNREADABLE = (OSError, zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError)


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands: `epoch` epochs and `step` steps of the next one are done."""

    recipe: Recipe
    classes: tuple[str, ...]
    epoch: int
    step: int
    model: Mapping[str, Any]
    losses: Mapping[str, Any]
    optimiser: Mapping[str, Any]
    criterion: tuple[str, float] | None = None  # by what it is the best one, and how good

    def save(self, path: Path) -> None:
        """Write aside, flush, rename. TrainingError where there is no room for it: what was there before stays."""
        content = {
            "format": FORMAT,
            "recipe": write_yaml(self.recipe),
            "classes": list(self.classes),
            "epoch": self.epoch,
            "step": self.step,
            "model": dict(self.model),
            "losses": dict(self.losses),
            "optimiser": dict(self.optimiser),
            "criterion": self.criterion,
        }
        whole = io.BytesIO()  # torch, writing to a full disk itself, fails with an error that does not say so
        torch.save(content, whole)
        try:
            with written_aside(path) as aside:
                aside.write_bytes(whole.getbuffer())
        except OSError as error:
            raise TrainingError(
                f"{path}: the checkpoint cannot be written: {error.strerror or error}. Make room "
                f"({whole.tell() / 1e6:,.0f} MB), then go on with the same command and --resume: the last checkpoint "
                "is as it was."
            ) from error

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read one back, on the CPU. CheckpointError where the file is absent, damaged or none of ours."""
        import yaml

        try:
            with zipfile.ZipFile(path) as whole:
                if damaged := whole.testzip():  # torch.load does not look at the checksums
                    raise zipfile.BadZipFile(f"{damaged} is damaged")
            content = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise CheckpointError(
                f"No checkpoint at {path}. Train first: spherood train --recipe R --run NAME"
            ) from None
        except UNREADABLE as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(f"{path}: not a readable checkpoint ({reason}). Is the file whole?") from None
        names = ("recipe", "classes", "epoch", "step", "model", "losses", "optimiser")
        absent = [name for name in names if not isinstance(content, dict) or name not in content]
        if absent:
            raise CheckpointError(f"{path}: lacks {', '.join(absent)}. It was not written by spherood train.")
        if content.get("format") != FORMAT:
            raise CheckpointError(
                f"{path}: format {content.get('format')}, this version reads {FORMAT}. Update spherood."
            )
        recipe = parse(Recipe, yaml.safe_load(content["recipe"]), str(path))
        criterion = tuple(found) if (found := content.get("criterion")) else None  # absent in older files
        rest = {name: content[name] for name in names[2:]}
        return cls(recipe, tuple(content["classes"]), criterion=criterion, **rest)

    def build_model(self) -> Model:
        """The trained model; CheckpointError lists the keys that differ."""
        model = build_model(self.recipe.model, len(self.classes), self.recipe.seed)
        load_state(model, self.model, "the model", "Was it made with another recipe?")
        objective = Objective(self.recipe, model, len(self.classes))
        load_state(objective.losses, self.losses, "the losses", "Was it made with another recipe?")
        if (served := objective.served_classifier()) is not None:  # a loss that owns its classifier trained it
            model.classifier = served
        return model
