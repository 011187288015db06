"""The weights that a fresh model starts from: a checkpoint of others or of a run, or what a network of timm brings."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from spherood.errors import CheckpointError, ConfigError
from spherood.models import Model, ModelSettings, load_state, read_foreign
from spherood.models.model import TIMM, pretrained
from spherood.training.checkpoint import BEST, LAST, Checkpoint
from spherood.training.recipe import Recipe

ANY = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # the recipe says how its images are made, whatever a file's layout would


def start(model: Model, recipe: Recipe, data: Path) -> None:
    """Give a fresh model the weights it starts from. CheckpointError where a file is absent or does not fit.

    From a file come the encoder, and head and classifier where their shapes are those of the recipe; it is looked for
    below the data folder, then where one stands.
    """
    settings = recipe.model
    if settings.encoder.startswith(TIMM):
        network, _ = pretrained(settings)
        model.encoder.network.load_state_dict(network.state_dict())  # type: ignore[union-attr]
    path = weights_file(recipe, data)
    if path is None:
        return
    state, theirs = _found(path)
    for key in ("encoder", "width", "stem", "shortcut"):
        found, wanted = getattr(theirs, key), getattr(settings, key)
        if found != wanted:
            raise CheckpointError(f"{path}: {key} {found}, the recipe's model has {wanted}. Change one of them.")
    load_state(model.encoder, _of("encoder", state), f"the encoder {settings.encoder}", "Is it another network?")
    taken: list[str] = ["encoder"]
    fresh: list[str] = []
    for part, module in (("head", model.head), ("classifier", model.classifier)):
        if isinstance(module, nn.Module):
            own, given = module.state_dict(), _of(part, state)
            fits = {key: value.shape for key, value in given.items()} == {key: own[key].shape for key in own}
            (taken if fits else fresh).append(part)
            if fits:
                module.load_state_dict(given)
    begins = f"; {' and '.join(fresh)} from random weights" if fresh else ""
    print(f"note: {' and '.join(taken)} from {path}{begins}.", file=sys.stderr)


def weights_file(recipe: Recipe, data: Path) -> Path | None:
    """Where the weights lie that a recipe names, if it names some; CheckpointError where they are absent."""
    weights = recipe.fine_tuning.weights
    if weights is None:
        return None
    if not recipe.model.ours:
        raise ConfigError(f"fine_tuning.weights: {recipe.model.encoder} brings its own weights. Leave them out.")
    path = data / weights if (data / weights).is_file() else Path(weights)
    if not path.is_file():
        raise CheckpointError(f"{data / weights}: no such weights. Put the file there, or change fine_tuning.weights.")
    return path


def _found(path: Path) -> tuple[Mapping[str, Tensor], ModelSettings]:
    """Weights and what they are of, of a foreign checkpoint or of a run's."""
    if path.parent.name == LAST.parent.name and path.name in (LAST.name, BEST.name):
        checkpoint = Checkpoint.load(path)
        return checkpoint.model, checkpoint.recipe.model
    found = read_foreign(path, ANY)
    return found.model.state_dict(), found.settings


def _of(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")}
