"""One training loop for every objective: it knows what a loss reads and how many views it wants, and no loss by name.

The training set lies on the device as uint8; the views of a batch are made there in one go. Of a frozen encoder whose
images nothing changes, features lie there instead (training/reading.py). What happens in a step depends on (recipe,
epoch, step) alone, so an interrupted run that goes on gives the weights of an uninterrupted one.
Started by torchrun, several processes train one model (training/together.py).
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spherood.errors import CheckpointError, ConfigError, Stopped
from spherood.features import FeatureStore
from spherood.files import write_json, write_text
from spherood.losses import Terms
from spherood.models import build_model, choose_device, infer, load_state
from spherood.models.model import Model
from spherood.outputs import Outputs
from spherood.processes import Processes
from spherood.progress import progress
from spherood.schema import write_yaml
from spherood.sphere.geometry import collapsed
from spherood.training.batches import Rows, batches, orders
from spherood.training.checkpoint import BEST, LAST, Checkpoint
from spherood.training.fine_tuning import Trained
from spherood.training.log import FILE, Log, append_log, cut_log
from spherood.training.network import forward_backward
from spherood.training.objective import Objective, reads
from spherood.training.reading import Examples, Reading
from spherood.training.recipe import Recipe
from spherood.training.signals import stop_signals
from spherood.training.together import add_gradients, agree, anyone, share
from spherood.training.trackers import Tracker, flat
from spherood.training.validation import FILE as VALIDATION
from spherood.training.validation import Validation, criterion, write_sample
from spherood.training.weights import start
from spherood.version import __version__

LOG_STEPS = 25  # between two readings of the loss: each waits for the device
INFERENCE_BATCH = 128


@dataclass
class State:
    """What changes during a run."""

    model: Model
    network: Model  # the model, or what of it stands on features
    trained: Trained
    objective: Objective
    optimiser: torch.optim.Optimizer
    epoch: int = 0
    step: int = 0  # of the running epoch


@dataclass(frozen=True)
class Run:
    """What does not."""

    recipe: Recipe
    folder: Path
    reading: Reading
    examples: Examples
    device: torch.device
    mine: Processes
    log: Log
    trackers: Sequence[Tracker]

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.examples.label) // self.recipe.training.batch)

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.recipe.training.epochs


def train(
    recipe: Recipe,
    run: Path,
    data: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    trackers: Sequence[Tracker] = (),
) -> Checkpoint:
    """Train a recipe into the folder `run`, with data paths against `data`; returns the last checkpoint.

    ConfigError where the recipe contradicts itself, DataError for its data, CheckpointError where `resume` does not
    fit, TrainingError where the loss is no longer finite, Stopped where the user stopped it; the last checkpoint then
    stays.
    """
    setting, state = begin(recipe, run, data, resume=resume, device=device, trackers=trackers)
    recipe, mine = setting.recipe, setting.mine
    validation = None
    if recipe.validation.every and mine.first:
        validation = Validation(recipe, setting.reading, setting.examples)
    mine.wait()  # nobody writes before all have looked at what is there
    if mine.first:
        write_text(run / "recipe.yaml", write_yaml(recipe))
        write_json(run / "environment.json", _environment(setting.device, mine))
        for file in (FILE, VALIDATION):
            cut_log(run, state.epoch * setting.steps_per_epoch + state.step, file)
        if note := recipe.schedule.shortened(setting.steps, setting.steps_per_epoch):
            print(f"note: {note}", file=sys.stderr)
    with _tracked(setting):
        _loop(setting, state, validation)
    if mine.first:
        _warn_of_collapse(state, f"after {state.epoch} epochs")
    return _checkpoint(setting, state)


def begin(
    recipe: Recipe,
    run: Path,
    data: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    trackers: Sequence[Tracker] = (),
) -> tuple[Run, State]:
    """A run before its next step, with nothing written yet; arguments and errors as of `train`."""
    mine, where = Processes.join(), choose_device(device)
    reading = Reading.of(recipe, data)
    recipe = reading.recipe
    before = _checkpoint_to_resume(recipe, run) if resume else None
    if not resume and (run / LAST).exists():
        raise ConfigError(f"{run}: holds a trained run. Choose another --run, or go on with it by --resume.")
    classes = reading.known.classes
    if before is not None and before.classes != classes:
        raise CheckpointError(f"{run}: trained on classes {before.classes}, the data now has {classes}.")

    model = build_model(recipe.model, len(classes), recipe.seed)
    objective = Objective(recipe, model, len(classes))
    if before is None:
        start(model, recipe, data)
    else:
        load_state(model, before.model, "the model", "Was it made with another recipe?")
    if mine.size > 1 and where.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective.to(where)
    trained = recipe.fine_tuning.choose(model)
    reading = reading.through(model, trained, FeatureStore(run.parent / ".features"))
    examples, network = reading.training_set(), reading.network(model)
    state = State(model, network, trained, objective, _optimiser(recipe, trained, objective))
    if before is not None:
        load_state(objective.losses, before.losses, "the losses", "Was it made with another recipe?")
        state.optimiser.load_state_dict(dict(before.optimiser))
        state.epoch, state.step = before.epoch, before.step
    return Run(recipe, run, reading, examples, where, mine, Log(run), trackers), state


def _optimiser(recipe: Recipe, trained: Trained, objective: Objective) -> torch.optim.Optimizer:
    """The losses' own parameters go with those of the model that have the schedule's own rate."""
    groups = trained.groups
    groups[0][1].extend(objective.parameters())
    parameters = [parameter for _, some in groups for parameter in some]
    if not parameters:
        raise ConfigError("fine_tuning.train: nothing of the model is trained, nor does a loss learn. Name a part.")
    optimiser = torch.optim.SGD(
        [{"params": some, "factor": factor} for factor, some in groups if some],
        lr=recipe.schedule.lr,
        momentum=recipe.optimiser.momentum,
        nesterov=recipe.optimiser.nesterov and recipe.optimiser.momentum > 0,
        weight_decay=recipe.optimiser.weight_decay,
        fused=True,
    )
    for parameter in parameters:  # the fused step wants a momentum of all or of none; some get a gradient only later
        optimiser.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimiser


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


def _start_losses(run: Run, state: State) -> None:
    """Let losses that begin and want it see the whole training set once, without views."""
    examples = run.examples

    def batches_of(part: str) -> Iterator[tuple[Tensor | Outputs, Tensor]]:
        shown = progress(f"starting {part}s", len(examples.label)) if run.mine.first else nullcontext(_silent)
        with shown as advance:
            for start in range(0, len(examples.label), INFERENCE_BATCH):
                rows = np.arange(start, min(start + INFERENCE_BATCH, len(examples.label)))
                outputs = infer(state.network, examples.take(rows), run.reading.preprocess)
                yield outputs if part == "outputs" else getattr(outputs, part), examples.label[rows]
                advance(len(rows))

    for loss in state.objective.beginning:
        loss.start(batches_of(reads(loss)))  # type: ignore[operator]
    agree(state.objective, run.mine)


def _silent(n: int, note: str = "") -> None:
    """An `Advance` of the processes that do not report."""


def _loop(run: Run, state: State, validation: Validation | None) -> None:
    recipe, mine, per_epoch = run.recipe, run.mine, run.steps_per_epoch
    pixels = run.examples.on(run.device)
    images, batch, epochs = len(run.examples.label), recipe.training.batch, recipe.training.epochs
    network: nn.Module = torch.compile(state.network) if recipe.training.compile else state.network  # type: ignore[assignment]
    done = min((state.epoch * per_epoch + state.step) * batch, images * epochs)
    shown = progress(recipe.name, images * epochs, done=done) if mine.first else nullcontext(_silent)
    with stop_signals() as stopped, shown as advance:
        while state.epoch < epochs:
            state.objective.at(state.epoch)
            if state.step == 0:
                _start_losses(run, state)
            state.trained.train_mode()
            todo = orders(recipe, images, state.epoch)[state.step :]
            views = 1 if run.reading.of_features else state.objective.views  # nothing tells two views apart
            made = batches(recipe, pixels, [share(rows, mine) for rows in todo], state.epoch, views)
            for number, (rows, x) in enumerate(zip(todo, made, strict=True), start=state.step):
                step = state.epoch * per_epoch + number
                lr = recipe.schedule.at(step, run.steps, per_epoch)
                for group in state.optimiser.param_groups:
                    group["lr"] = lr * group["factor"]
                terms = one_step(run, state, network, rows, x, views)
                state.step = number + 1
                run.log.add(len(rows), terms)
                last = state.step == per_epoch
                if state.step % LOG_STEPS == 0 or last:
                    row = run.log.row(state.epoch, state.step, per_epoch, lr)
                    _write(run, FILE, row)
                advance(len(rows), run.log.note)
                asks = not last and (mine.size == 1 or state.step % LOG_STEPS == 0)
                if asks and anyone(bool(stopped), mine, run.device):
                    run.log.means(state.epoch, state.step)  # a loss gone wrong since the last reading must not be kept
                    _save(run, state, LAST)
                    raise Stopped(_stopped_message(run, state))
            state.epoch, state.step = state.epoch + 1, 0
            agree(state.objective, mine)
            if validation is not None and (state.epoch % recipe.validation.every == 0 or state.epoch == epochs):
                _validate(run, state, validation)
            _save(run, state, LAST)
            if mine.first and state.epoch < epochs <= 4 * state.epoch < epochs + 4:
                _warn_of_collapse(state, f"after a quarter of the run ({state.epoch} epochs)")
            if anyone(bool(stopped), mine, run.device) and state.epoch < epochs:  # also waits until the first has saved
                raise Stopped(_stopped_message(run, state))


def one_step(run: Run, state: State, network: nn.Module, rows: Rows, x: Tensor, views: int) -> Terms:
    """One step of the optimiser on the images `rows`, of which `x` holds this process's share."""
    label, image = run.examples.label[rows].repeat(views), torch.from_numpy(rows).repeat(views)
    state.optimiser.zero_grad(set_to_none=True)
    terms = forward_backward(network, state.objective, x, label, image, run.mine, views, run.recipe.training)
    add_gradients(state.model.parameters(), run.mine)
    state.optimiser.step()
    return terms


def _validate(run: Run, state: State, validation: Validation) -> None:
    """A row of validation.jsonl; the best checkpoint so far, where there are held-out ID images to tell by."""
    row, sample = validation(state.network, state.objective.prototypes)
    where = {"step": state.epoch * run.steps_per_epoch, "epoch": state.epoch}
    best, value = run.recipe.validation.best, criterion(row, run.recipe.validation.best)
    _write(run, VALIDATION, where | row)
    write_sample(run.folder, sample)
    accuracy = row["accuracy"]["k-NN"]
    run.log.told = f"k-NN {100 * accuracy:.1f} %"
    if validation.held_out and value is not None and value > _best_so_far(run, state.epoch):
        _checkpoint(run, state, (best, value)).save(run.folder / BEST)


def _best_so_far(run: Run, epoch: int) -> float:
    """The value of the best checkpoint of an earlier epoch."""
    if not (run.folder / BEST).exists():
        return -1.0
    before = Checkpoint.load(run.folder / BEST)
    if before.criterion is None or before.epoch >= epoch or before.recipe != run.recipe:  # of a run that went on again
        return -1.0
    return before.criterion[1]


def _write(run: Run, file: str, row: dict[str, Any]) -> None:
    """A row of one of the run's files, and to the trackers."""
    if run.mine.first:
        append_log(run.folder, row, file)
        values = flat({key: value for key, value in row.items() if key not in ("step", "epoch")})
        for tracker in run.trackers:
            tracker.log(row["step"], values)


@contextmanager
def _tracked(run: Run) -> Iterator[None]:
    started: list[Tracker] = []
    try:
        for tracker in run.trackers if run.mine.first else ():
            tracker.start(run.folder, run.recipe.model_dump(by_alias=True))
            started.append(tracker)
        yield
    finally:
        for tracker in started:
            tracker.end()


def _warn_of_collapse(state: State, when: str) -> None:
    for term, loss in state.objective.active:
        prototypes = getattr(loss, "prototypes", None)
        if isinstance(prototypes, Tensor) and collapsed(prototypes):
            print(
                f"{term.use}: collapsed: {when} all prototypes lie within 5 degrees of each other. "
                "No score can tell such classes apart: train longer, at a lower rate (schedule.lr=0.05), with smaller "
                "batches (training.batch=128), or begin with a few epochs of fixed_prototypes "
                "(recipes/cider-opened-cifar10-small.yaml).",
                file=sys.stderr,
            )


def _save(run: Run, state: State, place: Path) -> None:
    if run.mine.first:
        _checkpoint(run, state).save(run.folder / place)


def _checkpoint(run: Run, state: State, criterion: tuple[str, float] | None = None) -> Checkpoint:
    return Checkpoint(
        run.recipe,
        run.examples.classes,
        state.epoch,
        state.step,
        state.model.state_dict(),
        state.objective.losses.state_dict(),
        state.optimiser.state_dict(),
        criterion,
    )


def _stopped_message(run: Run, state: State) -> str:
    return (
        f"Stopped after {state.epoch} of {run.recipe.training.epochs} epochs and {state.step} steps; all of it is kept "
        f"in {run.folder / LAST}. Go on with the same command and --resume."
    )


def _environment(device: torch.device, mine: Processes) -> dict[str, Any]:
    return {
        "spherood": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": mine.size,
    }
