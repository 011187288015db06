"""spherood export."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from spherood.cli.options import run_folder
from spherood.errors import CheckpointError


def export(
    model: Annotated[str, typer.Argument(help="A trained run: its name below runs/, or its folder.")],
    openood: Annotated[Path, typer.Option(help="Write a checkpoint under the names that OpenOOD's networks load.")],
) -> None:
    """Hand a trained network to another tool.

    Example: **spherood export cider-cifar10 --openood results/cifar10_cider/s0/best.ckpt**

    A network with a projection head becomes one of OpenOOD's cider_net kind, one with a classifier its plain ResNet.
    """
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
    with written_aside(openood) as aside:
        torch.save(state, aside)
    print(f"written: {openood} ({len(state)} tensors)")
    print(
        f"next: {shlex.join(['spherood', 'evaluate', str(openood), '--protocol', checkpoint.recipe.protocol or 'P'])}"
    )
