"""spherood reproduce."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spherood.cli.options import RUNS, Data, Device, run_folder
from spherood.errors import CheckpointError, ConfigError
from spherood.progress import duration

if TYPE_CHECKING:
    from spherood.benchmark.protocol import Protocol
    from spherood.benchmark.sets import Images
    from spherood.training.grid import Member
    from spherood.training.recipe import Recipe

TIMED = 64  # images that the time of an evaluation is told by


def reproduce(
    name: Annotated[
        str, typer.Argument(help="A recipe of the package (docs/recipes.md), or your own .yaml that names a protocol.")
    ],
    seeds: Annotated[int, typer.Option(min=1, help="So many runs, with seeds from the recipe's own on.")] = 3,
    plan: Annotated[bool, typer.Option("--plan", help="Say what is there, what is missing and how long it takes.")] = (
        False
    ),
    without: Annotated[
        str, typer.Option(help="OOD sets to leave out, comma-separated; their mean is incomplete.")
    ] = "",
    data: Data = Path("data"),
    device: Device = "auto",
) -> None:
    """Train what is missing of an experiment, evaluate it, and put it beside what was published.

    Example: **spherood reproduce reweightood-cifar10 --data ~/data --plan**

    It looks for the data first and says how long it will take on this machine. The same command goes on where it
    stopped: what is trained and measured is left alone.
    """
    from spherood.benchmark.protocol import load_protocol
    from spherood.benchmark.scores import build_scores
    from spherood.benchmark.sets import find_images
    from spherood.cli.compare import compare
    from spherood.cli.evaluate import evaluate
    from spherood.cli.train import train_grid
    from spherood.training.grid import members
    from spherood.training.recipe import find_recipe, load_recipe
    from spherood.training.weights import weights_file

    path = find_recipe(name)
    recipe = load_recipe(path)
    if recipe.data.features is not None:
        raise ConfigError(f"{path}: trains a head on features, and nothing was published for yours. See: spherood fit")
    if recipe.protocol is None:
        raise ConfigError(f"{path}: names no protocol to be measured by. Add protocol: NAME.")
    chosen = load_protocol(recipe.protocol)
    wanted = list(recipe.scores or chosen.scores)
    left_out = [one.strip() for one in without.split(",") if one.strip()]
    tried = max(map(len, build_scores(wanted).values()), default=1)
    images = find_images(chosen, data, tried=tried, without=left_out)
    known = recipe.data.load(data)
    weights_file(recipe, data)
    print(f"data:  {len(known):,} images to train on, {_sizes(images)}")
    if images.absent:
        print(f"       absent: {', '.join(images.absent)}; means over them are incomplete")
    grid = members(lambda more: load_recipe(path, more), run_folder(recipe.name), seeds)
    states = [member.state for member in grid]
    unmeasured = [member for member in grid if not _measured(member.run, chosen, wanted)]
    for member, state in zip(grid, states, strict=True):
        if state == "another recipe":
            raise CheckpointError(
                f"{member.run}: was trained with another recipe. Move it away, or rename your recipe."
            )
        told = {"absent": "to train", "begun": "to go on with"}.get(state, "trained")
        print(f"run:   {member.run}: {told}{'' if member in unmeasured else ', measured'}")
    _tell_time(grid, recipe, chosen, images, unmeasured, data, device)
    if plan:
        return
    if any(state != "trained" for state in states):
        train_grid(grid, data, device)
    for member in unmeasured:
        print(f"evaluating {member.run}", file=sys.stderr)
        evaluate(str(member.run), recipe.protocol, ",".join(wanted), data, without=without, device=device)
    folders = [str(member.run) for member in grid]
    methods = [recipe.published] if recipe.published else None
    compare(folders, protocol=recipe.protocol, published=bool(methods), method=methods)
    if not methods:
        print("Nothing published is at hand to stand beside it.")


def _measured(run: Path, protocol: Protocol, scores: Sequence[str]) -> bool:
    """Whether the run's tables hold these scores by this protocol, and are no older than its weights."""
    from spherood.benchmark.comparison import read_evaluations
    from spherood.training.checkpoint import LAST

    tables = sorted((run / "tables").rglob("evaluation.json"))
    if not tables or not (run / LAST).exists():
        return False
    if max(file.stat().st_mtime for file in tables) < (run / LAST).stat().st_mtime:
        return False
    found = [one for one in read_evaluations(run) if (one.protocol, one.setting) == (protocol.name, "ood")]
    return any(set(scores) <= {*one.scores, *one.unavailable} for one in found)


def _tell_time(
    grid: Sequence[Member],
    recipe: Recipe,
    protocol: Protocol,
    images: Images,
    unmeasured: Sequence[Member],
    data: Path,
    device: str,
) -> None:
    """How long what is left will take here, by a few steps and a few images."""
    from spherood.models import choose_device
    from spherood.training.checkpoint import LAST, Checkpoint
    from spherood.training.pace import seconds_to_train

    missing = [member for member in grid if member.state != "trained"]
    training = measuring = 0.0
    if missing:
        whole = seconds_to_train(recipe, RUNS / ".pace", data, device)
        for member in missing:
            done = Checkpoint.load(member.run / LAST).epoch if member.state == "begun" else 0
            training += whole * (1 - done / recipe.training.epochs)
    if unmeasured:
        measuring = len(unmeasured) * _seconds_to_evaluate(recipe, protocol, images, device)
    print(
        f"time:  about {duration(training + measuring)} on this machine ({choose_device(device).type}): training "
        f"{duration(training)}, evaluation {duration(measuring)}"
    )


def _seconds_to_evaluate(recipe: Recipe, protocol: Protocol, images: Images, device: str) -> float:
    """Of one run: decoding and a forward pass for every image; the scores themselves are left out."""
    import torch

    from spherood.data.loading import blocks
    from spherood.models import build_model, choose_device, infer

    sets = [images.train, images.test, *images.ood.values(), *images.validation_ood.values()]
    sets += [] if images.validation is None else [images.validation]
    model = build_model(recipe.model, 2).to(choose_device(device))
    preprocess = protocol.applied_to(recipe.preprocess)
    stop = min(2 * TIMED, len(images.test))
    begin, timed = time.perf_counter(), 0
    for number, block in enumerate(blocks(images.test, preprocess, max(1, stop // 2), 0, stop)):
        infer(model, torch.from_numpy(block.pixels), preprocess)
        if number == 0:  # warms up
            begin = time.perf_counter()
        else:
            timed += len(block.pixels)
    taken = time.perf_counter() - begin
    return taken / max(timed, 1) * sum(map(len, sets))


def _sizes(images: Images) -> str:
    ood = sum(len(one) for one in images.ood.values())
    return f"{len(images.test):,} ID and {ood:,} OOD images ({', '.join(images.ood)}) to measure on"
