"""spherood push and pull."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

Repository = Annotated[str, typer.Argument(help="A repository of the Hugging Face hub: name/repository.")]


def push(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, for example runs/demo/bundle.")],
    repository: Repository,
    private: Annotated[bool, typer.Option("--private", help="Make it private, if it is new.")] = False,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "spherood bundle",
) -> None:
    """Put a bundle on the Hugging Face hub, with its model card, in one commit.

    Example: **spherood push runs/demo/bundle anna/digits-guard**

    The token is the one of `hf auth login`, or HF_TOKEN.
    """
    from spherood.bundle import hub

    print(f"pushed: {hub.push(bundle, repository, private=private, message=message)}")


def pull(
    repository: Repository,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to put it into. Default: the cache.")] = None,
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit. Default: main.")] = None,
) -> None:
    """Get a bundle from the Hugging Face hub, checked against its hashes; nothing in it runs.

    Example: **spherood pull anna/digits-guard -o guard**
    """
    from spherood.bundle import hub

    folder = hub.pull(repository, out, revision=revision)
    print(f"pulled: {folder}")
    print(f"next:   {shlex.join(['spherood', 'score', str(folder)])} IMAGE...")
