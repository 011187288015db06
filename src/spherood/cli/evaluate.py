"""spherood evaluate."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spherood.cli.options import RUNS, Data, Device, Json, run_folder, score_command
from spherood.errors import ConfigError

OVER_TRIALS = ("auroc", "fpr_ood_at_id95", "fpr_id_at_ood95", "aupr_in", "aupr_out")  # mean ± deviation

if TYPE_CHECKING:
    from spherood.benchmark.evaluation import Evaluated
    from spherood.benchmark.subject import Subject


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="A run (its name below runs/, or its folder), a bundle, a checkpoint file of CIDER, OpenOOD, "
            "ReweightOOD, T2FNorm or torchvision, a folder of trials (s0/best.ckpt, s1/...), a folder of CIDER's "
            "checkpoint_N.pth.tar, a network of timm, or package.module:function."
        ),
    ],
    protocol: Annotated[
        str,
        typer.Option(
            help="A protocol of the package: cider/ or openood/ with cifar10, cifar100, imagenet100, imagenet200 or "
            "imagenet1k; or a path to one's own (.yaml)."
        ),
    ],
    scores: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated; settings behind colons; slashes try several and keep the best on the validation "
            "sets: knn:k=50/100/200. The first available one goes into the bundle. Default: the protocol's."
        ),
    ] = None,
    data: Data = Path("data"),
    full_spectrum: Annotated[
        bool, typer.Option("--full-spectrum", help="Count ID images under covariate shift (csid sets) as ID.")
    ] = False,
    without: Annotated[
        str, typer.Option(help="OOD sets to leave out, comma-separated; their mean is incomplete.")
    ] = "",
    epoch: Annotated[int | None, typer.Option(help="Which of CIDER's checkpoints; default: the newest.")] = None,
    run: Annotated[str | None, typer.Option(help="Name of the result, runs/NAME. Default: the model's.")] = None,
    save_scores: Annotated[
        bool, typer.Option("--save-scores", help="Also every single score, as tables/.../scores.parquet.")
    ] = False,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a model on a protocol: one table, one page, one bundle.

    Example: **spherood evaluate cider-cifar10-small --protocol openood/cifar10-sample --data ~/data**

    Example: **spherood evaluate results/cifar10_resnet18 --protocol openood/cifar10 --data ./data**

    Each image is decoded and goes through the model once; other scores, or another k, read what was stored. Several
    processes share the work: **torchrun --nproc-per-node 2 -m -- spherood evaluate ...**
    """
    from spherood.benchmark.evaluation import measure
    from spherood.benchmark.protocol import load_protocol
    from spherood.benchmark.scores import build_scores, reads_layers
    from spherood.benchmark.sets import check_subject, find_images, read_sets
    from spherood.benchmark.subject import find_subjects
    from spherood.errors import optional
    from spherood.features import FeatureStore
    from spherood.models import choose_device
    from spherood.naming import split_unquoted

    chosen = load_protocol(protocol)  # a misspelt name costs nothing
    wanted = [text.strip() for text in split_unquoted(scores, ",") if text.strip()] if scores else list(chosen.scores)
    candidates = build_scores(wanted)
    if save_scores:
        optional("pyarrow.parquet", "parquet", "--save-scores")
    subjects = find_subjects(model, run_folder(model), chosen, epoch)
    images = find_images(
        chosen,
        data,
        full_spectrum=full_spectrum,
        tried=max(map(len, candidates.values()), default=1),
        without=[name.strip() for name in without.split(",") if name.strip()],
    )
    home = _home(subjects, run, model)
    store = FeatureStore(home.parent / ".features")
    evaluated = []
    for subject in subjects:
        check_subject(subject, images, chosen)
    for subject in subjects:
        subject.model.to(choose_device(device))
        sets = read_sets(subject, images, chosen, store, layers=reads_layers(candidates))
        if store.processes.first:
            evaluated.append(measure(subject, chosen, images, sets, build_scores(wanted)))
    if evaluated:
        _report(evaluated, home, model, protocol, save_scores, as_json)


def _home(subjects: list[Subject], run: str | None, model: str) -> Path:
    """Where results go: the run's own folder, else runs/NAME."""
    from spherood.training.checkpoint import LAST

    if run is not None:
        return run_folder(run)
    own = run_folder(model)
    if (own / LAST).is_file():
        return own
    return RUNS / (subjects[0].group or subjects[0].name).replace("/", "-").replace(":", "-")


def _report(
    evaluated: list[Evaluated], home: Path, model: str, protocol: str, save_scores: bool, as_json: bool
) -> None:
    from spherood.benchmark.comparison import rows_of
    from spherood.benchmark.layouts import by_metric
    from spherood.benchmark.rendering import render
    from spherood.benchmark.score_file import write_scores
    from spherood.benchmark.shipping import make_bundle, why_no_bundle
    from spherood.benchmark.table import slug, write_tables
    from spherood.bundle.held_out import remember_images
    from spherood.cli.show import show
    from spherood.report import write_page
    from spherood.report.describe import describe
    from spherood.training.log import read_log

    evaluations = [one.evaluation for one in evaluated]
    one, shipped = evaluated[0], next(iter(evaluated[0].detectors), None)
    if shipped is None:
        raise ConfigError(
            f"{model}: none of the scores {', '.join(one.evaluation.unavailable)} can be computed for this model."
        )
    made = [("tables", write_tables(home / "tables" / slug(evaluations[0]), evaluations))]
    if save_scores:
        made.append(("scores", made[0][1] / "scores.parquet"))
        write_scores(made[0][1] / "scores.parquet", evaluated)
    beside = ["--published"] if one.protocol.published else []
    following = shlex.join(["spherood", "compare", str(home), "--protocol", protocol, *beside])
    reason = why_no_bundle(one, shipped) or ("there are several trials: evaluate one of them" if evaluated[1:] else "")
    if one.evaluation.scores[shipped].calibrated:
        if not reason:
            bundle = make_bundle(one, shipped)
            bundle.save(home / "bundle")
            if one.validation is not None:
                remember_images(home / "bundle", one.validation.images)
            following = f"{score_command(home / 'bundle', bundle)} IMAGE..."
            made.append(("bundle", home / "bundle"))
        logs = {one.evaluation.model: read_log(home)} if not evaluated[1:] else {}
        write_page(home / "report.html", describe(evaluated, (one.evaluation.model, shipped), logs, [following]))
        made.insert(1, ("page", home / "report.html"))
    if as_json:
        records = [evaluation.to_json() for evaluation in evaluations]
        print(json.dumps(records if evaluated[1:] else records[0], indent=2))
        return
    show(evaluations, every_set=True)
    if evaluated[1:]:
        tables = by_metric(rows_of(evaluations), one.protocol, OVER_TRIALS)
        print("\n" + render(tables, [], "text"))
    for what, where in made:
        print(f"{what}: {where}" + (f" ({one.evaluation.scores[shipped].spec})" if what == "bundle" else ""))
    if reason:
        print(f"no bundle: {reason}.", file=sys.stderr)
    print(f"next: {following}")
