"""spherood demo."""

from __future__ import annotations

import shlex
import shutil
import time
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from spherood.cli.options import RUNS

NAMES = {"cross-entropy": "cross-entropy", "supcon": "SupCon", "cider": "CIDER"}
SCORES = ("knn:k=10", "mahalanobis:unit=true", "msp")
SHIPPED = ("cider", "knn:k=10")


def demo(
    out: Annotated[Path, typer.Option(help="Folder of the results; an older demo there is replaced.")] = RUNS / "demo",
) -> None:
    """Train three detectors on scanned digits and see what they do not know: a table, a page, a bundle.

    Example: **spherood demo**

    Known: digits 0-5. Near: digits 6-9. Far: patches of photographs, and noise. All of it comes with scikit-learn;
    nothing is downloaded. About a minute on two cores.
    """
    import torch
    from PIL import Image

    from spherood.benchmark.evaluation import evaluate
    from spherood.benchmark.protocol import load_protocol
    from spherood.benchmark.shipping import make_bundle
    from spherood.benchmark.subject import Subject
    from spherood.benchmark.table import write_tables
    from spherood.bundle.encoder import run_encoder
    from spherood.bundle.held_out import remember_images
    from spherood.cli.show import show
    from spherood.errors import optional
    from spherood.features import FeatureStore
    from spherood.report import write_page
    from spherood.report.describe import describe
    from spherood.training import engine
    from spherood.training.log import read_log
    from spherood.training.recipe import load_recipe

    for module in ("sklearn", "altair"):
        optional(module, "demo", "spherood demo")  # before the work, not after it
    started = time.monotonic()
    torch.set_num_threads(1)  # nearly as fast with so small a network, and the same figures on any number of cores
    protocol = load_protocol("demo/digits")
    evaluated, logs = {}, {}
    for name, title in NAMES.items():
        run = out / name
        shutil.rmtree(run, ignore_errors=True)
        recipe = load_recipe(Path(str(files("spherood.cli") / "demo_recipes" / f"{name}.yaml")))
        engine.train(recipe, run, Path(), device="cpu")
        found = run_encoder(run)
        subject = Subject(title, found.model, found.images, found.classes, found.origin)
        evaluated[name] = evaluate(subject, protocol, Path(), FeatureStore(out / ".features"), SCORES)
        logs[title] = read_log(run)

    shipped, score = SHIPPED
    make_bundle(evaluated[shipped], score).save(out / "bundle")
    if (held_out := evaluated[shipped].validation) is not None:
        remember_images(out / "bundle", held_out.images)
    test, ood = evaluated[shipped].test.images, evaluated[shipped].ood["digits 6-9"].images
    for images, row, file in ((test, 0, "known.png"), (ood, 0, "new.png")):
        (out / "images").mkdir(exist_ok=True)
        images.read(row).resize((32, 32), Image.Resampling.BILINEAR).save(out / "images" / file)
    following = shlex.join(["spherood", "score", str(out / "bundle"), str(out / "images")])
    evaluations = [one.evaluation for one in evaluated.values()]
    tables = write_tables(out / "tables", evaluations)
    everything = list(evaluated.values())
    write_page(out / "report.html", describe(everything, (NAMES[shipped], score), logs, [following]))

    show(evaluations, every_set=False)
    print(f"done in {time.monotonic() - started:.0f} s")
    print(f"tables: {tables}")
    print(f"page:   {out / 'report.html'}  (open it in a browser)")
    print(f"bundle: {out / 'bundle'}  ({NAMES[shipped]}, {score})")
    print(f"next:   {following}")
