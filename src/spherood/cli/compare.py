"""spherood compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from spherood.cli.options import run_folder
from spherood.errors import ConfigError, nearest

if TYPE_CHECKING:
    from spherood.benchmark.comparison import Row
    from spherood.benchmark.protocol import Protocol


def compare(
    runs: Annotated[list[str] | None, typer.Argument(help="Evaluated runs: names below runs/, or folders.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Needed where the runs were evaluated by several.")] = None,
    full_spectrum: Annotated[bool, typer.Option("--full-spectrum", help="The full-spectrum figures.")] = False,
    published: Annotated[bool, typer.Option("--published", help="The papers' rows beside them.")] = False,
    method: Annotated[
        list[str] | None, typer.Option(help="Of the published rows only this method; repeatable.")
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="A run: how much the mean FPR changes from it.")] = None,
    leaderboard: Annotated[bool, typer.Option("--leaderboard", help="The place on OpenOOD's leaderboard.")] = False,
    layout: Annotated[
        Literal["cider", "openood"] | None, typer.Option(help="The rows and columns of that paper's README.")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Only this metric, as auroc; repeatable.")] = None,
    format_: Annotated[
        Literal["text", "csv", "latex", "html", "json"], typer.Option("--format", help="How it is written.")
    ] = "text",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write to this file instead of stdout.")] = None,
) -> None:
    """Put runs beside each other and beside the published numbers.

    Example: **spherood compare cider-s0 cider-s1 cider-s2 supcon-s0 --published --leaderboard**

    Example: **spherood compare --protocol openood/cifar10 --published --method ReweightOOD --layout openood**

    Runs of one recipe with different seeds become one row, mean ± deviation over the runs; one run alone shows its 95 %
    interval over images (DeLong for AUROC, Clopper-Pearson for rates). Every metric called FPR95 stands under its rule.
    """
    from spherood.benchmark import comparison, layouts
    from spherood.benchmark.protocol import load_protocol
    from spherood.benchmark.published import published_rows
    from spherood.benchmark.rendering import render
    from spherood.files import write_text

    for name in metric or ():
        if name not in layouts.METRICS:
            raise ConfigError(f"there is no metric '{name}'. {nearest(name, layouts.METRICS)}")
    if layout and (metric or format_ == "json"):
        raise ConfigError("spherood compare: --layout has its own columns. Leave out --metric and --format json.")
    if not runs and not (published and protocol):
        raise ConfigError("spherood compare: name runs, or ask for --published figures of a --protocol.")
    setting: Literal["ood", "fsood"] = "fsood" if full_spectrum else "ood"
    chosen: Protocol | None = load_protocol(protocol) if protocol else None
    names = list(dict.fromkeys([*(runs or ()), *([baseline] if baseline else ())]))
    read = {name: comparison.read_evaluations(run_folder(name)) for name in names}
    everything = [one for found in read.values() for one in found]
    kept = comparison.only(everything, chosen.name if chosen else None, setting) if names else []
    if chosen is None:
        chosen = load_protocol(kept[0].protocol)
    rows: list[Row] = comparison.rows_of(kept)
    notes: list[str] = []
    if published:
        rules = chosen.published
        if rules is None:
            raise ConfigError(f"{chosen.name}: names no published numbers. Leave --published out.")
        found = published_rows(rules.protocol, setting, rules.id_dataset, method or ())
        papers = [row for row in (comparison.published_row(one, chosen) for one in found) if row.kinds]
        rows += papers
        notes += dict.fromkeys(f"{row.name}: {row.source}." for row in papers)
    elif method:
        raise ConfigError("spherood compare: --method chooses among published rows. Add --published.")
    notes += [
        f"absent: {name} (extra)." if kind == "extra" else f"*: incomplete mean: {name} ({kind}) is absent."
        for row in rows
        for name, kind in row.absent.items()
    ]
    notes += comparison.significance(rows)
    if baseline:
        base = comparison.rows_of(comparison.only(read[baseline], chosen.name, setting))
        notes += comparison.against_baseline(rows, base)
    if leaderboard:
        notes += comparison.standing(rows, chosen, setting)
    notes = list(dict.fromkeys(notes))
    if format_ == "json":
        record = {"protocol": chosen.name, "setting": setting, "rows": comparison.to_json(rows), "notes": notes}
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    else:
        if layout:
            tables = [layouts.as_published(row, layout, chosen) for row in rows]
        else:
            tables = layouts.by_metric(rows, chosen, metric or ())
        if not tables:
            raise ConfigError(f"spherood compare: {', '.join(metric or ())} was not measured. Leave --metric out.")
        text = render(tables, notes, format_)
    if out is None:
        print(text, end="")
    else:
        write_text(out, text)
        print(f"written to {out}")
