"""The command line: each command is one short file (parse, call, print) that imports nothing heavy before its turn."""

from __future__ import annotations

import os
import sys
from errno import EACCES, EEXIST, EFBIG, EISDIR, ENAMETOOLONG, ENOSPC, ENOTDIR, EPERM, EROFS

import typer

from spherood.cli.cite import cite
from spherood.cli.compare import compare
from spherood.cli.data import app as data
from spherood.cli.demo import demo
from spherood.cli.evaluate import evaluate
from spherood.cli.export import export
from spherood.cli.fit import fit
from spherood.cli.hub import pull, push
from spherood.cli.report import report
from spherood.cli.reproduce import reproduce
from spherood.cli.score import score
from spherood.cli.serve import serve
from spherood.cli.train import train
from spherood.errors import ConfigError, SpheroodError

# What a machine refuses, rather than what a bug does.
MENDABLE = {EACCES, EEXIST, EFBIG, EISDIR, ENAMETOOLONG, ENOSPC, ENOTDIR, EPERM, EROFS}
# Threads that spin while they wait for each other make small networks many times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

app = typer.Typer(
    name="spherood",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Know what your vision model does not know: train embeddings on the unit sphere, score how far an image lies "
    "from everything seen in training, and get a verdict with a promised false-alarm rate.\n\n"
    "Begin with **spherood demo**: about a minute, no download.",
)
for command in (demo, train, evaluate, compare, reproduce, cite, report, fit, score, serve, export, push, pull):
    app.command()(command)
app.add_typer(data, name="data")


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    if version:
        from spherood.version import __version__

        print(__version__)
        raise typer.Exit


def main() -> None:
    """Exit 0: done. 1: the work failed. 2: misused. A user's mistake is one message; a bug shows its traceback."""
    sys.path.insert(0, "")  # package.module:function of the folder one works in, as python -m finds it
    try:
        app()
    except SpheroodError as error:
        print(error, file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except BrokenPipeError:  # the reader of our output left, as `head` does
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:
        if error.errno not in MENDABLE:
            raise
        print(f"{error.filename or 'output'}: {error.strerror}. Mend that, or choose another place.", file=sys.stderr)
        sys.exit(1)
