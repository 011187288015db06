"""spherood train."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spherood.cli.options import Data, Device, run_folder
from spherood.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from spherood.training import Recipe


def train(
    recipe: Annotated[
        Path | None, typer.Option(help="A YAML file, see recipes/. With --resume: the run's own.")
    ] = None,
    run: Annotated[str | None, typer.Option(help="Name of the result, runs/NAME. Default: the recipe's name.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change one value: training.epochs=20.")] = None,
    tracker: Annotated[
        list[str] | None,
        typer.Option(help="Where the numbers go too: tensorboard, or your own package.module:Class; repeatable."),
    ] = None,
    data: Data = Path("data"),
    device: Device = "auto",
) -> None:
    """Train an encoder by a recipe.

    Example: **spherood train --recipe recipes/cider-cifar10-small.yaml --data ~/data**

    On several GPUs: **torchrun --nproc-per-node 4 -m -- spherood train --recipe R --data DATA**; the recipe's batch is
    shared, and the gradients are those of one process.

    Ctrl-C keeps what was done; **--resume** goes on and ends with the same weights as an uninterrupted run.
    """
    from spherood.processes import Processes
    from spherood.training import engine
    from spherood.training.recipe import load_recipe
    from spherood.training.trackers import named

    if recipe is None and not (resume and run):
        raise ConfigError("spherood train: needs --recipe FILE, or --run NAME --resume to go on with a run.")
    loaded = load_recipe(recipe or run_folder(run or "") / "recipe.yaml", set_ or ())
    folder = run_folder(run or loaded.name)
    trackers = [named(text) for text in tracker or ()]
    engine.train(loaded, folder, data, resume=resume, device=device, trackers=trackers)
    if not Processes.join().first:  # of several, one reports
        return
    print(f"trained: {folder / 'checkpoints' / 'last.pt'}")
    _draw(folder)
    print(f"next: {_next(loaded, folder, data)}")


def _next(recipe: Recipe, folder: Path, data: Path) -> str:
    """The command to type after training; a head on features has no images to be evaluated on."""
    if recipe.data.features is not None:
        words = ["spherood", "fit", "--encoder", str(folder), "--data", str(data)]
        return f"{shlex.join(words)} OTHER_FEATURES --ood NAME=FEATURES"
    words = ["spherood", "evaluate", str(folder), "--protocol", recipe.protocol or "PROTOCOL", "--data", str(data)]
    return shlex.join(words)


def _draw(folder: Path) -> None:
    """The page of the run, which is trained with or without the charts' libraries."""
    from spherood.report.run import read_run
    from spherood.report.training import PAGE, write_training_page

    try:
        write_training_page(folder / PAGE, read_run(folder))
    except MissingExtraError as error:
        print(f"no page: {error}", file=sys.stderr)
    else:
        print(f"page: {folder / PAGE}")
