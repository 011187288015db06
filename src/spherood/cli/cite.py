"""spherood cite."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from spherood.cli.options import Json, run_folder


def cite(
    run: Annotated[str, typer.Argument(help="A run: its name below runs/, or its folder.")],
    bibtex: Annotated[bool, typer.Option("--bibtex", help="As entries of a .bib file.")] = False,
    as_json: Json = False,
) -> None:
    """Print the papers behind what a run used: its losses, network, scores, protocol, threshold and image sets.

    Example: **spherood cite cider-cifar10 --bibtex**
    """
    from spherood.benchmark.references import behind, used_by_run

    things = used_by_run(run_folder(run))
    found, rest = behind(things)
    if as_json:
        papers = [one.model_dump(mode="json") for one in found]
        print(json.dumps({"used": things, "papers": papers, "without": rest}, indent=2, ensure_ascii=False))
        return
    for one in found:
        print(one.bibtex if bibtex else f"{', '.join(name for name in one.of if name in things)}\n    {one.text}")
    if rest:
        print(f"{'% ' if bibtex else ''}no paper known here: {', '.join(rest)}")
