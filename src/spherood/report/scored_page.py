"""The page of a folder of scored images: how much is OOD, where and when, and which images show it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from spherood.bundle.bank import read_thumbnails
from spherood.bundle.card import promised
from spherood.bundle.manifest import read_manifest
from spherood.data.decode import read_rgb
from spherood.errors import ImageError
from spherood.files import write_text
from spherood.report.charts import Spec, finish, load_altair
from spherood.report.page import Picture, fill, picture
from spherood.report.scored import BINS, SURE, Count, Summary, summarise

PAGE = "report.html"  # in the folder of parts
PLACES = 30  # in the table


@dataclass(frozen=True)
class Shown:
    """One of the most OOD images."""

    name: str
    picture: Picture | None  # None where it lies in a tar, in a Parquet file or elsewhere by now
    score: str
    p_value: str
    reason: str
    near: Sequence[tuple[str, str, Picture | None]]  # name, cosine and small picture of a neighbour


def write_scored_page(bundle: Path, out: Path, path: Path) -> Summary:
    """Write the page of `out`, which `spherood score` filled with `bundle`. MissingExtraError without the extra report;
    errors as of `summarise` and `read_manifest`.
    """
    load_altair()  # before the work
    manifest = read_manifest(bundle)
    file = manifest.files.get("thumbnails")
    small = None if file is None else read_thumbnails(bundle / file.name)
    summary = summarise(out)
    write_text(path, render(summary, " ".join(promised(manifest.promise)), small))
    return summary


def render(summary: Summary, promise: str, thumbnails: Sequence[bytes] | None) -> str:
    """The whole page as text."""
    span, periods = summary.periods()
    charts: dict[str, Spec] = {"p": _p_values(summary)} if summary.whole.images else {}
    if len(periods) > 1:
        charts["time"] = _course(periods, summary.rate)
    places = sorted(summary.sources.items(), key=lambda one: -one[1].images)
    rest = Count(*(sum(getattr(one, name) for _, one in places[PLACES:]) for name in ("images", "ood")))
    shown = sorted(places[:PLACES], key=lambda one: -one[1].share[0])
    return fill(
        "scored.html.j2",
        "scored.js",
        title=f"Scored images · {summary.out.name}",
        lead=lead(summary),
        promise=promise,
        rate=_percent(summary.rate),
        summary=summary,
        headline=headline(summary),
        places=[(name, *_row(count)) for name, count in shown],
        rest=(len(places) - PLACES, *_row(rest)) if rest.images else None,
        span=span,
        periods=[
            (begin[:10] if span != "hour" else begin[:16].replace("T", " "), *_row(one)) for begin, one in periods
        ],
        classes=summary.classes.most_common(12),
        most=[_shown(row, thumbnails) for row in summary.most],
        errors=sorted(summary.errors.items(), key=lambda one: -one[1][0]),
        charts=charts,
        data={"specs": charts},
    )


def lead(summary: Summary) -> str:
    """One sentence: how much is OOD, and whether false alarms would explain it."""
    whole, rate = summary.whole, _percent(summary.rate)
    if not whole.images:
        return f"None of {summary.unreadable:,} images could be read."
    value, low, high = whole.share
    told = f"{_percent(value)} of {whole.images:,} images are OOD ({_percent(low)} to {_percent(high)})"
    if summary.explained < SURE:
        return f"{told}: more than false alarms alone explain, of which at most {rate} are promised."
    return f"{told}: no more than false alarms alone would make, of which at most {rate} are promised."


def headline(summary: Summary) -> list[tuple[str, str, str]]:
    """(figure, its name, what it means)."""
    there, planned = summary.parts
    found = [
        (f"{summary.whole.images + summary.unreadable:,}", "images", "all parts are there" if there == planned else
         f"{there:,} of {planned:,} parts are there: the same spherood score does the rest"),
        (f"{summary.whole.ood:,}", "OOD", "above the calibrated threshold"),
    ]  # fmt: skip
    if summary.review:
        found.append((f"{summary.review:,}", "for a person", "above the threshold of the review rate"))
    if summary.discoveries is not None:
        found.append(
            (f"{summary.discoveries:,}", "discoveries", "flagged at the false-discovery rate of the last pass")
        )
    if summary.unreadable:
        found.append((f"{summary.unreadable:,}", "unreadable", "no verdict; why: below"))
    return found


def _row(count: Count) -> tuple[str, str, str, str]:
    value, low, high = count.share
    return f"{count.images:,}", f"{count.ood:,}", _percent(value), f"{_percent(low)} to {_percent(high)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 0.9995 else "100 %"


def _shown(row: dict[str, Any], thumbnails: Sequence[bytes] | None) -> Shown:
    near = [(one["name"], f"{one['cosine']:.3f}", _small(thumbnails, one["row"])) for one in row["neighbours"]]
    return Shown(
        row["image"], _picture(row["image"]), f"{row['score']:.4g}", f"{row['p_value']:.2g}", row["reason"], near
    )


def _picture(name: str) -> Picture | None:
    try:
        return picture(np.asarray(read_rgb(Path(name)))) if Path(name).is_file() else None
    except (ImageError, OSError, ValueError):
        return None


def _small(thumbnails: Sequence[bytes] | None, row: int) -> Picture | None:
    if thumbnails is None or not 0 <= row < len(thumbnails):
        return None
    return picture(np.asarray(Image.open(io.BytesIO(thumbnails[row])).convert("RGB")))


def _p_values(summary: Summary) -> Spec:
    """Bars, and the height that all would have if every image were ID."""
    alt = load_altair()
    rows = [
        {"from": number / BINS, "to": (number + 1) / BINS, "images": count}
        for number, count in enumerate(summary.p_values)
    ]
    level = [{"images": summary.whole.images / BINS}]
    bars = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar(color="var(--ood)", binSpacing=1)
        .encode(
            x=alt.X("from:Q", bin="binned", title="p-value"),
            x2="to:Q",
            y=alt.Y("images:Q", title="images"),
            tooltip=["from:Q", "to:Q", "images:Q"],
        )
    )
    line = alt.Chart(alt.Data(values=level)).mark_rule(color="var(--ink)", strokeDash=[4, 3]).encode(y="images:Q")
    return finish((bars + line).properties(height=180))


def _course(periods: Sequence[tuple[str, Count]], rate: float) -> Spec:
    """The share of OOD along time with its interval, and the promised rate."""
    alt = load_altair()
    rows = []
    for begin, count in periods:
        value, low, high = (100 * share for share in count.share)
        rows.append({"time": begin, "share": value, "low": low, "high": high, "images": count.images})
    x = alt.X("time:T", title=None)
    base = alt.Chart(alt.Data(values=rows))
    band = base.mark_rule(color="var(--ood)", opacity=0.45, strokeWidth=3).encode(
        x=x, y=alt.Y("low:Q", title="OOD, percent"), y2="high:Q"
    )
    line = base.mark_line(color="var(--ood)", point=True).encode(
        x=x,
        y="share:Q",
        tooltip=["time:T", alt.Tooltip("share:Q", format=".2f"), "low:Q", "high:Q", "images:Q"],
    )
    promise = (
        alt.Chart(alt.Data(values=[{"rate": 100 * rate}]))
        .mark_rule(color="var(--ink)", strokeDash=[4, 3])
        .encode(y="rate:Q")
    )
    return finish((band + line + promise).properties(height=220))
