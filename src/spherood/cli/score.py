"""spherood score."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spherood.cli.options import Json, Trust
from spherood.errors import ConfigError

if TYPE_CHECKING:
    from spherood.bundle.bundle import Bundle
    from spherood.scoring.parts import Row
    from spherood.scoring.pipeline import Tally
    from spherood.scoring.work import Work

Format = Literal["parquet", "csv", "jsonl"]
Engine = Literal["local", "ray"]
FILES = (".jsonl", ".csv", ".parquet")
OTHERS = (".json", ".txt", ".tsv", ".xlsx", ".html")  # that someone would take for files


def score(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, for example runs/demo/bundle.")],
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Images; folders of images; image lists (.txt); tar shards; Parquet files with a column of paths or "
            "bytes; for a bundle that reads features, files of those (.npy, .npz, .parquet, .safetensors)."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="A file (.jsonl, .csv, .parquet), or a folder: parts are written into it, and the same command goes "
            "on where it was stopped. Default: sentences on the screen.",
        ),
    ] = None,
    false_alarm_rate: Annotated[
        float | None, typer.Option(help="Another promised share of ID images in false alarm. Default: the bundle's.")
    ] = None,
    false_discovery_rate: Annotated[
        float | None,
        typer.Option(
            help="Also flag a part of all these images as `discovery`, of which at most this share is ID on average "
            "(Benjamini-Hochberg)."
        ),
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="Of the parts in a folder.")] = "parquet",
    column: Annotated[
        str | None, typer.Option(help="Of a Parquet file: paths or bytes. Default: image, path, file or filename.")
    ] = None,
    time_column: Annotated[str | None, typer.Option(help="Of a Parquet file: when each image was taken.")] = None,
    part_size: Annotated[int, typer.Option(min=1, help="Images of a part, which is what a kill may cost.")] = 4096,
    threads: Annotated[
        int | None, typer.Option(min=1, help="That decode and judge. Default: one for each core; with ray 1.")
    ] = None,
    share: Annotated[
        str | None, typer.Option(help="2/16: every sixteenth part from number 2 on, for array jobs: 0/16 to 15/16.")
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="Where parts are made: on this machine, or on a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster: ray://HOST:10001, auto. Default: one on this machine.")
    ] = None,
    trust: Trust = None,
    as_json: Json = False,
) -> None:
    """Give a verdict on images: is it unlike everything seen in training, how sure, and why.

    Example: **spherood score runs/demo/bundle cat.png holiday/ -o verdicts.jsonl**

    Example: **spherood score runs/demo/bundle-onnx lake/\\*.tar -o verdicts/ --false-discovery-rate 0.1**

    An image that cannot be read is a row with the error; the exit code is then 1.
    """
    from spherood.bundle.bundle import Bundle
    from spherood.scoring.work import Work, parse_share

    folder = out is not None and out.suffix not in FILES
    if out is not None and out.suffix.lower() in OTHERS and not out.is_dir():
        raise ConfigError(f"{out}: a file of verdicts ends in {', '.join(FILES)}; a folder of parts has another name.")
    if not folder and (share or engine == "ray"):
        raise ConfigError("spherood score: --share and --engine ray write parts. Name a folder for them: -o FOLDER")
    if address and engine != "ray":
        raise ConfigError("spherood score: --address is that of a Ray cluster. Add --engine ray.")
    if share and false_discovery_rate is not None:
        raise ConfigError(
            "spherood score: false discoveries are counted over all parts. Leave --false-discovery-rate out, and give "
            "the command once more without --share when every share is done."
        )
    loaded = Bundle.load(bundle, trust=trust or ())
    loaded.threshold(false_alarm_rate)  # refuse a rate that cannot be promised before any work
    if false_discovery_rate is not None and loaded.promise.by_class:
        raise ConfigError(
            "--false-discovery-rate: p-values by class have no common resolution. Use a bundle without it."
        )
    work = Work(
        bundle=bundle,
        inputs=[path.absolute() for path in inputs] if engine == "ray" else inputs,  # workers stand elsewhere
        false_alarm_rate=false_alarm_rate,
        column=column,
        time_column=time_column,
        size=part_size,
        suffix=f".{format_}",
        share=parse_share(share),
        threads=threads or 0,
        trust=trust or (),
    )
    if out is not None and folder:
        counted = _into_folder(work, loaded, out, false_discovery_rate, address if engine == "ray" else False, as_json)
    else:
        counted = _in_memory(work, loaded, out, false_discovery_rate, as_json)
    if counted.errors:
        raise typer.Exit(1)


def _in_memory(work: Work, loaded: Bundle, out: Path | None, rate: float | None, as_json: bool) -> Tally:
    from spherood.scoring.parts import write_part
    from spherood.scoring.pipeline import tally

    rows = work.rows(loaded)
    found = 0
    if rate is not None:
        _say_resolution(loaded, len(rows), rate)
        found = _discover(rows, rate)
    if out is not None:
        write_part(out, rows)
    if as_json:
        print("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    elif out is None:
        for row in rows:
            print(_sentence(row))
    counted = tally(rows)
    print(_summary(counted, rate, found) + (f"; written to {out}" if out else ""), file=sys.stderr)
    return counted


def _into_folder(
    work: Work, loaded: Bundle, out: Path, rate: float | None, address: str | Literal[False] | None, as_json: bool
) -> Tally:
    from spherood.scoring.discovery import flag

    plan = work.plan(loaded, out)
    if rate is not None and plan.images is not None:
        _say_resolution(loaded, plan.images, rate)
    try:
        counted = work.here(loaded, plan) if address is False else work.on_ray(plan, address)
    except KeyboardInterrupt:
        print(f"Stopped: the parts in {out} are whole. The same command does the rest.", file=sys.stderr)
        raise typer.Exit(1) from None
    found = flag(out, loaded.promise.held_out, rate).discoveries if rate is not None else 0
    if as_json:
        print(json.dumps({"out": str(out), "parts": len(plan), **counted._asdict(), "discoveries": found}))
        return counted
    print(f"{_summary(counted, rate, found)}; written to {out}", file=sys.stderr)
    print(f"next: {shlex.join(['spherood', 'report', str(work.bundle), str(out)])}")
    return counted


def _say_resolution(bundle: Bundle, count: int, rate: float) -> None:
    """How few can be flagged at all."""
    from spherood.calibration import least_discoveries

    if not count:
        return
    least = least_discoveries(bundle.promise.held_out, count, rate)
    print(
        f"false-discovery rate {rate:g}: with {bundle.promise.held_out:,} held-out images, of {count:,} none or at "
        f"least {least:,} can be flagged.",
        file=sys.stderr,
    )


def _discover(rows: list[Row], rate: float) -> int:
    """`discovery` into every row, None without a verdict; how many there are."""
    from spherood.calibration import discoveries

    judged = [row for row in rows if row["error"] is None]
    if not judged:
        return 0
    flagged = discoveries([row["p_value"] for row in judged], rate)
    flags = iter(flagged)
    for row in rows:
        row["discovery"] = bool(next(flags)) if row["error"] is None else None
    return int(flagged.sum())


def _sentence(row: Row) -> str:
    if row["error"] is not None:
        return f"{row['image']}: no verdict: {row['error']}"
    verdict = "OOD" if row["is_ood"] else "?  " if row["needs_review"] else "ok "
    return f"{verdict}  {row['image']}  score {row['score']:.4g}  p {row['p_value']:.3g}  {row['reason']}"


def _summary(counted: Tally, rate: float | None, found: int) -> str:
    images = "1 image" if counted.rows == 1 else f"{counted.rows:,} images"
    within = counted.rows - counted.alarms - counted.review - counted.errors
    told = f"{images}: {counted.alarms:,} OOD, {within:,} within range, {counted.errors:,} unreadable"
    told += f", {counted.review:,} for a person" if counted.review else ""
    if rate is None:
        return told
    return f"{told}; {found:,} {'discovery' if found == 1 else 'discoveries'} at a false-discovery rate of {rate:g}"
