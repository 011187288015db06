"""spherood fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherood.cli.options import Data, Device, Json, run_folder, score_command
from spherood.errors import ConfigError

if TYPE_CHECKING:
    from spherood.bundle.make import Made


def fit(
    known: Annotated[
        Path,
        typer.Argument(
            help="What is known (ID): a folder of images, one folder per class where there are classes; an image list "
            "(.txt); or features (.npy, .npz, .parquet, .safetensors)."
        ),
    ],
    encoder: Annotated[
        str | None,
        typer.Option(
            help="For images: a run, a checkpoint file (CIDER, OpenOOD, ReweightOOD, T2FNorm, torchvision), an .onnx "
            "file, package.module:function, or a network of timm. For features: a run that trained a head on them."
        ),
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="ID that calibrates and took no part in training. Needed where KNOWN trained the encoder."),
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Further ID, to measure the false alarms on.")] = None,
    ood: Annotated[
        list[str] | None, typer.Option("--ood", help="NAME=PATH of an OOD source to measure on; repeatable.")
    ] = None,
    validation_ood: Annotated[
        list[str] | None, typer.Option("--validation-ood", help="NAME=PATH of OOD to choose the score by; repeatable.")
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option(help="Comma-separated candidates: knn:k=10,mahalanobis:unit=true. Default: chosen for you."),
    ] = None,
    false_alarm_rate: Annotated[float, typer.Option(help="Promised share of ID in false alarm.")] = 0.05,
    confidence: Annotated[float, typer.Option(help="Of the promise, over the draw of the held-out images.")] = 0.95,
    by_class: Annotated[
        bool, typer.Option("--by-class", help="A threshold per predicted class; small classes share one.")
    ] = False,
    review_rate: Annotated[
        float | None, typer.Option(help="A larger rate: what lies between the two thresholds goes to a person.")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            help="Keep groups (video, patient, site) in one part: a column of the feature file, or FILE.csv:COLUMN."
        ),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="A .npy of labels, for a .npy of features.")] = None,
    preprocess: Annotated[
        Path | None, typer.Option(help="YAML with size, resize, mean, std in place of the encoder's own.")
    ] = None,
    feature_output: Annotated[str | None, typer.Option(help="Which tensor of an .onnx file is the feature.")] = None,
    logits_output: Annotated[str | None, typer.Option(help="Which one is the classifier's.")] = None,
    coreset: Annotated[int | None, typer.Option(help="Keep so many rows to fit on, drawn class by class.")] = None,
    half: Annotated[bool, typer.Option("--half", help="Keep the bank of a k-NN in half precision.")] = False,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Keep small images of the bank, to show beside a verdict.")
    ] = False,
    data_licence: Annotated[str, typer.Option(help="For the model card.")] = "not stated",
    weights_licence: Annotated[str, typer.Option(help="For the model card.")] = "not stated",
    run: Annotated[str | None, typer.Option(help="Name of the result, runs/NAME. Default: guard-KNOWN.")] = None,
    data: Data = Path("data"),
    seed: Annotated[int, typer.Option(help="Of the division into parts.")] = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Make a guard for a model you already have: verdicts with a promised false-alarm rate, in one bundle.

    Example: **spherood fit photos/known --encoder resnet50.pth --held-out photos/new --ood screenshots=photos/other**

    Example: **spherood fit features.npz --ood night=night.npz --false-alarm-rate 0.01**

    KNOWN is divided at random into a part to fit on, one to choose the score by and one to calibrate with; they share
    no image. Held-out images must be ones that the encoder was not trained on: else nothing is promised.
    """
    from spherood.bundle.encoder import find_encoder
    from spherood.bundle.held_out import remember
    from spherood.bundle.make import Wanted, make
    from spherood.bundle.manifest import Licences
    from spherood.bundle.reading import Reader, check_there
    from spherood.data.preprocess import Preprocess
    from spherood.errors import optional
    from spherood.features import FeatureStore
    from spherood.models import choose_device
    from spherood.naming import split_unquoted
    from spherood.report import write_page
    from spherood.report.guard import describe_guard, why_no_page
    from spherood.schema import parse, read_yaml

    if ood:
        optional("altair", "report", "the page beside an --ood source")  # before the work, not after it
    home = run_folder(run or f"guard-{known.absolute().name.partition('.')[0]}")
    wanted = Wanted(
        known=known,
        held_out=held_out,
        test=test,
        ood=_named("--ood", ood),
        validation_ood=_named("--validation-ood", validation_ood),
        scores=[one.strip() for one in split_unquoted(scores, ",") if one.strip()] if scores else None,
        false_alarm_rate=false_alarm_rate,
        confidence=confidence,
        by_class=by_class,
        review_rate=review_rate,
        group_by=group_by,
        labels=labels,
        coreset=coreset,
        half=half,
        thumbnails=thumbnails,
        licences=Licences(data=data_licence, weights=weights_licence),
        seed=seed,
    )
    own = parse(Preprocess, read_yaml(preprocess, "preprocess"), str(preprocess)) if preprocess else None
    for path in wanted.paths:
        check_there(path)
    found = None
    if encoder is not None:
        outputs = {"feature": feature_output, "logits": logits_output}
        found = find_encoder(encoder, run_folder(encoder), "spherood fit", preprocess=own, **outputs)
        found.model.to(choose_device(device))
    made = make(wanted, Reader(found, FeatureStore(home.parent / ".features"), data))
    made.bundle.save(home / "bundle")
    remember(home / "bundle", made.fitted.parts.calibrate, made.bundle.runtime.reads)
    takes = "FEATURES" if made.bundle.preprocess is None else "IMAGE..."
    following = [f"{score_command(home / 'bundle', made.bundle)} {takes}"]
    no_page = why_no_page(made)
    (home / "report.html").unlink(missing_ok=True)  # of an older guard
    if not no_page:
        write_page(home / "report.html", describe_guard(made, home.name, following))
    if as_json:
        print(json.dumps(_record(made, home), indent=2, ensure_ascii=False))
        return
    _tell(made)
    print(f"bundle:  {home / 'bundle'}  (its README.md is the model card)")
    print(f"page:    {home / 'report.html'}  (open it in a browser)" if not no_page else f"no page: {no_page}.")
    print(f"next:    {following[0]}")


def _named(option: str, texts: list[str] | None) -> dict[str, Path]:
    """NAME=PATH, or a path whose own name will do; ConfigError for a name given twice."""
    found: dict[str, Path] = {}
    for text in texts or ():
        name, equals, path = text.partition("=")
        place = Path(path if equals else text)
        name = name if equals else place.absolute().name.partition(".")[0]
        if name in found:
            raise ConfigError(f"{option} {text}: the name '{name}' is taken. Write it as NAME=PATH with another name.")
        found[name] = place
    return found


def _tell(made: Made) -> None:
    from rich.console import Console
    from rich.table import Table

    from spherood.bundle.card import promised, told

    bundle, choice, parts = made.bundle, made.fitted.choice, made.fitted.parts
    console = Console()
    console = Console(width=None if console.is_terminal else 160, markup=False, emoji=False, highlight=False)
    sizes = f"fit {len(parts.fit):,}, choose {len(parts.choose or ()):,}, calibrate {len(parts.calibrate):,}"
    console.print(f"parts:   {sizes}; they share no row")
    tried = "; ".join(f"{name} {value:.3f}" for name, value in choice.auroc.items())
    console.print(f"score:   {choice.chosen}" + (f"  (AUROC against {choice.against}: {tried})" if tried else ""))
    for line in promised(bundle.promise):
        console.print(f"promise: {line}")
    results = bundle.results
    if results.false_alarms:
        console.print(f"test:    {told(results.false_alarms)} % of {results.false_alarms.of:,} ID images in alarm")
    if results.ood:
        table = Table(title="caught at that threshold, in percent (95 % interval)", title_justify="left")
        softmax = any(one.msp for one in results.ood)
        for number, name in enumerate(("OOD source", "images", "caught", *(["maximum softmax"] * softmax), "AUROC")):
            table.add_column(name, justify="right" if number else "left")
        for one in results.ood:
            msp = [told(one.msp) if one.msp else "–"] if softmax else []
            auroc = "–" if one.auroc is None else f"{100 * one.auroc:.2f}"
            table.add_row(one.name, f"{one.caught.of:,}", told(one.caught), *msp, auroc)
        console.print(table)
    console.print(
        "not promised: how much OOD of any other kind is caught; anything for images of another kind than the held-out "
        "ones, or if the encoder was trained on those"
    )
    for note in results.notes:
        console.print(f"note: {note}")


def _record(made: Made, home: Path) -> dict[str, Any]:
    bundle, fitted = made.bundle, made.fitted
    return {
        "bundle": str(home / "bundle"),
        "parts": {name: len(getattr(fitted.parts, name) or ()) for name in ("fit", "choose", "calibrate")},
        "score": fitted.choice.chosen,
        "choice": {"against": fitted.choice.against, "auroc": dict(fitted.choice.auroc)},
        "promise": bundle.promise.model_dump(mode="json"),
        "threshold": bundle.threshold(),
        "results": bundle.results.model_dump(mode="json"),
    }
