"""spherood score."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherood.cli.options import Json
from spherood.errors import ImageError

if TYPE_CHECKING:
    from spherood.bundle import Bundle

BATCH = 128


def score(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, for example runs/demo/bundle.")],
    inputs: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write one JSON line per image to this file.")] = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Another promised share of ID images in false alarm. Default: the bundle's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Give a verdict on images: is it unlike everything seen in training, how sure, and why.

    Example: **spherood score runs/demo/bundle cat.png holiday/ -o verdicts.jsonl**

    An image that cannot be read is named, counted and left without a verdict; the exit code is then 1.
    """
    from spherood.bundle.bundle import Bundle
    from spherood.files import write_text

    loaded = Bundle.load(bundle)
    loaded.threshold(false_alarm_rate)  # refuse a rate that cannot be promised before any work
    rows = list(_rows(loaded, _files(inputs), false_alarm_rate))
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    if out is not None:
        write_text(out, "".join(line + "\n" for line in lines))
    failed = sum("error" in row for row in rows)
    alarms = sum(row.get("is_ood", False) for row in rows)
    if as_json:
        print("\n".join(lines))
    elif out is None:
        for row in rows:
            print(_sentence(row))
    images = "1 image" if len(rows) == 1 else f"{len(rows)} images"
    summary = f"{images}: {alarms} OOD, {len(rows) - alarms - failed} within range, {failed} unreadable"
    print(summary + (f"; written to {out}" if out else ""), file=sys.stderr)
    if failed:
        raise typer.Exit(1)


def _files(inputs: list[Path]) -> list[Path]:
    from spherood.data.folders import read_folder

    return [file for path in inputs for file in (read_folder(path).images if path.is_dir() else [path])]


def _rows(bundle: Bundle, files: list[Path], false_alarm_rate: float | None) -> Iterator[dict[str, Any]]:
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
                row: dict[str, Any] = {"image": str(path)}
                yield row | ({"error": errors[path]} if path in errors else asdict(verdicts[path]))
            advance(min(BATCH, len(files) - start))


def _sentence(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['image']}: no verdict: {row['error']}"
    verdict = "OOD" if row["is_ood"] else "ok "
    return f"{verdict}  {row['image']}  score {row['score']:.4g}  p {row['p_value']:.3g}  {row['reason']}"
