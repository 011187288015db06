"""Options that several commands share, and where a run lives."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from spherood.bundle import Bundle

RUNS = Path("runs")

Data = Annotated[
    Path,
    typer.Option(envvar="SPHEROOD_DATA", help="Folder that relative paths of recipes and protocols start from."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Trust = Annotated[
    list[str] | None,
    typer.Option(help="An import path that the bundle names, package.module:function, whose code may run; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for machines.")]


def score_command(folder: Path, bundle: Bundle) -> str:
    """`spherood score FOLDER`, with the code that the user named when the bundle was made."""
    return shlex.join(["spherood", "score", str(folder), *(word for name in bundle.code for word in ("--trust", name))])


def run_folder(name: str) -> Path:
    """`demo` is runs/demo; anything with a slash is a path."""
    if "/" not in name and os.sep not in name:
        return RUNS / name
    path = Path(name)
    return path if len(path.parts) > 1 else path.absolute()  # ./demo must not be printed as demo: that is another run
