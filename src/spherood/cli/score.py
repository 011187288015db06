"""spherood score."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherood.cli.options import Json, Trust
from spherood.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from spherood.bundle import Bundle

BATCH = 128
Row = dict[str, Any]


def score(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, for example runs/demo/bundle.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(help="Images, folders of images, or features (.npy, .npz, .parquet, .safetensors)."),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write one JSON line per image to this file.")] = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Another promised share of ID images in false alarm. Default: the bundle's.")
    ] = None,
    false_discovery_rate: Annotated[
        float | None,
        typer.Option(
            help="Also flag a part of this batch as `discovery`, of which at most this share is ID on average "
            "(Benjamini-Hochberg)."
        ),
    ] = None,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Give a verdict on images: is it unlike everything seen in training, how sure, and why.

    Example: **spherood score runs/demo/bundle cat.png holiday/ -o verdicts.jsonl**

    An image that cannot be read is named, counted and left without a verdict; the exit code is then 1.
    """
    from spherood.bundle.bundle import Bundle
    from spherood.files import write_text

    loaded = Bundle.load(bundle, trust=trust or ())
    loaded.threshold(false_alarm_rate)  # refuse a rate that cannot be promised before any work
    files, features = _sorted(inputs)
    if false_discovery_rate is not None:
        _say_resolution(loaded, files, features, false_discovery_rate)
    rows = list(_rows(loaded, files, false_alarm_rate))
    for path in features:
        rows += _feature_rows(loaded, path, false_alarm_rate)
    found = 0 if false_discovery_rate is None else _discover(rows, false_discovery_rate)
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    if out is not None:
        write_text(out, "".join(line + "\n" for line in lines))
    failed = sum("error" in row for row in rows)
    alarms = sum(row.get("is_ood", False) for row in rows)
    review = sum(row.get("needs_review", False) for row in rows)
    if as_json:
        print("\n".join(lines))
    elif out is None:
        for row in rows:
            print(_sentence(row))
    images = "1 image" if len(rows) == 1 else f"{len(rows)} images"
    summary = f"{images}: {alarms} OOD, {len(rows) - alarms - review - failed} within range, {failed} unreadable"
    summary += f", {review} for a person" if review else ""
    if false_discovery_rate is not None:
        summary += f"; {found} discoveries at a false-discovery rate of {false_discovery_rate:g}"
    print(summary + (f"; written to {out}" if out else ""), file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _sorted(inputs: list[Path]) -> tuple[list[Path], list[Path]]:
    """Image files, those of folders among them, and files of features."""
    from spherood.data.feature_file import is_feature_file
    from spherood.data.folders import read_folder

    features = [path for path in inputs if is_feature_file(path)]
    others = [path for path in inputs if not is_feature_file(path)]
    return [file for path in others for file in (read_folder(path).images if path.is_dir() else [path])], features


def _rows(bundle: Bundle, files: list[Path], false_alarm_rate: float | None) -> Iterator[Row]:
    from spherood.data.decode import read_rgb
    from spherood.progress import progress

    with progress("scoring", len(files)) as advance:
        for start in range(0, len(files), BATCH):
            pictures, errors = {}, {}
            for path in files[start : start + BATCH]:
                try:
                    pictures[path] = bundle.pixels(read_rgb(path))  # small at once: photographs are large
                except ImageError as error:
                    errors[path] = str(error)
            verdicts = dict(zip(pictures, bundle.predict(list(pictures.values()), false_alarm_rate), strict=True))
            for path in files[start : start + BATCH]:
                row: Row = {"image": str(path)}
                yield row | ({"error": errors[path]} if path in errors else asdict(verdicts[path]))
            advance(min(BATCH, len(files) - start))


def _feature_rows(bundle: Bundle, path: Path, false_alarm_rate: float | None) -> Iterator[Row]:
    from spherood.bundle.rows import Rows
    from spherood.data.feature_file import read_features

    rows = Rows.of_features(read_features(path))
    names = rows.names or [f"{path}:{number}" for number in range(len(rows))]
    x = rows.outputs if bundle.runtime.reads != "embedding" else rows.outputs.feature
    for name, verdict in zip(names, bundle.predict(x, false_alarm_rate), strict=True):
        yield {"image": name} | asdict(verdict)


def _say_resolution(bundle: Bundle, files: list[Path], features: list[Path], rate: float) -> None:
    """How few can be flagged at all, told before the work; ConfigError where thresholds go by class."""
    from spherood.calibration import least_discoveries
    from spherood.data.feature_file import read_features

    if bundle.promise.by_class:
        raise ConfigError(
            "--false-discovery-rate: p-values by class have no common resolution. Use a bundle without it."
        )
    count = len(files) + sum(len(read_features(path)) for path in features)
    least = least_discoveries(bundle.promise.held_out, count, rate)
    print(
        f"false-discovery rate {rate:g}: with {bundle.promise.held_out:,} held-out images, of {count:,} none or at "
        f"least {least:,} can be flagged.",
        file=sys.stderr,
    )


def _discover(rows: list[Row], rate: float) -> int:
    """`discovery` into every row with a p-value; how many there are."""
    from spherood.calibration import discoveries

    judged = [row for row in rows if "error" not in row]
    if not judged:
        return 0
    flagged = discoveries([row["p_value"] for row in judged], rate)
    for row, flag in zip(judged, flagged, strict=True):
        row["discovery"] = bool(flag)
    return int(flagged.sum())


def _sentence(row: Row) -> str:
    if "error" in row:
        return f"{row['image']}: no verdict: {row['error']}"
    verdict = "OOD" if row["is_ood"] else "?  " if row["needs_review"] else "ok "
    return f"{verdict}  {row['image']}  score {row['score']:.4g}  p {row['p_value']:.3g}  {row['reason']}"
