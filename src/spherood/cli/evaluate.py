"""spherood evaluate."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from spherood.cli.options import Data, Device, Json, run_folder
from spherood.errors import CheckpointError, ConfigError


def evaluate(
    model: Annotated[str, typer.Argument(help="A trained run: its name below runs/, or its folder.")],
    protocol: Annotated[str, typer.Option(help="A protocol of the package, or a path to one's own (.yaml).")],
    scores: Annotated[
        str, typer.Option(help="Comma-separated; settings behind colons. The first available one goes into the bundle.")
    ] = "knn:k=50,mahalanobis:unit=true,msp",
    data: Data = Path("data"),
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a run on a protocol: one table, one page, one bundle.

    Example: **spherood evaluate cider-cifar10-small --protocol openood/cifar10-sample --data ~/data**

    Each image is decoded and goes through the model once; other scores, or another k, read what was stored.
    """
    from spherood.benchmark.evaluation import Subject, build_scores
    from spherood.benchmark.evaluation import evaluate as evaluate_subject
    from spherood.benchmark.protocol import load_protocol
    from spherood.benchmark.shipping import make_bundle
    from spherood.benchmark.table import write_tables
    from spherood.cli.show import show
    from spherood.features import FeatureStore
    from spherood.models import choose_device
    from spherood.report import write_page
    from spherood.report.describe import describe
    from spherood.training.checkpoint import LAST, Checkpoint
    from spherood.training.log import read_log

    chosen_protocol = load_protocol(protocol)  # a misspelt name costs nothing
    wanted = [text.strip() for text in scores.split(",") if text.strip()]
    build_scores(wanted)
    folder = run_folder(model)
    if not (folder / LAST).exists():
        raise CheckpointError(
            f"spherood evaluate: no run at {folder}. Train one with: spherood train --recipe RECIPE.yaml --run {model}"
        )
    checkpoint = Checkpoint.load(folder / LAST)
    recipe = checkpoint.recipe
    subject = Subject(
        name=folder.name,
        model=checkpoint.build_model().to(choose_device(device)),
        preprocess=recipe.preprocess.model_copy(update={"resize": chosen_protocol.resize}),
        classes=checkpoint.classes,
    )
    evaluated = evaluate_subject(subject, chosen_protocol, data, FeatureStore(folder.parent / ".features"), wanted)
    shipped = next(iter(evaluated.detectors), None)
    if shipped is None:
        raise ConfigError(f"{model}: none of the scores {scores} can be computed for this model.")

    tables = write_tables(folder / "tables", [evaluated.evaluation])
    make_bundle(evaluated, shipped, recipe.model).save(folder / "bundle")
    following = shlex.join(["spherood", "score", str(folder / "bundle")]) + " IMAGE..."
    content = describe([evaluated], (folder.name, shipped), {folder.name: read_log(folder)}, [following])
    write_page(folder / "report.html", content)
    if as_json:
        print(json.dumps(evaluated.evaluation.to_json(), indent=2))
        return
    show([evaluated.evaluation], every_set=True)
    print(
        f"tables: {tables}\npage: {folder / 'report.html'}\nbundle: {folder / 'bundle'} ({shipped})\nnext: {following}"
    )
