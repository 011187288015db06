"""spherood train."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spherood.cli.options import Data, Device, run_folder
from spherood.errors import ConfigError, MissingExtraError, TrainingError

if TYPE_CHECKING:
    from spherood.training import Recipe
    from spherood.training.grid import Member, Outcome


def train(
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A YAML file, or a recipe of the package by name (docs/recipes.md). With --resume: the run's."
        ),
    ] = None,
    run: Annotated[str | None, typer.Option(help="Name of the result, runs/NAME. Default: the recipe's name.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change one value: training.epochs=20.")] = None,
    seeds: Annotated[
        int | None, typer.Option(help="So many runs, with seeds from the recipe's own on; the same command goes on.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(help="A run for each value: loss.cider.compactness_weight=0.5,1,2; repeatable, all combinations."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Train nothing: two steps and everything after them on 64 made-up images, in seconds."
        ),
    ] = False,
    tracker: Annotated[
        list[str] | None,
        typer.Option(help="Where the numbers go too: tensorboard, or your own package.module:Class; repeatable."),
    ] = None,
    data: Data = Path("data"),
    device: Device = "auto",
) -> None:
    """Train an encoder by a recipe.

    Example: **spherood train --recipe cider-cifar10-small --data ~/data**

    Example: **spherood train --recipe cider-cifar10-small --seeds 3 --sweep loss.cider.compactness_weight=0.5,1,2**

    On several GPUs: **torchrun --nproc-per-node 4 -m -- spherood train --recipe R --data DATA**; the recipe's batch is
    shared, and the gradients are those of one process.

    Ctrl-C keeps what was done; **--resume** goes on and ends with the same weights as an uninterrupted run. Many runs
    need no --resume: the same command leaves alone what is trained and goes on with the rest; one that fails does not
    stop the others.
    """
    from spherood.processes import Processes
    from spherood.training import engine
    from spherood.training.grid import members
    from spherood.training.recipe import find_recipe, load_recipe
    from spherood.training.trackers import named

    if recipe is None and not (resume and run):
        raise ConfigError("spherood train: needs --recipe FILE, or --run NAME --resume to go on with a run.")
    path = find_recipe(recipe) if recipe else run_folder(run or "") / "recipe.yaml"
    changes = set_ or []
    loaded = load_recipe(path, changes)
    folder = run_folder(run or loaded.name)
    if check:
        from spherood.cli.check import check_recipe

        check_recipe(loaded, data, device)
        return
    if seeds is not None or sweep:
        grid = members(lambda more: load_recipe(path, [*changes, *more]), folder, seeds, sweep or ())
        for text in tracker or ():
            named(text)  # a misspelt one costs nothing
        train_grid(grid, data, device, tracker or ())
        return
    trackers = [named(text) for text in tracker or ()]
    engine.train(loaded, folder, data, resume=resume, device=device, trackers=trackers)
    if not Processes.join().first:  # of several, one reports
        return
    print(f"trained: {folder / 'checkpoints' / 'last.pt'}")
    _draw(folder)
    print(f"next: {_next(loaded, folder, data)}")


def train_grid(grid: Sequence[Member], data: Path, device: str, trackers: Sequence[str] = ()) -> None:
    """Train all, and print what became of each; TrainingError, after the table, where some failed."""
    from spherood.processes import Processes
    from spherood.training import engine
    from spherood.training.grid import train_all
    from spherood.training.trackers import named

    first = Processes.join().first

    def one(member: Member, resume: bool) -> None:
        if first:
            print(f"run: {member.run}", file=sys.stderr)
        made = [named(text) for text in trackers]
        engine.train(member.recipe, member.run, data, resume=resume, device=device, trackers=made)
        if first:
            _draw(member.run)

    outcomes = list(train_all(grid, one))
    if not first:
        return
    _show(outcomes)
    failed = [outcome for outcome in outcomes if outcome.what == "failed"]
    if failed:
        lines = [f"{outcome.member.run}: {outcome.why}" for outcome in failed]
        lines.append(f"{len(failed)} of {len(outcomes)} runs failed. Mend that and type the same again: it goes on.")
        raise TrainingError("\n".join(lines))
    print(f"next: {_next_of_many([outcome.member for outcome in outcomes], data)}")


def _next(recipe: Recipe, folder: Path, data: Path) -> str:
    """The command to type after training; a head on features has no images to be evaluated on."""
    if recipe.data.features is not None:
        words = ["spherood", "fit", "--encoder", str(folder), "--data", str(data)]
        return f"{shlex.join(words)} OTHER_FEATURES --ood NAME=FEATURES"
    scores = ["--scores", ",".join(recipe.scores)] if recipe.scores else []
    words = ["spherood", "evaluate", str(folder), "--protocol", recipe.protocol or "PROTOCOL", *scores]
    return shlex.join([*words, "--data", str(data)])


def _next_of_many(grid: Sequence[Member], data: Path) -> str:
    """A line for the shell that does it for every run, and puts them beside each other."""
    one = grid[0]
    if one.recipe.data.features is not None:
        return _next(one.recipe, one.run, data)
    folders = shlex.join([str(member.run) for member in grid])
    each = _next(one.recipe, Path("RUN"), data).replace(" RUN ", ' "$run" ')
    return f"for run in {folders}; do {each}; done; spherood compare {folders}"


def _show(outcomes: Sequence[Outcome]) -> None:
    """A table: what was varied, what became of it, and where training ended."""
    from rich.console import Console
    from rich.table import Table

    from spherood.training.log import read_log
    from spherood.training.validation import FILE

    console = Console()
    console = Console(width=None if console.is_terminal else 200, markup=False, emoji=False, highlight=False)
    varied = list(dict.fromkeys(key for outcome in outcomes for key in outcome.member.varied))
    table = Table(title=f"{len(outcomes)} runs", title_justify="left")
    for number, column in enumerate(("run", *varied, "", "minutes", "loss", "k-NN, %")):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    for outcome in outcomes:
        run = outcome.member.run
        log, checked = read_log(run), read_log(run, FILE)
        loss = f"{log[-1]['loss']:.3f}" if log else "–"
        accuracy = f"{100 * checked[-1]['accuracy']['k-NN']:.1f}" if checked else "–"
        minutes = f"{outcome.seconds / 60:.1f}" if outcome.seconds else "–"
        values = [outcome.member.varied.get(key, "") for key in varied]
        table.add_row(str(run), *values, outcome.what, minutes, loss, accuracy)
    console.print(table)


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
