"""One training loop for every objective: it knows what a loss reads and how many views it wants, and no loss by name.

The training set lies on the device as uint8; the views of a batch are made there in one go. What happens in a step
depends on (recipe, epoch, step) alone, so an interrupted run that goes on gives the weights of an uninterrupted one.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spherood.data.tensors import standardise
from spherood.data.views import apply, plan
from spherood.errors import CheckpointError, ConfigError, TrainingError, optional
from spherood.files import write_json, write_text
from spherood.models import Model, build_model, choose_device, infer, load_state
from spherood.progress import progress
from spherood.schema import write_yaml
from spherood.sphere.geometry import collapsed
from spherood.training.checkpoint import LAST, Checkpoint
from spherood.training.log import Log, cut_log
from spherood.training.pixels import TrainingSet, load_pixels
from spherood.training.recipe import Recipe
from spherood.version import __version__

LOG_STEPS = 25  # between two readings of the loss: each waits for the device
INFERENCE_BATCH = 128


@dataclass
class State:
    """What changes during a run."""

    model: Model
    losses: nn.ModuleList
    optimiser: torch.optim.Optimizer
    epoch: int = 0
    step: int = 0  # of the running epoch


def train(recipe: Recipe, run: Path, data: Path, *, resume: bool = False, device: str = "auto") -> Checkpoint:
    """Train a recipe into the folder `run`, with data paths against `data`; returns the last checkpoint.

    ConfigError where the recipe contradicts itself, DataError for its data, CheckpointError where `resume` does not
    fit, TrainingError where the loss is no longer finite or the user stopped it; the last checkpoint then stays.
    """
    fabric = _fabric(choose_device(device), recipe.training.precision)
    before = _checkpoint_to_resume(recipe, run) if resume else None
    if not resume and (run / LAST).exists():
        raise ConfigError(f"{run}: holds a trained run. Choose another --run, or go on with it by --resume.")
    examples = load_pixels(recipe.data.load(data), recipe.preprocess)
    if before is not None and before.classes != examples.classes:
        raise CheckpointError(f"{run}: trained on classes {before.classes}, the data now has {examples.classes}.")

    state = _new_state(recipe, len(examples.classes))
    state.model.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    state.losses.to(fabric.device)
    if before is not None:
        load_state(state.model, before.model, "the model", "Was it made with another recipe?")
        load_state(state.losses, before.losses, "the losses", "Was it made with another recipe?")
        state.optimiser.load_state_dict(dict(before.optimiser))
        state.epoch, state.step = before.epoch, before.step
    else:
        _start_losses(state, examples, recipe)
    write_text(run / "recipe.yaml", write_yaml(recipe))
    write_json(run / "environment.json", _environment(fabric.device))
    steps_per_epoch = -(-len(examples.label) // recipe.training.batch)
    cut_log(run, state.epoch * steps_per_epoch + state.step)
    _loop(fabric, recipe, state, examples, run)
    _warn_of_collapse(recipe, state)
    return _checkpoint(recipe, state, examples)


def _fabric(device: torch.device, precision: str) -> Any:
    library = optional("lightning_fabric", "train", "Training")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # else it greets on stderr
    devices = [device.index] if device.type == "cuda" else 1
    return library.Fabric(accelerator=device.type, devices=devices, precision=precision)


def _checkpoint_to_resume(recipe: Recipe, run: Path) -> Checkpoint:
    before = Checkpoint.load(run / LAST)
    if before.recipe != recipe:
        ours, theirs = recipe.model_dump(), before.recipe.model_dump()
        different = [key for key in ours if ours[key] != theirs[key]]
        raise CheckpointError(
            f"{run}: was trained with another recipe (different: {', '.join(different)}). Resume with the recipe in "
            f"{run / 'recipe.yaml'}, or choose another --run."
        )
    return before


def _new_state(recipe: Recipe, classes: int) -> State:
    model = build_model(recipe.model, classes, recipe.seed)
    losses = nn.ModuleList([term.build(classes, recipe.model.dim) for term in recipe.loss])
    for term, loss in zip(recipe.loss, losses, strict=True):
        if reads(loss) == "embedding" and model.head is None:
            raise ConfigError(f"loss {term.use}: reads the embedding, but the model has no head. Set model.head: mlp.")
        if reads(loss) == "logits" and model.classifier is None:
            raise ConfigError(f"loss {term.use}: reads logits. Set model.classifier: true.")
    optimiser = torch.optim.SGD(
        [*model.parameters(), *losses.parameters()],
        lr=recipe.schedule.lr,
        momentum=recipe.optimiser.momentum,
        nesterov=recipe.optimiser.nesterov and recipe.optimiser.momentum > 0,
        weight_decay=recipe.optimiser.weight_decay,
    )
    return State(model, losses, optimiser)


def _start_losses(state: State, examples: TrainingSet, recipe: Recipe) -> None:
    """Let losses that want it see the whole training set once, without views, before the first step."""

    def batches(part: str) -> Iterator[tuple[Tensor, Tensor]]:
        with progress(f"starting {part}s", len(examples.label)) as advance:
            for pixels, label in zip(
                examples.pixels.split(INFERENCE_BATCH), examples.label.split(INFERENCE_BATCH), strict=True
            ):
                yield getattr(infer(state.model, pixels, recipe.preprocess), part), label
                advance(len(label))

    for loss in state.losses:
        start = getattr(loss, "start", None)
        if callable(start):
            start(batches(reads(loss)))


def _loop(fabric: Any, recipe: Recipe, state: State, examples: TrainingSet, run: Path) -> None:
    views = max(int(getattr(loss, "views", 2)) for loss in state.losses)
    pixels = examples.pixels.permute(0, 3, 1, 2).contiguous().to(fabric.device)  # (N, 3, S, S)
    images, batch = len(pixels), recipe.training.batch
    steps_per_epoch = -(-images // batch)
    steps = steps_per_epoch * recipe.training.epochs
    model, optimiser = fabric.setup(state.model, state.optimiser)
    done = min((state.epoch * steps_per_epoch + state.step) * batch, images * recipe.training.epochs)
    with _stop_signals() as stopped, progress(recipe.name, images * recipe.training.epochs, done=done) as advance:
        log = Log(run, steps_per_epoch)
        while state.epoch < recipe.training.epochs:
            model.train()
            order = np.random.default_rng([recipe.seed, state.epoch]).permutation(images)
            for number in range(state.step, steps_per_epoch):
                rows = order[number * batch : (number + 1) * batch]
                step = state.epoch * steps_per_epoch + number
                optimiser.param_groups[0]["lr"] = recipe.schedule.at(step, steps, steps_per_epoch)
                x = _views(recipe, pixels, rows, state.epoch, views)
                outputs = model(x)
                label = {"class": examples.label[rows].repeat(views), "image": torch.from_numpy(rows).repeat(views)}
                terms = [loss(getattr(outputs, reads(loss)), label[labels(loss)]) for loss in state.losses]
                total = sum(term.times * part.total for term, part in zip(recipe.loss, terms, strict=True))
                optimiser.zero_grad(set_to_none=True)
                fabric.backward(total)
                optimiser.step()

                state.step = number + 1
                log.add(len(rows), total, {k: v for part in terms for k, v in part.parts.items()})
                if state.step % LOG_STEPS == 0 or state.step == steps_per_epoch:
                    log.write(state.epoch, state.step, optimiser.param_groups[0]["lr"])
                advance(len(rows), log.note)
                if stopped and state.step < steps_per_epoch:
                    log.means(state.epoch, state.step)  # a loss gone wrong since the last reading must not be kept
                    _checkpoint(recipe, state, examples).save(run / LAST)
                    raise TrainingError(_stopped_message(run, state, recipe))
            state.epoch, state.step = state.epoch + 1, 0
            _checkpoint(recipe, state, examples).save(run / LAST)
            if stopped and state.epoch < recipe.training.epochs:
                raise TrainingError(_stopped_message(run, state, recipe))


def _warn_of_collapse(recipe: Recipe, state: State) -> None:
    for term, loss in zip(recipe.loss, state.losses, strict=True):
        prototypes = getattr(loss, "prototypes", None)
        if isinstance(prototypes, Tensor) and collapsed(prototypes):
            print(
                f"{term.use}: collapsed: after {state.epoch} epochs all prototypes lie within 5 degrees of each other. "
                "No score can tell such classes apart: train longer, or with smaller batches (training.batch=128).",
                file=sys.stderr,
            )


def _views(recipe: Recipe, pixels: Tensor, rows: np.ndarray[Any, Any], epoch: int, views: int) -> Tensor:
    """Views of the images `rows`, view after view: (views x B, 3, S, S), normalised, channels last."""
    images = pixels[torch.from_numpy(rows).to(pixels.device)]
    height, width = images.shape[2:]
    plans = [plan(recipe.views, recipe.seed, epoch, rows, view, height, width) for view in range(views)]
    x = torch.cat([apply(images, what, recipe.preprocess.size) for what in plans])
    return standardise(x, recipe.preprocess).contiguous(memory_format=torch.channels_last)


def _checkpoint(recipe: Recipe, state: State, examples: TrainingSet) -> Checkpoint:
    return Checkpoint(
        recipe,
        examples.classes,
        state.epoch,
        state.step,
        state.model.state_dict(),
        state.losses.state_dict(),
        state.optimiser.state_dict(),
    )


def reads(loss: nn.Module) -> str:
    """Which part of Outputs a loss wants."""
    return str(getattr(loss, "reads", "embedding"))


def labels(loss: nn.Module) -> str:
    """What a loss takes for the label of a row: its "class", or the index of its "image"; both stay on the host."""
    return str(getattr(loss, "labels", "class"))


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that is no longer empty once Ctrl-C or SIGTERM asked to stop; a second one stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: whoever runs us there handles signals
        before = {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stopped_message(run: Path, state: State, recipe: Recipe) -> str:
    return (
        f"Stopped after {state.epoch} of {recipe.training.epochs} epochs and {state.step} steps; all of it is kept in "
        f"{run / LAST}. Go on with the same command and --resume."
    )


def _environment(device: torch.device) -> dict[str, Any]:
    return {
        "spherood": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
