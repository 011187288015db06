"""spherood export."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from spherood.cli.options import Trust, run_folder, score_command
from spherood.errors import CheckpointError, ConfigError


def export(
    what: Annotated[
        str,
        typer.Argument(metavar="BUNDLE", help="A bundle's folder; with --openood a trained run.", show_default=False),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the exported bundle. Default: BUNDLE-onnx.")
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(
            help="ID images that trained nothing: they compare and calibrate. A folder, an image list, a .npy, or for "
            "a bundle of features a file of them. Default: those that calibrated the bundle, where they are still here."
        ),
    ] = None,
    openood: Annotated[
        Path | None, typer.Option(help="Write a run's checkpoint under the names that OpenOOD's networks load.")
    ] = None,
    trust: Trust = None,
) -> None:
    """Make a bundle that needs no torch: everything from pixels to the score in one ONNX graph.

    Example: **spherood export runs/demo/bundle**

    Example: **spherood export cider-cifar10 --openood results/cifar10_cider/s0/best.ckpt**

    Every held-out image goes through both; where scores or verdicts differ nothing is written. The threshold is then
    calibrated through the graph, so that the promise is the graph's own.
    """
    if openood is not None:
        if out or held_out or trust:
            raise ConfigError("spherood export: --openood goes with a run alone. Leave --out, --held-out, --trust out.")
        _to_openood(what, openood)
        return
    from spherood.bundle.bundle import Bundle
    from spherood.bundle.export import TOLERANCE, export
    from spherood.bundle.held_out import remember_again
    from spherood.bundle.manifest import MANIFEST
    from spherood.training.checkpoint import LAST

    folder = Path(what)
    if not (folder / MANIFEST).is_file() and (run_folder(what) / LAST).is_file():
        raise ConfigError(
            f"spherood export: {what} is a run. Name its bundle, {run_folder(what) / 'bundle'}, which spherood "
            "evaluate makes; or write its weights for OpenOOD: --openood FILE"
        )
    target = out or folder.parent / f"{folder.absolute().name}-onnx"
    if target.absolute() == folder.absolute():
        raise ConfigError(f"spherood export: {target} is the bundle itself. Choose another folder.")
    made = export(Bundle.load(folder, trust=trust or ()), folder, held_out)
    made.bundle.save(target)
    remember_again(folder, target, held_out)
    turned = "1 verdict differs" if made.turned == 1 else f"{made.turned} verdicts differ"
    near = ", that near to the threshold" if made.turned else ""
    print(
        f"compared: {made.images:,} images; scores differ by {made.largest:.1g} at most (relative; {TOLERANCE:g} is "
        f"let through); {turned}{near}"
    )
    print(f"bundle:   {target}  (needs onnxruntime, no torch; threshold {made.bundle.threshold():.6g})")
    print(f"next:     {score_command(target, made.bundle)} {'IMAGE...' if made.bundle.preprocess else 'FEATURES'}")


def _to_openood(model: str, file: Path) -> None:
    import torch

    from spherood.files import written_aside
    from spherood.models.foreign import to_openood
    from spherood.training.checkpoint import LAST, Checkpoint

    folder = run_folder(model)
    if not (folder / LAST).is_file():
        raise CheckpointError(
            f"spherood export: no run at {folder}. Train one with: spherood train --recipe R --run NAME"
        )
    checkpoint = Checkpoint.load(folder / LAST)
    state = to_openood(checkpoint.build_model(), checkpoint.recipe.model)
    with written_aside(file) as aside:
        torch.save(state, aside)
    print(f"written: {file} ({len(state)} tensors)")
    print(f"next: {shlex.join(['spherood', 'evaluate', str(file), '--protocol', checkpoint.recipe.protocol or 'P'])}")
