"""spherood report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from spherood.cli.options import run_folder
from spherood.errors import ConfigError


def report(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN_OR_BUNDLE", help="A trained run: its name below runs/, or its folder. Or a bundle."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Argument(
            help="The file. Default: training.html, or FIGURE.svg, in the run. A figure: .svg, .png, .pdf. For a "
            "bundle: the folder that spherood score filled."
        ),
    ] = None,
    figure: Annotated[
        Literal["curves", "learning-rate", "geometry", "projection", "sphere"] | None,
        typer.Option(help="Only this picture instead of the page."),
    ] = None,
    projection: Annotated[
        Literal["pca", "tsne", "pacmap"], typer.Option(help="How the embedding comes onto a plane.")
    ] = "pca",
) -> None:
    """Draw a training run (one page, or one figure for a paper), or what a bundle said of many images.

    Example: **spherood report cider-cifar10-small**

    Example: **spherood report cider-cifar10-small sphere.pdf --figure sphere**

    Example: **spherood report runs/demo/bundle verdicts/**

    Of a run: learning curves and rate, geometry of the embedding over training, a projection of it, and its sphere. A
    run that is still going can be drawn too. Training writes the page at its end. Of scored images: the share of OOD
    by folder and time, the most OOD ones with their nearest training images, discoveries.
    """
    if (Path(what) / "bundle.json").is_file():
        _scored(Path(what), out, figure)
        return
    from spherood.report.drawing import check_ending, write_figure
    from spherood.report.figures import FIGURES
    from spherood.report.figures import projection as projected
    from spherood.report.run import read_run
    from spherood.report.training import PAGE, write_training_page

    folder = run_folder(what)
    if figure is not None:
        place = out or folder / f"{figure}.svg"
        check_ending(place)
        found = read_run(folder)
        write_figure(place, projected(found, projection) if figure == "projection" else FIGURES[figure](found))
        print(f"figure: {place}")
        return
    place = out or folder / PAGE
    if place.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{place}: the page ends in .html. For a picture add --figure {' or '.join(FIGURES)}.")
    write_training_page(place, read_run(folder), projection)
    print(f"page: {place}  (open it in a browser)")


def _scored(bundle: Path, out: Path | None, figure: str | None) -> None:
    from spherood.report.scored_page import PAGE, lead, write_scored_page

    if out is None or figure is not None:
        raise ConfigError(
            f"spherood report: {bundle} is a bundle. Name the folder that was scored with it, and no figure: spherood "
            f"report {bundle} OUT"
        )
    summary = write_scored_page(bundle, out, out / PAGE)
    print(lead(summary))
    print(f"page: {out / PAGE}  (open it in a browser)")
